//! The session of a virtiofs device: one that begins with each INIT, on any request queue.
//!
//! Invariant: another INIT, and a front end that disconnects, end the session: its nodeids, handles and locks
//! are gone, as the guest's driver, which has forgotten them, takes for granted.
//!
//! Why not one file system for the device's life: what an earlier guest has looked up would stay known, and
//! open, for ever.
//!
//! Where a device outlives its server ([`Survival`]), a session goes on in the next one, and its end is that of the server:
//! the next one finds nothing of it, and no thread that still adds to it.

mod current;

use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use thrufs_fs::{Errno, Life, Passthrough, Snapshot, Stats};
use thrufs_transport::vhost_user::{Completion, Device, Kept, Request, Service, Shutdown, Tag};
use thrufs_wire::abi::InHeader;
use thrufs_wire::request;
use thrufs_wire::{Dialect, Opcode, Reply, decode};
use zerocopy::IntoBytes;

use self::current::Current;
use crate::dev_fuse::agreed;
use crate::init::{Handshake, shake_hands};
use crate::requests::{
    Allowed, Capabilities, Chain, Incoming, Responder, Server, caught_or_logged,
};

/// See the module.
#[derive(Debug)]
pub struct DeviceSession {
    device: Device,
    sessions: Arc<Sessions>,
}

type Make = Box<dyn Fn() -> io::Result<Passthrough> + Send + Sync>;

/// What a device needs to outlive its server.
pub struct Survival {
    /// Which server this one is.
    pub life: Life,
    /// Those that the device has outlived.
    pub deaths: u64,
    /// What they leave to each other of the front end.
    pub kept: Arc<Kept>,
    /// Ends this process, which another one follows; does not return.
    pub hand_over: Box<dyn Fn() + Send + Sync>,
}

/// The session of now.
struct Sessions {
    make: Make,
    survival: Option<Survival>,
    request_queues: usize,
    /// Of all sessions.
    stats: Arc<Stats>,
    /// Front ends that have connected.
    front_ends: AtomicU64,
    is_connected: AtomicBool,
    /// None before INIT.
    current: Current,
}

impl DeviceSession {
    /// A device whose file system `make` makes for each session, with `request_queues` queues. With `survival` it goes on
    /// where the server before has left it.
    ///
    /// # Errors
    /// What that left is damaged.
    pub fn new(
        make: impl Fn() -> io::Result<Passthrough> + Send + Sync + 'static,
        (tag, request_queues): (Option<Tag>, usize),
        survival: Option<Survival>,
    ) -> io::Result<Self> {
        let kept = survival.as_ref().map(|survival| Arc::clone(&survival.kept));
        let front_ends = kept.as_ref().map_or(0, |kept| kept.front_ends());
        let sessions = Arc::new(Sessions {
            make: Box::new(make),
            survival,
            request_queues,
            stats: Arc::default(),
            front_ends: AtomicU64::new(front_ends),
            is_connected: AtomicBool::new(false),
            // hiprio as well.
            current: Current::new(1 + request_queues.max(1)),
        });
        sessions.go_on()?;
        let service = Arc::clone(&sessions) as Arc<dyn Service>;
        let device = Device::new(service, tag, request_queues, kept);
        Ok(Self { device, sessions })
    }

    /// Waits for a front end and serves it until it disconnects; `connected` gets what ends that. Of a device that outlives
    /// its server that is the end of the process's work: another one waits for the next front end.
    ///
    /// # Errors
    /// The front end violates the protocol, or there can be no thread.
    pub fn serve(
        &self,
        listener: &UnixListener,
        connected: impl FnOnce(Shutdown),
    ) -> io::Result<()> {
        let sessions = &self.sessions;
        let result = self.device.serve(listener, |front_end| {
            match &sessions.survival {
                Some(survival) => {
                    let count = survival.kept.front_ends();
                    sessions.front_ends.store(count, Ordering::Relaxed);
                }
                None => {
                    sessions.front_ends.fetch_add(1, Ordering::Relaxed);
                }
            }
            sessions.is_connected.store(true, Ordering::Relaxed);
            connected(front_end);
        });
        sessions.is_connected.store(false, Ordering::Relaxed);
        if sessions.survival.is_none() {
            sessions.replace(None);
        }
        result
    }

    /// What tells of the device while it is served.
    pub fn view(&self) -> DeviceView {
        DeviceView(Arc::clone(&self.sessions))
    }
}

/// What tells of a device from another thread.
#[derive(Clone, Debug)]
pub struct DeviceView(Arc<Sessions>);

/// Who uses a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceUse {
    /// Request queues that there are.
    pub request_queues: usize,
    /// There is a front end.
    pub is_connected: bool,
    /// How many there have been.
    pub front_ends: u64,
    /// INIT is done: the guest has mounted it.
    pub is_mounted: bool,
}

impl DeviceView {
    /// Counts of all sessions, and what the one of now holds.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        let current = self.0.current.now();
        let snapshot = match current {
            Some(server) => server.fs().snapshot(),
            None => Snapshot::of_none(&self.0.stats),
        };
        let deaths = self.0.survival.as_ref().map(|survival| survival.deaths);
        snapshot.map(|snapshot| Snapshot { deaths, ..snapshot })
    }

    /// What it serves; none where it is not mounted.
    pub fn fs(&self) -> Option<Arc<Passthrough>> {
        let current = self.0.current.now()?;
        Some(Arc::clone(current.fs()))
    }

    /// Who uses it now.
    pub fn used(&self) -> DeviceUse {
        DeviceUse {
            request_queues: self.0.request_queues,
            is_connected: self.0.is_connected.load(Ordering::Relaxed),
            front_ends: self.0.front_ends.load(Ordering::Relaxed),
            is_mounted: self.0.current.now().is_some(),
        }
    }
}

impl Sessions {
    fn serve_one(&self, request: Request<'_>, completion: Completion) {
        let responder = Responder::VhostUser(completion);
        let Ok(header) = request::header(request.head) else {
            // No message: the chain goes back with nothing written.
            tracing::debug!("a request without a header, or in another byte order");
            return;
        };
        let opcode = Opcode::from_raw(header.opcode);
        if request.is_priority() && !opcode.is_some_and(belongs_on_priority_queue) {
            tracing::debug!(opcode = header.opcode, "not for the priority queue");
            return refuse(&header, Errno::EINVAL, responder);
        }
        if opcode == Some(Opcode::Init) {
            return self.init(&header, request, responder);
        }
        match self.current.of(request.queue) {
            Some(server) => {
                let chain = request.number.map(|number| Chain {
                    queue: request.queue,
                    number,
                });
                let message = Incoming::of_guest(request.head, request.all).in_chain(chain);
                server.0.serve(message, responder);
                if opcode == Some(Opcode::Destroy) {
                    self.end_session();
                }
            }
            None => refuse(&header, Errno::ENOTCONN, responder),
        }
    }

    fn init(&self, header: &InHeader, request: Request<'_>, mut responder: Responder) {
        if self.survival.is_some() && self.current.now().is_some() {
            // To the next server it is the first.
            return self.end_session();
        }
        let unique = header.unique;
        let decoded = decode(Dialect::BEFORE_INIT, request.head, request.all.len());
        let arg = match decoded.map(|message| message.request) {
            Ok(thrufs_wire::Request::Init(arg)) => arg,
            Ok(_other) => return refuse(header, Errno::EIO, responder),
            Err(error) => return refuse(header, error.errno(), responder),
        };
        let fs = match self.make() {
            Ok(fs) => fs,
            Err(error) => {
                tracing::error!(%error, "INIT: the shared directory cannot be served");
                return refuse(header, Errno::EIO, responder);
            }
        };
        let capabilities = Capabilities::of_guest();
        let answer = match shake_hands(fs.config(), &capabilities, &arg) {
            Handshake::OtherVersion(version) => version,
            Handshake::Refused(errno, error) => {
                tracing::error!("INIT: {error}");
                return refuse(header, errno, responder);
            }
            Handshake::Agreed {
                answer,
                dialect,
                negotiated,
            } => {
                if let Some(ledger) = fs.ledger() {
                    ledger.note_init(request.head, answer.as_bytes());
                }
                fs.set_negotiated(negotiated);
                if let Err(error) = self.begin_session(fs, capabilities, dialect) {
                    tracing::error!(%error, "INIT: start the thread that closes what was looked up");
                    return refuse(header, Errno::EIO, responder);
                }
                answer
            }
        };
        if let Err(error) = responder.send(&Reply::Init(answer).encode(unique)) {
            tracing::error!("INIT: {error}");
        }
    }

    /// A file system for a session.
    fn make(&self) -> io::Result<Arc<Passthrough>> {
        let fs = (self.make)()?.counting_into(Arc::clone(&self.stats));
        let fs = match &self.survival {
            Some(survival) => fs.surviving(&survival.life)?,
            None => fs,
        };
        fs.resume_when_told();
        Ok(Arc::new(fs))
    }

    fn begin_session(
        &self,
        fs: Arc<Passthrough>,
        capabilities: Capabilities,
        dialect: Dialect,
    ) -> io::Result<()> {
        fs.start_serving(self.request_queues)?;
        let server = Server::new(fs, capabilities, dialect, Allowed::All);
        self.replace(Some(Arc::new(server)));
        Ok(())
    }

    /// Goes on with the session that the server before had, if there is one.
    fn go_on(&self) -> io::Result<()> {
        let ledger = self.survival.as_ref().map(|survival| &survival.life.ledger);
        if !ledger.is_some_and(|ledger| ledger.has_init()) {
            return Ok(());
        }
        let fs = self.make()?;
        let ledger = fs.ledger().ok_or(io::ErrorKind::Unsupported)?;
        let capabilities = Capabilities::of_guest();
        let (dialect, negotiated) = agreed(fs.config(), ledger, None, &capabilities)?;
        fs.set_negotiated(negotiated);
        self.begin_session(fs, capabilities, dialect)
    }

    /// Nothing is left of the session of now.
    fn end_session(&self) {
        match &self.survival {
            Some(survival) => {
                survival.kept.begin_anew();
                (survival.hand_over)();
            }
            None => self.replace(None),
        }
    }

    /// Ends the session of now, and begins another.
    fn replace(&self, next: Option<Arc<Server>>) {
        if let Some(last) = self.current.replace(next) {
            last.stop();
            last.fs().stop_notifying();
        }
    }
}

/// virtio 1.3, 5.11.6.2: what must not wait for other requests.
fn belongs_on_priority_queue(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt
    )
}

fn refuse(header: &InHeader, errno: Errno, mut responder: Responder) {
    // What is owed no answer has no room for one; the chain goes back all the same.
    let _no_room = responder.send(&Reply::Error(errno).encode(header.unique));
}

impl Service for Sessions {
    fn serve(&self, request: Request<'_>, completion: Completion) {
        caught_or_logged(|| self.serve_one(request, completion));
    }

    fn interrupt_waiting(&self) {
        if let Some(server) = self.current.now() {
            server.stop();
        }
    }

    fn has_resumed(&self) {
        if let Some(server) = self.current.now() {
            server.fs().has_resumed();
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("request_queues", &self.request_queues)
            .finish_non_exhaustive()
    }
}
