//! `xtests suite NAME`: other people's test suites on a mount, one module per suite.
//!
//! A suite runs natively first and then on each place asked for; only what a place does worse than
//! the native directory is a failure. What it may do worse is data (`xtests/suites/expect.toml`, a
//! sentence each), and a test that passes although it is listed fails the run, so that the list
//! cannot grow old. Peers are shown beside and never fail a run: they are not ours to repair.

mod dbench;
mod expect;
mod fio_verify;
pub mod fsx;
mod pjdfstest;
pub mod place;
mod sandbox;
mod stress_ng;
mod table;
mod trinity;
mod verdicts;
mod xfstests;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::install;
use crate::report::Report;
use crate::support::interrupt::{Interrupt, not_interrupted};
use crate::support::mount::{ALLOW_MMAP, BIN};
use crate::support::peers::Kind;
use crate::support::scratch::Backing;
use crate::support::skip::Missing;
use place::Place;
use table::Table;
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
    /// Every suite.
    All,
}

const SUITES: [Name; 7] = [
    Name::Pjdfstest,
    Name::Fsx,
    Name::FioVerify,
    Name::StressNg,
    Name::Trinity,
    Name::Dbench,
    Name::Xfstests,
];

impl Name {
    /// As on the command line and in expect.toml.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pjdfstest => "pjdfstest",
            Self::Fsx => "fsx",
            Self::Xfstests => "xfstests",
            Self::FioVerify => "fio-verify",
            Self::StressNg => "stress-ng",
            Self::Trinity => "trinity",
            Self::Dbench => "dbench",
            Self::All => "all",
        }
    }

    /// Whether tests of it fail on good file systems too. Of the others a native failure is a fault
    /// of the suite's set-up, which must not pass for what thrufs is measured by.
    fn may_fail_natively(self) -> bool {
        matches!(self, Self::Pjdfstest | Self::Xfstests | Self::StressNg)
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
            Self::All => Ok(()),
        }
    }

    fn run(self, place: &Place, options: &Options) -> Result<Verdicts> {
        let limit = options.limit();
        match self {
            Self::Pjdfstest => place.visit(Backing::Here, limit, options, pjdfstest::run),
            Self::Fsx => fsx::run(place, options),
            Self::Xfstests => xfstests::run(place, options),
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

/// How a suite is run; what is not given is each suite's own.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// An option for `thrufs mount` (may be given several times): `--with=--cache=never`.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    with: Vec<String>,
    /// A built checkout of xfstests.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long trinity and dbench run, and all stressors of stress-ng together (default: 60, or 5
    /// with --quick).
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..))]
    seconds: Option<u64>,
    /// How many operations fsx does in each cache mode (default: 100,000, or 5,000 with --quick).
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    operations: Option<u64>,
    /// The least that says something, for `suite all --peers`.
    #[arg(long)]
    quick: bool,
    /// Only these tests of xfstests, instead of the selection.
    #[arg(long, value_name = "generic/NNN", value_delimiter = ',')]
    test: Vec<String>,
}

impl Options {
    /// For suites that do as many operations as they are told to.
    pub fn counting(operations: u64) -> Self {
        Self {
            operations: Some(operations),
            ..Self::default()
        }
    }

    /// For suites that run as long as they are told to.
    pub fn lasting(seconds: u64) -> Self {
        Self {
            seconds: Some(seconds),
            ..Self::default()
        }
    }

    /// With this checkout of xfstests, if there is one.
    pub fn with_checkout(dir: Option<PathBuf>) -> Self {
        Self {
            dir,
            ..Self::default()
        }
    }

    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 5 } else { 60 })
    }

    fn operations(&self) -> u64 {
        self.operations
            .unwrap_or(if self.quick { 5_000 } else { 100_000 })
    }

    /// When a mount is taken for hung.
    fn limit(&self) -> Duration {
        Duration::from_secs(600 + 2 * self.seconds())
    }

    /// With another option of `thrufs mount`, which those of the user override.
    fn and_with(&self, option: &str) -> Self {
        let mut options = self.clone();
        options.with.insert(0, option.to_owned());
        options
    }

    fn says_cache_mode(&self) -> bool {
        self.with.iter().any(|option| option.starts_with("--cache"))
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
    on: Vec<Place>,
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

/// Native first, for everything else is compared with it.
fn places(args: &Args) -> Vec<Place> {
    let mut places = vec![Place::Native];
    places.extend(args.on.iter().cloned());
    if args.on.is_empty() {
        places.push(Place::Thrufs);
    }
    if args.peers {
        places.extend(Kind::ALL.map(Place::Peer));
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
    let places = [Place::Native, Place::Thrufs];
    report.merge(run_suite(
        name,
        &places,
        options,
        None,
        &mut Table::default(),
    ));
    Ok(())
}

/// Runs one suite in all places that it comes to before `end`; what is missing makes a skip by the
/// suite's or the place's name.
fn run_suite(
    name: Name,
    places: &[Place],
    options: &Options,
    end: Option<Instant>,
    table: &mut Table,
) -> Report {
    let mut report = Report::default();
    let suite = name.name();
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
                    (Place::Peer(_), None) => report.skip(shown, format!("{error:#}")),
                    _ => report.record(&shown, Err(error)),
                }
                continue;
            }
        };
        table.add(suite, place, &verdicts, native.as_ref());
        match place {
            Place::Native => {
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
            Place::Thrufs | Place::Dir(_) => {
                let expected = expect::of(suite, options);
                expect::judge(suite, &verdicts, native.as_ref(), &expected, &mut report);
            }
            Place::Peer(_) => {}
        }
    }
    report
}

/// The mounts of thrufs are of what this checkout builds, unless THRUFS_BIN names another.
fn build_thrufs(places: &[Place]) -> Result<()> {
    if !places.contains(&Place::Thrufs) || std::env::var_os(BIN).is_some() {
        return Ok(());
    }
    install::thrufs().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_suite_after_the_end_skips_every_place_by_name() {
        let places = [Place::Native, Place::Dir("/".into())];
        let (options, end) = (Options::default(), Some(Instant::now()));
        let report = run_suite(Name::All, &places, &options, end, &mut Table::default());
        let skipped: Vec<&str> = report.skipped.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(skipped, ["all on native", "all on /"]);
    }
}
