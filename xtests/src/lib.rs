//! The harness as a library: what the `xtests` binary and the tests of real mounts share.

pub mod check;
pub mod report;
pub mod suite;
pub mod support;
