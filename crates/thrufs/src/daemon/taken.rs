//! What a server has of the one that it takes over from: descriptors that the supervisor handed it.

use std::os::fd::{AsRawFd, OwnedFd};

/// What a server has of the one that it takes over from.
#[derive(Debug)]
pub(crate) struct Taken {
    /// `Ledger::files`.
    pub(crate) ledger: [OwnedFd; 2],
    /// Where descriptors of inodes come from while it serves ([`super::descriptors`]).
    pub(crate) ahead: OwnedFd,
    /// Where the others come from then.
    pub(crate) descriptors: OwnedFd,
    /// Its mount namespace, until this one has joined that.
    pub(crate) mounts: Option<OwnedFd>,
    /// The directory that the mount covers, where that lies below SOURCE.
    pub(crate) covered: Option<OwnedFd>,
    /// It is of another version.
    pub(crate) is_upgrade: bool,
}

impl Taken {
    /// All of its descriptors.
    pub(super) fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        self.ledger
            .iter()
            .chain([&self.ahead, &self.descriptors])
            .chain(&self.mounts)
            .chain(&self.covered)
    }

    /// The descriptors' numbers.
    pub(super) fn numbers(&self) -> Vec<i32> {
        self.all().map(AsRawFd::as_raw_fd).collect()
    }
}
