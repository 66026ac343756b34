//! Backing ids for kernel passthrough, for a server that has no CAP_SYS_ADMIN: a thread of the supervisor
//! registers what the server hands it.
//!
//! ```text
//! server ── {OPEN, number, ended} and an O_PATH descriptor ──> registrar ── FUSE_DEV_IOC_BACKING_OPEN
//!        <── {number, id or -errno} ──
//!        ── {CLOSE, 0, ended} ──────────────────────────────>           ── FUSE_DEV_IOC_BACKING_CLOSE
//!        ── {SETTLE, number, ended} ────────────────────────>
//!        <── {number, 0}: what was sent before is done ──
//! ```
//!
//! Invariant: a server that was taken over gains nothing here. The thread holds the server's capabilities and
//! CAP_SYS_ADMIN, which the kernel asks for, and nothing else of the supervisor's, since the kernel reads and
//! writes a registered file with the credentials of who registered it. It takes regular files on the devices
//! of SOURCE alone, as many at a time as the server may have descriptors, and ends only ids that it made.
//! A message is twelve bytes; what has another form gets EINVAL, and no memory.
//!
//! Each message may end an id (0: none), so that an id that makes room for another costs no wake-up of its own.
//!
//! Why not JSON, as for the other questions: this one is asked at an open(2). Why not a descriptor of
//! /dev/fuse with fewer rights: the kernel has none such.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;
use thrufs_fs::RegisterBacking;
use thrufs_sys::fuse_device;

use crate::sandbox::capabilities;

/// How long an OPEN waits for its id; then the file goes through the daemon.
const PATIENCE: Duration = Duration::from_millis(100);
/// After a registrar that did not answer in time, OPENs do not wait for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// Ids that wait for the next question; those beyond are ended at once.
const MOST_ENDING: usize = 64;
/// Ids at a time where RLIMIT_NOFILE sets no lower limit.
const MOST: u64 = 1 << 20;

const OPEN: u32 = 1;
const CLOSE: u32 = 2;
const SETTLE: u32 = 3;

/// The operation, the number of the question, and an id that ends.
type Question = [u32; 3];
/// The number of the question, and an id or an errno below 0.
type Answer = (u32, i32);

const QUESTION_LEN: usize = size_of::<Question>();
const ANSWER_LEN: usize = 2 * size_of::<u32>();

fn to_bytes([a, b, c]: Question) -> [u8; QUESTION_LEN] {
    let [a, b, c] = [a, b, c].map(u32::to_ne_bytes);
    let mut bytes = [0; QUESTION_LEN];
    bytes[..4].copy_from_slice(&a);
    bytes[4..8].copy_from_slice(&b);
    bytes[8..].copy_from_slice(&c);
    bytes
}

fn question_of(bytes: [u8; QUESTION_LEN]) -> Question {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}

fn answer_bytes((number, id): Answer) -> [u8; ANSWER_LEN] {
    let mut bytes = [0; ANSWER_LEN];
    bytes[..4].copy_from_slice(&number.to_ne_bytes());
    bytes[4..].copy_from_slice(&id.to_ne_bytes());
    bytes
}

fn answer_of(bytes: [u8; ANSWER_LEN]) -> Answer {
    let [a, b, c, d, e, f, g, h] = bytes;
    (
        u32::from_ne_bytes([a, b, c, d]),
        i32::from_ne_bytes([e, f, g, h]),
    )
}

/// Both ends: the registrar's and the server's.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Devices of SOURCE and of the file systems below it.
pub(crate) type Devices = HashSet<u64>;

/// The supervisor's side.
pub(super) struct Registrar<Device> {
    pub(super) socket: OwnedFd,
    pub(super) device: Device,
    /// Where files may be.
    pub(super) devices: Devices,
    /// Those that the kernel has.
    ids: HashSet<i32>,
    most: usize,
}

/// The connection to the kernel; the seam for tests.
pub(super) trait Kernel {
    fn open(&self, file: BorrowedFd<'_>) -> io::Result<i32>;
    fn close(&self, id: i32);
}

impl Kernel for OwnedFd {
    fn open(&self, file: BorrowedFd<'_>) -> io::Result<i32> {
        fuse_device::open_backing(self.as_fd(), file)
    }

    fn close(&self, id: i32) {
        // Refused only after an abort, which has ended all ids.
        let _gone = fuse_device::close_backing(self.as_fd(), id);
    }
}

impl<Device: Kernel> Registrar<Device> {
    pub(super) fn new(socket: OwnedFd, device: Device, devices: Devices) -> Self {
        let most = getrlimit(Resource::Nofile).current.unwrap_or(MOST);
        Self {
            socket,
            device,
            devices,
            ids: HashSet::new(),
            most: usize::try_from(most.min(MOST)).unwrap_or(usize::MAX),
        }
    }

    /// Serves until the server is gone, and ends the ids that are left.
    pub(super) fn serve(mut self) -> io::Result<()> {
        let result = loop {
            match self.receive() {
                Ok(Some((question, file))) => {
                    if let Err(error) = self.answer(question, file) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        for id in self.ids.drain() {
            self.device.close(id);
        }
        result
    }

    /// None: not of the form of a message. Of several descriptors the kernel closes all but one.
    fn receive(&self) -> io::Result<Option<(Option<Question>, Option<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // One byte more, to tell a longer one.
        let mut bytes = [0; QUESTION_LEN + 1];
        let received = rustix::io::retry_on_intr(|| {
            let mut data = [IoSliceMut::new(&mut bytes)];
            recvmsg(
                &self.socket,
                &mut data,
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let count = match received {
            Ok(received) => received.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let file = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _other => None,
        });
        if count == 0 {
            return Ok(None);
        }
        let question = bytes.first_chunk().filter(|_| count == QUESTION_LEN);
        Ok(Some((question.copied().map(question_of), file)))
    }

    fn answer(&mut self, question: Option<Question>, file: Option<OwnedFd>) -> io::Result<()> {
        let [operation, number, ended] = question.unwrap_or_default();
        self.close(ended.cast_signed());
        let id = match (operation, file) {
            (OPEN, Some(file)) => self.open(&file),
            (OPEN, None) => Err(Errno::BADF),
            (CLOSE, _none) => return Ok(()),
            (SETTLE, _none) => Ok(0),
            (_unknown, _) => Err(Errno::INVAL),
        };
        let id = id.unwrap_or_else(|errno| -errno.raw_os_error());
        let answer = answer_bytes((number, id));
        // A server that reads no answers gets none: this thread waits for nothing of the server's.
        match send(
            &self.socket,
            &answer,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        ) {
            Ok(_all) => Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                self.close(id);
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn close(&mut self, id: i32) {
        if self.ids.remove(&id) {
            self.device.close(id);
        }
    }

    fn open(&mut self, file: &OwnedFd) -> Result<i32, Errno> {
        let stat = fstat(file)?;
        if !self.devices.contains(&stat.st_dev) {
            return Err(Errno::XDEV);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::OPNOTSUPP);
        }
        if self.ids.len() >= self.most {
            return Err(Errno::MFILE);
        }
        let id = self.device.open(file.as_fd());
        let id = id.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        self.ids.insert(id);
        Ok(id)
    }
}

/// Starts the thread, which has the capabilities `kept` by the server, and CAP_SYS_ADMIN.
pub(super) fn start(registrar: Registrar<OwnedFd>, kept: CapabilitySet) -> anyhow::Result<()> {
    let run = move || -> anyhow::Result<()> {
        // Of this thread alone.
        capabilities::reduce_to(kept | CapabilitySet::SYS_ADMIN)?;
        registrar.serve().context("the socket to the server")
    };
    std::thread::Builder::new()
        .name("backing-ids".to_owned())
        .spawn(move || {
            if let Err(error) = run() {
                tracing::warn!(
                    "no more kernel passthrough for files that are opened from now on: {error:#}"
                );
            }
        })
        .context("start a thread")?;
    Ok(())
}

/// The server's side.
pub(super) struct Registering {
    socket: OwnedFd,
    asking: Mutex<Asking>,
    closing: Mutex<Closing>,
}

#[derive(Default)]
struct Closing {
    /// Those to end of which the registrar is not told yet.
    ids: Vec<i32>,
    /// No waiting for room in the socket before this.
    no_wait_before: Option<Instant>,
}

struct Asking {
    /// Of the next question.
    number: u32,
    /// No question before this.
    not_before: Option<Instant>,
}

impl fmt::Debug for Registering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registering").field(&self.socket).finish()
    }
}

impl Registering {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        for way in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, way, Some(PATIENCE))?;
        }
        let asking = Mutex::new(Asking {
            number: 0,
            not_before: None,
        });
        Ok(Self {
            socket,
            asking,
            closing: Mutex::default(),
        })
    }

    /// Asks, unless the registrar was slow a moment ago.
    fn ask(&self, operation: u32, file: Option<BorrowedFd<'_>>) -> io::Result<i32> {
        // One question at a time: an OPEN that waits too long for the lock asks none.
        let asking = self.asking.try_lock_for(PATIENCE);
        let mut asking = asking.ok_or(Errno::TIMEDOUT)?;
        if asking.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(Errno::TIMEDOUT.into());
        }
        asking.number = asking.number.wrapping_add(1);
        let ended = self.closing.lock().ids.pop();
        let question = [operation, asking.number, ended.unwrap_or(0).cast_unsigned()];
        let answer = self.answer_to(question, file);
        let answer = answer.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::AGAIN | Errno::INTR) => Errno::TIMEDOUT.into(),
            _other => error,
        });
        let is_slow =
            matches!(&answer, Err(error) if is(error, Errno::TIMEDOUT) || is(error, Errno::PIPE));
        asking.not_before = is_slow.then(|| Instant::now() + PAUSE);
        answer
    }

    fn answer_to(&self, question: Question, file: Option<BorrowedFd<'_>>) -> io::Result<i32> {
        let deadline = Instant::now() + PATIENCE;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(files) = &file {
            ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(files)));
        }
        let bytes = to_bytes(question);
        let data = [IoSlice::new(&bytes)];
        let sent = sendmsg(&self.socket, &data, &mut ancillary, SendFlags::NOSIGNAL);
        let [_, number, ended] = question;
        if sent.is_err() && ended > 0 {
            self.closing.lock().ids.push(ended.cast_signed());
        }
        sent?;
        loop {
            let mut answer = [0; ANSWER_LEN];
            let (count, _all) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty())?;
            if count == 0 {
                return Err(Errno::PIPE.into());
            }
            let (of, id) = answer_of(answer);
            if of == number {
                return match id {
                    0.. => Ok(id),
                    _error => Err(io::Error::from_raw_os_error(-id)),
                };
            }
            // Too late for the OPEN that asked. The kernel's ids begin at 1.
            if id > 0 {
                self.close(id);
            }
            if Instant::now() >= deadline {
                return Err(Errno::TIMEDOUT.into());
            }
        }
    }
}

impl RegisterBacking for Registering {
    fn open(&self, file: BorrowedFd<'_>) -> io::Result<i32> {
        self.ask(OPEN, Some(file))
    }

    fn settle(&self) {
        self.flush();
        if let Err(error) = self.ask(SETTLE, None) {
            tracing::debug!(%error, "files that are not open may take space for a while");
        }
    }

    fn close_soon(&self, id: i32) {
        let mut closing = self.closing.lock();
        closing.ids.push(id);
        if closing.ids.len() > MOST_ENDING {
            drop(closing);
            self.flush();
        }
    }

    fn flush(&self) {
        let mut closing = self.closing.lock();
        while let Some(id) = closing.ids.last() {
            let message = to_bytes([CLOSE, 0, id.cast_unsigned()]);
            let mut flags = SendFlags::NOSIGNAL;
            if closing.no_wait_before.is_some_and(|at| Instant::now() < at) {
                flags |= SendFlags::DONTWAIT;
            }
            if let Err(error) = send(&self.socket, &message, flags) {
                tracing::debug!(id, %error, "a backing file stays open for now");
                closing.no_wait_before = Some(Instant::now() + PAUSE);
                return;
            }
            closing.ids.pop();
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// For a daemon of one process: the ioctls at once.
#[derive(Debug)]
pub(super) struct Direct(pub(super) OwnedFd);

impl RegisterBacking for Direct {
    fn open(&self, file: BorrowedFd<'_>) -> io::Result<i32> {
        Kernel::open(&self.0, file)
    }

    fn close_soon(&self, id: i32) {
        Kernel::close(&self.0, id);
    }

    fn flush(&self) {}

    fn settle(&self) {}
}

#[cfg(test)]
mod tests;
