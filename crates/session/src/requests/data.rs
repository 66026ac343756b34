//! Requests about the content of an open file: READ, WRITE, FALLOCATE, LSEEK, COPY_FILE_RANGE, IOCTL.

use std::sync::Arc;

use thrufs_fs::{AtOnce, Errno, Opcode, Passthrough, ReadRequest, Result, WriteRequest};
use thrufs_wire::Reply as Answer;
use thrufs_wire::abi::{
    CopyFileRangeIn, CopyFileRangeOut, FallocateIn, IoctlIn, IoctlOut, LseekIn, LseekOut, ReadIn,
    WriteIn,
};

use super::incoming::Payload;
use super::reply::Reply;
use super::server::{Call, Server};
use crate::after_reply;
use crate::convert::COPY_MAX_32;
use crate::dispatch::{Begun, Requester};

impl Server {
    pub(super) fn read(self: &Arc<Self>, call: Call, arg: &ReadIn) {
        let request = ReadRequest {
            ino: call.ino,
            fh: arg.fh,
            offset: arg.offset,
            size: arg.size as usize,
            flags: arg.flags.cast_signed(),
        };
        if call.reply.room(request.size).is_some() {
            return self.read_guest(call, request);
        }
        let Call { by, ino, reply } = call;
        let target = (ino, arg.fh, arg.offset, u64::from(arg.size));
        let mut reply = Some(reply);
        let done = self.run(Opcode::Read, by, target, |fs| {
            fs.read_with(&request, |data| {
                if let Some(reply) = reply.take() {
                    reply.data(Ok(data));
                }
            })
        });
        if let (Err(error), Some(reply)) = (done, reply) {
            reply.error(error);
        }
    }

    /// A READ into the guest's memory: what is there at once, and what has to be waited for by a worker.
    fn read_guest(self: &Arc<Self>, Call { by, ino, reply }: Call, request: ReadRequest) {
        let target = (ino, request.fh, request.offset, request.size as u64);
        let began = self.dispatch.begin(Opcode::Read);
        let Some(room) = reply.room(request.size) else {
            return reply.error(Errno::EIO);
        };
        let done = match self.fs().read_guest_at_once(&request, room) {
            Ok(AtOnce::Done(count)) => Ok(count),
            Err(error) => Err(error),
            Ok(AtOnce::Unknown) => {
                return self.read_waiting((by, began, target), reply, request, 0);
            }
            Ok(AtOnce::Waits(count)) => {
                return self.read_waiting((by, began, target), reply, request, count);
            }
        };
        let counted = self.dispatch.run_begun(began, by, target, |_fs| done);
        reply.filled(counted);
    }

    /// All but the first `done` bytes of a READ.
    fn read_waiting(
        self: &Arc<Self>,
        (by, began, target): (Requester, Begun, (u64, u64, u64, u64)),
        reply: Reply,
        request: ReadRequest,
        done: usize,
    ) {
        let this = Arc::clone(self);
        self.hand_over(move || {
            let count = this.dispatch.run_begun(began, by, target, |fs| {
                let room = reply.room(request.size).ok_or(Errno::EIO)?;
                fs.read_guest(&request, room, done)
            });
            reply.filled(count);
        });
    }

    /// `data` is none where the message has less than the request says, which decoding refuses.
    pub(super) fn write(&self, call: Call, arg: &WriteIn, payload: Option<Payload<'_>>) {
        let Call { by, ino, reply } = call;
        let Some(payload) = payload else {
            return reply.error(Errno::EINVAL);
        };
        let mut request = WriteRequest {
            ino,
            fh: arg.fh,
            offset: arg.offset,
            data: &[],
            flags: arg.flags.cast_signed(),
            from_cache: arg.is_writeback(),
        };
        let target = (ino, arg.fh, arg.offset, u64::from(arg.size));
        let kill = |fs: &Passthrough| match arg.kills_suidgid() {
            true => fs.kill_suidgid(ino, arg.fh, &self.caller(by)?),
            false => Ok(()),
        };
        match payload {
            Payload::Bytes(data) => {
                request.data = data;
                let done = self.run(Opcode::Write, by, target, |fs| {
                    kill(fs)?;
                    fs.write(&request)
                });
                after_reply::answer_write(self.fs(), &request, done, |done| reply.written(done));
            }
            // A guest takes no notifications: there is nothing that could follow.
            Payload::Guest(data) => {
                let done = self.run(Opcode::Write, by, target, |fs| {
                    kill(fs)?;
                    fs.write_guest(&request, data)
                });
                reply.written(done);
            }
        }
    }

    pub(super) fn fallocate(&self, call: Call, arg: &FallocateIn) {
        let Call { by, ino, reply } = call;
        let target = (ino, arg.fh, arg.offset, arg.length);
        let done = self.run(Opcode::Fallocate, by, target, |fs| {
            fs.kill_suidgid_unless_privileged(ino, arg.fh, &self.caller(by)?)?;
            fs.fallocate(ino, arg.fh, arg.offset, arg.length, arg.mode)
        });
        reply.done(done).gives_nothing();
    }

    pub(super) fn lseek(&self, call: Call, arg: &LseekIn) {
        let (offset, whence) = (arg.offset.cast_signed(), arg.whence.cast_signed());
        let found = self.run(Opcode::Lseek, call.by, (call.ino, arg.fh), |fs| {
            fs.lseek(call.ino, arg.fh, offset, whence)
        });
        let answer = found.map(|offset| Answer::Lseek(LseekOut { offset }));
        call.reply.plain(answer);
    }

    pub(super) fn copy_file_range(&self, call: Call, arg: &CopyFileRangeIn) {
        // The answer has 32 bits.
        let len = arg.len.min(COPY_MAX_32);
        let copied = self.copied(call.by, call.ino, &CopyFileRangeIn { len, ..*arg });
        call.reply.written(copied.map(|count| count as usize));
    }

    pub(super) fn copy_file_range_64(&self, call: Call, arg: &CopyFileRangeIn) {
        let copied = self.copied(call.by, call.ino, arg);
        let copied = copied.map(CopyFileRangeOut::new);
        call.reply.plain(copied.map(Answer::CopyFileRange));
    }

    fn copied(&self, by: Requester, ino: u64, arg: &CopyFileRangeIn) -> Result<u64> {
        let from = (ino, arg.fh_in, arg.off_in);
        let to = (arg.nodeid_out, arg.fh_out, arg.off_out);
        let target = (to.0, to.1, to.2, arg.len);
        self.run(Opcode::CopyFileRange, by, target, |fs| {
            fs.kill_suidgid_unless_privileged(to.0, to.1, &self.caller(by)?)?;
            fs.copy_file_range(from, to, arg.len)
        })
    }

    pub(super) fn ioctl(&self, call: Call, arg: &IoctlIn, data: &[u8]) {
        let done = self.run(Opcode::Ioctl, call.by, (call.ino, arg.fh), |fs| {
            fs.ioctl(call.ino, arg.fh, arg.cmd, data, &self.caller(call.by)?)
        });
        let answer = done.as_ref().map(|output| {
            let room = output.len().min(arg.out_size as usize);
            Answer::Ioctl(IoctlOut::default(), &output[..room])
        });
        call.reply.plain(answer.map_err(|error| *error));
    }
}
