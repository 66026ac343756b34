//! Backing ids for kernel passthrough, for a server that has no CAP_SYS_ADMIN: a thread of the supervisor
//! registers what the server hands it.
//!
//! ```text
//! server ── {OPEN, number, ended} and an O_PATH descriptor ──> registrar ── FUSE_DEV_IOC_BACKING_OPEN
//!        <── {number, id or -errno} ──
//!        ── {CLOSE, 0, ended} ──────────────────────────────>           ── FUSE_DEV_IOC_BACKING_CLOSE
//!        ── {SETTLE, number, ended} ────────────────────────>
//!        <── {number, 0}: what was sent before is done ──
//!        ── {KEEP, 0, id} and an O_PATH descriptor ─────────> the id, which is of that file, is in use
//!        ── {SWEEP, number, 0} ─────────────────────────────> FUSE_DEV_IOC_BACKING_CLOSE of all others
//!        <── {number, how many are left} ──
//! ```
//!
//! Invariant: a server that was taken over gains nothing here. The thread holds the server's capabilities and
//! CAP_SYS_ADMIN, which the kernel asks for, and nothing else of the supervisor's, since the kernel reads and
//! writes a registered file with the credentials of who registered it. It takes regular files on the devices
//! of SOURCE alone, as many at a time as the server may have descriptors, and ends only ids that it made.
//! A message is twelve bytes; what has another form gets EINVAL, and no memory.
//!
//! The other messages may end an id (0: none), so that an id that makes room for another costs no wake-up of its own.
//!
//! KEEP and SWEEP are for a server that goes on where another one died (`--survive`): ids that the dead one had not noted end.
//! KEEP without a descriptor comes first, and takes back what a server that died in the middle has said.
//!
//! Why not JSON, as for the other questions: this one is asked at an open(2). Why not a descriptor of
//! /dev/fuse with fewer rights: the kernel has none such.

use std::collections::{HashMap, HashSet};
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
use thrufs_fs::{InUse, RegisterBacking};
use thrufs_sys::fuse_device;

use crate::sandbox::capabilities;

/// How long an OPEN waits for its id; then the file goes through the daemon.
const PATIENCE: Duration = Duration::from_millis(100);
/// After a registrar that did not answer in time, OPENs do not wait for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a server that begins waits for the registrar, on a machine however busy.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);
/// Questions of one server are told apart by as many bits, servers by the others.
const QUESTIONS: u32 = 0xffff;
/// Ids that wait for the next question; those beyond are ended at once.
const MOST_ENDING: usize = 64;
/// Ids at a time where RLIMIT_NOFILE sets no lower limit.
const MOST: u64 = 1 << 20;

const OPEN: u32 = 1;
const CLOSE: u32 = 2;
const SETTLE: u32 = 3;
const KEEP: u32 = 4;
const SWEEP: u32 = 5;

/// The operation, the number of the question, and an id that ends, or is kept.
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
    ids: HashMap<i32, Registered>,
    most: usize,
}

/// The file of an id.
struct Registered {
    /// Device and number.
    file: (u64, u64),
    /// The next SWEEP leaves it.
    is_kept: bool,
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
            ids: HashMap::new(),
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
        for (id, _file) in self.ids.drain() {
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
        let [operation, number, id] = question.unwrap_or_default();
        let id = id.cast_signed();
        if operation == KEEP {
            self.keep(id, file.as_ref());
            return Ok(());
        }
        self.close(id);
        let id = match (operation, file) {
            (OPEN, Some(file)) => self.open(&file),
            (OPEN, None) => Err(Errno::BADF),
            (CLOSE, _none) => return Ok(()),
            (SETTLE, _none) => Ok(0),
            (SWEEP, _none) => Ok(self.sweep()),
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

    fn keep(&mut self, id: i32, file: Option<&OwnedFd>) {
        let Some(file) = file else {
            self.ids.values_mut().for_each(|id| id.is_kept = false);
            return;
        };
        if let (Some(id), Ok(stat)) = (self.ids.get_mut(&id), fstat(file)) {
            id.is_kept = id.file == (stat.st_dev, stat.st_ino);
        }
    }

    /// Ends the ids that are not kept, and returns how many are.
    fn sweep(&mut self) -> i32 {
        for (id, _file) in self.ids.extract_if(|_id, file| !file.is_kept) {
            self.device.close(id);
        }
        self.ids.values_mut().for_each(|id| id.is_kept = false);
        // Not more than descriptors.
        i32::try_from(self.ids.len()).unwrap_or(i32::MAX)
    }

    fn close(&mut self, id: i32) {
        if self.ids.remove(&id).is_some() {
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
        let file = (stat.st_dev, stat.st_ino);
        let is_kept = false;
        self.ids.insert(id, Registered { file, is_kept });
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

    /// That of a server after so many `before`: what they were answered too late is no answer to this one.
    pub(super) fn after(self, before: u64) -> Self {
        // Those whose answers may be in the socket are among the last ones.
        self.asking.lock().number = (before as u32) << QUESTIONS.count_ones();
        self
    }

    /// Asks, unless the registrar was slow a moment ago.
    fn ask(&self, operation: u32, file: Option<BorrowedFd<'_>>) -> io::Result<i32> {
        // One question at a time: an OPEN that waits too long for the lock asks none.
        let asking = self.asking.try_lock_for(PATIENCE);
        let mut asking = asking.ok_or(Errno::TIMEDOUT)?;
        if asking.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(Errno::TIMEDOUT.into());
        }
        asking.number = next(asking.number);
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
        let [_, number, ended] = question;
        let deadline = Instant::now() + PATIENCE;
        self.tell(question, file).inspect_err(|_| {
            if ended > 0 {
                self.closing.lock().ids.push(ended.cast_signed());
            }
        })?;
        self.wait_for_answer(number, deadline)
    }

    fn tell(&self, question: Question, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(files) = &file {
            ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(files)));
        }
        let bytes = to_bytes(question);
        let data = [IoSlice::new(&bytes)];
        sendmsg(&self.socket, &data, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn wait_for_answer(&self, number: u32, deadline: Instant) -> io::Result<i32> {
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

    /// Ends all ids but those that are in use, each of its file.
    fn keep_alone(&self, ids: &[InUse<'_>]) -> io::Result<()> {
        let deadline = Instant::now() + BEGIN_PATIENCE;
        while_busy(deadline, || self.tell([KEEP, 0, 0], None))?;
        for (id, file) in ids {
            let question = [KEEP, 0, id.cast_unsigned()];
            while_busy(deadline, || self.tell(question, Some(*file)))?;
        }
        let number = {
            let mut asking = self.asking.lock();
            asking.number = next(asking.number);
            asking.number
        };
        while_busy(deadline, || self.tell([SWEEP, number, 0], None))?;
        let left = while_busy(deadline, || self.wait_for_answer(number, deadline))?;
        match usize::try_from(left) {
            Ok(left) if left == ids.len() => Ok(()),
            _other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a backing id is not of the file that it is said to be of",
            )),
        }
    }
}

/// The number of the question after this one.
fn next(number: u32) -> u32 {
    number & !QUESTIONS | number.wrapping_add(1) & QUESTIONS
}

/// Tries again when the socket's timeout is over, until `deadline`.
fn while_busy<T>(deadline: Instant, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if is(&error, Errno::AGAIN) || is(&error, Errno::INTR) => {
                if Instant::now() >= deadline {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

impl RegisterBacking for Registering {
    fn open(&self, file: BorrowedFd<'_>) -> io::Result<i32> {
        self.ask(OPEN, Some(file))
    }

    fn keep(&self, ids: &[InUse<'_>]) -> io::Result<()> {
        self.keep_alone(ids)
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

    /// No server dies before this process.
    fn keep(&self, _none: &[InUse<'_>]) -> io::Result<()> {
        Ok(())
    }

    fn settle(&self) {}
}

#[cfg(test)]
mod tests;
