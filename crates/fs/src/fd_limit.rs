//! How many descriptors there are, and who may use them.
//!
//! Invariant: clients that open files never use up the last of the process's descriptors. With none left
//! a LOOKUP or a FLUSH would fail too, and nobody could even ask the daemon why.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, getrlimit};

use crate::config::{Config, InodeFileHandles};
use crate::error::{Errno, Result};
use crate::passthrough::Passthrough;

/// Descriptors that are not for open files: threads, devices, mounts, and those that last as long as a
/// request. A small limit leaves at least three quarters to files.
const RESERVE: u64 = 512;

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    /// Descriptors for open files, and for inodes where each is held by one.
    most: usize,
    /// The operator has been told once; the callers are told each time.
    told: AtomicBool,
}

impl Room {
    /// What RLIMIT_NOFILE leaves now.
    pub(crate) fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let left = limit.map_or(u64::MAX, |limit| limit - RESERVE.min(limit / 4));
        Self {
            most: usize::try_from(left).unwrap_or(usize::MAX),
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
}

impl Passthrough {
    /// Whether one more file can be opened for a client.
    ///
    /// # Errors
    /// ENFILE: it is not the caller's own table that is full.
    pub(crate) fn check_room(&self) -> Result<()> {
        let inodes = match self.config.inode_file_handles {
            InodeFileHandles::Never => self.inodes.len(),
            InodeFileHandles::Prefer | InodeFileHandles::Mandatory => 0,
        };
        let files = self.handles.len();
        if files + inodes < self.room.most {
            return Ok(());
        }
        if !self.room.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{files} files are open and {inodes} inodes held open, all that --rlimit-nofile leaves \
                 room for: OPEN fails with ENFILE"
            );
        }
        Err(Errno::ENFILE)
    }
}
