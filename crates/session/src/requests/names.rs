//! Requests about names: LOOKUP, what makes an inode, LINK, UNLINK, RMDIR, RENAME, READLINK.

use std::ffi::CStr;
use std::sync::Arc;

use thrufs_fs::{CountedEntry, Entry, Errno, NewNode, Opcode, Passthrough, Result};
use thrufs_wire::Reply as Answer;
use thrufs_wire::abi::{EntryOut, MkdirIn, MknodIn};
use thrufs_wire::request::Extensions;

use super::convert::{self, entry_ref, os};
use super::reply::Reply;
use super::server::{Call, Server};
use crate::after_reply;

impl Server {
    pub(super) fn lookup(self: &Arc<Self>, call: Call, name: &CStr) {
        let Call { by, ino, reply } = call;
        let found = self.run(Opcode::Lookup, by, ino, |fs| {
            fs.lookup_by(by.pid, ino, os(name))
        });
        let negative = self.fs().negative_timeout(ino);
        match found {
            Err(Errno::ENOENT) if !negative.is_zero() => {
                // The name does not exist, and may be remembered as such.
                let answer = Answer::Entry(EntryOut::negative(negative));
                reply.send(&answer).gives_nothing();
            }
            found => self.reply_entry(found, reply),
        }
    }

    pub(super) fn mknod(
        self: &Arc<Self>,
        call: Call,
        arg: &MknodIn,
        name: &CStr,
        extensions: &Extensions<'_>,
    ) {
        let node = (name, (arg.mode, arg.umask), extensions);
        self.make(Opcode::MkNod, call, node, |fs, new| fs.mknod(new, arg.rdev));
    }

    pub(super) fn mkdir(
        self: &Arc<Self>,
        call: Call,
        arg: &MkdirIn,
        name: &CStr,
        extensions: &Extensions<'_>,
    ) {
        let node = (name, (arg.mode, arg.umask), extensions);
        self.make(Opcode::MkDir, call, node, Passthrough::mkdir);
    }

    pub(super) fn symlink(
        self: &Arc<Self>,
        call: Call,
        name: &CStr,
        target: &CStr,
        extensions: &Extensions<'_>,
    ) {
        let node = (name, (0o777, 0), extensions);
        self.make(Opcode::Symlink, call, node, |fs, new| {
            fs.symlink(new, os(target))
        });
    }

    fn make<'a>(
        self: &'a Arc<Self>,
        opcode: Opcode,
        Call { by, ino, reply }: Call,
        (name, mode, extensions): (&CStr, (u32, u32), &Extensions<'_>),
        make: impl FnOnce(&'a Passthrough, &NewNode<'_>) -> Result<CountedEntry<'a>>,
    ) {
        let made = self.run(opcode, by, ino, |fs| {
            let creation = self.creation(extensions)?;
            make(fs, &self.new_node(by, (ino, os(name)), mode, &creation)?)
        });
        self.reply_entry(made, reply);
    }

    /// `call` names the new directory, `ino` the file.
    pub(super) fn link(self: &Arc<Self>, call: Call, ino: u64, name: &CStr) {
        let made = self.run(Opcode::Link, call.by, ino, |fs| {
            fs.link(ino, entry_ref(call.ino, name))
        });
        self.reply_entry(made, call.reply);
    }

    pub(super) fn unlink(&self, call: Call, name: &CStr) {
        let done = self.run(Opcode::Unlink, call.by, call.ino, |fs| {
            fs.unlink(entry_ref(call.ino, name), &self.caller(call.by)?)
        });
        call.reply.done(done).gives_nothing();
    }

    pub(super) fn rmdir(&self, call: Call, name: &CStr) {
        let done = self.run(Opcode::RmDir, call.by, call.ino, |fs| {
            fs.rmdir(entry_ref(call.ino, name), &self.caller(call.by)?)
        });
        call.reply.done(done).gives_nothing();
    }

    pub(super) fn rename(
        &self,
        call: Call,
        name: &CStr,
        (new_parent, new_name): (u64, &CStr),
        flags: u32,
    ) {
        let (from, to) = (entry_ref(call.ino, name), entry_ref(new_parent, new_name));
        let done = self.run(Opcode::Rename, call.by, call.ino, |fs| {
            fs.rename(from, to, flags, &self.caller(call.by)?)
        });
        call.reply.done(done).gives_nothing();
    }

    pub(super) fn readlink(&self, call: Call) {
        let ino = call.ino;
        let target = self.run(Opcode::ReadLink, call.by, ino, |fs| fs.readlink(ino));
        call.reply.data(target.as_deref().map_err(|error| *error));
    }

    fn reply_entry(self: &Arc<Self>, found: Result<CountedEntry<'_>>, reply: Reply) {
        let Entry {
            ino,
            generation,
            attr,
            entry_timeout,
            is_submount,
        } = match found {
            // Handed over, or taken back when the answer is refused, which may be after this call.
            Ok(entry) => entry.into_entry(),
            Err(error) => return reply.error(error),
        };
        let (fs, timeout) = (Arc::clone(self.fs()), self.fs().attr_timeout(&attr));
        after_reply::answer_attr(self.fs(), attr, move |attr| {
            let attr = convert::attr(&fs.config().ids, &attr);
            let attr = convert::as_submount(attr, is_submount);
            let entry = EntryOut::new(ino, generation, attr, entry_timeout, timeout);
            let sent = reply.send(&Answer::Entry(entry));
            sent.or_else(|| fs.forget(ino, 1));
        });
    }
}
