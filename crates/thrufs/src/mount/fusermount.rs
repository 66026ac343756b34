//! Mounting and unmounting through fusermount3, the set-uid helper for users.
//!
//! The helper sends the /dev/fuse descriptor over the socket that `_FUSE_COMMFD` names. Here that is
//! its standard input, so that no descriptor has to be made inheritable between fork and exec.

use std::ffi::{OsStr, OsString};
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, bail};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::options::{Access, MountOptions};
use crate::options::option_list::fusermount_names;

const HELPER: &str = "fusermount3";

/// The helper in PATH or the places where distributions put it.
pub(crate) fn find() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fixed = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(fixed)
        .map(|directory| directory.join(HELPER))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
        .ok_or_else(|| {
            anyhow!(
                "{HELPER} is not installed, and only root can mount without it: install it \
                 (Debian, Ubuntu: `apt-get install fuse3`; Fedora: `dnf install fuse3`), or run as root"
            )
        })
}

/// Mounts, and returns the descriptor that serves it.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> anyhow::Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context("socket pair for fusermount3")?;
    let mut child = Command::new(find()?)
        .arg("-o")
        .arg(option_string(options))
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // ^C is for the daemon: a helper that ended at it could leave its mount without a server.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {HELPER}"))?;
    let device = receive(&ours);
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr
            .read_to_end(&mut said)
            .with_context(|| format!("read from {HELPER}"))?;
    }
    let status = child.wait().with_context(|| format!("wait for {HELPER}"))?;
    match device {
        Ok(Some(device)) if status.success() => Ok(device),
        Ok(_) => bail!(refused(mountpoint, &one_line(&said))),
        Err(errno) => bail!("receive the FUSE descriptor from {HELPER}: {errno}"),
    }
}

fn option_string(options: &MountOptions) -> OsString {
    let mut fsname = OsString::from("fsname=");
    fsname.push(escape_commas(options.fsname.clone()));
    let mut parts = vec![
        fsname,
        OsString::from(format!("subtype={}", options.subtype)),
    ];
    parts.push("default_permissions".into());
    match options.access {
        Access::Owner => {}
        Access::OwnerAndRoot | Access::AllUsers => parts.push("allow_other".into()),
    }
    if let Some(max_read) = options.max_read {
        parts.push(format!("max_read={max_read}").into());
    }
    parts.extend(fusermount_names(options.flags).map(OsString::from));
    join(&parts)
}

/// The one descriptor that the helper sends; `None` if it ends without.
fn receive(socket: &impl AsFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut byte = [0_u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        let mut data = [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(socket, &mut data, &mut messages, RecvFlags::CMSG_CLOEXEC)
    })?;
    Ok(messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn refused(mountpoint: &Path, said: &str) -> String {
    let shown = mountpoint.display();
    let said = if said.is_empty() {
        "ended without a message"
    } else {
        said
    };
    let remedy = if said.contains("user_allow_other") {
        ": add the line `user_allow_other` to /etc/fuse.conf, or leave allow_other and allow_root out"
    } else if said.contains("/dev/fuse: Permission denied") {
        ": users may not open the device here: `chmod 0666 /dev/fuse` as root (udev's default)"
    } else if said.contains("/dev/fuse") {
        ": load the kernel module (`modprobe fuse`) or pass /dev/fuse into the container"
    } else if said.contains("no write access") || said.contains("not owned") {
        ": a user can only mount on a directory that is the user's own and writable"
    } else {
        ""
    };
    format!("{HELPER} refused to mount at {shown} ({said}){remedy}")
}

/// `fusermount3 -u`, with `-z` if `lazy`.
pub(crate) fn unmount(mountpoint: &Path, lazy: bool) -> anyhow::Result<()> {
    let mut command = Command::new(find()?);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command
        .args([OsStr::new("--"), mountpoint.as_os_str()])
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .with_context(|| format!("start {HELPER}"))?;
    if !output.status.success() {
        bail!(
            "{HELPER} -u {}: {}",
            mountpoint.display(),
            one_line(&output.stderr)
        );
    }
    Ok(())
}

/// A message with what fusermount3 wrote, in one line.
fn one_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Joins options with commas.
fn join(parts: &[OsString]) -> OsString {
    parts.join(OsStr::new(","))
}

/// The option string for fusermount3, where commas separate and backslashes escape.
fn escape_commas(value: OsString) -> OsString {
    let mut escaped = Vec::new();
    for byte in value.into_vec() {
        if matches!(byte, b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::MsFlags;

    #[test]
    fn options_with_a_comma_in_the_name_are_escaped() {
        let options = MountOptions {
            flags: MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_LAZYTIME,
            fsname: r"a,b\c".into(),
            subtype: "thrufs".to_owned(),
            max_read: Some(4096),
            access: Access::Owner,
        };
        // lazytime is left out: the helper does not know it.
        assert_eq!(
            option_string(&options),
            r"fsname=a\,b\\c,subtype=thrufs,default_permissions,max_read=4096,ro,nodev"
        );
    }

    #[test]
    fn refused_for_allow_other_names_the_line_to_add() {
        let text = refused(
            Path::new("/mnt"),
            "only allowed if 'user_allow_other' is set",
        );
        assert!(
            text.contains("add the line `user_allow_other` to /etc/fuse.conf"),
            "{text}"
        );
    }
}
