//! Tools for any FUSE or virtiofs mount, and for any kernel. They know nothing of thrufs; the runs
//! of this repository are the other subcommands.

pub(crate) mod probe;
pub(crate) mod repro;
pub(crate) mod rules;
