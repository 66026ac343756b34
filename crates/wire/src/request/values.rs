//! What the arguments mean: fields that count only when a flag says so, as `Option`.

use crate::abi::{
    FUSE_UNIQUE_RESEND, GetattrFlags, GetattrIn, InHeader, LkIn, LockFlags, ReadFlags, ReadIn,
    ReleaseFlags, ReleaseIn, SetattrIn, SetattrValid, StatxIn, WriteFlags, WriteIn,
};

/// A point in time, also before 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Since 1970.
    pub seconds: i64,
    /// Below a second in every decoded message.
    pub nanoseconds: u32,
}

/// A time that SETATTR sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's clock.
    Now,
    /// This time.
    At(Timestamp),
}

impl SetTime {
    pub(super) fn nanoseconds(self) -> Option<u32> {
        match self {
            Self::Now => None,
            Self::At(time) => Some(time.nanoseconds),
        }
    }
}

/// Which lock a lock request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// fcntl(2): byte ranges.
    Posix,
    /// flock(2): the whole file.
    Flock,
}

impl InHeader {
    /// NOTIFY_RESEND made the kernel send the request again; an answer carries the whole `unique`,
    /// with that bit.
    pub fn is_resent(&self) -> bool {
        self.unique & FUSE_UNIQUE_RESEND != 0
    }

    /// The same for the first and for every later sending of a request.
    pub fn first_unique(&self) -> u64 {
        self.unique & !FUSE_UNIQUE_RESEND
    }
}

impl GetattrIn {
    /// The open file that fstat(2) was called on.
    pub fn handle(&self) -> Option<u64> {
        let valid = self.getattr_flags.contains(GetattrFlags::FUSE_GETATTR_FH);
        valid.then_some(self.fh)
    }
}

impl StatxIn {
    /// The open file that statx(2) was called on.
    pub fn handle(&self) -> Option<u64> {
        let valid = self.getattr_flags.contains(GetattrFlags::FUSE_GETATTR_FH);
        valid.then_some(self.fh)
    }
}

impl SetattrIn {
    fn valid<T>(&self, flag: SetattrValid, value: T) -> Option<T> {
        self.valid.contains(flag).then_some(value)
    }

    /// The open file that ftruncate(2) or the like was called on.
    pub fn handle(&self) -> Option<u64> {
        self.valid(SetattrValid::FATTR_FH, self.fh)
    }

    /// Permission bits, with the type of the file.
    pub fn mode(&self) -> Option<u32> {
        self.valid(SetattrValid::FATTR_MODE, self.mode)
    }

    /// New owner.
    pub fn uid(&self) -> Option<u32> {
        self.valid(SetattrValid::FATTR_UID, self.uid)
    }

    /// New group.
    pub fn gid(&self) -> Option<u32> {
        self.valid(SetattrValid::FATTR_GID, self.gid)
    }

    /// truncate(2), ftruncate(2), or O_TRUNC without FUSE_ATOMIC_O_TRUNC.
    pub fn size(&self) -> Option<u64> {
        self.valid(SetattrValid::FATTR_SIZE, self.size)
    }

    /// Lock owner of a truncation.
    pub fn lock_owner(&self) -> Option<u64> {
        self.valid(SetattrValid::FATTR_LOCKOWNER, self.lock_owner)
    }

    /// Time of last access.
    pub fn atime(&self) -> Option<SetTime> {
        let time = if self.valid.contains(SetattrValid::FATTR_ATIME_NOW) {
            SetTime::Now
        } else {
            SetTime::At(timestamp(self.atime, self.atimensec))
        };
        self.valid(SetattrValid::FATTR_ATIME, time)
    }

    /// Time of last modification.
    pub fn mtime(&self) -> Option<SetTime> {
        let time = if self.valid.contains(SetattrValid::FATTR_MTIME_NOW) {
            SetTime::Now
        } else {
            SetTime::At(timestamp(self.mtime, self.mtimensec))
        };
        self.valid(SetattrValid::FATTR_MTIME, time)
    }

    /// Time of last change, as the kernel's cache has it (writeback mode).
    pub fn ctime(&self) -> Option<Timestamp> {
        let time = timestamp(self.ctime, self.ctimensec);
        self.valid(SetattrValid::FATTR_CTIME, time)
    }

    /// The server clears set-uid, set-gid and security.capability.
    pub fn kills_suidgid(&self) -> bool {
        self.valid.contains(SetattrValid::FATTR_KILL_SUIDGID)
    }
}

fn timestamp(seconds: u64, nanoseconds: u32) -> Timestamp {
    Timestamp {
        seconds: seconds.cast_signed(),
        nanoseconds,
    }
}

impl ReadIn {
    /// For mandatory locks, which Linux no longer has.
    pub fn lock_owner(&self) -> Option<u64> {
        let valid = self.read_flags.contains(ReadFlags::FUSE_READ_LOCKOWNER);
        valid.then_some(self.lock_owner)
    }
}

impl WriteIn {
    /// For mandatory locks, which Linux no longer has.
    pub fn lock_owner(&self) -> Option<u64> {
        let valid = self.write_flags.contains(WriteFlags::FUSE_WRITE_LOCKOWNER);
        valid.then_some(self.lock_owner)
    }

    /// Written back from the page cache: `fh` is one of those open on the inode, and the caller in
    /// the header is none.
    pub fn is_writeback(&self) -> bool {
        self.write_flags.contains(WriteFlags::FUSE_WRITE_CACHE)
    }

    /// The server clears set-uid and set-gid.
    pub fn kills_suidgid(&self) -> bool {
        self.write_flags
            .contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID)
    }
}

impl ReleaseIn {
    /// The owner whose flock(2) lock ends with the open file.
    pub fn flock_owner(&self) -> Option<u64> {
        let flag = ReleaseFlags::FUSE_RELEASE_FLOCK_UNLOCK;
        self.release_flags.contains(flag).then_some(self.lock_owner)
    }
}

impl LkIn {
    /// fcntl(2) or flock(2).
    pub fn kind(&self) -> LockKind {
        if self.lk_flags.contains(LockFlags::FUSE_LK_FLOCK) {
            LockKind::Flock
        } else {
            LockKind::Posix
        }
    }
}
