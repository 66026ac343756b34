//! Whether a request may be served now: the descriptors that it takes for longer than it lasts, and the
//! inodes that the kernel may know.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::config::InodeFileHandles;
use crate::error::{Errno, Result};
use crate::fd_limit::AT_ONCE;
use crate::forget_wait::ForgetWait;
use crate::inode::limit::Known;
use crate::notifier::SendPrune;
use crate::parked::{LONGEST, Request};
use crate::passthrough::Passthrough;
use crate::stats::Opcode;

impl Passthrough {
    fn used_descriptors(&self) -> usize {
        self.handles.len() + self.inodes.held_by_fd() + self.removed.pinned()
    }

    /// Inodes that the kernel may know now: fewer than [`FdLimit::inode_limit`] while many files are open, so
    /// that half as many again are what is left for users.
    pub(crate) fn inode_limit(&self, limit: usize) -> usize {
        match self.config.inode_file_handles {
            InodeFileHandles::Never => {
                let left = self.fd_limit.for_inodes(u32::MAX);
                let left = left.saturating_sub(self.handles.len() + self.removed.pinned());
                limit.min(left / 3 * 2).max(1)
            }
            InodeFileHandles::Prefer | InodeFileHandles::Mandatory => limit,
        }
    }

    /// Whether one more file can be opened for a client.
    ///
    /// # Errors
    /// ENFILE: it is not the caller's own table that is full.
    pub(crate) fn check_room(&self) -> Result<()> {
        self.check_files(0)
    }

    fn check_files(&self, uid: u32) -> Result<()> {
        if self.used_descriptors() < self.fd_limit.for_files(uid) {
            return Ok(());
        }
        if !self.fd_limit.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                uid,
                "{} files are open and {} inodes held open, all that --rlimit-nofile leaves room for{}: \
                 OPEN fails with ENFILE",
                self.handles.len(),
                self.inodes.held_by_fd() + self.removed.pinned(),
                if uid == 0 { "" } else { " beside root's share" },
            );
        }
        Err(Errno::ENFILE)
    }

    /// Whether one more inode of a directory can be taken in that is being listed. For the first of a reply
    /// the kernel forgets others; none that are in the reply before it has that.
    pub(crate) fn has_room_for_listed(&self, is_first: bool) -> bool {
        let has_room = self.has_room_for_inode(u32::MAX);
        match &self.pressure {
            Some(pressure) if is_first => {
                pressure.hold_back(self);
                has_room
            }
            Some(pressure) => has_room && (!pressure.is_far_over(self) || pressure.is_in_vain()),
            None => has_room,
        }
    }

    fn has_room_for_inode(&self, uid: u32) -> bool {
        match self.config.inode_file_handles {
            InodeFileHandles::Never => self.used_descriptors() < self.fd_limit.for_inodes(uid),
            InodeFileHandles::Prefer | InodeFileHandles::Mandatory => true,
        }
    }

    /// Whether one more inode can be held by a descriptor, for whatever request.
    ///
    /// # Errors
    /// ENFILE.
    pub(crate) fn check_inode_room(&self) -> Result<()> {
        let most = self.fd_limit.for_inodes(0) + self.fd_limit.reserve.min(AT_ONCE);
        match self.used_descriptors() < most {
            true => Ok(()),
            false => Err(Errno::ENFILE),
        }
    }

    /// The user whose share of the descriptors a request of user `uid` has. With `--idmap` that is the user on SOURCE,
    /// and may be 0 for any.
    fn share_of(&self, uid: u32) -> u32 {
        match self.config.idmap {
            true => u32::MAX,
            false => uid,
        }
    }

    /// Before a request of user `uid` is served: whether it may take the descriptor that it needs for
    /// longer than it lasts.
    ///
    /// # Errors
    /// ENFILE, if only root may.
    pub fn admit(&self, opcode: Opcode, uid: u32) -> Result<()> {
        let uid = self.share_of(uid);
        if needs_file(opcode) {
            self.check_files(uid)?;
        }
        match needs_inode(opcode) && !self.has_room_for_inode(uid) {
            true => Err(Errno::ENFILE),
            false => Ok(()),
        }
    }

    /// Whether a request of user `uid` waits for the kernel to forget an inode before it is served
    /// ([`Passthrough::park`]).
    pub fn has_to_wait(&self, opcode: Opcode, uid: u32) -> bool {
        let uid = self.share_of(uid);
        let brings_in = needs_inode(opcode) || opcode == Opcode::ReadDirPlus;
        brings_in && self.waits_for_inode(opcode, uid)
            || needs_file(opcode) && self.waits_for_file(uid)
    }

    /// Whether there is no descriptor for one more file because of inodes that the kernel is asked to forget.
    fn waits_for_file(&self, uid: u32) -> bool {
        self.config.inode_file_handles == InodeFileHandles::Never
            && self.used_descriptors() >= self.fd_limit.for_files(uid)
            && self
                .pressure
                .as_ref()
                .is_some_and(|pressure| pressure.is_over(self) && !pressure.is_in_vain())
    }

    /// Whether there is no descriptor for one more inode, and one can be hoped for.
    fn waits_for_inode(&self, opcode: Opcode, uid: u32) -> bool {
        // What is listed takes nothing of root's share: the caller may need none of it.
        let uid = if opcode == Opcode::ReadDirPlus {
            u32::MAX
        } else {
            uid
        };
        // Fast path: nothing but a few counters.
        !self.has_room_for_inode(uid)
            && self.inodes.held_by_fd() > 0
            && self
                .pressure
                .as_ref()
                .is_some_and(|pressure| !pressure.is_in_vain())
    }

    /// Calls `serve`, which serves a request of user `uid` and answers it, when it has a descriptor for an
    /// inode, or none can be hoped for ([`Passthrough::has_to_wait`]).
    pub fn park(&self, opcode: Opcode, uid: u32, serve: Box<dyn FnOnce() + Send>) {
        if let Some(pressure) = &self.pressure {
            pressure.note(self);
        }
        let until = Instant::now() + LONGEST;
        self.parked.push(Request {
            opcode,
            uid,
            until,
            serve,
        });
    }

    /// From now on, NOTIFY_PRUNE asks the kernel to forget inodes when it knows too many. `send` is none where the kernel
    /// does not have the notification.
    ///
    /// # Errors
    /// When there can be no thread that sends it, or it is asked for and cannot be had.
    pub fn start_pruning(self: &Arc<Self>, send: Option<SendPrune>) -> io::Result<()> {
        match (&self.pressure, send) {
            (None, _) => Ok(()),
            (Some(pressure), Some(send)) => {
                // Weak: the thread must not keep the file system, and all it has open, alive.
                let fs = Arc::downgrade(self);
                self.parked.start(move |opcode, uid| {
                    fs.upgrade().is_some_and(|fs| fs.has_to_wait(opcode, uid))
                })?;
                pressure.start(self, send)
            }
            (Some(_), None) if self.config.max_inodes.is_some() => Err(io::Error::other(
                "--max-inodes needs NOTIFY_PRUNE (Linux 6.18): leave it out",
            )),
            (Some(_), None) => Ok(()),
        }
    }
}

impl Known for Passthrough {
    fn known(&self) -> usize {
        self.inodes.len()
    }

    fn forgotten(&self) -> u64 {
        self.inodes.forgotten()
    }

    fn some_numbers(&self, from: usize, count: usize) -> Vec<u64> {
        self.inodes.some_numbers(from, count)
    }

    fn limit_now(&self, limit: usize) -> usize {
        self.inode_limit(limit)
    }

    fn forgets(&self) -> &Arc<ForgetWait> {
        &self.forgets
    }

    fn hope_for_none(&self) {
        self.parked.notify();
    }
}

/// Whether a client has one more file or directory open after it.
fn needs_file(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Open | Opcode::OpenDir | Opcode::Create | Opcode::Tmpfile
    )
}

/// Whether the kernel may know one more inode after it.
fn needs_inode(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Lookup
            | Opcode::MkNod
            | Opcode::MkDir
            | Opcode::Symlink
            | Opcode::Create
            | Opcode::Tmpfile
    )
}
