//! One run, as `report.json` has it; and what strace counted.

use serde::{Deserialize, Serialize};

use xtests::support::call_counts::Calls;

use super::super::load::Load;

/// One run of one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) round: usize,
    pub(super) backing: String,
    pub(super) program: String,
    pub(super) config: String,
    pub(super) load: Option<Load>,
    /// By opcode; thrufs alone counts them.
    pub(super) requests: Vec<(String, u64)>,
    /// Why there is no measurement.
    pub(super) error: Option<String>,
}

/// One server under one program.
pub(super) struct Counted {
    pub(super) program: String,
    pub(super) config: String,
    pub(super) calls: Calls,
}
