//! The result of INIT, as far as it changes how later messages are read.

use crate::abi::FUSE_KERNEL_MINOR_VERSION;
use crate::init_flags::InitFlags;

/// The agreed minor version and the granted capabilities. From Linux 5.4 (7.31) on, nothing else
/// changes how messages look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    minor: u32,
    granted: InitFlags,
}

/// The first version that gives the length of extensions in the header for certain: Linux 6.2 has
/// 7.38 without `total_extlen`, 6.3 with it.
const EXTLEN_IN_HEADER: u32 = 39;

impl Dialect {
    /// Before INIT is answered: nothing is granted.
    pub const BEFORE_INIT: Self = Self::new(FUSE_KERNEL_MINOR_VERSION, InitFlags::empty());

    /// `minor` is the smaller of the kernel's and the server's, `granted` the capabilities in
    /// INIT's answer (out of the kernel's offer).
    pub const fn new(minor: u32, granted: InitFlags) -> Self {
        Self { minor, granted }
    }

    /// The agreed minor version.
    pub const fn minor(self) -> u32 {
        self.minor
    }

    /// The capabilities in INIT's answer.
    pub const fn granted(self) -> InitFlags {
        self.granted
    }

    /// `fuse_setxattr_in` has all its 16 bytes.
    pub const fn setxattr_ext(self) -> bool {
        self.granted.contains(InitFlags::FUSE_SETXATTR_EXT)
    }

    /// Extensions may follow the names of a request that creates.
    pub(crate) const fn extensions(self) -> bool {
        self.granted
            .intersects(InitFlags::FUSE_SECURITY_CTX.union(InitFlags::FUSE_CREATE_SUPP_GROUP))
    }

    /// Security contexts may follow although the header says that nothing does.
    pub(crate) const fn uncounted_extensions(self) -> bool {
        self.minor < EXTLEN_IN_HEADER && self.granted.contains(InitFlags::FUSE_SECURITY_CTX)
    }
}
