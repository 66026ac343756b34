//! Requests about open directories: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR.

use std::cell::RefCell;
use std::ffi::{CStr, OsStr};

use nix::NixPath;
use thrufs_fs::{CountedLookup, DirEntry, Entry, Opcode, Result};
use thrufs_wire::Reply as Answer;
use thrufs_wire::abi::{Attr, EntryOut, OpenOut, ReadIn};
use thrufs_wire::reply::{DirBuffer, NotAnEntry, Pushed};

use super::convert::directory_type;
use super::reply::Sent;
use super::server::{Call, Server};
use crate::convert::directory_flags;

/// A listing is cut into parts anyway; a request that asks for more gets this much.
const LARGEST_LISTING: u32 = 128 << 10;

thread_local! {
    /// As large as the largest listing that this thread has answered.
    static LISTING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Server {
    pub(super) fn opendir(&self, call: Call) {
        let Call { by, ino, reply } = call;
        let opened = self.run(Opcode::OpenDir, by, ino, |fs| {
            fs.opendir(ino, &self.caller(by)?)
        });
        match opened {
            Ok(opened) => {
                let fh = opened.fh;
                let answer = Answer::Open(OpenOut {
                    fh,
                    open_flags: directory_flags(&opened),
                    backing_id: 0,
                });
                let sent = reply.send(&answer);
                sent.or_else(|| self.fs().release(ino, fh));
            }
            Err(error) => reply.error(error),
        }
    }

    pub(super) fn releasedir(&self, call: Call, fh: u64) {
        let done = self.run(Opcode::ReleaseDir, call.by, (call.ino, fh), |fs| {
            fs.release(call.ino, fh);
            Ok(())
        });
        call.reply.done(done).gives_nothing();
    }

    pub(super) fn readdir(&self, call: Call, arg: &ReadIn) {
        let Call { by, ino, reply } = call;
        with_listing(arg.size, |listing| {
            let done = self.run(Opcode::ReadDir, by, (ino, arg.fh), |fs| {
                fs.readdir(ino, (arg.fh, arg.offset), &|| self.caller(by), |found| {
                    let kind = directory_type(found.kind);
                    let listed = add(found.name, |name| {
                        listing.push(found.ino, found.next_offset, kind, name)
                    });
                    Ok(listed == Listed::Full)
                })
            });
            reply.data(done.map(|()| listing.filled()));
        });
    }

    pub(super) fn readdirplus(&self, call: Call, arg: &ReadIn) {
        let Call { by, ino, reply } = call;
        let mut left_out = Vec::new();
        with_listing(arg.size, |listing| {
            let done = self.run(Opcode::ReadDirPlus, by, (ino, arg.fh), |fs| {
                fs.readdirplus(
                    ino,
                    (arg.fh, arg.offset),
                    &|| self.caller(by),
                    |found, entry| {
                        let listed = self.list(listing, found, entry);
                        if listed == Listed::LeftOut {
                            left_out.extend(entry.map(|entry| entry.ino));
                        }
                        listed == Listed::Full
                    },
                )
            });
            match done {
                Ok(lookups) => {
                    if reply.send(&Answer::Data(listing.filled())) == Sent::Taken {
                        lookups.into_iter().for_each(CountedLookup::hand_over);
                        left_out.iter().for_each(|ino| self.fs().forget(*ino, 1));
                    }
                }
                Err(error) => reply.error(error),
            }
        });
    }

    /// Adds a record. Without `entry` the kernel shows the name and takes no inode for it.
    fn list(
        &self,
        listing: &mut DirBuffer<'_>,
        found: &DirEntry<'_>,
        entry: Option<&Entry>,
    ) -> Listed {
        let entry_out = entry.map_or_else(
            || EntryOut {
                attr: Attr {
                    ino: found.ino,
                    ..Attr::default()
                },
                ..EntryOut::default()
            },
            |entry| self.entry_out(entry),
        );
        let kind = entry.map_or(found.kind, |entry| entry.attr.kind());
        add(found.name, |name| {
            listing.push_plus(entry_out, found.next_offset, directory_type(kind), name)
        })
    }
}

/// Lends this thread's buffer, for a listing of up to `size` bytes.
fn with_listing<T>(size: u32, act: impl FnOnce(&mut DirBuffer<'_>) -> T) -> T {
    let size = size.min(LARGEST_LISTING);
    LISTING.with_borrow_mut(|bytes| {
        if bytes.len() < size as usize {
            bytes.resize(size as usize, 0);
        }
        act(&mut DirBuffer::new(bytes, size))
    })
}

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Added,
    /// There is no room for it: the kernel asks again from there.
    Full,
    /// With it the kernel would refuse the whole listing. No file system has such a name.
    LeftOut,
}

fn add(
    name: &OsStr,
    push: impl FnOnce(&CStr) -> std::result::Result<Pushed, NotAnEntry>,
) -> Listed {
    let pushed: Result<_> = name.with_nix_path(push);
    match pushed {
        Ok(Ok(Pushed::Added)) => Listed::Added,
        Ok(Ok(Pushed::Full)) => Listed::Full,
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(?name, "SOURCE lists what is no name");
            Listed::LeftOut
        }
    }
}
