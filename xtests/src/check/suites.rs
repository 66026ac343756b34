//! Stages that run other people's suites, each against the native directory, in bounded time.

use anyhow::Result;

use crate::report::Report;
use crate::suite::{Name, Options, check};

pub(super) fn pjdfstest(report: &mut Report) -> Result<()> {
    check(Name::Pjdfstest, &Options::default(), report)
}

pub(super) fn fsx(report: &mut Report) -> Result<()> {
    check(Name::Fsx, &Options::default(), report)
}

pub(super) fn fio_verify(report: &mut Report) -> Result<()> {
    check(Name::FioVerify, &Options::default(), report)
}

/// The minimum: a second for each stressor.
pub(super) fn stress_ng(report: &mut Report) -> Result<()> {
    check(Name::StressNg, &Options::lasting(5), report)
}

pub(super) fn trinity(report: &mut Report) -> Result<()> {
    check(Name::Trinity, &Options::lasting(20), report)
}

pub(super) fn dbench(report: &mut Report) -> Result<()> {
    check(Name::Dbench, &Options::lasting(10), report)
}

/// Cannot be installed: its checkout is built by hand and named by a variable.
pub(super) fn xfstests(report: &mut Report) -> Result<()> {
    let options = Options::with_checkout(std::env::var_os("THRUFS_XFSTESTS").map(Into::into));
    check(Name::Xfstests, &options, report)
}
