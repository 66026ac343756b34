//! Plays a script of raw FUSE messages to each transport, on a socket pair instead of /dev/fuse, or in the memory of a
//! virtual machine that there is not: what a kernel gone wrong could send. The body of the fuzz target `session` and of the test `hostile`.
//!
//! A script is any sequence of bytes: first one that chooses how the file system is configured, then
//! messages, each `KIND LENGTH(2) BYTES`, where the bits of KIND have parts of the message put right
//! (`FIX_…`), so that mutations get beyond the header. After each message a GETATTR of the root is asked
//! for: when it is answered, the message has been dealt with, and nothing hangs.
//!
//! What must hold, whatever the bytes: no operation panics, every answerable GETATTR is answered, the
//! session ends when the kernel goes, and all it had open is closed.
#![allow(dead_code, reason = "each user uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thrufs_fs::{
    Backing, Config, Errno, HostBacking, Locks, Passthrough, Position, PosixAcl, Result,
    SecurityLabel, Span,
};
use thrufs_session::{
    Allowed, DevFuseSession, DeviceSession, FuseAdapter, Panicked, on_session_panic,
};
use thrufs_wire::abi::InHeader;
use zerocopy::IntoBytes;

#[path = "guest.rs"]
mod guest;
#[path = "wire.rs"]
pub(crate) mod wire;

use guest::{Driver, QUEUES};
use wire::{pair, words};

/// The header's length is made the message's, and its ids are made this process's.
pub(crate) const FIX_LENGTH: u8 = 1;
/// The nodeid is made the root's.
pub(crate) const FIX_ROOT: u8 = 2;
/// The nodeid is made the one that was answered last.
pub(crate) const FIX_NODE: u8 = 4;
/// The first word of the body is made the handle that was answered last.
pub(crate) const FIX_HANDLE: u8 = 8;

/// In a script's first byte: by our own transport, and not by fuser.
pub(crate) const BY_DEVICE: u8 = 16;
/// The same: by a virtiofs device.
pub(crate) const BY_GUEST: u8 = 32;

const HEADER: usize = 40;
const OUT_HEADER: usize = 16;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
/// The number by which the answer to our own question is known.
const FENCE: u64 = u64::MAX - 1;
/// Nothing that is played takes as long.
const DEADLINE: Duration = Duration::from_secs(20);
/// No file grows beyond, whatever size a message names.
const LARGEST_FILE: u64 = 1 << 20;

/// Panics in operations so far, in this process.
static PANICS: AtomicUsize = AtomicUsize::new(0);
/// Session threads lost to panics outside of operations.
static LOST: AtomicUsize = AtomicUsize::new(0);
static WATCH: Once = Once::new();

/// What a script led to.
#[derive(Debug)]
pub(crate) struct Played {
    /// Messages that were dealt with before the session ended.
    pub(crate) messages: usize,
    /// A message made fuser panic, and the watch was told.
    pub(crate) lost_a_thread: bool,
    /// What was answered, in this order: the errno, or 0.
    pub(crate) answers: Vec<i32>,
}

/// The host's calls, but no file becomes large: sizes in messages are arbitrary.
#[derive(Debug)]
struct Bounded;

fn check(end: u64) -> Result<()> {
    if end > LARGEST_FILE {
        return Err(Errno::EFBIG);
    }
    Ok(())
}

impl Backing for Bounded {
    fn write(&self, fd: BorrowedFd<'_>, data: &[u8], position: Position) -> Result<usize> {
        if let Position::At(offset) = position {
            check(offset.saturating_add(data.len() as u64))?;
        }
        HostBacking.write(fd, data, position)
    }

    fn write_joined(
        &self,
        fd: BorrowedFd<'_>,
        parts: &[std::io::IoSlice<'_>],
        offset: u64,
    ) -> Result<usize> {
        check(offset)?;
        HostBacking.write_joined(fd, parts, offset)
    }

    fn truncate(&self, fd: BorrowedFd<'_>, size: u64) -> Result<()> {
        check(size)?;
        HostBacking.truncate(fd, size)
    }

    fn allocate(&self, fd: BorrowedFd<'_>, mode: u32, offset: u64, length: u64) -> Result<()> {
        check(offset.saturating_add(length))?;
        HostBacking.allocate(fd, mode, offset, length)
    }

    fn copy_range(&self, from: Span<'_>, to: Span<'_>, length: usize) -> Result<usize> {
        check(to.offset.saturating_add(length as u64))?;
        HostBacking.copy_range(from, to, length)
    }
}

/// The messages of a script, cut off where it ends.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_first_chunk::<3>()?;
        let len = usize::from(u16::from_le_bytes([head[1], head[2]])).min(tail.len());
        let (message, after) = tail.split_at(len);
        rest = after;
        Some((head[0], message))
    })
}

/// One message of a script.
pub(crate) fn record(kind: u8, message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap().to_le_bytes();
    [&[kind, len[0], len[1]], message].concat()
}

/// A header without a caller, and a body.
pub(crate) fn message(opcode: u32, nodeid: u64, unique: u64, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len: u32::try_from(HEADER + body.len()).unwrap(),
        opcode,
        unique,
        nodeid,
        ..InHeader::default()
    };
    [header.as_bytes(), body].concat()
}

fn config(choice: u8) -> Config {
    Config {
        xattr: choice & 1 != 0,
        posix_acl: if choice & 2 != 0 {
            PosixAcl::Auto
        } else {
            PosixAcl::Never
        },
        locks: if choice & 4 != 0 {
            Locks::Host
        } else {
            Locks::Local
        },
        // Where SOURCE takes them.
        security_label: if choice & 1 != 0 {
            SecurityLabel::Auto
        } else {
            SecurityLabel::Never
        },
        announce_submounts: choice & 1 != 0,
        readonly: choice & 8 != 0,
        ..Config::default()
    }
}

/// Milliseconds between two looks at whether the session is over: who waits for a lock holds its
/// connection a little longer.
const LOOK: u16 = 20;

/// Where the kernel's messages go.
enum Line {
    Socket(File),
    Guest(Box<Driver>),
}

impl Line {
    /// Sends a message; false when the session is over.
    fn send(&mut self, message: &[u8]) -> bool {
        match self {
            Self::Socket(socket) => socket.write_all(message).is_ok(),
            Self::Guest(driver) => driver.send(message),
        }
    }

    /// The next answer, or none yet; an error when the session is over.
    fn receive(&mut self, answer: &mut [u8]) -> std::io::Result<Option<usize>> {
        match self {
            Self::Socket(socket) => {
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(LOOK))? == 0 {
                    return Ok(None);
                }
                match socket.read(answer)? {
                    0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    len => Ok(Some(len)),
                }
            }
            Self::Guest(driver) => {
                let Some(said) = driver.receive(Duration::from_millis(LOOK.into())) else {
                    return Ok(None);
                };
                answer[..said.len()].copy_from_slice(&said);
                Ok(Some(said.len()))
            }
        }
    }
}

/// The kernel's side, with what it was told.
struct Kernel {
    line: Line,
    ended: Arc<AtomicBool>,
    node: u64,
    handle: u64,
    answers: Vec<i32>,
}

impl Kernel {
    /// Sends it; false when the session is over.
    fn send(&mut self, kind: u8, message: &[u8]) -> bool {
        let mut bytes = message.to_vec();
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        if kind & FIX_LENGTH != 0 {
            put(0, &(message.len() as u32).to_ne_bytes());
            put(24, &nix::unistd::getuid().as_raw().to_ne_bytes());
            put(28, &nix::unistd::getgid().as_raw().to_ne_bytes());
            put(32, &std::process::id().to_ne_bytes());
        }
        if kind & FIX_ROOT != 0 {
            put(16, &1_u64.to_ne_bytes());
        }
        if kind & FIX_NODE != 0 {
            put(16, &self.node.to_ne_bytes());
        }
        if kind & FIX_HANDLE != 0 {
            put(HEADER, &self.handle.to_ne_bytes());
        }
        // An empty message would be the end of the connection, which comes last.
        bytes.is_empty() || self.line.send(&bytes)
    }

    /// Reads answers until that to our question; false when the session is over.
    fn settle(&mut self) -> bool {
        if !self.line.send(&message(GETATTR, 1, FENCE, &[0; 16])) {
            return false;
        }
        let mut answer = vec![0; 1 << 18];
        let start = Instant::now();
        loop {
            let len = match self.line.receive(&mut answer) {
                Ok(Some(len)) => len,
                Ok(None) if self.ended.load(Ordering::SeqCst) => return false,
                Ok(None) => {
                    assert!(start.elapsed() < DEADLINE, "no answer within {DEADLINE:?}");
                    continue;
                }
                Err(_over) => return false,
            };
            // A guest gets what is owed no answer back without one.
            if len < OUT_HEADER {
                continue;
            }
            if u64::from_ne_bytes(answer[8..16].try_into().unwrap()) == FENCE {
                return true;
            }
            self.learn(&answer[..len]);
        }
    }

    /// Notes the nodeid and the handle of an answer that looks as if it had one.
    fn learn(&mut self, answer: &[u8]) {
        let error = i32::from_ne_bytes(answer[4..8].try_into().unwrap());
        self.answers.push(-error);
        let word = |at: usize| {
            let at = OUT_HEADER + at;
            let bytes = answer.get(at..at + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().unwrap()))
        };
        match answer.len() - OUT_HEADER {
            _ if error != 0 => {}
            // struct fuse_open_out, struct fuse_entry_out, and both
            16 => self.handle = word(0).unwrap_or(0),
            128 => self.node = word(0).unwrap_or(0),
            144 => {
                self.node = word(0).unwrap_or(0);
                self.handle = word(128).unwrap_or(0);
            }
            _other => {}
        }
    }
}

/// Plays `script` to a session of its own and checks what must hold (see the module).
pub(crate) fn play(script: &[u8]) -> Played {
    WATCH.call_once(|| {
        on_session_panic(|panicked| {
            match panicked {
                Panicked::InOperation => PANICS.fetch_add(1, Ordering::SeqCst),
                Panicked::OutsideOperation => LOST.fetch_add(1, Ordering::SeqCst),
            };
        });
    });
    let (panics, lost) = (PANICS.load(Ordering::SeqCst), LOST.load(Ordering::SeqCst));
    let (choice, script) = script
        .split_first()
        .map_or((0, script), |(c, rest)| (*c, rest));
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("f"), "content").unwrap();
    let mut kernel = start(source.path(), choice);
    let ended = kernel.1;
    let mut played = 0;
    for (kind, message) in messages(script) {
        if !kernel.0.send(kind, message) || !kernel.0.settle() {
            break;
        }
        played += 1;
    }
    let answers = std::mem::take(&mut kernel.0.answers);
    drop(kernel.0);
    // How it ended is fuser's word for it: the end of a socket is an illegal request.
    ended
        .recv_timeout(DEADLINE)
        .expect("the session ends when the kernel goes");
    assert_eq!(
        PANICS.load(Ordering::SeqCst),
        panics,
        "an operation panicked"
    );
    let lost_a_thread = LOST.load(Ordering::SeqCst) > lost;
    assert!(
        !lost_a_thread || choice & (BY_DEVICE | BY_GUEST) == 0,
        "our own transport lost a thread"
    );
    Played {
        messages: played,
        lost_a_thread,
        answers,
    }
}

/// A session after INIT; how it ends is the transport's word for it.
fn session(fs: Arc<Passthrough>, theirs: OwnedFd, by_device: bool) -> Box<dyn FnOnce() + Send> {
    if by_device {
        let session = DevFuseSession::handshake(fs, theirs, Allowed::All).unwrap();
        return Box::new(|| drop(session.run(2)));
    }
    let (acl, settings) = (fuser::SessionACL::All, fuser::Config::default());
    let adapter = FuseAdapter::new(fs);
    let session = fuser::Session::from_fd(adapter, theirs, acl, settings).unwrap();
    Box::new(|| drop(session.run()))
}

/// The file system of `source`.
fn passthrough(source: &Path, choice: u8) -> std::io::Result<Passthrough> {
    let fd = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(source)?;
    let fs = Passthrough::with_backing(fd.into(), config(choice), Arc::new(Bounded));
    fs.map_err(std::io::Error::other)
}

/// A session on `source` that has had its INIT, and how it will end.
fn start(source: &Path, choice: u8) -> (Kernel, mpsc::Receiver<()>) {
    let (sender, receiver) = mpsc::channel();
    let ended = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&ended);
    let spawn = |run: Box<dyn FnOnce() + Send>| {
        std::thread::spawn(move || {
            run();
            over.store(true, Ordering::SeqCst);
            sender.send(())
        });
    };
    let init = [words(&[7, 45, 1 << 17, u32::MAX, 0]), vec![0; 44]].concat();
    let init = message(INIT, 0, 1, &init);
    let mut line = if choice & BY_GUEST != 0 {
        let path = source.to_owned();
        let session =
            DeviceSession::new(move || passthrough(&path, choice), (None, QUEUES - 1), None)
                .unwrap();
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        spawn(Box::new(move || {
            drop(session.serve(&listener, |_shutdown| {}));
        }));
        let mut driver = Driver::connect(&socket);
        assert!(driver.send(&init));
        Line::Guest(Box::new(driver))
    } else {
        let fs = passthrough(source, choice).unwrap();
        let (mut socket, theirs) = pair(1 << 20);
        socket.write_all(&init).unwrap();
        spawn(session(Arc::new(fs), theirs, choice & BY_DEVICE != 0));
        Line::Socket(socket)
    };
    let begin = Instant::now();
    let mut answer = vec![0; 4096];
    let len = loop {
        if let Some(len) = line.receive(&mut answer).unwrap() {
            break len;
        }
        assert!(begin.elapsed() < DEADLINE, "INIT is not answered");
    };
    assert!(len > OUT_HEADER, "INIT");
    let kernel = Kernel {
        line,
        ended,
        node: 1,
        handle: 0,
        answers: Vec::new(),
    };
    (kernel, receiver)
}
