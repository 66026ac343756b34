//! The process whose request is served: what the protocol says of it, and what /proc adds.

pub(crate) mod inspect;
pub(crate) mod proc;

use serde::{Deserialize, Serialize};

/// The process that made the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File system uid.
    pub uid: u32,
    /// File system gid.
    pub gid: u32,
    /// Thread id in the daemon's pid namespace; 0 when it has none there.
    pub pid: u32,
}

/// What /proc/TID/status says of a thread, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerStatus {
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities; none where the line is not there.
    pub effective: Option<u64>,
    /// Signals that are pending and not blocked.
    pub pending: u64,
}

/// Answers what /proc says of a thread whose request is being served.
pub trait Callers: Send + Sync {
    /// Its credentials and signals; none when it is gone or the supervisor does not answer.
    fn status(&self, tid: u32) -> Option<CallerStatus>;
    /// The system call that it is in; none when it is in none, or the supervisor does not answer.
    fn system_call(&self, tid: u32) -> Option<i64>;
}
