//! Requests that open and close files: OPEN, CREATE, FLUSH, RELEASE, FSYNC.

use std::ffi::{CStr, OsStr};

use thrufs_fs::{CountedEntry, Entry, Opcode, Opened, Result};
use thrufs_wire::Reply as Answer;
use thrufs_wire::abi::{CreateIn, EntryOut, FlushIn, FsyncFlags, FsyncIn, OpenOut};
use thrufs_wire::request::Extensions;

use super::convert::{self, os};
use super::reply::{Reply, Sent};
use super::server::{Call, Server};
use crate::after_reply;
use crate::convert::file_flags;

impl Server {
    /// FUSE_OPEN_KILL_SUIDGID comes with O_TRUNC, which the kernel makes a SETATTR (no FUSE_ATOMIC_O_TRUNC); of
    /// CREATE it means a file that is there, which [`Passthrough::create`](thrufs_fs::Passthrough::create) never opens.
    pub(super) fn open(&self, call: Call, flags: u32) {
        let Call { by, ino, reply } = call;
        let opened = self.run(Opcode::Open, by, ino, |fs| {
            fs.open(ino, flags.cast_signed(), &self.caller(by)?)
        });
        match opened {
            Ok(opened) => {
                let sent = reply.send(&Answer::Open(open_out(&opened)));
                sent.or_else(|| self.fs().release(ino, opened.fh));
            }
            Err(error) => reply.error(error),
        }
    }

    pub(super) fn create(
        &self,
        call: Call,
        arg: &CreateIn,
        name: &CStr,
        extensions: &Extensions<'_>,
    ) {
        let made = self.run(Opcode::Create, call.by, call.ino, |fs| {
            let (place, mode) = ((call.ino, os(name)), (arg.mode, arg.umask));
            let creation = self.creation(extensions)?;
            let new = self.new_node(call.by, place, mode, &creation)?;
            fs.create(&new, arg.flags.cast_signed())
        });
        self.reply_created(made, call.reply);
    }

    /// `call` names the directory that says which file system.
    pub(super) fn tmpfile(&self, call: Call, arg: &CreateIn, extensions: &Extensions<'_>) {
        let made = self.run(Opcode::Tmpfile, call.by, call.ino, |fs| {
            let (place, mode) = ((call.ino, OsStr::new(".")), (arg.mode, arg.umask));
            let creation = self.creation(extensions)?;
            let new = self.new_node(call.by, place, mode, &creation)?;
            fs.tmpfile(&new, arg.flags.cast_signed())
        });
        self.reply_created(made, call.reply);
    }

    fn reply_created(&self, made: Result<(CountedEntry<'_>, Opened)>, reply: Reply) {
        let (entry, opened) = match made {
            Ok(made) => made,
            Err(error) => return reply.error(error),
        };
        let open = open_out(&opened);
        let sent = reply.send(&Answer::Create(self.entry_out(entry.entry()), open));
        match sent {
            Sent::Taken => drop(entry.into_entry()),
            Sent::Refused => self.fs().release(entry.entry().ino, open.fh),
        }
    }

    /// An entry that is answered at once, whatever the kernel has cached of the file.
    pub(super) fn entry_out(&self, entry: &Entry) -> EntryOut {
        let (attr_timeout, timeout) = after_reply::timeouts(self.fs(), entry);
        let attr = convert::attr(&self.fs().config().ids, &entry.attr);
        let attr = convert::as_submount(attr, entry.is_submount);
        EntryOut::new(entry.ino, entry.generation, attr, timeout, attr_timeout)
    }

    pub(super) fn release(&self, call: Call, fh: u64) {
        let done = self.run(Opcode::Release, call.by, (call.ino, fh), |fs| {
            fs.release(call.ino, fh);
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

/// The answer to an OPEN.
fn open_out(opened: &Opened) -> OpenOut {
    OpenOut {
        fh: opened.fh,
        open_flags: file_flags(opened),
        backing_id: opened.backing_id.unwrap_or_default(),
    }
}
