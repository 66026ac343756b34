//! The adapter to fuser: each request of fuser's trait becomes an operation, and its outcome an answer.
//! The only module that sees fuser's requests and replies, and it decides nothing.
//!
//! Invariant: every request is answered exactly once, also when an operation panics (EIO).

mod convert;
mod init;
mod requests;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use ::fuser::{
    FileAttr, FileHandle, Generation, INodeNo, LockOwner, Notifier, ReplyAttr, ReplyCreate,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request,
};
use thrufs_fs::{
    Attr, Caller, CountedEntry, CountedLookup, DirEntryRef, Entry, Errno, LockKind, LockRange,
    LockRequest, NewNode, Opcode, Opened, Passthrough, ROOT_INO, Result, SendEntry, SendInval,
};
use thrufs_transport::fuser_backing::Borrowed;

use crate::after_reply;
use crate::convert::file_flags;
use crate::dispatch::{Dispatch, Requester, Target};
use convert::{file_type, fopen_flags, fuser_errno, number_only};

/// The sender of notifications that [`Passthrough::start_invalidating`] takes.
pub fn send_inval(notifier: Notifier) -> SendInval {
    // ENOENT, an inode that the kernel has forgotten, is success to fuser.
    Box::new(move |ino, offset, len| notifier.inval_inode(INodeNo(ino), offset, len))
}

/// The sender of NOTIFY_INVAL_ENTRY that [`thrufs_fs::Watch::start`] takes.
pub fn send_entry(notifier: Notifier) -> SendEntry {
    Box::new(move |parent, name| notifier.inval_entry(INodeNo(parent), name))
}

/// Of an answer that has no inode.
const NO_GENERATION: Generation = Generation(0);

/// Serves a [`Passthrough`] to fuser. A clone is the same adapter.
#[derive(Clone)]
pub struct FuseAdapter {
    dispatch: Arc<Dispatch>,
}

impl FuseAdapter {
    /// Several adapters may share one file system, one after another.
    pub fn new(fs: Arc<Passthrough>) -> Self {
        Self {
            dispatch: Arc::new(Dispatch::new(fs)),
        }
    }

    fn fs(&self) -> &Arc<Passthrough> {
        self.dispatch.fs()
    }

    /// See [`Dispatch::run`].
    fn run<'a, T>(
        &'a self,
        opcode: Opcode,
        by: impl Into<Requester>,
        target: impl Into<Target>,
        operation: impl FnOnce(&'a Passthrough) -> Result<T>,
    ) -> Result<T> {
        self.dispatch.run(opcode, by.into(), target, operation)
    }

    /// Serves a request that needs a descriptor for longer than it lasts: at once, or when there is one.
    /// `serve` answers it.
    fn when_room(&self, opcode: Opcode, by: Requester, serve: impl FnOnce(&Self) + Send + 'static) {
        if !self.fs().has_to_wait(opcode, by.uid) {
            return serve(self);
        }
        let this = self.clone();
        self.fs()
            .park(opcode, by.uid, Box::new(move || serve(&this)));
    }

    /// The caller, with its ids on SOURCE.
    fn caller(&self, by: impl Into<Requester>) -> Result<Caller> {
        self.dispatch.caller(by.into())
    }

    /// MKNOD, MKDIR and SYMLINK.
    fn make(
        &self,
        opcode: Opcode,
        by: Requester,
        (parent, name, mode): (INodeNo, &OsStr, (u32, u32)),
        reply: ReplyEntry,
        make: impl for<'a> FnOnce(&'a Passthrough, &NewNode<'_>) -> Result<CountedEntry<'a>>
        + Send
        + 'static,
    ) {
        let name = name.to_owned();
        self.when_room(opcode, by, move |this| {
            let made = this.run(opcode, by, parent.0, |fs| {
                make(fs, &this.dispatch.new_node(by, parent.0, &name, mode)?)
            });
            this.reply_entry(made, reply);
        });
    }

    /// The lock asked for, and its owner; `typ` is F_RDLCK, F_WRLCK or F_UNLCK.
    fn lock_request(
        &self,
        req: &Request,
        (ino, fh): (INodeNo, FileHandle),
        owner: LockOwner,
        range: LockRange,
        (typ, pid): (i32, u32),
    ) -> Result<LockRequest> {
        Ok(LockRequest {
            is_flock: None,
            ino: ino.0,
            fh: fh.0,
            owner: owner.0,
            kind: LockKind::from_fcntl(typ)?,
            range,
            pid,
            caller: self.caller(req)?,
        })
    }

    /// Attributes with the ids that the client is shown.
    fn file_attr(&self, attr: &Attr) -> FileAttr {
        let (plain, maps) = (convert::file_attr(attr), &self.fs().config().ids);
        FileAttr {
            uid: maps.uid.to_guest(plain.uid),
            gid: maps.gid.to_guest(plain.gid),
            ..plain
        }
    }

    fn reply_entry(&self, found: Result<CountedEntry<'_>>, reply: ReplyEntry) {
        match found.map(CountedEntry::into_entry) {
            Ok(Entry {
                generation,
                attr,
                entry_timeout,
                ..
            }) => {
                let generation = Generation(generation);
                let timeout = self.fs().attr_timeout(&attr);
                self.answer_attr(attr, move |attr| {
                    reply.entry_with_ttls(&timeout, &entry_timeout, attr, generation);
                });
            }
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    fn reply_attr(&self, found: Result<Attr>, reply: ReplyAttr) {
        match found {
            Ok(attr) => {
                let timeout = self.fs().attr_timeout(&attr);
                self.answer_attr(attr, move |attr| reply.attr(&timeout, attr));
            }
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    /// Fills the reply to a READDIRPLUS.
    fn list(
        &self,
        by: Requester,
        (ino, fh, offset): (INodeNo, FileHandle, u64),
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<Vec<CountedLookup<'_>>> {
        let (mut is_empty, mut is_crowded) = (true, false);
        self.run(Opcode::ReadDirPlus, by, (ino.0, fh.0), |fs| {
            let caller = || self.caller(by);
            let lookups = fs.readdirplus(ino.0, (fh.0, offset), &caller, |found, entry| {
                let (attr, timeout) = match entry {
                    Some(entry) => (self.file_attr(&entry.attr), after_reply::timeout(fs, entry)),
                    None if found.is_dot() => (number_only(found.ino), Duration::ZERO),
                    // The kernel shows the name, takes no inode for it, since this number is not one of
                    // an entry, and sends a FORGET that does nothing (fuse_direntplus_link).
                    None if found.ino == ROOT_INO => {
                        let (kind, ino) = (file_type(found.kind), number_only(ROOT_INO));
                        (FileAttr { kind, ..ino }, Duration::ZERO)
                    }
                    // fuser gives a name without an inode number 0, and readdir(3) leaves those out.
                    None => {
                        is_crowded = true;
                        return true;
                    }
                };
                let next = found.next_offset;
                let generation = entry.map_or(NO_GENERATION, |entry| Generation(entry.generation));
                let full = reply.add(attr.ino, next, found.name, &timeout, &attr, generation);
                is_empty &= full;
                full
            })?;
            // An empty reply would be the end of the directory.
            match is_empty && is_crowded {
                true => Err(Errno::ENFILE),
                false => Ok(lookups),
            }
        })
    }

    /// Answers a CREATE.
    fn reply_create(&self, made: Result<(CountedEntry<'_>, Opened)>, reply: ReplyCreate) {
        let (made, opened) = match made {
            Ok((made, opened)) => (made.into_entry(), opened),
            Err(error) => return reply.error(fuser_errno(error)),
        };
        let ttl = after_reply::timeout(self.fs(), &made);
        let (attr, generation) = (self.file_attr(&made.attr), Generation(made.generation));
        let (fh, flags) = (FileHandle(opened.fh), fopen_flags(file_flags(&opened)));
        match opened.backing_id {
            Some(id) => {
                let id = Borrowed::by_create(&reply, id);
                reply.created_passthrough(&ttl, &attr, generation, fh, flags, &id);
            }
            None => reply.created(&ttl, &attr, generation, fh, flags),
        }
    }

    fn answer_attr(&self, attr: Attr, answer: impl FnOnce(&FileAttr) + Send + 'static) {
        let shown = self.file_attr(&attr);
        after_reply::answer_attr(self.fs(), attr, move |_attr| answer(&shown));
    }
}

impl From<&Request> for Requester {
    fn from(req: &Request) -> Self {
        Self {
            unique: req.unique().0,
            uid: req.uid(),
            gid: req.gid(),
            pid: req.pid(),
        }
    }
}

/// Answers an OPEN.
fn reply_open(opened: &Opened, reply: ReplyOpen) {
    let (fh, flags) = (FileHandle(opened.fh), fopen_flags(file_flags(opened)));
    match opened.backing_id {
        Some(id) => {
            let id = Borrowed::by_open(&reply, id);
            reply.opened_passthrough(fh, flags, &id);
        }
        None => reply.opened(fh, flags),
    }
}

fn place(parent: INodeNo, name: &OsStr) -> DirEntryRef<'_> {
    DirEntryRef {
        parent: parent.0,
        name,
    }
}

fn reply_empty(done: Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(fuser_errno(error)),
    }
}

fn reply_written(done: Result<usize>, reply: ReplyWrite) {
    match done {
        // At most what the request asked for, which has 32 bits or was bounded by the operation.
        Ok(count) => reply.written(count as u32),
        Err(error) => reply.error(fuser_errno(error)),
    }
}

/// `size` 0 asks how much room the value needs.
fn reply_xattr(value: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(::fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(fuser_errno(error)),
    }
}
