//! GETLK, SETLK and SETLKW. A lock that another owner has is waited for by a thread of its own
//! ([`crate::lock_waiters`]).

use std::sync::Arc;

use thrufs_fs::{Errno, LockKind, LockRange, LockRequest, LockWait, Opcode, Passthrough, Result};
use thrufs_wire::Reply as Answer;
use thrufs_wire::abi::{FileLock, LkIn, LkOut};
use thrufs_wire::request::LockKind as LockFamily;

use super::server::{Call, Server};
use crate::dispatch::Requester;

impl Server {
    pub(super) fn getlk(&self, call: Call, arg: &LkIn) {
        let found = self.run(Opcode::GetLk, call.by, (call.ino, arg.fh), |fs| {
            fs.getlk(&self.lock_request(call.by, call.ino, arg)?)
        });
        let lk = found.map(|found| match found {
            Some((kind, at, pid)) => FileLock {
                start: at.start,
                end: at.end,
                r#type: kind.as_fcntl().cast_unsigned(),
                pid,
            },
            None => FileLock {
                r#type: libc::F_UNLCK.cast_unsigned(),
                ..FileLock::default()
            },
        });
        call.reply.plain(lk.map(|lk| Answer::Lock(LkOut { lk })));
    }

    pub(super) fn setlk(&self, call: Call, arg: &LkIn, waits: bool) {
        let Call { by, ino, reply } = call;
        let tried = self.run(Opcode::SetLk, by, (ino, arg.fh), |fs| {
            let request = self.lock_request(by, ino, arg)?;
            match fs.try_setlk(&request)? {
                LockWait::Busy if !waits => Err(Errno::EAGAIN),
                outcome => Ok((request, outcome)),
            }
        });
        match tried {
            Ok((request, LockWait::Done)) => {
                let sent = reply.done(Ok(()));
                sent.or_else(|| give_back(self.fs(), request));
            }
            Ok((request, LockWait::Busy)) => {
                let fs = Arc::clone(self.fs());
                let answer = move |outcome: Result<()>| {
                    let is_taken = outcome.is_ok();
                    let sent = reply.done(outcome);
                    sent.or_else(|| {
                        if is_taken {
                            give_back(&fs, request);
                        }
                    });
                };
                let (interrupts, unique) = (Arc::clone(&self.interrupts), by.unique);
                let is_interrupted = move || interrupts.take(unique);
                self.dispatch
                    .wait_for_lock(request, Box::new(is_interrupted), Box::new(answer));
            }
            Err(error) => reply.error(error),
        }
    }

    /// The lock asked for, and its owner.
    fn lock_request(&self, by: Requester, ino: u64, arg: &LkIn) -> Result<LockRequest> {
        let range = LockRange {
            start: arg.lk.start,
            end: arg.lk.end,
        };
        Ok(LockRequest {
            ino,
            fh: arg.fh,
            owner: arg.owner,
            kind: LockKind::from_fcntl(arg.lk.r#type.cast_signed())?,
            range,
            pid: arg.lk.pid,
            caller: self.caller(by)?,
            is_flock: Some(arg.kind() == LockFamily::Flock),
        })
    }
}

/// Releases a lock whose caller is gone. A release that was refused itself changes nothing again.
fn give_back(fs: &Passthrough, taken: LockRequest) {
    let kind = LockKind::Unlock;
    if let Err(error) = fs.try_setlk(&LockRequest { kind, ..taken }) {
        tracing::debug!(ino = taken.ino, %error, "a lock that nothing holds is not released");
    }
}
