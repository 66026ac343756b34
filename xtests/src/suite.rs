//! `xtests suite NAME`: other people's test suites on a mount, one module per suite.
//!
//! A suite runs natively first and then on each requested place; only results worse than native are
//! failures. Accepted ones are data (`xtests/suites/expect.toml`, a sentence each), and a listed
//! test that passes fails the run, so that the list stays current. Peers are shown beside and never
//! fail a run: they are not ours to repair.

mod dbench;
mod expect;
pub mod fio_verify;
pub mod fsx;
mod ltp;
mod options;
pub mod pjdfstest;
mod sandbox;
mod stress_ng;
mod table;
pub mod tested_fs;
mod trinity;
mod verdicts;
mod xfstests;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::report::Report;
use crate::support::install;
use crate::support::interrupt::{Interrupt, not_interrupted};
use crate::support::mount::{ALLOW_MMAP, BIN};
use crate::support::peers::Kind;
use crate::support::scratch::Backing;
use crate::support::skip::Missing;
pub use options::Options;
use table::Table;
use tested_fs::TestedFs;
pub use verdicts::{Verdict, Verdicts};

/// Which suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// POSIX semantics, 398 tests.
    Pjdfstest,
    /// Random operations on a file, with mmap, checked against a copy in memory.
    Fsx,
    /// The generic tests of xfstests that run on FUSE, from a built checkout (--dir).
    Xfstests,
    /// fio jobs that read back and verify what they wrote, by each I/O engine.
    FioVerify,
    /// stress-ng's file system stressors, a few seconds each.
    StressNg,
    /// Random system calls by an unprivileged user who sees nothing but the mount.
    Trinity,
    /// What a file server's clients do.
    Dbench,
    /// LTP's tests of calls on files, from an installed tree (--dir).
    Ltp,
    /// Every suite.
    All,
}

const SUITES: [Name; 8] = [
    Name::Pjdfstest,
    Name::Fsx,
    Name::FioVerify,
    Name::StressNg,
    Name::Trinity,
    Name::Dbench,
    Name::Xfstests,
    Name::Ltp,
];

impl Name {
    /// As on the command line and in expect.toml.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no name is hidden");
        value.get_name().to_owned()
    }

    /// Whether some of its tests fail on good file systems too. For the other suites a native
    /// failure is a fault of the set-up, which must not count against thrufs.
    fn may_fail_natively(self) -> bool {
        matches!(
            self,
            Self::Pjdfstest | Self::Xfstests | Self::StressNg | Self::Ltp
        )
    }

    /// Makes sure of the suite's programs.
    fn provide(self, options: &Options) -> Result<()> {
        match self {
            Self::Pjdfstest => pjdfstest::provide(),
            Self::Fsx => fsx::provide(),
            Self::Xfstests => xfstests::provide(options),
            Self::FioVerify => fio_verify::provide(),
            Self::StressNg => stress_ng::provide(),
            Self::Trinity => trinity::provide(),
            Self::Dbench => dbench::provide(),
            Self::Ltp => ltp::provide(options),
            Self::All => Ok(()),
        }
    }

    fn run(self, place: &TestedFs, options: &Options) -> Result<Verdicts> {
        let limit = options.limit();
        match self {
            Self::Pjdfstest => place.visit(Backing::Here, limit, options, pjdfstest::run),
            Self::Fsx => fsx::run(place, options),
            Self::Xfstests => xfstests::run(place, options),
            Self::Ltp => ltp::run(place, options),
            Self::FioVerify => {
                let options = options.and_with(ALLOW_MMAP);
                place.visit(Backing::Here, limit, &options, |dir| {
                    fio_verify::run(dir, &options)
                })
            }
            Self::StressNg => {
                let options = options.and_with(stress_ng::THRUFS).and_with(ALLOW_MMAP);
                place.visit(Backing::Here, limit, &options, |dir| {
                    stress_ng::run(dir, &options)
                })
            }
            Self::Trinity => place.visit(Backing::Tmpfs, limit, options, |dir| {
                trinity::run(dir, options)
            }),
            Self::Dbench => place.visit(Backing::Tmpfs, limit, options, |dir| {
                dbench::run(dir, options)
            }),
            Self::All => Ok(Verdicts::new()),
        }
    }
}

/// Arguments of `xtests suite`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The suite.
    #[arg(value_enum)]
    name: Name,
    /// Where: thrufs (a scratch mount), native, a peer's name, or a directory of any mount; may be
    /// given several times. The default is the comparison of thrufs with native.
    #[arg(long, value_name = "PLACE")]
    on: Vec<TestedFs>,
    /// Compare with the peers as well: passthrough_ll, passthrough_hp in its modes, bindfs.
    #[arg(long)]
    peers: bool,
    /// What has not begun after so many minutes is skipped, by name.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    #[command(flatten)]
    options: Options,
}

/// The subcommand; the last line it prints is `N passed, N failed, N skipped`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::watch_programs()?;
    let places = places(args);
    let names = match args.name {
        Name::All => SUITES.to_vec(),
        one => vec![one],
    };
    let mut table = Table::default();
    let mut report = Report::default();
    let end = Instant::now() + Duration::from_secs(60 * args.minutes);
    for name in names {
        if interrupt.is_set() {
            break;
        }
        let end = Some(end);
        report.merge(run_suite(name, &places, &args.options, end, &mut table));
    }
    println!("{table}");
    for entry in &report.skipped {
        println!("skipped {}: {}", entry.name, entry.why);
    }
    for entry in &report.failed {
        println!("FAILED  {}: {}", entry.name, entry.why);
    }
    println!("{}", report.summary());
    Ok(if report.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Native first, since everything else is compared with it.
fn places(args: &Args) -> Vec<TestedFs> {
    let mut places = vec![TestedFs::Native];
    places.extend(args.on.iter().cloned());
    if args.on.is_empty() {
        places.push(TestedFs::Thrufs);
    }
    if args.peers {
        places.extend(Kind::ALL.map(TestedFs::Peer));
    }
    let mut seen = Vec::new();
    for place in places {
        if !seen.contains(&place) {
            seen.push(place);
        }
    }
    seen
}

/// A stage of `xtests check`: the suite on a scratch mount of thrufs, against native.
pub fn check(name: Name, options: &Options, report: &mut Report) -> Result<()> {
    let places = [TestedFs::Native, TestedFs::Thrufs];
    let table = &mut Table::default();
    report.merge(run_suite(name, &places, options, None, table));
    Ok(())
}

/// Runs one suite in all places that it reaches before `end`; a missing thing skips the suite or
/// the place, by name.
fn run_suite(
    name: Name,
    places: &[TestedFs],
    options: &Options,
    end: Option<Instant>,
    table: &mut Table,
) -> Report {
    let mut report = Report::default();
    let suite = &name.name();
    if let Err(error) = build_thrufs(places).and_then(|()| name.provide(options)) {
        report.record(suite, Err(error));
        return report;
    }
    let mut native = None;
    for place in places {
        let shown = format!("{suite} on {place}");
        if let Err(error) = not_interrupted() {
            report.record(&shown, Err(error));
            break;
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            report.skip(shown, "no time was left: --minutes gives more".to_owned());
            continue;
        }
        eprint!("{shown} ... ");
        let began = Instant::now();
        let ran = name.run(place, options);
        eprintln!("{} s", began.elapsed().as_secs());
        let verdicts = match ran {
            Ok(verdicts) => verdicts,
            Err(error) => {
                match (place, error.downcast_ref::<Missing>()) {
                    (TestedFs::Peer(_), None) => report.skip(shown, format!("{error:#}")),
                    _ => report.record(&shown, Err(error)),
                }
                continue;
            }
        };
        table.add(suite, place, &verdicts, native.as_ref());
        match place {
            TestedFs::Native => {
                if !name.may_fail_natively() {
                    expect::judge(
                        &format!("{suite} natively"),
                        &verdicts,
                        None,
                        &[],
                        &mut report,
                    );
                }
                native = Some(verdicts);
            }
            TestedFs::Thrufs | TestedFs::Dir(_) => {
                let expected = expect::of(suite, options);
                expect::judge(suite, &verdicts, native.as_ref(), &expected, &mut report);
            }
            TestedFs::Peer(_) => {}
        }
    }
    report
}

/// Mounts use the thrufs that this checkout builds, unless THRUFS_BIN names another.
fn build_thrufs(places: &[TestedFs]) -> Result<()> {
    if !places.contains(&TestedFs::Thrufs) || std::env::var_os(BIN).is_some() {
        return Ok(());
    }
    install::thrufs().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_suite_after_the_end_skips_every_place_by_name() {
        let places = [TestedFs::Native, TestedFs::Dir("/".into())];
        let (options, end) = (Options::default(), Some(Instant::now()));
        let report = run_suite(Name::All, &places, &options, end, &mut Table::default());
        let skipped: Vec<&str> = report.skipped.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(skipped, ["all on native", "all on /"]);
    }
}
