//! allow_root, which the kernel has no option for: the mount lets in all users, and the server only two.

/// Which users' requests are served. The kernel lets in only the owner's unless the mount has
/// `allow_other`; the server checks what the kernel has no option for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every user that the kernel lets in.
    All,
    /// The user of this process.
    Owner,
    /// The user of this process, and root.
    OwnerAndRoot,
}

impl Allowed {
    /// Whether requests of user `uid` are served by a process of user `owner`.
    pub(super) fn is(self, uid: u32, owner: u32) -> bool {
        match self {
            Self::All => true,
            Self::Owner => uid == owner,
            Self::OwnerAndRoot => uid == owner || uid == 0,
        }
    }
}
