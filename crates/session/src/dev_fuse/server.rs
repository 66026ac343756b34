//! One message, from its bytes to the handler of its operation.
//!
//! Invariant: nothing of a message outlives the call, since its memory is the next one's. A request that
//! has to wait for a descriptor is copied, and decoded again when it is served.

use std::fmt;
use std::sync::Arc;

use rustix::process::geteuid;
use thrufs_fs::{Caller, Errno, Opcode, Passthrough, Result};
use thrufs_transport::dev_fuse::DevFuse;
use thrufs_wire::abi::{InHeader, IoctlFlags};
use thrufs_wire::request::DecodeError;
use thrufs_wire::{Dialect, Message, Reply as Answer, Request, decode};

use super::allowed::Allowed;
use super::interrupts::Interrupts;
use super::reply::Reply;
use crate::dispatch::{Dispatch, Requester, Target};
use crate::{ids, panics};

/// Serves a [`Passthrough`] on a connection.
pub(super) struct Server {
    pub(super) dispatch: Dispatch,
    pub(super) device: Arc<DevFuse>,
    pub(super) interrupts: Arc<Interrupts>,
    dialect: Dialect,
    allowed: Allowed,
    owner: u32,
}

/// A request that is owed an answer, without its arguments.
pub(super) struct Call {
    pub(super) by: Requester,
    /// `nodeid`.
    pub(super) ino: u64,
    pub(super) reply: Reply,
}

impl Server {
    pub(super) fn new(
        fs: Arc<Passthrough>,
        device: Arc<DevFuse>,
        dialect: Dialect,
        allowed: Allowed,
    ) -> Self {
        Self {
            dispatch: Dispatch::new(fs),
            device,
            interrupts: Arc::default(),
            dialect,
            allowed,
            owner: geteuid().as_raw(),
        }
    }

    pub(super) fn fs(&self) -> &Arc<Passthrough> {
        self.dispatch.fs()
    }

    /// Answers what still waits: the session has ended.
    pub(super) fn stop(&self) {
        self.dispatch.stop();
    }

    /// Serves one message.
    pub(super) fn serve(self: &Arc<Self>, message: &[u8]) {
        // What an unfinished reply leaves behind on a panic is answered when it is dropped.
        let served = panics::caught(|| match self.decoded(message) {
            Some(decoded) if self.has_to_wait(&decoded) => self.park(&decoded, message),
            Some(decoded) => self.answer(&decoded, message),
            None => {}
        });
        if served.is_err() {
            tracing::error!("panic in a request: a bug");
        }
    }

    fn decoded<'m>(&self, message: &'m [u8]) -> Option<Message<'m>> {
        decode(self.dialect, message, message.len())
            .map_err(|error| self.refuse(&error))
            .ok()
    }

    fn refuse(&self, error: &DecodeError) {
        match error.errno() {
            Errno::ENOSYS => tracing::debug!(%error, "not served"),
            _malformed => tracing::error!(%error, "the kernel sent a malformed message"),
        }
        if let Some(unique) = error.unanswered() {
            let answer = Answer::Error(error.errno()).encode(unique);
            let _nothing_waits = self.device.send(&answer);
        }
    }

    /// Whether the request waits for a descriptor, which it needs for longer than it lasts.
    fn has_to_wait(&self, message: &Message<'_>) -> bool {
        let uid = message.header.uid;
        needs_room(&message.request).is_some_and(|opcode| self.fs().has_to_wait(opcode, uid))
    }

    fn park(self: &Arc<Self>, decoded: &Message<'_>, message: &[u8]) {
        let Some(opcode) = needs_room(&decoded.request) else {
            return self.answer(decoded, message);
        };
        // Owed from now on: what waits when the session ends is served then.
        let (this, message) = (Arc::clone(self), message.to_owned());
        let serve = move || {
            let served = panics::caught(|| {
                if let Some(decoded) = this.decoded(&message) {
                    this.answer(&decoded, &message);
                }
            });
            if served.is_err() {
                tracing::error!("panic in a request that waited: a bug");
            }
        };
        self.fs().park(opcode, decoded.header.uid, Box::new(serve));
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
    fn answer(self: &Arc<Self>, decoded: &Message<'_>, message: &[u8]) {
        let Message { header, request } = decoded;
        match request {
            Request::Forget(arg) => return self.dispatch.forget(header.nodeid, arg.nlookup),
            Request::BatchForget(all) => {
                return all.for_each(|one| self.dispatch.forget(one.nodeid, one.nlookup));
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
        let call = Call {
            by: Requester::from(header),
            ino: header.nodeid,
            reply: Reply::new(&self.device, header.unique, opcode),
        };
        if !self.is_allowed(header, request) {
            return call.reply.error(Errno::EACCES);
        }
        self.dispatch_to(request, call, message);
    }

    /// The table of operations.
    #[rustfmt::skip]
    fn dispatch_to(self: &Arc<Self>, request: &Request<'_>, call: Call, message: &[u8]) {
        match *request {
            Request::Lookup { name } => self.lookup(call, name),
            Request::Symlink { name, target, .. } => self.symlink(call, name, target),
            Request::Mknod { arg, name, .. } => self.mknod(call, &arg, name),
            Request::Mkdir { arg, name, .. } => self.mkdir(call, &arg, name),
            Request::Create { arg, name, .. } => self.create(call, &arg, name),
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
            Request::Setattr(arg) => self.setattr(call, &arg),
            Request::Access(arg) => self.access(call, arg.mask),
            Request::Statfs => self.statfs(call),
            Request::Setxattr { arg, name, value } => self.setxattr(call, name, value, arg.flags),
            Request::Getxattr { arg, name } => self.getxattr(call, name, arg.size),
            Request::Listxattr(arg) => self.listxattr(call, arg.size),
            Request::Removexattr { name } => self.removexattr(call, name),

            Request::Open(arg) => self.open(call, arg.flags),
            Request::Read(arg) => self.read(call, &arg),
            Request::Write { arg, data } => self.write(call, &arg, data.of(message)),
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
            // See `crate::UNSUPPORTED`; the last four are owed no answer, and do not come here.
            Request::Syncfs(_) | Request::Statx(_) | Request::Tmpfile { .. } | Request::Bmap(_)
            | Request::Poll(_) | Request::Setupmapping(_) | Request::Removemapping(_)
            | Request::Forget(_) | Request::BatchForget(_) | Request::Interrupt(_)
            | Request::NotifyReply { .. } => {
                call.reply.error(Errno::ENOSYS);
            }
        }
    }

    fn interrupt(&self, request: u64, unique: u64) {
        if let Some(evicted) = self.interrupts.note(request, unique) {
            // Refused when its request is done.
            let again = Answer::Error(Errno::EAGAIN).encode(evicted);
            let _is_done = self.device.send(&again);
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

    /// The caller, with its ids on SOURCE.
    pub(super) fn caller(&self, by: Requester) -> Result<Caller> {
        ids::caller(&self.fs().config().ids, by)
    }
}

/// Requests that may wait for a descriptor.
fn needs_room(request: &Request<'_>) -> Option<Opcode> {
    match request {
        Request::Lookup { .. } => Some(Opcode::Lookup),
        Request::Symlink { .. } => Some(Opcode::Symlink),
        Request::Mknod { .. } => Some(Opcode::MkNod),
        Request::Mkdir { .. } => Some(Opcode::MkDir),
        Request::Create { .. } => Some(Opcode::Create),
        Request::Open(_) => Some(Opcode::Open),
        Request::Opendir(_) => Some(Opcode::OpenDir),
        Request::Readdirplus(_) => Some(Opcode::ReadDirPlus),
        _takes_none => None,
    }
}

impl From<&InHeader> for Requester {
    fn from(header: &InHeader) -> Self {
        Self {
            unique: header.unique,
            uid: header.uid,
            gid: header.gid,
            pid: header.pid,
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("device", &self.device)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}
