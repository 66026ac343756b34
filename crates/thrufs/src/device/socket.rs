//! The socket on which front ends connect, and SOCKET.pid beside it.
//!
//! Invariant: SOCKET appears under its name when it listens, with its final mode and group, and SOCKET.pid
//! after it: whatever waits for either file connects at once. An older socket is replaced, one that another
//! process serves (it holds the lock of SOCKET.pid) is an error.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use nix::unistd::Group;
use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::device_plan::SocketPlan;

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const SYSTEMD_FIRST: i32 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    /// Where it is not inherited.
    files: Option<Files>,
}

/// A socket that was made here.
#[derive(Debug)]
struct Files {
    path: PathBuf,
    /// Its name until it is published.
    unpublished: Option<PathBuf>,
    /// Held locked.
    pid: Option<File>,
}

impl Socket {
    /// Makes it, or takes the one that was inherited.
    ///
    /// # Errors
    /// The message names the path or the descriptor.
    pub(crate) fn open(plan: &SocketPlan) -> anyhow::Result<Self> {
        match plan {
            SocketPlan::Path(path, group) => Self::make(path, group.as_deref()),
            SocketPlan::Fd(fd) => inherited(*fd).with_context(|| format!("--fd={fd}")),
            SocketPlan::Systemd => match systemd_passes()? {
                true => inherited(SYSTEMD_FIRST).context("the descriptor that systemd passes"),
                false => bail!(
                    "where does the virtual machine monitor connect? Use --socket-path=SOCKET or \
                     --fd=NUMBER"
                ),
            },
        }
    }

    fn make(path: &Path, group: Option<&str>) -> anyhow::Result<Self> {
        let shown = path.display();
        let name = path.file_name();
        let name = name.ok_or_else(|| anyhow!("--socket-path {shown} has no name"))?;
        let group = group.map(group_of).transpose()?;
        if is_locked(&pid_path(path))? {
            bail!("--socket-path {shown} is served by another process");
        }
        let directory = directory_of(path);
        let opened = rustix::fs::open(
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let opened = opened.with_context(|| format!("--socket-path {shown}"))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        // A socket's address has 107 bytes; what it is reached by here is shorter.
        let short = Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string());
        let unpublished = directory.join(&hidden);
        let _left_by_another = std::fs::remove_file(&unpublished);
        // Nothing connects to it by another name, and its mode is the final one before it gets that.
        let listener = UnixListener::bind(short.join(&hidden))
            .with_context(|| format!("make the socket --socket-path {shown}"))?;
        let files = Files {
            path: path.to_owned(),
            unpublished: Some(unpublished.clone()),
            pid: None,
        };
        let socket = Self {
            listener,
            files: Some(files),
        };
        let mode = match group {
            Some(_) => 0o770,
            None => 0o700,
        };
        std::fs::set_permissions(&unpublished, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("set the mode of {shown}"))?;
        if let Some(group) = group {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(rustix::fs::CWD, &unpublished, None, Some(group), flags)
                .with_context(|| format!("--socket-group: set the group of {shown}"))?;
        }
        Ok(socket)
    }

    /// Gives it its name: from now on front ends connect.
    ///
    /// # Errors
    /// The name is taken by something else, or by a socket that another process serves.
    pub(crate) fn publish(&mut self) -> anyhow::Result<()> {
        let Some(files) = &mut self.files else {
            return Ok(());
        };
        let Some(unpublished) = files.unpublished.take() else {
            return Ok(());
        };
        let shown = files.path.display();
        std::fs::rename(&unpublished, &files.path)
            .with_context(|| format!("make the socket {shown}"))
            .inspect_err(|_| files.unpublished = Some(unpublished))?;
        let path = pid_path(&files.path);
        let mut pid = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        if !lock(&pid).with_context(|| path.display().to_string())? {
            bail!("--socket-path {shown} is served by another process");
        }
        pid.set_len(0)
            .and_then(|()| writeln!(pid, "{}", std::process::id()))
            .with_context(|| path.display().to_string())?;
        files.pid = Some(pid);
        Ok(())
    }

    /// Its path as an operator knows it; none where it has none.
    pub(crate) fn shown(&self) -> Option<String> {
        let path = match &self.files {
            Some(files) => {
                let directory = directory_of(&files.path).canonicalize();
                directory.ok()?.join(files.path.file_name()?)
            }
            None => self.listener.local_addr().ok()?.as_pathname()?.to_owned(),
        };
        Some(path.to_string_lossy().into_owned())
    }

    /// What front ends connect to.
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(files) = &self.files else {
            return;
        };
        // What is gone already needs no removal.
        if let Some(unpublished) = &files.unpublished {
            let _gone = std::fs::remove_file(unpublished);
        }
        if files.pid.is_some() {
            let _gone = std::fs::remove_file(&files.path);
            let _gone = std::fs::remove_file(pid_path(&files.path));
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _none => Path::new("."),
    }
}

/// SOCKET.pid.
fn pid_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".pid");
    path.into()
}

fn is_locked(pid: &Path) -> anyhow::Result<bool> {
    match File::open(pid) {
        // The lock goes with the descriptor.
        Ok(file) => Ok(!lock(&file).with_context(|| pid.display().to_string())?),
        Err(_none) => Ok(false),
    }
}

/// False if another process holds it.
fn lock(pid: &File) -> std::io::Result<bool> {
    match flock(pid, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn group_of(name: &str) -> anyhow::Result<Gid> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    let found = Group::from_name(name).with_context(|| format!("--socket-group={name}"))?;
    let group = found.ok_or_else(|| anyhow!("--socket-group={name}: there is no such group"))?;
    Ok(Gid::from_raw(group.gid.as_raw()))
}

/// LISTEN_PID and LISTEN_FDS, as sd_listen_fds(3) reads them.
fn systemd_passes() -> anyhow::Result<bool> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(false);
    }
    match number("LISTEN_FDS") {
        Some(0) | None => Ok(false),
        Some(1) => Ok(true),
        Some(more) => bail!("systemd passes {more} sockets, and a device has one"),
    }
}

fn inherited(fd: i32) -> anyhow::Result<Socket> {
    let fd = thrufs_sys::inherited::take(fd).context("no such descriptor was inherited")?;
    let listens = rustix::net::sockopt::socket_acceptconn(&fd);
    if !listens.context("it is no socket")? {
        bail!("it is a socket that does not listen");
    }
    let listener = UnixListener::from(fd);
    listener
        .set_nonblocking(false)
        .context("make it a blocking one")?;
    Ok(Socket {
        listener,
        files: None,
    })
}
