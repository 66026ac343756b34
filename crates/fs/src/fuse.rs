//! fuser's side of the file system: an operation is run for a request, and its outcome answered. The
//! only module that sees fuser's requests and replies; another transport would be another such one.
//! `requests` takes the requests apart, one method each.
//!
//! Invariant: every request is answered exactly once, also when an operation panics (EIO).

mod requests;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    BackingId, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, LockOwner, ReplyAttr,
    ReplyEmpty, ReplyEntry, ReplyWrite, ReplyXattr, Request,
};

use crate::attr::Attr;
use crate::backing_ids::BackingIds;
use crate::config::KernelPassthrough;
use crate::convert::{fuser_errno, ids};
use crate::error::{Errno, Result, errno};
use crate::inval::SendInval;
use crate::lock_wait::LockWaiters;
use crate::ops::{LockKind, LockRange, LockRequest, NewNode, Opened, Place};
use crate::panics;
use crate::passthrough::{Caller, Entry, Passthrough};
use crate::stats::Opcode;
use crate::watch::SendEntry;

/// The sender of notifications that [`Passthrough::start_invalidating`] takes.
pub fn send_inval(notifier: fuser::Notifier) -> SendInval {
    // ENOENT, an inode that the kernel has forgotten, is success to fuser.
    Box::new(move |ino, offset, len| notifier.inval_inode(INodeNo(ino), offset, len))
}

/// The sender of NOTIFY_INVAL_ENTRY that [`crate::Watch::start`] takes.
pub fn send_entry(notifier: fuser::Notifier) -> SendEntry {
    Box::new(move |parent, name| notifier.inval_entry(INodeNo(parent), name))
}

/// A nodeid is of one inode until the kernel has forgotten it (`inode_table.rs`).
const NO_GENERATION: Generation = Generation(0);

/// Beside FOPEN_PASSTHROUGH the kernel takes none of the flags that are about its cache: open(2)
/// would fail with EIO.
const PASSED_THROUGH: FopenFlags = FopenFlags::empty();

/// Serves a [`Passthrough`] to fuser.
pub struct FuseAdapter {
    fs: Arc<Passthrough>,
    backing_ids: BackingIds<BackingId>,
    lock_waiters: Arc<LockWaiters>,
}

impl FuseAdapter {
    /// Several adapters may share one file system, one after another.
    pub fn new(fs: Arc<Passthrough>) -> Self {
        Self {
            fs,
            backing_ids: BackingIds::default(),
            lock_waiters: Arc::default(),
        }
    }

    /// Runs one operation: counts it, times it, logs its failure, and turns a panic into EIO.
    fn run<T>(
        &self,
        opcode: Opcode,
        req: &Request,
        target: impl Into<Target>,
        operation: impl FnOnce(&Passthrough) -> Result<T>,
    ) -> std::result::Result<T, fuser::Errno> {
        let began = self.fs.stats.begin(opcode);
        let (name, uid, req) = (opcode.name(), req.uid(), req.unique().0);
        let Target {
            ino,
            fh,
            offset,
            size,
        } = target.into();
        let _span =
            tracing::trace_span!("request", opcode = name, req, ino, fh, offset, size).entered();
        let done = panics::caught(|| {
            self.fs.admit(opcode, uid)?;
            operation(&self.fs)
        });
        let result = done.unwrap_or_else(|_panic| {
            tracing::error!(opcode = name, ino, "panic in an operation: a bug");
            Err(Errno::EIO)
        });
        self.fs.stats.end(opcode, began);
        result.map_err(|error| {
            self.fs.stats.count_error(opcode);
            tracing::debug!(opcode = name, req, ino, fh, offset, size, %error);
            // It is not the caller's own table that is full.
            fuser_errno(if error == Errno::EMFILE {
                Errno::ENFILE
            } else {
                error
            })
        })
    }

    /// The backing id for a file that was just opened, if the kernel is to have one; `register`
    /// gives it the file. After an error the file is closed again.
    fn backing_id(
        &self,
        ino: u64,
        opened: &Opened,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> std::result::Result<Option<Arc<BackingId>>, fuser::Errno> {
        if !opened.passthrough {
            return Ok(None);
        }
        let fallback = self.fs.config.passthrough == KernelPassthrough::Auto;
        let found = self.backing_ids.open(ino, fallback, || {
            let handle = self.fs.handle(opened.fh, ino)?;
            register(handle.fd.as_fd())
        });
        found.map_err(|error| {
            tracing::debug!(ino, %error, "no kernel passthrough, which --passthrough=always needs");
            self.fs.release(ino, opened.fh);
            fuser_errno(errno(&error))
        })
    }

    /// Who asks, with its ids on SOURCE.
    fn caller(&self, req: &Request) -> Result<Caller> {
        ids::caller(&self.fs.config.ids, req)
    }

    /// What is to be made, by whom.
    fn new_node<'a>(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &'a OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<NewNode<'a>> {
        Ok(NewNode {
            parent: parent.0,
            name,
            mode,
            umask,
            caller: self.caller(req)?,
        })
    }

    /// Which lock is asked for, by whom.
    fn lock_request(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock: &Lock,
    ) -> Result<LockRequest> {
        Ok(LockRequest {
            ino: ino.0,
            fh: fh.0,
            owner: lock.owner.0,
            kind: LockKind::from_fcntl(lock.typ)?,
            range: lock.range,
            pid: lock.pid,
            caller: self.caller(req)?,
        })
    }

    /// Attributes with the ids that the client is shown.
    fn file_attr(&self, attr: &Attr) -> FileAttr {
        ids::file_attr(&self.fs.config.ids, attr)
    }

    fn attr_timeout(&self) -> Duration {
        self.fs.config.timeouts.attr
    }

    fn reply_entry(&self, found: std::result::Result<Entry, fuser::Errno>, reply: ReplyEntry) {
        let timeout = self.attr_timeout();
        match found {
            Ok(Entry {
                attr,
                entry_timeout,
                ..
            }) => self.when_dropped(attr, move |attr| {
                reply.entry_with_ttls(&timeout, &entry_timeout, attr, NO_GENERATION);
            }),
            Err(error) => reply.error(error),
        }
    }

    fn reply_attr(&self, found: std::result::Result<Attr, fuser::Errno>, reply: ReplyAttr) {
        let timeout = self.attr_timeout();
        match found {
            Ok(attr) => self.when_dropped(attr, move |attr| reply.attr(&timeout, attr)),
            Err(error) => reply.error(error),
        }
    }

    /// Answers with attributes: at once, unless they show that somebody else has changed the file;
    /// then when the kernel has dropped what it cached of it, from the thread that has it do that.
    fn when_dropped(&self, mut attr: Attr, answer: impl FnOnce(&FileAttr) + Send + 'static) {
        let foreign = attr.foreign.take();
        let shown = self.file_attr(&attr);
        match foreign {
            None => answer(&shown),
            Some(foreign) => self
                .fs
                .drop_cached_then(attr.ino, foreign, move || answer(&shown)),
        }
    }
}

impl Drop for FuseAdapter {
    fn drop(&mut self) {
        self.lock_waiters.stop();
    }
}

/// What a request is about, for the log.
struct Target {
    ino: u64,
    fh: Option<u64>,
    offset: Option<u64>,
    size: Option<u64>,
}

impl From<INodeNo> for Target {
    fn from(ino: INodeNo) -> Self {
        Self {
            ino: ino.0,
            fh: None,
            offset: None,
            size: None,
        }
    }
}

impl From<(INodeNo, FileHandle)> for Target {
    fn from((ino, fh): (INodeNo, FileHandle)) -> Self {
        Self {
            fh: Some(fh.0),
            ..ino.into()
        }
    }
}

/// A range of a file: offset and size.
impl From<(INodeNo, FileHandle, u64, u64)> for Target {
    fn from((ino, fh, offset, size): (INodeNo, FileHandle, u64, u64)) -> Self {
        Self {
            offset: Some(offset),
            size: Some(size),
            ..(ino, fh).into()
        }
    }
}

/// A lock as the protocol names it.
struct Lock {
    owner: LockOwner,
    range: LockRange,
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    typ: i32,
    pid: u32,
}

fn place(parent: INodeNo, name: &OsStr) -> Place<'_> {
    Place {
        parent: parent.0,
        name,
    }
}

fn reply_empty(done: std::result::Result<(), fuser::Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn reply_written(done: std::result::Result<usize, fuser::Errno>, reply: ReplyWrite) {
    match done {
        // At most what the request asked for, which has 32 bits or was bounded by the operation.
        Ok(count) => reply.written(count as u32),
        Err(error) => reply.error(error),
    }
}

/// `size` 0 asks how much room the value needs.
fn reply_xattr(value: std::result::Result<Vec<u8>, fuser::Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(error),
    }
}

fn file_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    if opened.direct_io {
        // Writers of one file need not wait for each other: the backing file orders them.
        flags |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    } else if opened.keep_cache {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    flags
}

fn directory_flags(opened: &Opened) -> FopenFlags {
    match opened.keep_cache {
        true => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
        false => FopenFlags::empty(),
    }
}
