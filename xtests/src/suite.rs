//! `xtests suite NAME`: other people's test suites on a mount, one module per suite.
//!
//! A suite runs twice, on the native directory and on the mount, and only what the mount does
//! worse is a failure; expected failures would be data beside the suite, with a sentence each.

pub mod fsx;
pub mod pjdfstest;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::report::Report;

/// Which suite.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Name {
    /// POSIX semantics, 398 tests.
    Pjdfstest,
    /// Random operations on a file, with mmap.
    Fsx,
}

/// Arguments of `xtests suite`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The suite.
    #[arg(value_enum)]
    name: Name,
    /// A directory on the mount to test; a scratch thrufs mount if left out.
    #[arg(long, value_name = "DIR")]
    on: Option<PathBuf>,
}

/// The subcommand; the last line it prints is `N passed, N failed, N skipped`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut report = Report::default();
    match (args.name, &args.on) {
        (Name::Pjdfstest, None) => pjdfstest::check(&mut report)?,
        (Name::Pjdfstest, Some(dir)) => pjdfstest::compare(dir, &mut report)?,
        (Name::Fsx, None) => fsx::check(&mut report)?,
        (Name::Fsx, Some(dir)) => report.record("fsx", fsx::exercise(dir, 1)),
    }
    for entry in &report.failed {
        println!("FAILED  {}: {}", entry.name, entry.why);
    }
    for entry in &report.skipped {
        println!("skipped {}: {}", entry.name, entry.why);
    }
    println!("{}", report.summary());
    Ok(if report.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
