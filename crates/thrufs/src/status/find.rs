//! From a path to the daemon that serves it, and asking that daemon.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use rustix::fs::{major, minor};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::PidfdFlags;
use thrufs_sys::mountinfo::{self, MountEntry, MountPath};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::dead::is_dead;
use super::report::{FORMAT, Status};
use super::runtime_dir;
use super::table::plain;
use crate::mount::options::{DEFAULT_SUBTYPE, fs_type};

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A status is some tens of KiB; more than this is none.
const STATUS_MAX: u64 = 16 << 20;

/// A FUSE mount.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(super) mountpoint: PathBuf,
    fs_type: String,
    /// As `major:minor`.
    pub(super) device: String,
    /// Who mounted it, and whose the daemon is.
    owner: u32,
    pub(super) is_read_only: bool,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoStatus {
    /// The mount is dead.
    #[error("{0}: its daemon is dead; run `thrufs umount {0}`")]
    Dead(String),
    /// The mount is another user's.
    #[error("{0} was mounted by uid {1}: only that user and root may ask")]
    OfAnother(String, u32),
    /// The daemon has taken the question, and does not answer.
    #[error("{0}: the daemon does not answer within {patience:?}", patience = PATIENCE)]
    Silent(String),
}

impl Found {
    /// None if it is not FUSE.
    fn from_entry(entry: MountEntry) -> Option<Self> {
        Some(Self {
            owner: entry.owner?,
            mountpoint: entry.mount_point,
            fs_type: entry.fs_type,
            device: entry.device,
            is_read_only: entry.is_read_only,
        })
    }

    /// With --subtype it has another type, but the socket shows what it is.
    fn is_ours(&self) -> bool {
        self.fs_type == fs_type(DEFAULT_SUBTYPE) || self.sockets().any(|socket| socket.exists())
    }

    fn sockets(&self) -> impl Iterator<Item = PathBuf> {
        let name = runtime_dir::socket_name(&self.device);
        let places = runtime_dir::of(self.owner).into_iter();
        places.map(move |directory| directory.join(&name))
    }
}

/// The mount that `path` is in.
pub(super) fn mount_of(path: &Path) -> anyhow::Result<Found> {
    let shown = path.display();
    let place = MountPath::open(path).map_err(|error| match error.raw_os_error() {
        Some(libc_errno) if libc_errno == Errno::NOENT.raw_os_error() => {
            anyhow!("{shown} does not exist")
        }
        Some(libc_errno) if libc_errno == Errno::NOTCONN.raw_os_error() => {
            anyhow!("{shown} is in a FUSE mount whose daemon is dead")
        }
        _ => anyhow!("{shown}: {error}"),
    })?;
    let entry = place.entry().with_context(|| format!("{shown}"))?;
    let (fs_type, mountpoint) = (entry.fs_type.clone(), entry.mount_point.clone());
    let not_ours = || {
        anyhow!(
            "{shown} is not a thrufs mount: it is in the {fs_type} mount at {}",
            mountpoint.display()
        )
    };
    let found = Found::from_entry(entry).ok_or_else(not_ours)?;
    if !found.is_ours() {
        return Err(not_ours());
    }
    Ok(found)
}

/// Every mount of thrufs in the mount table, once each.
pub(super) fn mounts() -> anyhow::Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    for mount in mountinfo::all()?.into_iter().filter_map(Found::from_entry) {
        if mount.is_ours() && !found.iter().any(|known| known.device == mount.device) {
            found.push(mount);
        }
    }
    Ok(found)
}

/// Whether the file system with this device is mounted by thrufs. What cannot be known is taken for it.
pub(crate) fn is_thrufs(dev: u64) -> bool {
    let Ok(mounts) = mountinfo::all() else {
        return true;
    };
    let device = format!("{}:{}", major(dev), minor(dev));
    let mounts = mounts.into_iter().filter(|mount| mount.device == device);
    mounts
        .filter_map(Found::from_entry)
        .any(|found| found.is_ours())
}

/// A pidfd of the process that made the status socket of `mount`: its daemon, or the supervisor of that.
/// None where that cannot be known.
pub(crate) fn daemon_of(mount: &MountEntry) -> Option<OwnedFd> {
    let found = Found::from_entry(mount.clone())?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    let connected = |socket: PathBuf| {
        let address = SocketAddrUnix::new(&socket).ok()?;
        rustix::net::connect(&stream, &address).ok()
    };
    found.sockets().find_map(connected)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    if !is_believed(peer.uid.as_raw(), found.owner) {
        return None;
    }
    rustix::process::pidfd_open(peer.pid, PidfdFlags::empty()).ok()
}

/// Where the daemon that serves what `path` is in takes orders; none for a mount that does not outlive its servers.
///
/// # Errors
/// It is no mount of thrufs.
pub(crate) fn control_of(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    let found = mount_of(path)?;
    let name = runtime_dir::control_name(&found.device);
    let mut places = runtime_dir::of(found.owner).into_iter();
    Ok(places.find_map(|directory| {
        let socket = directory.join(&name);
        socket.exists().then_some(socket)
    }))
}

/// What the daemon of `mount` says.
pub(super) async fn ask(mount: &Found) -> anyhow::Result<Status> {
    let shown = mount.mountpoint.display();
    let me = runtime_dir::uid();
    if me != 0 && me != mount.owner {
        bail!(NoStatus::OfAnother(shown.to_string(), mount.owner));
    }
    let mut closed = None;
    for socket in mount.sockets() {
        match fetch(&socket, mount.owner).await {
            Ok(None) => {}
            Ok(Some(status)) => return Ok(status),
            Err(error) if is_refused(&error) => bail!(NoStatus::Dead(shown.to_string())),
            Err(error) if is(&error, ErrorKind::PermissionDenied) => closed = Some(error),
            Err(error) => return Err(error).with_context(|| format!("{shown}")),
        }
    }
    if is_dead(&mount.mountpoint, PATIENCE)? {
        bail!(NoStatus::Dead(shown.to_string()));
    }
    if let Some(error) = closed {
        // The kernel shows the mount as root's in each namespace.
        let hint = "not this user's: was it mounted outside of this user namespace?";
        return Err(error.context(format!("{shown}: {hint}")));
    }
    let places: Vec<String> = mount
        .sockets()
        .map(|path| path.display().to_string())
        .collect();
    bail!(
        "{shown}: its daemon is alive or hangs, but has no status socket at {}: it could not make \
         one (its log says why), or was started with another XDG_RUNTIME_DIR",
        places.join(" or ")
    )
}

/// Whether no process listens on the socket.
pub(super) fn is_refused(error: &anyhow::Error) -> bool {
    is(error, ErrorKind::ConnectionRefused)
}

fn is(error: &anyhow::Error, kind: ErrorKind) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == kind)
}

/// The answer at `socket`, which must be served by `owner` or root; none if there is no socket.
pub(super) async fn fetch(socket: &Path, owner: u32) -> anyhow::Result<Option<Status>> {
    let shown = socket.display();
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(error.into()),
        Err(error) => return Err(error).with_context(|| format!("{shown}")),
    };
    let peer = stream.peer_cred().with_context(|| format!("{shown}"))?;
    let server = peer.uid();
    ensure!(
        is_believed(server, owner),
        "{shown} is not its owner's: uid {server} listens there, not uid {owner}"
    );
    let mut text = Vec::new();
    tokio::time::timeout(PATIENCE, stream.take(STATUS_MAX).read_to_end(&mut text))
        .await
        .map_err(|_late| NoStatus::Silent(shown.to_string()))?
        .with_context(|| format!("{shown}"))?;
    ensure!(
        !text.is_empty(),
        "{shown}: the daemon closed without an answer"
    );
    let status = parse(&text).with_context(|| format!("{shown}"))?;
    let listener = peer.pid();
    Ok(Some(Status { listener, ..status }))
}

/// Root can make any socket anyway.
fn is_believed(server: u32, owner: u32) -> bool {
    server == owner || server == 0
}

fn parse(text: &[u8]) -> anyhow::Result<Status> {
    let value: serde_json::Value = serde_json::from_slice(text).context("no status")?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    if format != Some(u64::from(FORMAT)) {
        let version = value.get("version").and_then(serde_json::Value::as_str);
        bail!(
            "the daemon is thrufs {}, whose answer this thrufs {} does not understand: use that one",
            plain(version.unwrap_or("of an unknown version")),
            env!("CARGO_PKG_VERSION")
        );
    }
    serde_json::from_value(value).context("no status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_of_what_is_not_fuse_names_the_mount_it_is_in() {
        let error = mount_of(Path::new("/proc/self")).unwrap_err().to_string();
        assert_eq!(
            error,
            "/proc/self is not a thrufs mount: it is in the proc mount at /proc"
        );
    }

    #[test]
    fn is_believed_is_for_the_mount_s_owner_and_root() {
        assert!(is_believed(1000, 1000) && is_believed(0, 1000));
        assert!(!is_believed(1001, 1000) && !is_believed(1000, 0));
    }

    #[test]
    fn parse_of_another_format_names_the_versions() {
        let error = parse(br#"{"format": 99, "version": "7.0\u001b"}"#).unwrap_err();
        assert!(error.to_string().contains("thrufs 7.0?, whose"), "{error}");
        assert!(parse(b"{}").is_err());
        assert!(parse(b"\xff").is_err());
    }
}
