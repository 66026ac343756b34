//! The frame of every message, INIT, and what belongs to the connection and to no file.

use super::flags::{InvalEntryFlags, MappingFlags, SetxattrExtFlags};
use super::macros::structs;

structs! {
    /// `total_extlen` counts units of 8 bytes; before 7.38 those two bytes are zero.
    fuse_in_header => InHeader {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        total_extlen: u16,
        padding: u16,
    }

    /// `error` is 0 or a negative errno; in a notification, where `unique` is 0, its code.
    fuse_out_header => OutHeader {
        len: u32,
        error: i32,
        unique: u64,
    }

    /// Before 7.36 the kernel sends the first 16 bytes only.
    fuse_init_in => InitIn {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        flags2: u32,
        unused: [u32; 11],
    }

    fuse_init_out => InitOut {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_gran: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: [u16; 11],
    }

    fuse_interrupt_in => InterruptIn {
        unique: u64,
    }

    /// Without FUSE_SETXATTR_EXT the kernel sends the first 8 bytes only.
    fuse_setxattr_in => SetxattrIn {
        size: u32,
        flags: u32,
        setxattr_flags: SetxattrExtFlags,
        padding: u32,
    }

    /// GETXATTR and LISTXATTR. `size` 0 asks for the size ([`GetxattrOut`]).
    fuse_getxattr_in => GetxattrIn {
        size: u32,
        padding: u32,
    }

    fuse_getxattr_out => GetxattrOut {
        size: u32,
        padding: u32,
    }

    fuse_syncfs_in => SyncfsIn {
        padding: u64,
    }

    fuse_setupmapping_in => SetupmappingIn {
        fh: u64,
        foffset: u64,
        len: u64,
        flags: MappingFlags,
        moffset: u64,
    }

    /// `count` [`RemovemappingOne`] follow.
    fuse_removemapping_in => RemovemappingIn {
        count: u32,
    }

    fuse_removemapping_one => RemovemappingOne {
        moffset: u64,
        len: u64,
    }

    fuse_secctx => Secctx {
        size: u32,
        padding: u32,
    }

    /// An [`ExtHeader`] whose type, 0 to 31, is the number of contexts.
    fuse_secctx_header => SecctxHeader {
        size: u32,
        nr_secctx: u32,
    }

    fuse_ext_header => ExtHeader {
        size: u32,
        r#type: u32,
    }

    /// `nr_groups` group ids of 4 bytes follow.
    fuse_supp_groups => SuppGroups {
        nr_groups: u32,
    }

    fuse_notify_poll_wakeup_out => NotifyPollWakeupOut {
        kh: u64,
    }

    /// `off` below 0: attributes only. `len` 0 or below: to the end of the file.
    fuse_notify_inval_inode_out => NotifyInvalInodeOut {
        ino: u64,
        off: i64,
        len: i64,
    }

    fuse_notify_inval_entry_out => NotifyInvalEntryOut {
        parent: u64,
        namelen: u32,
        flags: InvalEntryFlags,
    }

    fuse_notify_delete_out => NotifyDeleteOut {
        parent: u64,
        child: u64,
        namelen: u32,
        padding: u32,
    }

    fuse_notify_store_out => NotifyStoreOut {
        nodeid: u64,
        offset: u64,
        size: u32,
        padding: u32,
    }

    fuse_notify_retrieve_out => NotifyRetrieveOut {
        notify_unique: u64,
        nodeid: u64,
        offset: u64,
        size: u32,
        padding: u32,
    }

    /// NOTIFY_REPLY, laid out as [`super::WriteIn`]. `size` bytes of data follow.
    fuse_notify_retrieve_in => NotifyRetrieveIn {
        dummy1: u64,
        offset: u64,
        size: u32,
        dummy2: u32,
        dummy3: u64,
        dummy4: u64,
    }

    /// `count` nodeids of 8 bytes follow.
    fuse_notify_prune_out => NotifyPruneOut {
        count: u32,
        padding: u32,
        spare: u64,
    }

    /// Argument of FUSE_DEV_IOC_BACKING_OPEN.
    fuse_backing_map => BackingMap {
        fd: i32,
        flags: u32,
        padding: u64,
    }
}
