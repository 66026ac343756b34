//! Whether SOURCE takes the labels of the client's security module (`--security-label`) from this process.
//!
//! Asked before INIT, since a client that is granted FUSE_SECURITY_CTX labels every file that it makes, and each
//! that cannot be labelled is not made.

use std::os::fd::OwnedFd;

use rustix::fs::XattrFlags;

use crate::caller::proc;
use crate::config::{Config, SecurityLabel};
use crate::error::{Errno, IntoErrno, Result};

/// The label of SELinux, which stands for all.
const SELINUX: &[u8] = b"security.selinux";

/// Why labels are not taken, for an operator.
pub(crate) fn why_not(error: &Errno) -> String {
    format!(
        "--security-label: SOURCE takes no label of a security module from this process ({error}): it needs \
         --modcaps=+sys_admin, or another name by --xattrmap such as \
         :map:security.selinux:user.virtiofs.:"
    )
}

/// What becomes of `--security-label` on `source`: `auto` is off where it takes none.
pub(crate) fn possible(source: &OwnedFd, config: &Config) -> SecurityLabel {
    let asked = config.security_label;
    if asked == SecurityLabel::Never {
        return asked;
    }
    match (takes_labels(source, config), asked) {
        (Ok(()), _) => asked,
        (Err(error), SecurityLabel::Always) => {
            tracing::warn!("{}", why_not(&error));
            asked
        }
        (Err(error), SecurityLabel::Auto | SecurityLabel::Never) => {
            tracing::info!("{}", why_not(&error));
            SecurityLabel::Never
        }
    }
}

/// Whether `source` takes labels, asked for by a call that changes nothing whatever it is answered.
///
/// # Errors
/// Why it does not.
fn takes_labels(source: &OwnedFd, config: &Config) -> Result<()> {
    let name = config.xattr_on_source(SELINUX)?;
    // Each of the two fails where the other would do something.
    let neither = XattrFlags::CREATE | XattrFlags::REPLACE;
    match rustix::fs::setxattr(proc::link(source), &name, b"?", neither).or_errno() {
        // EINVAL: the host's SELinux, which may set labels, knows no label `?`.
        Ok(()) | Err(Errno::EEXIST | Errno::ENODATA | Errno::EINVAL) => Ok(()),
        Err(error) => Err(error),
    }
}
