//! What the supervisor and the server say to each other: one packet a message, JSON, and descriptors
//! with it where there are any.
//!
//! Invariant: the messages of the server are few, of fixed form, and make the supervisor do nothing
//! that it would not do anyway: a server that was taken over gains nothing by lying. No paths and
//! no commands come from there.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The subcommand by which a binary is started that is to take a mount over.
pub(crate) const TAKE_OVER: &str = "take-over";
/// What a hand-over consists of: a binary of another form is not taken.
pub(super) const FORM: u32 = 2;

/// Longest message: two paths of PATH_MAX bytes fit. A failure's reason is cut to fit.
const MESSAGE_MAX: usize = 64 << 10;
/// Longest reason.
const REASON_MAX: usize = 4 << 10;
/// What a server that takes over is started with.
const DESCRIPTORS_MAX: usize = 10;

/// From the server, or what is on its way to become it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromServer {
    /// A binary that was started to take over, of this version, whose messages have this form.
    Hello { form: u32, version: String },
    /// The user namespace exists; the supervisor must map its ids.
    MapIds,
    /// The server is this process, in the supervisor's numbers. Its mount namespace may come along.
    Forked(i32),
    /// It is shut in, and waits for [`Serve`]. The directory that the mount covers may come along.
    Confined,
    /// What servers of this process leave to each other comes along.
    Shared,
    /// It can take over, and has stopped nothing yet.
    Prepared,
    /// It has all of the server before, and waits for its turn.
    TookOver,
    /// INIT is answered next, and then every request.
    Answers,
    /// INIT is answered.
    Ready,
    /// It ends, for this reason.
    Failed(String),
}

impl FromServer {
    /// A failure, as far as it fits into a message.
    pub(crate) fn failed(error: &anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}").chars().take(REASON_MAX).collect())
    }
}

/// To the server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToServer {
    /// The ids are mapped.
    Mapped,
    /// The mount is made; its descriptor comes along.
    Serve(Serve),
    /// Front ends of a device connect to the socket that comes along.
    Device(ServeDevice),
    /// To a binary that said [`FromServer::Hello`].
    TakeOver(TakeOver),
    /// Another process may take over: this server sends it descriptors by the socket that comes along, and serves on.
    SendAhead,
    /// Another process takes over: this server ends.
    Drain,
    /// The server after that one sends the other descriptors by the socket that comes along.
    HandOver,
    /// It is this server's turn to serve.
    Go,
}

/// What a server that takes over is made by. Beside what a first one has, its descriptors are those of
/// [`Taken`](super::taken::Taken).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TakeOver {
    /// The arguments of the mount, of which each is bytes.
    pub(crate) program: String,
    pub(crate) arguments: Vec<Vec<u8>>,
    /// What was set since, as `KEY=VALUE`.
    pub(crate) set: Vec<String>,
    /// In the sandbox of the server before; otherwise in none.
    pub(crate) is_namespace: bool,
    /// MOUNTPOINT from SOURCE, if it lies below.
    pub(crate) below: Option<Vec<u8>>,
    /// Whether log lines have the place in the program that they come from.
    pub(crate) shows_target: bool,
    /// The server before is of another binary.
    pub(crate) is_upgrade: bool,
    /// Whether the mount namespace comes along.
    pub(crate) has_mounts: bool,
    /// Whether the directory that the mount covers comes along.
    pub(crate) has_covered: bool,
}

/// What the server cannot find out from inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Serve {
    #[serde(with = "as_bytes")]
    pub(crate) mountpoint: PathBuf,
    /// Device of the mounted file system, as `major:minor`.
    pub(crate) device: String,
    /// Number of the mount that is never used again; none before Linux 6.8.
    pub(crate) mount_id: Option<u64>,
    /// SOURCE, as outsiders call it.
    #[serde(with = "as_bytes")]
    pub(crate) source: PathBuf,
    /// The supervisor's.
    pub(crate) pid: u32,
    /// The server's, outside.
    pub(crate) server_pid: u32,
    /// Whether users outside have numbers of their own inside.
    pub(crate) in_user_namespace: bool,
    /// Whether mounts below SOURCE are let go when they are idle.
    pub(crate) lets_go: bool,
    /// Whether the status socket comes along.
    pub(crate) status: bool,
    /// Whether the socket for metrics comes along.
    pub(crate) metrics: bool,
}

/// What the server of a device cannot find out from inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServeDevice {
    /// SOURCE, as outsiders call it.
    #[serde(with = "as_bytes")]
    pub(crate) source: PathBuf,
    /// Where front ends connect, to be shown.
    pub(crate) socket: Option<String>,
    pub(crate) tag: Option<String>,
    /// The supervisor's.
    pub(crate) pid: u32,
    /// The server's, outside.
    pub(crate) server_pid: u32,
    /// Whether users outside have numbers of their own inside.
    pub(crate) in_user_namespace: bool,
    /// Whether the status socket comes along.
    pub(crate) status: bool,
    /// Whether the socket for metrics comes along.
    pub(crate) metrics: bool,
}

/// The same of one that there need not be.
pub(super) mod maybe_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = path.as_ref().map(|path| path.as_os_str().as_bytes());
        bytes.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let bytes: Option<Vec<u8>> = Option::deserialize(from)?;
        Ok(bytes.map(|bytes| OsString::from_vec(bytes).into()))
    }
}

/// A path is bytes, and need not be text as a JSON string must.
mod as_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Vec::deserialize(from).map(|bytes| OsString::from_vec(bytes).into())
    }
}

/// One end.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.0
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// The end of a process that was started with it.
    pub(crate) fn of(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The same end once more.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// How long [`Self::receive`] waits; without limit for none.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, patience)?)
    }

    /// Both ends.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let kind = SocketType::SEQPACKET;
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one message with these descriptors.
    pub(crate) fn send<T: Serialize>(
        &self,
        message: &T,
        with: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let sent = rustix::io::retry_on_intr(|| {
            let data = [IoSlice::new(&text)];
            rustix::net::sendmsg(&self.0, &data, &mut ancillary, SendFlags::NOSIGNAL)
        })?;
        if sent == text.len() {
            Ok(())
        } else {
            Err(io::Error::other("a message was cut"))
        }
    }

    /// Waits for one message; none when the other end is closed.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut text = vec![0; MESSAGE_MAX];
        let received = rustix::io::retry_on_intr(|| {
            let mut data = [IoSliceMut::new(&mut text)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            rustix::net::recvmsg(&self.0, &mut data, &mut ancillary, flags)
        });
        let bytes = match received {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let descriptors = ancillary
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            })
            .collect();
        if bytes == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&text[..bytes])?;
        Ok(Some((message, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receive_gives_the_message_its_descriptors_and_then_the_end() {
        let (ours, theirs) = Link::pair().unwrap();
        let (a, b) = Link::pair().unwrap();
        ours.send(&FromServer::Forked(7), &[a.as_fd(), b.as_fd()])
            .unwrap();
        let (message, descriptors) = theirs.receive::<FromServer>().unwrap().unwrap();
        assert!(matches!(message, FromServer::Forked(7)));
        assert_eq!(descriptors.len(), 2);
        drop(ours);
        assert!(theirs.receive::<FromServer>().unwrap().is_none());
    }

    #[test]
    fn serve_with_long_paths_that_are_no_text_gives_the_same_bytes() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;

        let path = |byte: u8| PathBuf::from(OsString::from_vec(vec![byte; 4095]));
        let serve = Serve {
            mountpoint: path(0xff),
            device: "0:42".to_owned(),
            mount_id: Some(u64::MAX),
            source: path(b'\n'),
            pid: u32::MAX,
            server_pid: u32::MAX,
            in_user_namespace: false,
            lets_go: true,
            status: true,
            metrics: true,
        };
        let (ours, theirs) = Link::pair().unwrap();
        ours.send(&ToServer::Serve(serve), &[]).unwrap();
        let Some((ToServer::Serve(serve), _)) = theirs.receive().unwrap() else {
            panic!("another message");
        };
        assert_eq!(serve.mountpoint, path(0xff));
        assert_eq!(serve.source, path(b'\n'));
    }

    #[test]
    fn failed_with_a_very_long_reason_still_fits() {
        let (ours, theirs) = Link::pair().unwrap();
        let error = anyhow::anyhow!("\u{1F980}".repeat(100_000));
        ours.send(&FromServer::failed(&error), &[]).unwrap();
        assert!(theirs.receive::<FromServer>().unwrap().is_some());
    }
}
