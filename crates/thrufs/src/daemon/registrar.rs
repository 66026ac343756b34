//! Backing ids for kernel passthrough, for a server that has no CAP_SYS_ADMIN: a thread of the supervisor
//! registers what the server hands it.
//!
//! ```text
//! server ── {OPEN, number} and an O_PATH descriptor ──> registrar ── FUSE_DEV_IOC_BACKING_OPEN
//!        <── {number, id or -errno} ──
//!        ── {CLOSE, id} ──────────────────────────────>           ── FUSE_DEV_IOC_BACKING_CLOSE
//!        ── {SETTLE, number} ─────────────────────────>
//!        <── {number, 0}: what was sent before is done ──
//! ```
//!
//! Invariant: a server that was taken over gains nothing here. The thread holds the server's capabilities and
//! CAP_SYS_ADMIN, which the kernel asks for, and nothing else of the supervisor's, since the kernel reads and
//! writes a registered file with the credentials of who registered it. It takes regular files on the devices
//! of SOURCE alone, as many at a time as the server may have descriptors, and ends only ids that it made.
//! A message is eight bytes; what has another form gets EINVAL, and no memory.
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
/// Ids at a time where RLIMIT_NOFILE sets no lower limit.
const MOST: u64 = 1 << 20;

const OPEN: u32 = 1;
const CLOSE: u32 = 2;
const SETTLE: u32 = 3;

/// Two numbers: the operation and its argument, or the number of the question and its answer.
type Packet = [u8; 8];

fn packet(a: u32, b: u32) -> Packet {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&a.to_ne_bytes());
    bytes[4..].copy_from_slice(&b.to_ne_bytes());
    bytes
}

fn numbers(packet: Packet) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = packet;
    (
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
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
                Ok(Some((packet, file))) => {
                    if let Err(error) = self.answer(packet, file) {
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
    fn receive(&self) -> io::Result<Option<(Option<Packet>, Option<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // One byte more, to tell a longer one.
        let mut bytes = [0; size_of::<Packet>() + 1];
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
        let packet = (count == size_of::<Packet>()).then(|| {
            let mut packet = Packet::default();
            packet.copy_from_slice(&bytes[..count]);
            packet
        });
        Ok(Some((packet, file)))
    }

    fn answer(&mut self, packet: Option<Packet>, file: Option<OwnedFd>) -> io::Result<()> {
        let (number, id) = match (packet.map(numbers), file) {
            (Some((OPEN, number)), Some(file)) => (number, self.open(&file)),
            (Some((OPEN, number)), None) => (number, Err(Errno::BADF)),
            (Some((CLOSE, id)), _none) => {
                let id = id.cast_signed();
                if self.ids.remove(&id) {
                    self.device.close(id);
                }
                return Ok(());
            }
            (Some((SETTLE, number)), _none) => (number, Ok(0)),
            (Some((_unknown, number)), _) => (number, Err(Errno::INVAL)),
            (None, _) => (0, Err(Errno::INVAL)),
        };
        let id = id.unwrap_or_else(|errno| -errno.raw_os_error());
        let answer = packet_of(number, id);
        // A server that reads no answers gets none: this thread waits for nothing of the server's.
        match send(
            &self.socket,
            &answer,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        ) {
            Ok(_all) => Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                if self.ids.remove(&id) {
                    self.device.close(id);
                }
                Ok(())
            }
            Err(errno) => Err(errno.into()),
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

fn packet_of(number: u32, id: i32) -> Packet {
    packet(number, id.cast_unsigned())
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
        let answer = self.answer_to(packet(operation, asking.number), asking.number, file);
        let answer = answer.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::AGAIN | Errno::INTR) => Errno::TIMEDOUT.into(),
            _other => error,
        });
        let is_slow =
            matches!(&answer, Err(error) if is(error, Errno::TIMEDOUT) || is(error, Errno::PIPE));
        asking.not_before = is_slow.then(|| Instant::now() + PAUSE);
        answer
    }

    fn answer_to(
        &self,
        question: Packet,
        number: u32,
        file: Option<BorrowedFd<'_>>,
    ) -> io::Result<i32> {
        let deadline = Instant::now() + PATIENCE;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(files) = &file {
            ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(files)));
        }
        let data = [IoSlice::new(&question)];
        sendmsg(&self.socket, &data, &mut ancillary, SendFlags::NOSIGNAL)?;
        loop {
            let mut answer = Packet::default();
            let (count, _all) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty())?;
            if count == 0 {
                return Err(Errno::PIPE.into());
            }
            let (of, id) = numbers(answer);
            let id = id.cast_signed();
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
        if let Err(error) = self.ask(SETTLE, None) {
            tracing::debug!(%error, "files that are not open may take space for a while");
        }
    }

    fn close(&self, id: i32) {
        let mut closing = self.closing.lock();
        closing.ids.push(id);
        while let Some(id) = closing.ids.last() {
            let message = packet(CLOSE, id.cast_unsigned());
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

    fn close(&self, id: i32) {
        Kernel::close(&self.0, id);
    }

    fn settle(&self) {}
}

#[cfg(test)]
mod tests;
