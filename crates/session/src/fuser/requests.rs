//! Requests, taken apart: each method calls its operation and hands its outcome to the reply.
//!
//! Long, because the impl of a trait cannot be divided; each method only translates.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ::fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use thrufs_fs::{
    CountedLookup, Errno, LockRange, LockWait, Opcode, Passthrough, ReadRequest, SetAttr, SetXattr,
    WriteRequest, is_interrupted,
};

use super::convert::{file_type, fopen_flags, fuser_errno, number_only, set_time};
use super::{
    FuseAdapter, NO_GENERATION, init, place, reply_empty, reply_open, reply_written, reply_xattr,
};
use crate::after_reply;
use crate::convert::{COPY_MAX_32, directory_flags};
use crate::dispatch::Requester;
use crate::ids;

impl Filesystem for FuseAdapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let negotiated = init::negotiate(self.fs().config(), config)?;
        self.fs().set_negotiated(negotiated);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (by, name) = (Requester::from(req), name.to_owned());
        self.when_room(Opcode::Lookup, by, move |this| {
            let found = this.run(Opcode::Lookup, by, parent.0, |fs| {
                fs.lookup_by(by.pid, parent.0, &name)
            });
            let negative = this.fs().negative_timeout(parent.0);
            match found {
                Err(Errno::ENOENT) if !negative.is_zero() => {
                    // Nodeid 0: the name does not exist, and may be remembered as such.
                    let none = number_only(0);
                    reply.entry_with_ttls(&Duration::ZERO, &negative, &none, NO_GENERATION);
                }
                found => this.reply_entry(found, reply),
            }
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.dispatch
            .forget(std::iter::once((ino.0, nlookup, None)));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let fh = fh.map(|fh| fh.0);
        let found = self.run(Opcode::GetAttr, req, ino.0, |fs| fs.getattr(ino.0, fh));
        self.reply_attr(found, reply);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.run(Opcode::SetAttr, req, ino.0, |fs| {
            let (uid, gid) = ids::owner(&fs.config().ids, uid, gid)?;
            let set = SetAttr {
                mode,
                uid,
                gid,
                size,
                atime: atime.map(set_time),
                mtime: mtime.map(set_time),
                fh: fh.map(|fh| fh.0),
                caller: Some(self.caller(req)?),
                // Not handed on.
                kills_suidgid: None,
            };
            fs.setattr(ino.0, &set)
        });
        self.reply_attr(set, reply);
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.run(Opcode::ReadLink, req, ino.0, |fs| fs.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let node = (parent, name, (mode, umask));
        self.make(Opcode::MkNod, req.into(), node, reply, move |fs, new| {
            fs.mknod(new, rdev)
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let node = (parent, name, (mode, umask));
        self.make(Opcode::MkDir, req.into(), node, reply, Passthrough::mkdir);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let at = place(parent, name);
        reply_empty(
            self.run(Opcode::Unlink, req, parent.0, |fs| {
                fs.unlink(at, &self.caller(req)?)
            }),
            reply,
        );
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let at = place(parent, name);
        reply_empty(
            self.run(Opcode::RmDir, req, parent.0, |fs| {
                fs.rmdir(at, &self.caller(req)?)
            }),
            reply,
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (node, target) = ((parent, link_name, (0o777, 0)), target.to_owned());
        self.make(Opcode::Symlink, req.into(), node, reply, move |fs, new| {
            fs.symlink(new, target.as_os_str())
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = place(parent, name);
        let to = place(newparent, newname);
        let done = self.run(Opcode::Rename, req, parent.0, |fs| {
            fs.rename(from, to, flags.bits(), &self.caller(req)?)
        });
        reply_empty(done, reply);
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let to = place(newparent, newname);
        let made = self.run(Opcode::Link, req, ino.0, |fs| fs.link(ino.0, to));
        self.reply_entry(made, reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let by = Requester::from(req);
        self.when_room(Opcode::Open, by, move |this| {
            let opened = this.run(Opcode::Open, by, ino.0, |fs| {
                fs.open(ino.0, flags.0, &this.caller(by)?)
            });
            match opened {
                Ok(opened) => reply_open(&opened, reply),
                Err(error) => reply.error(fuser_errno(error)),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (by, name) = (Requester::from(req), name.to_owned());
        self.when_room(Opcode::Create, by, move |this| {
            let made = this.run(Opcode::Create, by, parent.0, |fs| {
                let mode = (mode, umask);
                let new = this.dispatch.new_node(by, parent.0, &name, mode)?;
                fs.create(&new, flags)
            });
            this.reply_create(made, reply);
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let request = ReadRequest {
            ino: ino.0,
            fh: fh.0,
            offset,
            size: size as usize,
            flags: flags.0,
        };
        let target = (ino.0, fh.0, offset, u64::from(size));
        let mut reply = Some(reply);
        let done = self.run(Opcode::Read, req, target, |fs| {
            fs.read_with(&request, |data| {
                if let Some(reply) = reply.take() {
                    reply.data(data);
                }
            })
        });
        if let (Err(error), Some(reply)) = (done, reply) {
            reply.error(fuser_errno(error));
        }
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let request = WriteRequest {
            ino: ino.0,
            fh: fh.0,
            offset,
            data,
            flags: flags.0,
            from_cache: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
        };
        let target = (ino.0, fh.0, offset, data.len() as u64);
        let kill_suidgid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let done = self.run(Opcode::Write, req, target, |fs| {
            if kill_suidgid {
                fs.kill_suidgid(ino.0, fh.0, &self.caller(req)?)?;
            }
            fs.write(&request)
        });
        after_reply::answer_write(self.fs(), &request, done, |done| reply_written(done, reply));
    }

    fn flush(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let done = self.run(Opcode::Flush, req, (ino.0, fh.0), |fs| {
            fs.flush(ino.0, fh.0, lock_owner.0)
        });
        reply_empty(done, reply);
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let done = self.run(Opcode::Release, req, (ino.0, fh.0), |fs| {
            fs.release(ino.0, fh.0);
            Ok(())
        });
        reply_empty(done, reply);
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let done = self.run(Opcode::Fsync, req, (ino.0, fh.0), |fs| {
            fs.fsync(ino.0, fh.0, datasync)
        });
        reply_empty(done, reply);
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let by = Requester::from(req);
        self.when_room(Opcode::OpenDir, by, move |this| {
            let opened = this.run(Opcode::OpenDir, by, ino.0, |fs| {
                fs.opendir(ino.0, &this.caller(by)?)
            });
            match opened {
                Ok(opened) => {
                    let flags = fopen_flags(directory_flags(&opened));
                    reply.opened(FileHandle(opened.fh), flags);
                }
                Err(error) => reply.error(fuser_errno(error)),
            }
        });
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let by = Requester::from(req);
        let done = self.run(Opcode::ReadDir, by, (ino.0, fh.0), |fs| {
            fs.readdir(ino.0, (fh.0, offset), &|| self.caller(by), |entry| {
                let kind = file_type(entry.kind);
                Ok(reply.add(INodeNo(entry.ino), entry.next_offset, kind, entry.name))
            })
        });
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let by = Requester::from(req);
        self.when_room(Opcode::ReadDirPlus, by, move |this| {
            let done = this.list(by, (ino, fh, offset), &mut reply);
            match done {
                Ok(lookups) => {
                    lookups.into_iter().for_each(CountedLookup::hand_over);
                    reply.ok();
                }
                Err(error) => reply.error(fuser_errno(error)),
            }
        });
    }

    fn releasedir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.run(Opcode::ReleaseDir, req, (ino.0, fh.0), |fs| {
            fs.release(ino.0, fh.0);
            Ok(())
        });
        reply_empty(done, reply);
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let done = self.run(Opcode::FsyncDir, req, (ino.0, fh.0), |fs| {
            fs.fsync(ino.0, fh.0, datasync)
        });
        reply_empty(done, reply);
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.run(Opcode::StatFs, req, ino.0, |fs| fs.statfs(ino.0)) {
            Ok(st) => reply.statfs(
                st.f_blocks,
                st.f_bfree,
                st.f_bavail,
                st.f_files,
                st.f_ffree,
                st.f_bsize as u32,
                st.f_namemax as u32,
                st.f_frsize as u32,
            ),
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let set = SetXattr {
            name,
            value,
            flags,
            kills_sgid: None,
        };
        let done = self.run(Opcode::SetXattr, req, ino.0, |fs| {
            fs.setxattr(ino.0, &set, &self.caller(req)?)
        });
        reply_empty(done, reply);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if name == "security.capability" {
            self.fs().stats().count_capability_getxattr();
        }
        let value = self.run(Opcode::GetXattr, req, ino.0, |fs| fs.getxattr(ino.0, name));
        reply_xattr(value, size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.run(Opcode::ListXattr, req, ino.0, |fs| fs.listxattr(ino.0));
        reply_xattr(names, size, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.run(Opcode::RemoveXattr, req, ino.0, |fs| {
            fs.removexattr(ino.0, name, &self.caller(req)?)
        });
        reply_empty(done, reply);
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let mask = mask.bits() as u32;
        let done = self.run(Opcode::Access, req, ino.0, |fs| {
            fs.access(ino.0, mask, &self.caller(req)?)
        });
        reply_empty(done, reply);
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let (target, range) = ((ino, fh), LockRange { start, end });
        let found = self.run(Opcode::GetLk, req, (ino.0, fh.0), |fs| {
            let request = self.lock_request(req, target, lock_owner, range, (typ, pid))?;
            fs.getlk(&request)
        });
        match found {
            Ok(None) => reply.locked(0, 0, libc::F_UNLCK, 0),
            Ok(Some((kind, at, pid))) => reply.locked(at.start, at.end, kind.as_fcntl(), pid),
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let (target, range) = ((ino, fh), LockRange { start, end });
        let tried = self.run(Opcode::SetLk, req, (ino.0, fh.0), |fs| {
            let request = self.lock_request(req, target, lock_owner, range, (typ, pid))?;
            match fs.try_setlk(&request)? {
                LockWait::Done => Ok(None),
                LockWait::Busy if sleep => Ok(Some(request)),
                LockWait::Busy => Err(Errno::EAGAIN),
            }
        });
        match tried {
            Ok(None) => reply.ok(),
            Ok(Some(request)) => {
                let answer = move |outcome| reply_empty(outcome, reply);
                let is_interrupted = move || is_interrupted(request.caller.pid);
                self.dispatch
                    .wait_for_lock(request, Box::new(is_interrupted), Box::new(answer));
            }
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        match self.run(Opcode::Ioctl, req, (ino.0, fh.0), |fs| {
            fs.ioctl(ino.0, fh.0, cmd, in_data, &self.caller(req)?)
        }) {
            Ok(output) => reply.ioctl(0, &output),
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.run(
            Opcode::Fallocate,
            req,
            (ino.0, fh.0, offset, length),
            |fs| {
                fs.kill_suidgid_unless_privileged(ino.0, fh.0, &self.caller(req)?)?;
                fs.fallocate(ino.0, fh.0, offset, length, mode as u32)
            },
        );
        reply_empty(done, reply);
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.run(Opcode::Lseek, req, (ino.0, fh.0), |fs| {
            fs.lseek(ino.0, fh.0, offset, whence)
        }) {
            Ok(at) => reply.offset(at as i64),
            Err(error) => reply.error(fuser_errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = (ino_in.0, fh_in.0, offset_in);
        let to = (ino_out.0, fh_out.0, offset_out);
        let target = (ino_out.0, fh_out.0, offset_out, len);
        let done = self.run(Opcode::CopyFileRange, req, target, |fs| {
            fs.kill_suidgid_unless_privileged(to.0, to.1, &self.caller(req)?)?;
            fs.copy_file_range(from, to, len.min(COPY_MAX_32))
        });
        reply_written(done.map(|count| count as usize), reply);
    }
}
