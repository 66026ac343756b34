//! How many descriptors there are, and who may use them.
//!
//! Invariants:
//! * clients that open files never use up the last of the process's descriptors. With none left a LOOKUP
//!   or a FLUSH would fail too, and so would `thrufs status`;
//! * what users other than root (and the user that the daemon runs as) use up leaves a share for root.
//!
//! Counted are open files, inodes that are held by a descriptor, and pinned ones. What lasts as long as a
//! request is not: the reserve is for that.

use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, geteuid, getrlimit};

use crate::config::{Config, InodeFileHandles};

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
pub(crate) const AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct FdLimit {
    /// Descriptors for open files, and for inodes where each is held by one.
    most: usize,
    /// Those beyond.
    pub(crate) reserve: usize,
    /// The user that the daemon runs as.
    owner: u32,
    /// The operator has been told once; the callers are told each time.
    pub(crate) told: AtomicBool,
}

impl FdLimit {
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
    pub(crate) fn for_files(&self, uid: u32) -> usize {
        match uid == 0 || uid == self.owner {
            true => self.most,
            false => self.most - self.most / ROOT_SHARE,
        }
    }

    /// Descriptors in all with which `uid` may have one more inode looked up. More than for files: those
    /// that are open are of no use to a client that can look up no name.
    pub(crate) fn for_inodes(&self, uid: u32) -> usize {
        match uid == 0 || uid == self.owner {
            true => self.most + self.reserve / 2,
            false => self.most - self.most / ROOT_SHARE / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_of_a_small_limit_keeps_a_reserve_and_root_s_share() {
        let room = FdLimit::of(256, 0);
        assert_eq!((room.for_files(0), room.for_files(1000)), (192, 168));
        assert_eq!((room.for_inodes(0), room.for_inodes(1000)), (224, 180));
        assert_eq!((room.pins(), room.recent()), (48, 16));
    }

    #[test]
    fn room_of_a_user_s_own_daemon_is_all_the_user_s() {
        let room = FdLimit::of(20_000, 1000);
        assert_eq!(room.for_files(1000), 20_000 - 512);
        assert_eq!(room.for_files(1001), 17_052);
    }
}
