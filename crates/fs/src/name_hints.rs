//! Which inode a name stood for when it was last looked up: a guess, by which a LOOKUP of a known inode is one
//! statx(2) instead of three calls (`ops/known.rs`).
//!
//! Invariant: a guess decides nothing. Names share places, and nothing is taken out when a name or an inode
//! goes; what is wrong costs one system call. So no lock, and memory that does not grow with the tree.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// A working set of names that are asked for again and again, in 64 KiB.
const PLACES: usize = 8192;

/// File systems that answer statx(2) from memory of this machine, so that AT_STATX_DONT_SYNC changes nothing.
const LOCAL: [i64; 4] = [
    libc::TMPFS_MAGIC,
    libc::EXT4_SUPER_MAGIC,
    libc::XFS_SUPER_MAGIC,
    libc::BTRFS_SUPER_MAGIC,
];

/// See the module.
#[derive(Debug)]
pub(crate) struct NameHints {
    /// Nodeids; 0 for none. Hashed by a key of this process's own, so that no client chooses what collides.
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl NameHints {
    /// None where SOURCE is on a file system that may have to ask another machine, or another process.
    pub(crate) fn of(source: impl AsFd) -> Option<Self> {
        let kind = rustix::fs::fstatfs(source).ok()?.f_type;
        LOCAL.contains(&kind).then(|| Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        })
    }

    fn place(&self, parent: u64, name: &OsStr) -> &AtomicU64 {
        let hash = self.hasher.hash_one((parent, name));
        &self.places[hash as usize % PLACES]
    }

    /// `name` in directory `parent` stands for `ino`.
    pub(crate) fn note(&self, parent: u64, name: &OsStr, ino: u64) {
        self.place(parent, name).store(ino, Ordering::Relaxed);
    }

    /// What it may stand for.
    pub(crate) fn guess(&self, parent: u64, name: &OsStr) -> u64 {
        self.place(parent, name).load(Ordering::Relaxed)
    }
}
