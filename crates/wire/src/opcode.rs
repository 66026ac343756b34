//! The operations, by number and name.

use crate::abi::numbers;

numbers! {
    /// `enum fuse_opcode`: every operation that a file system can be sent.
    Opcode: u32 {
        Lookup = FUSE_LOOKUP, 1;
        Forget = FUSE_FORGET, 2;
        Getattr = FUSE_GETATTR, 3;
        Setattr = FUSE_SETATTR, 4;
        Readlink = FUSE_READLINK, 5;
        Symlink = FUSE_SYMLINK, 6;
        Mknod = FUSE_MKNOD, 8;
        Mkdir = FUSE_MKDIR, 9;
        Unlink = FUSE_UNLINK, 10;
        Rmdir = FUSE_RMDIR, 11;
        Rename = FUSE_RENAME, 12;
        Link = FUSE_LINK, 13;
        Open = FUSE_OPEN, 14;
        Read = FUSE_READ, 15;
        Write = FUSE_WRITE, 16;
        Statfs = FUSE_STATFS, 17;
        Release = FUSE_RELEASE, 18;
        Fsync = FUSE_FSYNC, 20;
        Setxattr = FUSE_SETXATTR, 21;
        Getxattr = FUSE_GETXATTR, 22;
        Listxattr = FUSE_LISTXATTR, 23;
        Removexattr = FUSE_REMOVEXATTR, 24;
        Flush = FUSE_FLUSH, 25;
        Init = FUSE_INIT, 26;
        Opendir = FUSE_OPENDIR, 27;
        Readdir = FUSE_READDIR, 28;
        Releasedir = FUSE_RELEASEDIR, 29;
        Fsyncdir = FUSE_FSYNCDIR, 30;
        Getlk = FUSE_GETLK, 31;
        Setlk = FUSE_SETLK, 32;
        Setlkw = FUSE_SETLKW, 33;
        Access = FUSE_ACCESS, 34;
        Create = FUSE_CREATE, 35;
        Interrupt = FUSE_INTERRUPT, 36;
        Bmap = FUSE_BMAP, 37;
        Destroy = FUSE_DESTROY, 38;
        Ioctl = FUSE_IOCTL, 39;
        Poll = FUSE_POLL, 40;
        NotifyReply = FUSE_NOTIFY_REPLY, 41;
        BatchForget = FUSE_BATCH_FORGET, 42;
        Fallocate = FUSE_FALLOCATE, 43;
        Readdirplus = FUSE_READDIRPLUS, 44;
        Rename2 = FUSE_RENAME2, 45;
        Lseek = FUSE_LSEEK, 46;
        CopyFileRange = FUSE_COPY_FILE_RANGE, 47;
        Setupmapping = FUSE_SETUPMAPPING, 48;
        Removemapping = FUSE_REMOVEMAPPING, 49;
        Syncfs = FUSE_SYNCFS, 50;
        Tmpfile = FUSE_TMPFILE, 51;
        Statx = FUSE_STATX, 52;
        CopyFileRange64 = FUSE_COPY_FILE_RANGE_64, 53;
    }
}

impl Opcode {
    /// Whether the kernel waits for an answer. To INTERRUPT one may be sent all the same, with
    /// ENOSYS (never again) or EAGAIN (again, please): `fuse_dev_do_write`.
    pub const fn is_answered(self) -> bool {
        !matches!(
            self,
            Self::Forget | Self::BatchForget | Self::Interrupt | Self::NotifyReply
        )
    }

    /// Whether data of up to max_write follow the argument, which a transport may keep apart.
    pub const fn has_payload(self) -> bool {
        matches!(self, Self::Write | Self::NotifyReply)
    }
}
