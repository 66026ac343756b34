//! What is said of a descriptor, and the words that say it.
//!
//! Invariant: the first word is stored last, and is what counts. The last one is a checksum of those that do not change
//! while the entry is there: a word that no server wrote shows.

use std::sync::atomic::{AtomicU64, Ordering};

use super::form::{Damaged, FORM};
use crate::inode::ROOT_INO;
use crate::inode::identity::{FileKind, InodeKey};

/// Words for each descriptor.
pub(super) const ENTRY: usize = 8;
/// Words of an entry: see [`Entry`].
pub(super) const WHAT: usize = 0;
const INO: usize = 1;
const DEV: usize = 2;
const BACKING_INO: usize = 3;
const MNT_ID: usize = 4;
/// Where inodes have the mount.
const BACKING_ID: usize = MNT_ID;
const OWNER: usize = MNT_ID;
/// Where files have their flags.
pub(super) const TOLD: usize = FLAGS;
pub(super) const COUNT_OR_FH: usize = 5;
const FLAGS: usize = 6;
const SUM: usize = 7;

pub(super) const FREE: u64 = 0;
pub(super) const INODE: u64 = 1;
const FILE: u64 = 2;
const DIRECTORY: u64 = 3;
/// An inode whose file may be mapped past the daemon.
pub(super) const MAPPED: u64 = 4;
/// The type of an inode stands above these.
const KIND_SHIFT: u32 = 8;
const LOCKS: u64 = 5;

/// What is said of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// O_PATH on an inode that the kernel holds.
    Inode {
        ino: u64,
        key: InodeKey,
        kind: FileKind,
        nlookup: u64,
        /// See [`crate::handle_sort`].
        may_be_mapped: bool,
        /// What the kernel was told of mode and owner, in a word of [`crate::inode`].
        told: u64,
    },
    /// An open file, with the flags of its OPEN; `file` is its device and number. The kernel passes it through by its
    /// backing id, if it has one.
    File {
        fh: u64,
        ino: u64,
        file: (u64, u64),
        flags: i32,
        backing_id: Option<i32>,
    },
    /// An open directory.
    Directory { fh: u64, ino: u64, file: (u64, u64) },
    /// A file that holds the locks of one owner, who asked for them by the handle `fh`.
    Locks {
        fh: u64,
        ino: u64,
        file: (u64, u64),
        owner: u64,
        /// By flock(2), or by fcntl(2).
        is_flock: bool,
        pid: u32,
    },
}

pub(super) fn values_of(words: &[AtomicU64]) -> [u64; ENTRY] {
    std::array::from_fn(|at| words[at].load(Ordering::Relaxed))
}

impl Entry {
    pub(super) fn to_words(self) -> [u64; ENTRY] {
        let mut words = match self {
            Self::Inode {
                ino,
                key,
                kind,
                nlookup,
                may_be_mapped,
                told,
            } => {
                let what = if may_be_mapped { MAPPED } else { INODE };
                let what = kind.to_word() << KIND_SHIFT | what;
                [what, ino, key.dev, key.ino, key.mnt_id, nlookup, told, 0]
            }
            Self::File {
                fh,
                ino,
                file: (dev, number),
                flags,
                backing_id,
            } => {
                let flags = u64::from(flags.cast_unsigned());
                // The kernel's begin at 1.
                let id = backing_id.map_or(0, |id| u64::from(id.cast_unsigned()));
                [FILE, ino, dev, number, id, fh, flags, 0]
            }
            Self::Directory {
                fh,
                ino,
                file: (dev, number),
            } => [DIRECTORY, ino, dev, number, 0, fh, 0, 0],
            Self::Locks {
                fh,
                ino,
                file: (dev, number),
                owner,
                is_flock,
                pid,
            } => {
                let by = u64::from(is_flock) << 32 | u64::from(pid);
                [LOCKS, ino, dev, number, owner, fh, by, 0]
            }
        };
        words[SUM] = sum(&words);
        words
    }

    pub(super) fn from_words(words: [u64; ENTRY]) -> Result<Self, Damaged> {
        if words[SUM] != sum(&words) {
            return Err(Damaged("a checksum is wrong"));
        }
        let (ino, file) = (words[INO], (words[DEV], words[BACKING_INO]));
        let fh = words[COUNT_OR_FH];
        match words[WHAT] {
            what if is_inode(&words) => {
                if ino <= ROOT_INO || words[COUNT_OR_FH] == 0 {
                    return Err(Damaged("an inode has no number or no lookup"));
                }
                let key = InodeKey {
                    dev: words[DEV],
                    ino: words[BACKING_INO],
                    mnt_id: words[MNT_ID],
                };
                Ok(Self::Inode {
                    ino,
                    key,
                    kind: FileKind::of_word(what >> KIND_SHIFT)
                        .ok_or(Damaged("an inode has no type"))?,
                    nlookup: words[COUNT_OR_FH],
                    may_be_mapped: what & 0xff == MAPPED,
                    told: words[TOLD],
                })
            }
            FILE => {
                let flags =
                    u32::try_from(words[FLAGS]).map_err(|_| Damaged("flags are too many"))?;
                let flags = flags.cast_signed();
                let backing_id = match i32::try_from(words[BACKING_ID]) {
                    Ok(0) => None,
                    Ok(id) => Some(id),
                    Err(_) => return Err(Damaged("a backing id is none")),
                };
                Ok(Self::File {
                    fh,
                    ino,
                    file,
                    flags,
                    backing_id,
                })
            }
            DIRECTORY => Ok(Self::Directory { fh, ino, file }),
            LOCKS => Ok(Self::Locks {
                fh,
                ino,
                file,
                owner: words[OWNER],
                is_flock: match words[FLAGS] >> 32 {
                    0 => false,
                    1 => true,
                    _other => return Err(Damaged("locks are of no kind")),
                },
                // The lower half.
                pid: words[FLAGS] as u32,
            }),
            _other => Err(Damaged("an entry is of no kind")),
        }
    }
}

fn is_inode(words: &[u64; ENTRY]) -> bool {
    matches!(words[WHAT] & 0xff, INODE | MAPPED)
}

/// Of what does not change while the entry is there.
fn sum(words: &[u64; ENTRY]) -> u64 {
    let mut fixed = *words;
    fixed[SUM] = 0;
    if is_inode(words) {
        fixed[WHAT] = words[WHAT] & !0xff | INODE;
        (fixed[COUNT_OR_FH], fixed[TOLD]) = (0, 0);
    }
    fixed.iter().fold(FORM, |sum, word| {
        // The multiplier of SplitMix64.
        (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

impl FileKind {
    const ALL: [Self; 7] = [
        Self::Regular,
        Self::Directory,
        Self::Symlink,
        Self::Fifo,
        Self::Socket,
        Self::CharDevice,
        Self::BlockDevice,
    ];

    fn to_word(self) -> u64 {
        let at = Self::ALL.iter().position(|kind| *kind == self);
        // All are in the list.
        at.unwrap_or(Self::ALL.len()) as u64
    }

    fn of_word(word: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(word).ok()?).copied()
    }
}
