//! `xtests fio`: the jobs of `fio-jobs` on thrufs, on its peers and on the native directory, side
//! by side, as a report with pictures.
//!
//! Invariant: results are compared only within one session: measured in turns, on the same files
//! ([`plan`], [`one_run`]); and every number comes with its spread and with the load of other processes ([`load`]).

mod backing_dir;
mod compare;
mod configs;
mod device;
pub(crate) mod guests;
mod html;
mod jobs;
mod load;
mod machine;
mod markdown;
mod names;
mod one_run;
mod output;
mod pictures;
mod plan;
mod program;
mod record;
mod reports;
mod server;
mod session;
mod sets;
mod state;
mod stats;
mod summary;
pub(crate) mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use xtests::support::install;
use xtests::support::interrupt::Interrupt;
use xtests::support::mount::BIN;
use xtests::support::stdout::print;

use configs::{Binary, Kind};
use session::Session;
use state::{Plan, State};

/// Arguments of `xtests fio`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Subcommand>,
    #[command(flatten)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum Subcommand {
    /// Show what changed beyond the noise from one report.json to another
    Compare(compare::Args),
    /// Compare `thrufs device` with virtiofsd, without a virtual machine: a front end plays the guest
    Device(device::Args),
}

/// What to measure.
#[derive(clap::Args, Debug)]
struct What {
    /// Jobs: FILE, or FILE:SECTION for one section of it (see --list)
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// Jobs by the name of a set (see --list); matrix if no JOB is given either
    #[arg(long, value_name = "SET")]
    set: Vec<String>,
    /// What to compare, separated by commas (see --list)
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = configs::DEFAULT)]
    configs: Vec<String>,
    /// A build of thrufs to measure instead of this checkout's; several for a before and after
    #[arg(long, value_name = "[LABEL=]PATH")]
    binary: Vec<Binary>,
    /// A directory on any other mount, as a configuration of its own
    #[arg(long, value_name = "DIR")]
    against: Vec<PathBuf>,
    /// tmpfs, or a directory on a disk; both tmpfs and the disk of target/ if left out
    #[arg(long, value_name = "tmpfs|DIR")]
    backing: Vec<String>,
    /// How often everything is run
    #[arg(long, value_name = "NUMBER", default_value = "5")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long fio runs each time
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    runtime: u32,
    /// The configuration that ratios are to
    #[arg(long, value_name = "CONFIG", default_value = "native")]
    baseline: String,
    /// A set of six jobs on tmpfs, 3 rounds of 1 second: less than 5 minutes
    #[arg(long, conflicts_with_all = ["set", "jobs", "backing", "rounds", "runtime"])]
    quick: bool,
    /// Drop all caches before each run, instead of reading the files natively first
    #[arg(long)]
    cold: bool,
    /// Go on with an interrupted session: the newest, or the one in DIR
    #[arg(long, value_name = "DIR", num_args = 0..=1, exclusive = true)]
    resume: Option<Option<PathBuf>>,
    /// Where the report goes; a directory below target/fio if left out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// List jobs, sets and configurations
    #[arg(long)]
    list: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Some(Subcommand::Compare(args)) => return compare::run(args),
        Some(Subcommand::Device(args)) => return device::run(args),
        None => {}
    }
    if args.what.list {
        return list();
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "xtests fio mounts file systems: run it as root (sudo)"
    );
    let engines = program::provide()?;
    // Before any other thread is started.
    let interrupt = Interrupt::watch()?;
    let (state, plan, runs) = match &args.what.resume {
        Some(dir) => {
            let dir = dir.clone().map_or_else(state::newest, Ok)?;
            State::resume(&dir)?
        }
        None => {
            let plan = plan_of(&args.what)?;
            (
                State::create(&plan, args.what.out.as_deref())?,
                plan,
                Vec::new(),
            )
        }
    };
    build(&plan)?;
    let mut session = Session::new(plan, state, runs, &engines)?;
    session.run(&interrupt)?;
    session.write_reports()
}

fn list() -> Result<ExitCode> {
    let all = jobs::load(&jobs::directory())?;
    let mut text = format!(
        "Sets (--set):\n{}\nConfigurations (--configs):\n{}\nJobs:\n",
        sets::list(&all),
        configs::list()
    );
    for job in &all {
        text += &format!("  {:<34} {}\n", job.name, job.question);
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The plan of the command line, checked as far as possible without running anything.
fn plan_of(what: &What) -> Result<Plan> {
    let all = jobs::load(&jobs::directory())?;
    let mut sets = what.set.clone();
    if what.quick {
        sets.push("quick".to_owned());
    } else if what.jobs.is_empty() && sets.is_empty() {
        sets.push("matrix".to_owned());
    }
    let jobs = sets::select(&all, &what.jobs, &sets)?;
    let configs = configs::parse(&what.configs, &what.binary, &what.against)?;
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    let baseline = match names.contains(&what.baseline.as_str()) {
        true => what.baseline.clone(),
        // Only a name from the command line is worth an error.
        false if what.baseline == "native" => names[0].to_owned(),
        false => {
            let remedy = "--baseline is one of --configs";
            return Err(names::unknown(
                "configuration",
                &what.baseline,
                names,
                remedy,
            ));
        }
    };
    let backings = match what.backing.as_slice() {
        [] if what.quick => vec!["tmpfs".to_owned()],
        [] => backing_dir::default_backings()?,
        backings => backings.to_vec(),
    };
    let (rounds, runtime_seconds) = if what.quick {
        (3, 1)
    } else {
        (what.rounds, what.runtime)
    };
    let against = what.against.iter().map(std::path::absolute);
    let plan = Plan {
        jobs: jobs.into_iter().map(|job| job.name).collect(),
        configs: what.configs.clone(),
        binaries: what.binary.clone(),
        against: against.collect::<std::io::Result<_>>()?,
        backings,
        rounds: rounds.into(),
        runtime_seconds,
        cold: what.cold,
        baseline,
        started: machine::now()?,
    };
    let runs = plan.rounds * plan.backings.len() * plan.jobs.len() * names.len();
    let time = plan::estimate(runs, Duration::from_secs(plan.runtime_seconds.into()));
    eprintln!(
        "{runs} runs: {} jobs x {} configurations x {} rounds x {} backings, about {} minutes",
        plan.jobs.len(),
        names.len(),
        plan.rounds,
        plan.backings.len(),
        time.as_secs().div_ceil(60)
    );
    Ok(plan)
}

/// This checkout's thrufs, if the session measures it and names no other.
fn build(plan: &Plan) -> Result<()> {
    let configs = configs::parse(&plan.configs, &plan.binaries, &plan.against)?;
    let wanted = configs
        .iter()
        .any(|config| matches!(config.kind, Kind::Thrufs { binary: None, .. }));
    if !wanted || std::env::var_os(BIN).is_some() {
        return Ok(());
    }
    install::thrufs().map(|_| ())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn what(words: &[&str]) -> What {
        let words = std::iter::once("fio").chain(words.iter().copied());
        Cli::try_parse_from(words)
            .expect("good arguments")
            .args
            .what
    }

    #[test]
    fn plan_of_quick_takes_less_than_five_minutes() {
        let plan = plan_of(&what(&["--quick"])).expect("a plan");
        let configs = configs::parse(&plan.configs, &[], &[]).expect("the defaults");
        let runs = plan.rounds * plan.backings.len() * plan.jobs.len() * configs.len();
        let runtime = Duration::from_secs(plan.runtime_seconds.into());
        let time = plan::estimate(runs, runtime);
        // Building and unmounting need some of it too.
        assert!(time < Duration::from_secs(285), "{time:?}");
    }

    #[test]
    fn plan_of_a_baseline_that_is_not_compared_is_refused() {
        let words = ["--configs", "thrufs,thrufs-t1", "--baseline", "thrufs-t2"];
        let error = plan_of(&what(&words)).expect_err("not in the list");
        assert!(error.to_string().contains("did you mean thrufs"), "{error}");
    }

    #[test]
    fn plan_without_the_native_directory_takes_the_first_as_baseline() {
        let plan = plan_of(&what(&["--configs", "thrufs,thrufs-t1"])).expect("a plan");
        assert_eq!(plan.baseline, "thrufs");
    }
}
