//! Tests that lack something are skipped by name, with the missing thing, and counted apart.
//!
//! libtest knows no skip at run time, so a test that lacks something fails with a [`Missing`]
//! error, and [`case`] turns just that into a line in the file named by THRUFS_SKIP_LOG, which the
//! check runner subtracts from libtest's passes. A test's duration is reported the same way, since
//! a stable libtest does not print it.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

/// What a test body returns.
pub type Outcome = Result<()>;

/// Variable with the file that collects skips, one `test<TAB>missing thing` a line.
pub const SKIP_LOG: &str = "THRUFS_SKIP_LOG";

/// Variable with the file that collects times, one `test<TAB>seconds` a line.
pub const TIME_LOG: &str = "THRUFS_TIME_LOG";

/// Something a test needs and this machine or mount does not have.
#[derive(Debug, thiserror::Error)]
#[error("missing: {0}")]
pub struct Missing(String);

/// The error that makes [`case`] skip the test: `return Err(missing("mkfs.xfs (xfsprogs)"))`.
pub fn missing(what: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Missing(what.into()))
}

/// Runs a test body and records how long it took, and whether it skipped itself.
pub fn case(body: impl FnOnce() -> Outcome) -> Outcome {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed test");
    let began = Instant::now();
    let outcome = body();
    record(TIME_LOG, name, began.elapsed().as_secs_f64())?;
    let Err(error) = &outcome else {
        return outcome;
    };
    let Some(Missing(what)) = error.downcast_ref::<Missing>() else {
        return outcome;
    };
    eprintln!("skipped: {name}: {what}");
    record(SKIP_LOG, name, what)
}

/// Adds a line to the file that a variable names, if it is set.
fn record(variable: &str, name: &str, what: impl fmt::Display) -> Outcome {
    let Some(log) = std::env::var_os(variable) else {
        return Ok(());
    };
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(&log)
        .with_context(|| format!("{variable}: open {}", Path::new(&log).display()))?;
    // In one write(2): other tests write to the file at the same time.
    Ok(file.write_all(format!("{name}\t{what}\n").as_bytes())?)
}
