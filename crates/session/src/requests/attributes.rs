//! Requests about an inode's attributes: GETATTR, SETATTR, ACCESS, extended attributes; and STATFS.

use std::ffi::CStr;
use std::sync::Arc;

use thrufs_fs::{Attr, Opcode, Passthrough, Result, SetAttr, SetXattr};
use thrufs_wire::abi::{AttrOut, SetattrIn, SetxattrExtFlags, SetxattrIn, StatfsOut, StatxOut};
use thrufs_wire::{InitFlags, Reply as Answer};

use super::convert::{self, os};
use super::reply::Reply;
use super::server::{Call, Server};
use crate::{after_reply, ids};

impl Server {
    pub(super) fn getattr(self: &Arc<Self>, call: Call, fh: Option<u64>) {
        let ino = call.ino;
        let found = self.run(Opcode::GetAttr, call.by, ino, |fs| fs.getattr(ino, fh));
        self.reply_attr(found, call.reply);
    }

    /// The kernel keeps the basic fields and the time of birth of the answer, whatever was asked for
    /// (`fuse_do_statx`).
    pub(super) fn statx(self: &Arc<Self>, call: Call, fh: Option<u64>) {
        let ino = call.ino;
        let found = self.run(Opcode::Statx, call.by, ino, |fs| fs.statx(ino, fh));
        self.reply_with(found, call.reply, |fs, attr| {
            let stat = convert::statx(&fs.config().ids, attr);
            Answer::Statx(StatxOut::new(stat, fs.attr_timeout(attr)))
        });
    }

    pub(super) fn setattr(self: &Arc<Self>, call: Call, arg: &SetattrIn) {
        let is_told = InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        let is_told = self.dialect.granted().contains(is_told);
        let set = self.run(Opcode::SetAttr, call.by, call.ino, |fs| {
            let (uid, gid) = ids::owner(&fs.config().ids, arg.uid(), arg.gid())?;
            let set = SetAttr {
                mode: arg.mode(),
                uid,
                gid,
                size: arg.size(),
                atime: arg.atime().map(convert::set_time).transpose()?,
                mtime: arg.mtime().map(convert::set_time).transpose()?,
                fh: arg.handle(),
                caller: Some(self.caller(call.by)?),
                kills_suidgid: is_told.then(|| arg.kills_suidgid()),
            };
            fs.setattr(call.ino, &set)
        });
        self.reply_attr(set, call.reply);
    }

    fn reply_attr(self: &Arc<Self>, found: Result<Attr>, reply: Reply) {
        self.reply_with(found, reply, |fs, attr| {
            let timeout = fs.attr_timeout(attr);
            let attr = convert::attr(&fs.config().ids, attr);
            Answer::Attr(AttrOut::new(attr, timeout))
        });
    }

    fn reply_with(
        self: &Arc<Self>,
        found: Result<Attr>,
        reply: Reply,
        encode: fn(&Passthrough, &Attr) -> Answer<'static>,
    ) {
        let attr = match found {
            Ok(attr) => attr,
            Err(error) => return reply.error(error),
        };
        let fs = Arc::clone(self.fs());
        after_reply::answer_attr(self.fs(), attr, move |attr| {
            reply.send(&encode(&fs, &attr)).gives_nothing();
        });
    }

    pub(super) fn access(&self, call: Call, mask: u32) {
        let done = self.run(Opcode::Access, call.by, call.ino, |fs| {
            fs.access(call.ino, mask, &self.caller(call.by)?)
        });
        call.reply.done(done).gives_nothing();
    }

    pub(super) fn statfs(&self, call: Call) {
        let ino = call.ino;
        let found = self.run(Opcode::StatFs, call.by, ino, |fs| fs.statfs(ino));
        let st = found.map(|stat| convert::statfs(&stat));
        call.reply
            .plain(st.map(|st| Answer::Statfs(StatfsOut { st })));
    }

    /// The kernel sends it where syncfs(2) is the server's: to a virtiofs device.
    pub(super) fn syncfs(&self, call: Call) {
        let ino = call.ino;
        let done = self.run(Opcode::Syncfs, call.by, ino, |fs| fs.syncfs(ino));
        call.reply.done(done).gives_nothing();
    }

    pub(super) fn setxattr(&self, call: Call, arg: &SetxattrIn, name: &CStr, value: &[u8]) {
        let kill = SetxattrExtFlags::FUSE_SETXATTR_ACL_KILL_SGID;
        let is_told = self.dialect.setxattr_ext();
        let set = SetXattr {
            name: os(name),
            value,
            flags: arg.flags.cast_signed(),
            kills_sgid: is_told.then(|| arg.setxattr_flags.contains(kill)),
        };
        let done = self.run(Opcode::SetXattr, call.by, call.ino, |fs| {
            fs.setxattr(call.ino, &set, &self.caller(call.by)?)
        });
        call.reply.done(done).gives_nothing();
    }

    pub(super) fn getxattr(&self, call: Call, name: &CStr, size: u32) {
        if name == c"security.capability" {
            self.fs().stats().count_capability_getxattr();
        }
        let (ino, name) = (call.ino, os(name));
        let value = self.run(Opcode::GetXattr, call.by, ino, |fs| fs.getxattr(ino, name));
        call.reply.xattr(value, size);
    }

    pub(super) fn listxattr(&self, call: Call, size: u32) {
        let ino = call.ino;
        let names = self.run(Opcode::ListXattr, call.by, ino, |fs| fs.listxattr(ino));
        call.reply.xattr(names, size);
    }

    pub(super) fn removexattr(&self, call: Call, name: &CStr) {
        let done = self.run(Opcode::RemoveXattr, call.by, call.ino, |fs| {
            fs.removexattr(call.ino, os(name), &self.caller(call.by)?)
        });
        call.reply.done(done).gives_nothing();
    }
}
