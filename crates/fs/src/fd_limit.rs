//! How many descriptors there are, and who may use them.
//!
//! Invariants:
//! * clients that open files never use up the last of the process's descriptors. With none left a LOOKUP
//!   or a FLUSH would fail too, and nobody could even ask the daemon why;
//! * what users other than root (and the user that the daemon runs as) use up leaves a share for root.
//!
//! Counted are open files, inodes that are held by a descriptor, and pinned ones. What lasts as long as a
//! request is not: the reserve is for that.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, geteuid, getrlimit};

use crate::config::{Config, InodeFileHandles};
use crate::error::{Errno, Result};
use crate::passthrough::Passthrough;
use crate::stats::Opcode;

/// Descriptors that are not for open files: threads, devices, mounts, and those that last as long as a
/// request. A small limit leaves at least three quarters to files.
const RESERVE: u64 = 512;
/// One in so many of the others is for root alone.
const ROOT_SHARE: usize = 8;
/// Where the kernel may know fewer inodes, each of which costs a descriptor, READDIRPLUS is not served: one
/// reply brings in some hundred inodes of which the kernel forgets none before it has the reply, and a name
/// for which no descriptor is left cannot be in it. READDIR needs none.
const READDIRPLUS_INODES: usize = 1024;
/// Requests of root that may all have found room for one more inode, and need it.
const AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    /// Descriptors for open files, and for inodes where each is held by one.
    most: usize,
    /// Those beyond.
    reserve: usize,
    /// The user that the daemon runs as.
    owner: u32,
    /// The operator has been told once; the callers are told each time.
    told: AtomicBool,
}

impl Room {
    /// What RLIMIT_NOFILE leaves now.
    pub(crate) fn of_this_process() -> Self {
        Self::of(
            getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            geteuid().as_raw(),
        )
    }

    pub(crate) fn of(limit: u64, owner: u32) -> Self {
        let reserve = RESERVE.min(limit / 4);
        Self {
            most: usize::try_from(limit - reserve).unwrap_or(usize::MAX),
            reserve: reserve as usize,
            owner,
            told: AtomicBool::new(false),
        }
    }

    /// Inodes that the kernel is to know at most; none for any number.
    pub(crate) fn inode_limit(&self, config: &Config) -> Option<usize> {
        let by_descriptors = match config.inode_file_handles {
            InodeFileHandles::Never => Some(self.most / 2),
            InodeFileHandles::Prefer | InodeFileHandles::Mandatory => None,
        };
        let limit = config.max_inodes.or(by_descriptors);
        limit.filter(|limit| *limit != usize::MAX)
    }

    /// Whether a listing may look up all that it lists.
    pub(crate) fn is_enough_for_readdirplus(&self, config: &Config) -> bool {
        match config.inode_file_handles {
            InodeFileHandles::Never => self.most / 2 >= READDIRPLUS_INODES,
            InodeFileHandles::Prefer | InodeFileHandles::Mandatory => true,
        }
    }

    /// Inodes that are pinned at most.
    pub(crate) fn pins(&self) -> usize {
        self.most / 4
    }

    /// Inodes that have a descriptor for a moment, out of the reserve.
    pub(crate) fn recent(&self) -> usize {
        self.reserve / 4
    }

    /// Descriptors in all with which `uid` may open one more file.
    fn for_files(&self, uid: u32) -> usize {
        match uid == 0 || uid == self.owner {
            true => self.most,
            false => self.most - self.most / ROOT_SHARE,
        }
    }

    /// Descriptors in all with which `uid` may have one more inode looked up. More than for files: those
    /// that are open are of no use to a client that can look up no name.
    fn for_inodes(&self, uid: u32) -> usize {
        match uid == 0 || uid == self.owner {
            true => self.most + self.reserve / 2,
            false => self.most - self.most / ROOT_SHARE / 2,
        }
    }
}

impl Passthrough {
    fn used_descriptors(&self) -> usize {
        self.handles.len() + self.inodes.held_by_fd() + self.removed.pinned()
    }

    /// Inodes that the kernel may know now: fewer than [`Room::inode_limit`] while many files are open, so
    /// that half as many again are what is left for users.
    pub(crate) fn inode_limit(&self, limit: usize) -> usize {
        match self.config.inode_file_handles {
            InodeFileHandles::Never => {
                let left = self.room.for_inodes(u32::MAX);
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
        if self.used_descriptors() < self.room.for_files(uid) {
            return Ok(());
        }
        if !self.room.told.swap(true, Ordering::Relaxed) {
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
            InodeFileHandles::Never => self.used_descriptors() < self.room.for_inodes(uid),
            InodeFileHandles::Prefer | InodeFileHandles::Mandatory => true,
        }
    }

    /// Whether one more inode can be held by a descriptor, for whatever request.
    ///
    /// # Errors
    /// ENFILE.
    pub(crate) fn check_inode_room(&self) -> Result<()> {
        let most = self.room.for_inodes(0) + self.room.reserve.min(AT_ONCE);
        match self.used_descriptors() < most {
            true => Ok(()),
            false => Err(Errno::ENFILE),
        }
    }

    /// Before a request of user `uid` is served: whether it may take the descriptor that it needs for
    /// longer than it lasts.
    ///
    /// # Errors
    /// ENFILE, if only root may.
    pub fn admit(&self, opcode: Opcode, uid: u32) -> Result<()> {
        let needs_file = matches!(opcode, Opcode::Open | Opcode::OpenDir | Opcode::Create);
        if needs_file {
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
        (needs_inode(opcode) || opcode == Opcode::ReadDirPlus) && self.waits_for_inode(opcode, uid)
    }

    /// Whether there is no descriptor for one more inode, and one can be hoped for.
    pub(crate) fn waits_for_inode(&self, opcode: Opcode, uid: u32) -> bool {
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
}

/// Whether the kernel may know one more inode after it.
fn needs_inode(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Lookup | Opcode::MkNod | Opcode::MkDir | Opcode::Symlink | Opcode::Create
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_of_a_small_limit_keeps_a_reserve_and_root_s_share() {
        let room = Room::of(256, 0);
        assert_eq!((room.for_files(0), room.for_files(1000)), (192, 168));
        assert_eq!((room.for_inodes(0), room.for_inodes(1000)), (224, 180));
        assert_eq!((room.pins(), room.recent()), (48, 16));
    }

    #[test]
    fn room_of_a_user_s_own_daemon_is_all_the_user_s() {
        let room = Room::of(20_000, 1000);
        assert_eq!(room.for_files(1000), 20_000 - 512);
        assert_eq!(room.for_files(1001), 17_052);
    }
}
