//! The requests that are served, by name.

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
    Statx "STATX", Tmpfile "TMPFILE", Syncfs "SYNCFS",
}
