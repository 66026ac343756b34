//! Arguments of requests that make, move or forget names. The names follow as strings.

use super::flags::OpenInFlags;
use super::macros::structs;

structs! {
    fuse_forget_in => ForgetIn {
        nlookup: u64,
    }

    fuse_forget_one => ForgetOne {
        nodeid: u64,
        nlookup: u64,
    }

    /// `count` [`ForgetOne`] follow.
    fuse_batch_forget_in => BatchForgetIn {
        count: u32,
        dummy: u32,
    }

    fuse_mknod_in => MknodIn {
        mode: u32,
        rdev: u32,
        umask: u32,
        padding: u32,
    }

    fuse_mkdir_in => MkdirIn {
        mode: u32,
        umask: u32,
    }

    fuse_rename_in => RenameIn {
        newdir: u64,
    }

    /// `flags` are renameat2(2)'s.
    fuse_rename2_in => Rename2In {
        newdir: u64,
        flags: u32,
        padding: u32,
    }

    fuse_link_in => LinkIn {
        oldnodeid: u64,
    }

    /// CREATE and TMPFILE. `flags` are open(2)'s.
    fuse_create_in => CreateIn {
        flags: u32,
        mode: u32,
        umask: u32,
        open_flags: OpenInFlags,
    }
}
