//! What INIT negotiates: the capabilities that the kernel offers and the server accepts, as one
//! word of 64 bits under the kernel's names.
//!
//! On the wire the word is two: bits 32 to 63 travel in `flags2`, which counts only where the lower
//! half has FUSE_INIT_EXT. Both halves are read and written here and nowhere else.

use crate::abi::{InitIn, InitOut, flags};

flags! {
    /// `fuse_init_in.flags` and `flags2`, and the same of `fuse_init_out`.
    InitFlags: u64 {
        /// Several READs of one open file at a time.
        FUSE_ASYNC_READ = 1 << 0,
        /// fcntl(2) locks are the server's.
        FUSE_POSIX_LOCKS = 1 << 1,
        /// Never offered.
        FUSE_FILE_OPS = 1 << 2,
        /// O_TRUNC comes with OPEN; there is no SETATTR.
        FUSE_ATOMIC_O_TRUNC = 1 << 3,
        /// LOOKUP of "." and "..", for file handles.
        FUSE_EXPORT_SUPPORT = 1 << 4,
        /// WRITEs larger than a page.
        FUSE_BIG_WRITES = 1 << 5,
        /// The umask comes with the request and is the server's to apply.
        FUSE_DONT_MASK = 1 << 6,
        FUSE_SPLICE_WRITE = 1 << 7,
        FUSE_SPLICE_MOVE = 1 << 8,
        FUSE_SPLICE_READ = 1 << 9,
        /// flock(2) locks are the server's.
        FUSE_FLOCK_LOCKS = 1 << 10,
        FUSE_HAS_IOCTL_DIR = 1 << 11,
        /// Cached data go when mtime or size change.
        FUSE_AUTO_INVAL_DATA = 1 << 12,
        FUSE_DO_READDIRPLUS = 1 << 13,
        /// READDIRPLUS only where attributes were asked for.
        FUSE_READDIRPLUS_AUTO = 1 << 14,
        /// Direct I/O of one call as several requests at a time.
        FUSE_ASYNC_DIO = 1 << 15,
        FUSE_WRITEBACK_CACHE = 1 << 16,
        /// OPEN answered ENOSYS: the kernel opens without asking.
        FUSE_NO_OPEN_SUPPORT = 1 << 17,
        /// LOOKUP and READDIR of one directory at a time.
        FUSE_PARALLEL_DIROPS = 1 << 18,
        /// The server clears set-uid, set-gid and security.capability.
        FUSE_HANDLE_KILLPRIV = 1 << 19,
        FUSE_POSIX_ACL = 1 << 20,
        /// After an abort reading the device is ECONNABORTED, not ENODEV.
        FUSE_ABORT_ERROR = 1 << 21,
        /// `fuse_init_out.max_pages` is valid.
        FUSE_MAX_PAGES = 1 << 22,
        /// The kernel caches READLINK.
        FUSE_CACHE_SYMLINKS = 1 << 23,
        /// OPENDIR answered ENOSYS: the kernel lists without asking.
        FUSE_NO_OPENDIR_SUPPORT = 1 << 24,
        /// Cached data go by notification only.
        FUSE_EXPLICIT_INVAL_DATA = 1 << 25,
        /// `fuse_init_out.map_alignment` is valid (DAX).
        FUSE_MAP_ALIGNMENT = 1 << 26,
        /// The kernel mounts what FUSE_ATTR_SUBMOUNT names.
        FUSE_SUBMOUNTS = 1 << 27,
        /// As FUSE_HANDLE_KILLPRIV, with the VFS's rules and by flags of the request.
        FUSE_HANDLE_KILLPRIV_V2 = 1 << 28,
        /// `fuse_setxattr_in` has 16 bytes.
        FUSE_SETXATTR_EXT = 1 << 29,
        /// `flags2` is valid.
        FUSE_INIT_EXT = 1 << 30,
        /// Must not be used.
        FUSE_INIT_RESERVED = 1 << 31,
        /// Security contexts come with requests that create.
        FUSE_SECURITY_CTX = 1 << 32,
        FUSE_HAS_INODE_DAX = 1 << 33,
        /// The supplementary group that matches the parent comes with requests that create.
        FUSE_CREATE_SUPP_GROUP = 1 << 34,
        /// NOTIFY_INVAL_ENTRY knows FUSE_EXPIRE_ONLY.
        FUSE_HAS_EXPIRE_ONLY = 1 << 35,
        /// Shared mappings of files with FOPEN_DIRECT_IO.
        FUSE_DIRECT_IO_ALLOW_MMAP = 1 << 36,
        /// Kernel passthrough; `fuse_init_out.max_stack_depth` is valid.
        FUSE_PASSTHROUGH = 1 << 37,
        FUSE_NO_EXPORT_SUPPORT = 1 << 38,
        /// The kernel knows NOTIFY_RESEND.
        FUSE_HAS_RESEND = 1 << 39,
        /// Idmapped mounts.
        FUSE_ALLOW_IDMAP = 1 << 40,
        FUSE_OVER_IO_URING = 1 << 41,
        /// `fuse_init_out.request_timeout` is valid.
        FUSE_REQUEST_TIMEOUT = 1 << 42,
        FUSE_HAS_IO_URING_BUFPOOL = 1 << 43,
    }
}

impl InitFlags {
    /// The kernel's names of the flags that are set, for status and logs.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.iter_names().map(|(name, _flag)| name)
    }

    /// The flag with this kernel name.
    pub fn named(name: &str) -> Option<Self> {
        Self::from_name(name)
    }

    /// Set bits without a name here: a newer kernel's offer.
    pub fn unnamed(self) -> u64 {
        self.iter_names()
            .fold(self, |rest, (_name, flag)| rest.difference(flag))
            .bits()
    }

    /// The bits that travel in `flags2`, and only with FUSE_INIT_EXT.
    pub const fn of_flags2() -> Self {
        Self::from_bits_retain(!0 << 32)
    }

    /// The word of its two halves.
    fn from_halves(flags: u32, flags2: u32) -> Self {
        let low = Self::from_bits_retain(u64::from(flags));
        if low.contains(Self::FUSE_INIT_EXT) {
            low.union(Self::from_bits_retain(u64::from(flags2) << 32))
        } else {
            low
        }
    }

    /// `flags` and `flags2`.
    pub fn halves(self) -> (u32, u32) {
        let bits = self.bits();
        (bits as u32, (bits >> 32) as u32)
    }
}

impl InitIn {
    /// The kernel's offer.
    pub fn capabilities(&self) -> InitFlags {
        InitFlags::from_halves(self.flags, self.flags2)
    }
}

impl InitOut {
    /// What the kernel reads out of `flags` and `flags2` (`process_init_reply`).
    pub fn capabilities(&self) -> InitFlags {
        InitFlags::from_halves(self.flags, self.flags2)
    }

    /// Sets `flags` and `flags2`. The kernel ignores what is in `flags2` unless `granted` has
    /// FUSE_INIT_EXT, which may be granted only where the kernel offered it.
    #[must_use]
    pub fn with_capabilities(self, granted: InitFlags) -> Self {
        let (flags, flags2) = granted.halves();
        Self {
            flags,
            flags2,
            ..self
        }
    }
}
