//! Requests that open and close files: OPEN, CREATE, FLUSH, RELEASE, FSYNC.

use std::ffi::CStr;

use thrufs_fs::{Entry, Opcode, Opened};
use thrufs_wire::Reply as Answer;
use thrufs_wire::abi::{CreateIn, EntryOut, FlushIn, FsyncFlags, FsyncIn, OpenOut};

use super::convert;
use super::names::NO_GENERATION;
use super::reply::Sent;
use super::server::{Call, Server};
use crate::after_reply;

impl Server {
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

    pub(super) fn create(&self, call: Call, arg: &CreateIn, name: &CStr) {
        let Call { by, ino, reply } = call;
        let made = self.run(Opcode::Create, by, ino, |fs| {
            let new = self.new_node(by, ino, name, (arg.mode, arg.umask))?;
            fs.create(&new, arg.flags.cast_signed())
        });
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
        EntryOut::new(entry.ino, NO_GENERATION, attr, timeout, attr_timeout)
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
        open_flags: convert::file_flags(opened),
        backing_id: opened.backing_id.unwrap_or_default(),
    }
}
