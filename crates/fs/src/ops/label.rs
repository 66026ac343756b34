//! Labels of new files, which the client's security module gives (FUSE_SECURITY_CTX): extended attributes
//! that are set when the file is made.
//!
//! Invariant: a file that cannot be labelled is not made: it is removed again, and the request fails. Why not
//! /proc/self/attr/fscreate, which labels in the same step: it is of the host's own policy, and takes no name
//! that `--xattrmap` gives.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, XattrFlags};

use crate::caller::proc;
use crate::error::{Errno, IntoErrno, Result};
use crate::inode::identity::{FileKind, key_of, statx};
use crate::labels::why_not;
use crate::passthrough::Passthrough;

/// What security modules call their labels.
const SECURITY: &[u8] = b"security.";
/// It is no label, and has its own rules.
const CAPABILITY: &[u8] = b"security.capability";

/// A label of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label<'a> {
    /// Name of the extended attribute, as the client calls it.
    pub name: &'a OsStr,
    /// Its value.
    pub value: &'a [u8],
}

/// A refusal was logged.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

impl Passthrough {
    /// Labels what was just made as `name` in `dir`, or removes it.
    ///
    /// # Errors
    /// EOPNOTSUPP where SOURCE takes no such label from this process; else of setxattr(2).
    pub(crate) fn label_named(
        &self,
        dir: impl AsFd,
        name: &CStr,
        labels: &[Label<'_>],
    ) -> Result<()> {
        if labels.is_empty() {
            return Ok(());
        }
        let made = self.crossing.find(&dir, name)?;
        self.label(&made, labels)
            .inspect_err(|_| take_back(dir, name, &made))
    }

    /// The same for a file that is open.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn label_open(
        &self,
        dir: impl AsFd,
        name: &CStr,
        (file, labels): (&OwnedFd, &[Label<'_>]),
    ) -> Result<()> {
        self.label(file, labels)
            .inspect_err(|_| take_back(dir, name, file))
    }

    /// The same for a file without a name.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn label(&self, file: &OwnedFd, labels: &[Label<'_>]) -> Result<()> {
        labels.iter().try_for_each(|label| {
            let client = label.name.as_bytes();
            if !client.starts_with(SECURITY) || client == CAPABILITY {
                return Err(Errno::EINVAL);
            }
            let name = self.xattr_name(label.name)?;
            let flags = XattrFlags::empty();
            let set = rustix::fs::setxattr(proc::link(file), &name, label.value, flags);
            match set.or_errno() {
                Err(Errno::EPERM) => {
                    if !IS_TOLD.swap(true, Ordering::Relaxed) {
                        tracing::warn!("{}", why_not(&Errno::EPERM));
                    }
                    Err(Errno::EOPNOTSUPP)
                }
                set => set,
            }
        })
    }
}

/// Removes what was made, unless the name stands for something else by now.
fn take_back(dir: impl AsFd, name: &CStr, made: &OwnedFd) {
    let stat = |fd: &OwnedFd| statx(fd).map(|stat| (key_of(&stat), stat.stx_mode));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let named = rustix::fs::statat(&dir, name, flags);
    let (Ok((key, mode)), Ok(named)) = (stat(made), named) else {
        return;
    };
    if (key.dev, key.ino) != (named.st_dev, named.st_ino) {
        return;
    }
    let flags = match FileKind::from_mode(u32::from(mode)) {
        FileKind::Directory => AtFlags::REMOVEDIR,
        _other => AtFlags::empty(),
    };
    if let Err(error) = rustix::fs::unlinkat(dir, name, flags) {
        tracing::warn!(%error, "a file without its label could not be removed");
    }
}
