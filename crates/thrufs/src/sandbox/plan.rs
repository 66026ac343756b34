//! What confines the server, as the options say.

use std::fmt;

use rustix::thread::CapabilitySet;

#[cfg(feature = "break-out")]
use super::breakout::BreakOut;
use super::capabilities::{self, ModCaps, Needs};
use super::id_range::IdRange;
use super::seccomp::Seccomp;
use crate::user;

/// Where the serving process is shut in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Mount, pid, network and IPC namespaces of its own, and SOURCE as root.
    Namespace,
    /// SOURCE as root.
    Chroot,
    /// Nowhere.
    None,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace",
            Self::Chroot => "chroot",
            Self::None => "none",
        })
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SandboxPlan {
    /// To be tried in this order; a single one is had or it is an error.
    pub(crate) candidates: &'static [Sandbox],
    pub(crate) seccomp: Seccomp,
    pub(crate) modcaps: ModCaps,
    pub(crate) uid_map: Option<IdRange>,
    pub(crate) gid_map: Option<IdRange>,
    /// The process that is shut in starts others, that serve one after the other.
    pub(crate) restarts: bool,
    #[cfg(feature = "break-out")]
    /// For tests: try to get out, in place of serving.
    pub(crate) break_out: Option<BreakOut>,
}

impl SandboxPlan {
    /// Whether a second process is needed, to do what a confined one cannot.
    pub(crate) fn splits(&self) -> bool {
        self.candidates != [Sandbox::None]
            || self.seccomp != Seccomp::None
            || self.modcaps != ModCaps::default()
    }

    /// Whether the namespaces include one of users.
    pub(crate) fn has_user_namespace(&self) -> bool {
        self.uid_map.is_some() || self.gid_map.is_some() || !user::is_root()
    }

    /// Whether ids of the user namespace are mapped from outside.
    pub(crate) fn has_map(&self) -> bool {
        self.uid_map.is_some() || self.gid_map.is_some()
    }

    /// What the server keeps.
    pub(crate) fn capabilities(&self, sandbox: Sandbox, needs: Needs) -> CapabilitySet {
        let alone = sandbox == Sandbox::Namespace && self.has_user_namespace() && !self.has_map();
        capabilities::kept(&self.modcaps, needs, alone)
    }
}
