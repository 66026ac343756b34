//! What was asked of the file system, counted. Relaxed counters: a reader gets sums that were
//! true a moment ago.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! opcodes {
    ($($variant:ident $name:literal,)*) => {
        /// The requests that are served, by the kernel's names (linux/fuse.h).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is the FUSE opcode of that name")]
        pub enum Opcode { $($variant,)* }

        impl Opcode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kernel's name, without `FUSE_`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

opcodes! {
    Lookup "LOOKUP", Forget "FORGET", BatchForget "BATCH_FORGET", GetAttr "GETATTR",
    SetAttr "SETATTR", ReadLink "READLINK", Symlink "SYMLINK", MkNod "MKNOD", MkDir "MKDIR",
    Unlink "UNLINK", RmDir "RMDIR", Rename "RENAME", Link "LINK", Open "OPEN", Create "CREATE",
    Read "READ", Write "WRITE", StatFs "STATFS", Flush "FLUSH", Release "RELEASE", Fsync "FSYNC",
    OpenDir "OPENDIR", ReadDir "READDIR", ReadDirPlus "READDIRPLUS", ReleaseDir "RELEASEDIR",
    FsyncDir "FSYNCDIR", SetXattr "SETXATTR", GetXattr "GETXATTR", ListXattr "LISTXATTR",
    RemoveXattr "REMOVEXATTR", Access "ACCESS", GetLk "GETLK", SetLk "SETLK",
    Fallocate "FALLOCATE", Lseek "LSEEK", CopyFileRange "COPY_FILE_RANGE", Ioctl "IOCTL",
}

/// Counts since the mount.
#[derive(Debug)]
pub struct Stats {
    requests: [AtomicU64; Opcode::ALL.len()],
    errors: [AtomicU64; Opcode::ALL.len()],
    written: AtomicU64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; Opcode::ALL.len()],
            errors: [const { AtomicU64::new(0) }; Opcode::ALL.len()],
            written: AtomicU64::new(0),
        }
    }
}

impl Stats {
    /// Requests of this kind.
    pub fn requests(&self, opcode: Opcode) -> u64 {
        self.requests[opcode as usize].load(Ordering::Relaxed)
    }

    /// Those of them that were answered with an error.
    pub fn errors(&self, opcode: Opcode) -> u64 {
        self.errors[opcode as usize].load(Ordering::Relaxed)
    }

    /// Bytes that WRITEs brought into backing files.
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, opcode: Opcode) {
        self.requests[opcode as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_error(&self, opcode: Opcode) {
        self.errors[opcode as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
