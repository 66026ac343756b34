//! `xtests check`: everything that must hold before a change goes in, in one command. Stages are a
//! table ([`stages::STAGES`]); this file runs them one by one with a line of progress each.
//!
//! Invariant: a stage that cannot run is reported as skipped with what is missing, and with
//! CI=true a skip that `check/skips.toml` does not list with a reason is a failure.

mod build;
mod cargo_tests;
mod deb;
mod debian;
mod expected;
mod kernels;
mod room;
mod stages;

mod workloads;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::report::Report;
use crate::support::interrupt::Interrupt;
use crate::support::skip::missing;
use stages::{STAGES, Stage};

/// How many of the slowest tests the summary names.
const SLOWEST: usize = 10;

/// Arguments of `xtests check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run only this stage, or all whose names begin with it: `mount` is the tier in all its modes
    /// (may be given several times).
    #[arg(long, value_name = "NAME")]
    stage: Vec<String>,
    /// Leave out a stage (`kernel`) that may not end within so many minutes of the start.
    #[arg(long, value_name = "NUMBER")]
    minutes: Option<u64>,
    /// List the stages and exit.
    #[arg(long)]
    list: bool,
}

/// The subcommand; the last line it prints is `N passed, N failed, N skipped`.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        for stage in STAGES {
            println!("{:18} {}", stage.name, stage.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    for name in &args.stage {
        let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        let known = STAGES.iter().any(|stage| stage.is_called(name));
        ensure!(
            known,
            "no stage is called {name:?}; there are: {}",
            names.join(", ")
        );
    }
    let named = |stage: &&Stage| args.stage.iter().any(|name| stage.is_called(name));
    let stages: Vec<&Stage> = if args.stage.is_empty() {
        STAGES.iter().collect()
    } else {
        STAGES.iter().filter(named).collect()
    };
    let interrupt = Interrupt::watch_programs()?;
    let began = Instant::now();
    let limit = args
        .minutes
        .map(|minutes| Duration::from_secs(60 * minutes));
    let mut all = Report::default();
    for (index, stage) in stages.iter().enumerate() {
        if interrupt.is_set() {
            break;
        }
        print!("[{:2}/{}] {:18} ", index + 1, stages.len(), stage.name);
        std::io::stdout().flush()?;
        let start = Instant::now();
        let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
        let report = expected::judge(run_stage(stage, left));
        println!("{} ({:.0?})", report.summary(), start.elapsed());
        print_details(&report);
        all.merge(report);
    }
    for (name, seconds) in all.slowest(SLOWEST) {
        println!("{seconds:7.1} s  {name}");
    }
    println!("{}", all.summary());
    Ok(if all.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_stage(stage: &Stage, left: Option<Duration>) -> Report {
    let mut report = Report::default();
    let outcome = match left {
        Some(left) if left < stage.longest() => Err(missing(format!(
            "{} minutes, of which {} are left: run it by itself (--stage {})",
            stage.longest().as_secs() / 60,
            left.as_secs() / 60,
            stage.name
        ))),
        _ => stages::provide(stage).and_then(|()| (stage.run)(&mut report)),
    };
    if let Err(error) = outcome {
        report.record(stage.name, Err(error));
    }
    report
}

fn print_details(report: &Report) {
    for entry in &report.skipped {
        println!("        skipped {}: {}", entry.name, entry.why);
    }
    for entry in &report.failed {
        println!("        FAILED  {}: {}", entry.name, entry.why);
    }
}
