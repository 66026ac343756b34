//! Tests that lack something are skipped by name, with the missing thing, and counted apart.
//!
//! libtest knows no skip at run time, so a test that lacks something fails with a [`Missing`]
//! error, and [`case`] turns just that into a line in the file named by THRUFS_SKIP_LOG, which the
//! check runner subtracts from what libtest calls passed.

use std::fmt;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// What a test body returns.
pub type Outcome = Result<()>;

/// Variable with the file that collects skips, one `test<TAB>missing thing` a line.
pub const SKIP_LOG: &str = "THRUFS_SKIP_LOG";

/// Something a test needs and this machine or mount does not have.
#[derive(Debug)]
pub struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missing: {}", self.0)
    }
}

impl std::error::Error for Missing {}

/// The error that makes [`case`] skip the test: `return Err(missing("mkfs.xfs (xfsprogs)"))`.
pub fn missing(what: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Missing(what.into()))
}

/// Runs a test body and records it as skipped if that is how it ended.
pub fn case(body: impl FnOnce() -> Outcome) -> Outcome {
    let outcome = body();
    let Err(error) = &outcome else {
        return outcome;
    };
    let Some(Missing(what)) = error.downcast_ref::<Missing>() else {
        return outcome;
    };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed test");
    eprintln!("skipped: {name}: {what}");
    let Some(log) = std::env::var_os(SKIP_LOG) else {
        return Ok(());
    };
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(&log)
        .with_context(|| format!("cannot record a skip in {}", Path::new(&log).display()))?;
    file.write_all(format!("{name}\t{what}\n").as_bytes())?;
    Ok(())
}
