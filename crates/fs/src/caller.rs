//! The process whose request is served: what the protocol says of it, and what /proc adds.

pub(crate) mod inspect;
pub(crate) mod proc;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// What the kernel sends in place of an id that it does not tell (FUSE_INVALID_UIDGID).
const UNTOLD: u32 = u32::MAX;

/// The capabilities that open a file against its mode.
pub(crate) const OVERRIDE: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// The process that made the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File system uid; u32::MAX where the kernel does not tell it: under FUSE_ALLOW_IDMAP, of every request that
    /// makes no inode.
    pub uid: u32,
    /// File system gid; likewise.
    pub gid: u32,
    /// Thread id in the daemon's pid namespace; 0 when it has none there.
    pub pid: u32,
}

impl Caller {
    /// Whether the kernel has told who it is. Where not, the kernel alone can tell what it may: it may come by an
    /// idmapped mount, through which files belong to other users than on SOURCE.
    pub(crate) fn is_told(&self) -> bool {
        self.uid != UNTOLD && self.gid != UNTOLD
    }
}

#[cfg(test)]
impl Caller {
    /// One whose rights no operation checks.
    pub(crate) const ROOT: Self = Self {
        uid: 0,
        gid: 0,
        pid: 0,
    };
}

/// What /proc/TID/status says of a thread, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerStatus {
    /// File system uid and gid; none where the lines are not there.
    pub ids: Option<(u32, u32)>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities; none where the line is not there.
    pub effective: Option<u64>,
    /// Signals that are pending and not blocked.
    pub pending: u64,
    /// Users that its user namespace has. Looked up only for one that is not root and has a
    /// capability: it has that over their files.
    pub mapped_users: IdRanges,
    /// Groups, likewise.
    pub mapped_groups: IdRanges,
}

/// Ids, as ranges of a first one and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRanges(Vec<(u32, u32)>);

impl IdRanges {
    /// Those outside of a user namespace that have an id in it, by its uid_map or gid_map
    /// (user_namespaces(7)).
    pub(crate) fn outside(map: &str) -> Self {
        let range = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        Self(map.lines().filter_map(range).collect())
    }

    pub(crate) fn all() -> Self {
        Self(vec![(0, u32::MAX)])
    }

    pub(crate) fn has(&self, id: u32) -> bool {
        let mut ranges = self.0.iter();
        ranges.any(|(first, count)| id.checked_sub(*first).is_some_and(|after| after < *count))
    }
}

/// Answers what /proc says of a thread whose request is being served.
pub trait Callers: Send + Sync {
    /// Its credentials and signals; none when it is gone or the supervisor does not answer.
    fn status(&self, tid: u32) -> Option<CallerStatus>;
    /// The system call that it is in; none when it is in none, or the supervisor does not answer.
    fn system_call(&self, tid: u32) -> Option<i64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_ranges_have_what_the_map_says_and_nothing_else() {
        let ranges = IdRanges::outside("         0      23001          2\n 7 0 1\n");
        for (id, is_there) in [(0, true), (1, false), (23_000, false), (23_002, true)] {
            assert_eq!(ranges.has(id), is_there, "{id}");
        }
        assert!(!ranges.has(23_003));
        assert!(IdRanges::outside("0 0 4294967295").has(u32::MAX - 1));
        assert!(!IdRanges::outside("").has(0));
    }
}
