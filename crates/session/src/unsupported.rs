//! What fuser 0.18 cannot carry, and what happens instead. The README's table is this one.
//!
//! Our own transport on /dev/fuse serves COPY_FILE_RANGE_64 and INTERRUPT of a wait for a lock; the rest holds
//! for it too, as not implemented yet.

/// One thing that a mount cannot do.
#[derive(Clone, Copy, Debug)]
pub struct Unsupported {
    /// Request or capability, by the kernel's name.
    pub what: &'static str,
    /// Why.
    pub why: &'static str,
    /// What the kernel does instead, and what a user sees.
    pub instead: &'static str,
}

/// See the module.
pub const UNSUPPORTED: &[Unsupported] = &[
    Unsupported {
        what: "STATX",
        why: "fuser answers ENOSYS",
        instead: "the kernel uses GETATTR; statx(2) has no birth time",
    },
    Unsupported {
        what: "TMPFILE",
        why: "fuser answers ENOSYS",
        instead: "open(2) with O_TMPFILE fails with EOPNOTSUPP; programs fall back to a named file",
    },
    Unsupported {
        what: "SYNCFS",
        why: "fuser answers ENOSYS; the kernel sends it to virtiofs and fuseblk servers only",
        instead: "syncfs(2) on the mount does not sync SOURCE; fsync(2) of a file does",
    },
    Unsupported {
        what: "INTERRUPT",
        why: "fuser answers ENOSYS",
        instead: "a request runs to its end; callers that wait for a lock are watched and released \
                  when they have a signal",
    },
    Unsupported {
        what: "FUSE_SECURITY_CTX",
        why: "fuser does not parse the extension",
        instead: "a new file gets the backing file system's default label",
    },
    Unsupported {
        what: "FUSE_CREATE_SUPP_GROUP",
        why: "fuser does not parse the extension",
        instead: "the kernel checks the caller's groups; the new file's group is the caller's own \
                  or, in a set-gid directory, the directory's",
    },
    Unsupported {
        what: "FUSE_SUBMOUNTS",
        why: "fuser's attributes have no flags",
        instead: "file systems mounted below SOURCE appear as directories of one file system; \
                  inode numbers are kept apart",
    },
    Unsupported {
        what: "FUSE_SETXATTR_EXT",
        why: "fuser's session thread panics on it",
        instead: "the set-gid bit after setfacl(1) is decided from /proc/PID/status",
    },
    Unsupported {
        what: "SETLK's FUSE_LK_FLOCK",
        why: "fuser drops the flag",
        instead: "under --locks=host the caller's system call, in /proc, tells flock from fcntl",
    },
    Unsupported {
        what: "FICLONE, FICLONERANGE, FIDEDUPERANGE",
        why: "the kernel makes them a remap, which the protocol lacks",
        instead: "EOPNOTSUPP; copy_file_range(2) reflinks where the backing file system does",
    },
    Unsupported {
        what: "IOCTL, unrestricted",
        why: "fuser answers ENOSYS",
        instead: "ENOTTY for all but GETFLAGS, SETFLAGS, GETVERSION, FSGETXATTR and FSSETXATTR",
    },
    Unsupported {
        what: "COPY_FILE_RANGE_64",
        why: "fuser answers ENOSYS",
        instead: "the kernel uses COPY_FILE_RANGE, at most 2 GiB at a time",
    },
    Unsupported {
        what: "FUSE_HAS_INODE_DAX, FUSE_MAP_ALIGNMENT",
        why: "they are for virtiofs devices",
        instead: "no DAX",
    },
    Unsupported {
        what: "FUSE_ALLOW_IDMAP, FUSE_HAS_RESEND, FUSE_REQUEST_TIMEOUT, FUSE_OVER_IO_URING",
        why: "fuser does not implement them",
        instead: "they are not negotiated",
    },
    Unsupported {
        what: "FUSE_EXPORT_SUPPORT",
        why: "an inode that the kernel has forgotten cannot be found by its nodeid again",
        instead: "a mount that is exported over NFS gives ESTALE after eviction",
    },
];
