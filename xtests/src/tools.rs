//! Tools for anybody with a FUSE or virtiofs mount, or a kernel to ask. They know nothing of thrufs; the runs of
//! this repository are the other subcommands.

pub(crate) mod probe;
pub(crate) mod repro;
pub(crate) mod rules;
