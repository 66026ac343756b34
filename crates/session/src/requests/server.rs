//! One message, from its bytes to the handler of its operation.
//!
//! Invariant: nothing of a message outlives the call, since its memory is the next one's. A request that
//! has to wait for a descriptor is copied, and decoded again when it is served.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::geteuid;
use thrufs_fs::{Caller, Errno, Opcode, Passthrough, Result};
use thrufs_wire::abi::{InHeader, IoctlFlags};
use thrufs_wire::request::DecodeError;
use thrufs_wire::{Dialect, Message, Reply as Answer, Request};

use super::allowed::Allowed;
use super::capabilities::Capabilities;
use super::dying::DyingCallers;
use super::incoming::Incoming;
use super::interrupts::Interrupts;
use super::reply::Reply;
use super::responder::Responder;
use super::running::Ticket;
use crate::dispatch::{Dispatch, Requester, Target};
use crate::panics;
use crate::workers::Workers;

/// Serves a [`Passthrough`] on a connection.
pub(crate) struct Server {
    pub(super) dispatch: Dispatch,
    pub(super) capabilities: Capabilities,
    pub(super) interrupts: Arc<Interrupts>,
    /// None where another thread takes the next request meanwhile.
    workers: Option<Workers>,
    /// None where callers are not processes of this machine.
    dying: Option<Arc<DyingCallers>>,
    pub(super) dialect: Dialect,
    allowed: Allowed,
    owner: u32,
    /// A malformed message was logged: a guest can send as many as it likes.
    has_complained: AtomicBool,
}

/// A request that is owed an answer, without its arguments.
pub(super) struct Call {
    pub(super) by: Requester,
    /// `nodeid`.
    pub(super) ino: u64,
    pub(super) reply: Reply,
}

impl Server {
    pub(crate) fn new(
        fs: Arc<Passthrough>,
        capabilities: Capabilities,
        dialect: Dialect,
        allowed: Allowed,
    ) -> Self {
        let callers = capabilities.has_caller_pid.then_some(&capabilities.channel);
        let dying = callers.and_then(Option::as_ref).map(DyingCallers::new);
        Self {
            workers: capabilities.has_queues.then(Workers::default),
            dying: dying.map(Arc::new),
            dispatch: Dispatch::new(fs),
            capabilities,
            interrupts: Arc::default(),
            has_complained: AtomicBool::new(false),
            dialect,
            allowed,
            owner: geteuid().as_raw(),
        }
    }

    pub(crate) fn fs(&self) -> &Arc<Passthrough> {
        self.dispatch.fs()
    }

    /// Answers what still waits: the session has ended.
    pub(crate) fn stop(&self) {
        self.dispatch.stop();
        if let Some(dying) = &self.dying {
            dying.stop();
        }
    }

    /// Serves one message, to which `responder` takes the answer.
    pub(crate) fn serve(self: &Arc<Self>, message: Incoming<'_>, responder: Responder) {
        caught_or_logged(|| {
            let decoded = match message.decode(self.dialect) {
                Ok(decoded) => decoded,
                Err(error) => return self.refuse(&error, responder),
            };
            let uid = decoded.header.uid;
            match needs_room(&decoded.request) {
                Some(opcode) if self.fs().has_to_wait(opcode, uid) => {
                    self.park((opcode, uid), message, responder);
                }
                _at_once if self.workers.is_some() && self.may_wait(&decoded.request) => {
                    self.leave_queue(message, responder);
                }
                _at_once => self.answer(&decoded, message, responder),
            }
        });
    }

    fn refuse(&self, error: &DecodeError, mut responder: Responder) {
        match error.errno() {
            Errno::ENOSYS => tracing::debug!(%error, "not served"),
            _malformed if self.has_complained.swap(true, Ordering::Relaxed) => {
                tracing::debug!(%error, "another malformed message");
            }
            _malformed => tracing::error!(%error, "the client sent a malformed message"),
        }
        if let Some(unique) = error.unanswered() {
            let answer = Answer::Error(error.errno()).encode(unique);
            let _nothing_waits = responder.send(&answer);
        }
    }

    /// Serves `message`, which has no payload, when there is a descriptor. Owed from now on: what waits when
    /// the session ends is served then.
    fn park(
        self: &Arc<Self>,
        (opcode, uid): (Opcode, u32),
        message: Incoming<'_>,
        responder: Responder,
    ) {
        let (this, chain, head) = (Arc::clone(self), message.chain(), message.head().to_owned());
        let serve = move || {
            caught_or_logged(|| {
                let message = Incoming::whole(&head).in_chain(chain);
                match message.decode(this.dialect) {
                    Ok(decoded) => this.answer(&decoded, message, responder),
                    Err(error) => this.refuse(&error, responder),
                }
            });
        };
        self.fs().park(opcode, uid, Box::new(serve));
    }

    /// Serves `message` by a worker, since it may wait for SOURCE.
    fn leave_queue(self: &Arc<Self>, message: Incoming<'_>, responder: Responder) {
        let (this, head) = (Arc::clone(self), message.head().to_owned());
        let (buffers, chain) = (message.to_guest_buffers(), message.chain());
        self.hand_over(move || {
            caught_or_logged(|| {
                let message = match &buffers {
                    Some(buffers) => Incoming::of_guest(&head, buffers.all()),
                    None => Incoming::whole(&head),
                };
                let message = message.in_chain(chain);
                match message.decode(this.dialect) {
                    Ok(decoded) => this.answer(&decoded, message, responder),
                    Err(error) => this.refuse(&error, responder),
                }
            });
        });
    }

    /// Has a worker call `job`.
    pub(super) fn hand_over(&self, job: impl FnOnce() + Send + 'static) {
        match &self.workers {
            Some(workers) => workers.hand_over(|| caught_or_logged(job)),
            None => job(),
        }
    }

    /// Requests that wait for a disk or a server as a rule, whatever is cached. READ tells by itself
    /// (`requests/data.rs`), and so does SETLKW.
    fn may_wait(&self, request: &Request<'_>) -> bool {
        match request {
            Request::Fsync(_)
            | Request::Fsyncdir(_)
            | Request::Syncfs(_)
            | Request::Fallocate(_)
            | Request::CopyFileRange(_)
            | Request::CopyFileRange64(_) => true,
            Request::Write { arg, .. } => self.fs().write_waits(arg.flags.cast_signed()),
            _quick => false,
        }
    }

    /// Requests that the kernel makes for itself have no user, and are served.
    fn is_allowed(&self, header: &InHeader, request: &Request<'_>) -> bool {
        self.allowed.is(header.uid, self.owner)
            || matches!(
                request,
                Request::Destroy
                    | Request::Read(_)
                    | Request::Write { .. }
                    | Request::Fsync(_)
                    | Request::Release(_)
                    | Request::Readdir(_)
                    | Request::Readdirplus(_)
                    | Request::Fsyncdir(_)
                    | Request::Releasedir(_)
            )
    }

    /// What is owed no answer, and the rest.
    fn answer(
        self: &Arc<Self>,
        decoded: &Message<'_>,
        message: Incoming<'_>,
        responder: Responder,
    ) {
        let Message { header, request } = decoded;
        match request {
            Request::Forget(_) | Request::BatchForget(_) => {
                return self.forget(decoded, message.chain());
            }
            Request::Interrupt(arg) => return self.interrupt(arg.unique, header.unique),
            Request::NotifyReply { .. } => {
                return tracing::debug!("data that no notification has asked for");
            }
            _owed => {}
        }
        let Some(opcode) = thrufs_wire::Opcode::from_raw(header.opcode) else {
            // Decoding has refused it.
            return;
        };
        tracing::trace!(
            unique = header.unique,
            "{} of inode {}",
            opcode.name().trim_start_matches("FUSE_"),
            header.nodeid
        );
        let ticket = match may_be_given_up(request) {
            true => self.enter(header),
            false => None,
        };
        let call = Call {
            by: self.requester(header),
            ino: header.nodeid,
            reply: Reply::new(responder, header.unique, opcode, ticket),
        };
        if !self.is_allowed(header, request) {
            return call.reply.error(Errno::EACCES);
        }
        // Until it is answered.
        let number = message.chain().map(|chain| chain.number);
        let number = number.unwrap_or_else(|| header.first_unique());
        let _noted = match self.fs().begin_request(number, header.opcode) {
            Ok(noted) => noted,
            Err(errno) => {
                let (opcode, nodeid) = (opcode.name(), header.nodeid);
                tracing::error!("{opcode} of inode {nodeid} is not served: two servers died of it");
                return call.reply.error(errno);
            }
        };
        self.dispatch_to(request, call, message);
    }

    /// The table of operations.
    #[rustfmt::skip]
    fn dispatch_to(self: &Arc<Self>, request: &Request<'_>, call: Call, message: Incoming<'_>) {
        match *request {
            Request::Lookup { name } => self.lookup(call, name),
            Request::Symlink { name, target, extensions } => {
                self.symlink(call, name, target, &extensions);
            }
            Request::Mknod { arg, name, extensions } => self.mknod(call, &arg, name, &extensions),
            Request::Mkdir { arg, name, extensions } => self.mkdir(call, &arg, name, &extensions),
            Request::Create { arg, name, extensions } => self.create(call, &arg, name, &extensions),
            Request::Tmpfile { arg, extensions, .. } => self.tmpfile(call, &arg, &extensions),
            Request::Link { arg, name } => self.link(call, arg.oldnodeid, name),
            Request::Unlink { name } => self.unlink(call, name),
            Request::Rmdir { name } => self.rmdir(call, name),
            Request::Rename { arg, name, new_name } => {
                self.rename(call, name, (arg.newdir, new_name), 0);
            }
            Request::Rename2 { arg, name, new_name } => {
                self.rename(call, name, (arg.newdir, new_name), arg.flags);
            }
            Request::Readlink => self.readlink(call),

            Request::Getattr(arg) => self.getattr(call, arg.handle()),
            Request::Statx(arg) => self.statx(call, arg.handle()),
            Request::Setattr(arg) => self.setattr(call, &arg),
            Request::Access(arg) => self.access(call, arg.mask),
            Request::Statfs => self.statfs(call),
            Request::Syncfs(_) => self.syncfs(call),
            Request::Setxattr { arg, name, value } => self.setxattr(call, &arg, name, value),
            Request::Getxattr { arg, name } => self.getxattr(call, name, arg.size),
            Request::Listxattr(arg) => self.listxattr(call, arg.size),
            Request::Removexattr { name } => self.removexattr(call, name),

            Request::Open(arg) => self.open(call, arg.flags),
            Request::Read(arg) => self.read(call, &arg),
            Request::Write { arg, data } => self.write(call, &arg, message.payload(data)),
            Request::Flush(arg) => self.flush(call, &arg),
            Request::Release(arg) => self.release(call, arg.fh),
            Request::Fsync(arg) => self.fsync(call, Opcode::Fsync, &arg),
            Request::Fallocate(arg) => self.fallocate(call, &arg),
            Request::Lseek(arg) => self.lseek(call, &arg),
            Request::CopyFileRange(arg) => self.copy_file_range(call, &arg),
            Request::CopyFileRange64(arg) => self.copy_file_range_64(call, &arg),
            Request::Getlk(arg) => self.getlk(call, &arg),
            Request::Setlk(arg) => self.setlk(call, &arg, false),
            Request::Setlkw(arg) => self.setlk(call, &arg, true),
            Request::Ioctl { arg, .. } if arg.flags.contains(IoctlFlags::FUSE_IOCTL_UNRESTRICTED) => {
                call.reply.error(Errno::ENOSYS);
            }
            Request::Ioctl { arg, data } => self.ioctl(call, &arg, data),

            Request::Opendir(_) => self.opendir(call),
            Request::Readdir(arg) => self.readdir(call, &arg),
            Request::Readdirplus(arg) => self.readdirplus(call, &arg),
            Request::Releasedir(arg) => self.releasedir(call, arg.fh),
            Request::Fsyncdir(arg) => self.fsync(call, Opcode::FsyncDir, &arg),

            Request::Destroy => call.reply.done(Ok(())).gives_nothing(),
            // The kernel sends it once, before the session.
            Request::Init(_) => call.reply.error(Errno::EIO),
            // contrib/doc/semantics.md, "What a mount cannot do"; the last four are owed no answer, and do not come here.
            Request::Bmap(_) | Request::Poll(_) | Request::Setupmapping(_)
            | Request::Removemapping(_) | Request::Forget(_) | Request::BatchForget(_)
            | Request::Interrupt(_) | Request::NotifyReply { .. } => {
                call.reply.error(Errno::ENOSYS);
            }
        }
    }

    /// The request can be given up from now on.
    fn enter(&self, header: &InHeader) -> Option<Ticket> {
        let dying = self.dying.as_ref()?;
        let ticket = dying.enter(header.unique, header.pid);
        // Another thread may have read the INTERRUPT first.
        if self.interrupts.take(header.unique) {
            dying.watch(header.unique);
        }
        ticket
    }

    /// The caller of `request` has a signal.
    fn interrupt(&self, request: u64, unique: u64) {
        if let Some(evicted) = self.interrupts.note(request, unique) {
            // Refused when its request is done.
            let again = Answer::Error(Errno::EAGAIN).encode(evicted);
            if let Some(channel) = &self.capabilities.channel {
                let _is_done = channel.send(&again);
            }
        }
        // After the note: a request that is entered meanwhile finds that, or is found here.
        if let Some(dying) = &self.dying
            && dying.knows(request)
            && self.interrupts.take(request)
        {
            dying.watch(request);
        }
        self.fs().wake_lock_waiters();
    }

    /// See [`Dispatch::run`].
    pub(super) fn run<'a, T>(
        &'a self,
        opcode: Opcode,
        by: Requester,
        target: impl Into<Target>,
        operation: impl FnOnce(&'a Passthrough) -> Result<T>,
    ) -> Result<T> {
        self.dispatch.run(opcode, by, target, operation)
    }

    fn requester(&self, header: &InHeader) -> Requester {
        Requester {
            unique: header.unique,
            uid: header.uid,
            gid: header.gid,
            // A number of no process here would be taken for one.
            pid: match self.capabilities.has_caller_pid {
                true => header.pid,
                false => 0,
            },
        }
    }

    /// The caller, with its ids on SOURCE.
    pub(super) fn caller(&self, by: Requester) -> Result<Caller> {
        self.dispatch.caller(by)
    }
}

/// What an unfinished reply leaves behind on a panic is answered when it is dropped.
pub(crate) fn caught_or_logged(serve: impl FnOnce()) {
    if panics::caught(serve).is_err() {
        tracing::error!("panic in a request: a bug");
    }
}

/// Requests that change nothing on SOURCE: what they give out is taken back when nothing waits for the answer.
fn may_be_given_up(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Lookup { .. }
            | Request::Getattr(_)
            | Request::Statx(_)
            | Request::Readlink
            | Request::Getxattr { .. }
            | Request::Listxattr(_)
            | Request::Statfs
            | Request::Open(_)
            | Request::Read(_)
            | Request::Lseek(_)
            | Request::Opendir(_)
            | Request::Readdir(_)
            | Request::Readdirplus(_)
    )
}

/// Requests that may wait for a descriptor, which they need for longer than they last.
fn needs_room(request: &Request<'_>) -> Option<Opcode> {
    match request {
        Request::Lookup { .. } => Some(Opcode::Lookup),
        Request::Symlink { .. } => Some(Opcode::Symlink),
        Request::Mknod { .. } => Some(Opcode::MkNod),
        Request::Mkdir { .. } => Some(Opcode::MkDir),
        Request::Create { .. } => Some(Opcode::Create),
        Request::Tmpfile { .. } => Some(Opcode::Tmpfile),
        Request::Open(_) => Some(Opcode::Open),
        Request::Opendir(_) => Some(Opcode::OpenDir),
        Request::Readdirplus(_) => Some(Opcode::ReadDirPlus),
        _takes_none => None,
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("capabilities", &self.capabilities)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}
