//! Requests that open and close files: OPEN, CREATE, FLUSH, RELEASE, FSYNC.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::BorrowedFd;

use thrufs_fs::{CountedEntry, Entry, Opcode, Opened, Result};
use thrufs_transport::dev_fuse::BackingId;
use thrufs_wire::Reply as Answer;
use thrufs_wire::abi::{CreateIn, EntryOut, FlushIn, FsyncFlags, FsyncIn, OpenOut, OpenOutFlags};

use super::convert::{self, os};
use super::names::NO_GENERATION;
use super::reply::{Reply, Sent};
use super::server::{Call, Server};
use crate::after_reply;
use crate::convert::file_flags;

impl Server {
    pub(super) fn open(&self, call: Call, flags: u32) {
        let Call { by, ino, reply } = call;
        let opened = self.run(Opcode::Open, by, ino, |fs| {
            fs.open(ino, flags.cast_signed(), &self.caller(by)?)
        });
        let answer = opened.and_then(|opened| self.open_out(ino, &opened));
        match answer {
            Ok(open) => {
                let sent = reply.send(&Answer::Open(open));
                sent.or_else(|| self.close(ino, open.fh));
            }
            Err(error) => reply.error(error),
        }
    }

    pub(super) fn create(&self, call: Call, arg: &CreateIn, name: &CStr) {
        let made = self.run(Opcode::Create, call.by, call.ino, |fs| {
            let mode = (arg.mode, arg.umask);
            let new = self.dispatch.new_node(call.by, call.ino, os(name), mode)?;
            fs.create(&new, arg.flags.cast_signed())
        });
        self.reply_created(made, call.reply);
    }

    /// `call` names the directory that says which file system.
    pub(super) fn tmpfile(&self, call: Call, arg: &CreateIn) {
        let made = self.run(Opcode::Tmpfile, call.by, call.ino, |fs| {
            let (no_name, mode) = (OsStr::new("."), (arg.mode, arg.umask));
            let new = self.dispatch.new_node(call.by, call.ino, no_name, mode)?;
            fs.tmpfile(&new, arg.flags.cast_signed())
        });
        self.reply_created(made, call.reply);
    }

    fn reply_created(&self, made: Result<(CountedEntry<'_>, Opened)>, reply: Reply) {
        let (entry, opened) = match made {
            Ok(made) => made,
            Err(error) => return reply.error(error),
        };
        let open = match self.open_out(entry.entry().ino, &opened) {
            Ok(open) => open,
            Err(error) => return reply.error(error),
        };
        let sent = reply.send(&Answer::Create(self.entry_out(entry.entry()), open));
        match sent {
            Sent::Taken => drop(entry.into_entry()),
            Sent::Refused => self.close(entry.entry().ino, open.fh),
        }
    }

    /// An entry that is answered at once, whatever the kernel has cached of the file.
    pub(super) fn entry_out(&self, entry: &Entry) -> EntryOut {
        let timeout = after_reply::timeout(self.fs(), entry);
        let attr = convert::attr(&self.fs().config().ids, &entry.attr);
        EntryOut::new(entry.ino, NO_GENERATION, attr, timeout, timeout)
    }

    /// The answer to an OPEN. After an error the file is closed again.
    fn open_out(&self, ino: u64, opened: &Opened) -> Result<OpenOut> {
        let fh = opened.fh;
        let channel = self.capabilities.channel.as_ref();
        let register = |file: BorrowedFd<'_>| match channel {
            Some(device) => BackingId::open(device, file),
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        let id = self
            .backing_ids
            .open_for(self.fs(), ino, opened, register)?;
        Ok(match id {
            // Beside this flag the kernel takes none of those about its cache: open(2) would fail
            // with EIO.
            Some(id) => OpenOut {
                fh,
                open_flags: OpenOutFlags::FOPEN_PASSTHROUGH,
                backing_id: id.as_raw(),
            },
            None => OpenOut {
                fh,
                open_flags: file_flags(opened),
                backing_id: 0,
            },
        })
    }

    fn close(&self, ino: u64, fh: u64) {
        self.backing_ids.release(ino);
        self.fs().release(ino, fh);
    }

    pub(super) fn release(&self, call: Call, fh: u64) {
        let done = self.run(Opcode::Release, call.by, (call.ino, fh), |_fs| {
            self.close(call.ino, fh);
            Ok(())
        });
        call.reply.done(done).gives_nothing();
    }

    pub(super) fn flush(&self, call: Call, arg: &FlushIn) {
        let done = self.run(Opcode::Flush, call.by, (call.ino, arg.fh), |fs| {
            fs.flush(call.ino, arg.fh, arg.lock_owner)
        });
        call.reply.done(done).gives_nothing();
    }

    /// FSYNC and FSYNCDIR.
    pub(super) fn fsync(&self, call: Call, opcode: Opcode, arg: &FsyncIn) {
        let datasync = arg.fsync_flags.contains(FsyncFlags::FUSE_FSYNC_FDATASYNC);
        let done = self.run(opcode, call.by, (call.ino, arg.fh), |fs| {
            fs.fsync(call.ino, arg.fh, datasync)
        });
        call.reply.done(done).gives_nothing();
    }
}
