//! `xtests kernel fio`: the jobs of `fio-jobs` in guests, on several kernels, by virtiofsd and by thrufs.
//!
//! `xtests fio` ([`guests`]) orders, measures and reports the runs; here a kernel is booted. Times
//! in User Mode Linux mean little, since its system calls are slow, and these kernels have
//! detectors: ratios of neighbours mean something if they exceed those of the baseline booted
//! again; counts of requests always do. Invariant: the kernels of a table differ in their series
//! alone, and none has lockdep, which one complaint would turn off in the middle.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use thrufs_lab::{Lab, Machine, Mark, Outcome};
use xtests::support::install;
use xtests::support::mount::BIN;

use super::build_args::{BuildArgs, say};
use super::case::Case;
use super::plan::{self, Built, Purpose};
use super::run::visible;
use super::suites;
use super::virtiofs::Server;
use crate::fio::guests::{self, Answer, Boot, Session, Task, serves_device};

/// The two of the mailing list threads, and jobs whose writes begin or end inside of a page.
const JOBS: [&str; 5] = [
    "seqwrite-psync:64k",
    "randwrite-psync:64k",
    "seqwrite-psync-odd:64k",
    "seqwrite-psync-append:4000",
    "seqwrite-psync-append:64000",
];
/// MiB: what an appender writes is on a tmpfs and in the cache of its mount.
const MEMORY: u32 = 3072;
/// For a boot, and for each run beside fio's runtime.
const SLACK: Duration = Duration::from_secs(60);

/// Arguments of `xtests kernel fio`.
#[derive(Parser)]
#[command(mut_arg("variant", |arg| arg.default_value("one-page,stock,patched")))]
pub(super) struct Args {
    /// Jobs, as of `xtests fio`: FILE, or FILE:SECTION
    #[arg(value_name = "JOB", default_values = JOBS)]
    job: Vec<String>,
    #[command(flatten)]
    build: BuildArgs,
    /// `virtiofsd` or `thrufs-device` on the host (with `-qN` for N request queues), or thrufs in the guest, with
    /// suffixes such as `thrufs-one-page`
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "virtiofsd,thrufs"
    )]
    server: Vec<String>,
    /// The kernel that ratios are to, server by server, or one kernel and server for all; the first kernel if left out
    #[arg(long, value_name = "KERNEL[/SERVER]")]
    baseline: Option<String>,
    /// What virtiofs devices have: tmpfs, or a directory on a disk (thrufs has the guest's tmpfs)
    #[arg(long, value_name = "tmpfs|DIR", default_value = "tmpfs")]
    backing: Vec<String>,
    /// How often each kernel is booted
    #[arg(long, value_name = "NUMBER", default_value = "5")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long fio runs each time
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=60))]
    runtime: u32,
    /// Where the report goes; a directory below target/fio if left out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    /// The servers that are processes of the host's.
    fn devices(&self) -> impl Iterator<Item = &String> {
        self.server.iter().filter(|name| serves_device(name))
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "xtests kernel fio mounts a tmpfs for virtiofs devices: run it as root (sudo)"
    );
    let mut session = Session::new(&guests::Wanted {
        jobs: &args.job,
        kernels: &args.build.variant,
        servers: &args.server,
        backings: &args.backing,
        rounds: args.rounds.into(),
        runtime_seconds: args.runtime,
        baseline: args.baseline.as_deref(),
        out: args.out.as_deref(),
    })?;
    let lab = Lab::new(&args.build.lab, args.build.jobs)?;
    visible(lab.dir())?;
    visible(&std::env::current_exe().context("finding the path of this program")?)?;
    let thrufs = match args.server.iter().all(|name| serves_device(name)) {
        false => install::thrufs()?,
        true => PathBuf::new(),
    };
    let devices = args.devices().map(|name| Server::describe(name));
    let devices = devices.collect::<anyhow::Result<_>>()?;
    let kernels = plan::build(&args.build, Purpose::UserMode)?;
    let sources = kernels.iter().map(|built| built.kernel.source.clone());
    let built = guests::Built {
        sources: sources.collect(),
        devices,
    };
    session.run(&built, |boot| {
        ask(
            &kernels[boot.kernel],
            boot,
            args,
            &lab,
            &thrufs.display().to_string(),
        )
    })?;
    session.write_reports()
}

/// Boots a guest with its tasks, and collects the answers.
fn ask(
    built: &Built,
    boot: &Boot<'_>,
    args: &Args,
    lab: &Lab,
    thrufs: &str,
) -> anyhow::Result<Vec<Answer>> {
    let name = format!("fio-{}", built.name.replace('/', "-"));
    let dir = lab.dir().join("run").join(name);
    let cases = boot
        .tasks
        .iter()
        .map(|task| case(task, args.runtime, thrufs));
    let cases: Vec<Case> = cases.collect::<anyhow::Result<_>>()?;
    let (_list, init) = suites::first_process(&cases, &dir)?;
    let servers = args
        .devices()
        .map(|name| Server::plain(name, &dir, boot.source));
    let servers: Vec<Server> = servers.collect::<anyhow::Result<_>>()?;
    let machine = Machine {
        memory: MEMORY,
        cpus: built.cpus,
        devices: servers.iter().map(Server::device).collect(),
        init,
        kernel_arguments: vec!["lockdep.prove_locking=0".to_owned()],
        stop: Arc::clone(&boot.stop),
        ..Machine::default()
    };
    let each = Duration::from_secs(args.runtime.into()) + SLACK;
    let deadline = SLACK + each * u32::try_from(cases.len())?;
    let outcome = machine.boot(&built.kernel, &dir, deadline)?;
    for report in &outcome.reports {
        let during = report.during.as_deref().unwrap_or("no run");
        say(&format!(
            "{}: during {during}: {}",
            built.name, report.lines[0]
        ));
    }
    Ok(cases
        .iter()
        .map(|case| answer(&outcome, &case.name))
        .collect())
}

fn case(task: &Task, runtime: u32, thrufs: &str) -> anyhow::Result<Case> {
    let runtime = format!("--runtime={runtime}");
    let words = ["measure", &task.job, &task.server, &runtime];
    let mut case = suites::own(&task.name(), &words)?;
    case.environment.push((BIN.to_owned(), thrufs.to_owned()));
    Ok(case)
}

/// The guest's answer for one case.
fn answer(outcome: &Outcome, name: &str) -> Answer {
    let console = outcome.console.display();
    match outcome.verdicts.iter().find(|verdict| verdict.test == name) {
        Some(verdict) if verdict.mark == Mark::Pass => Ok(verdict.detail.clone()),
        Some(verdict) => Err(verdict.detail.clone()),
        None => Err(format!(
            "the guest has said nothing of it; its console is {console}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use thrufs_lab::{End, Verdict};

    use super::*;

    #[test]
    fn arguments_left_out_are_three_kernels_and_two_servers() {
        let args = Args::try_parse_from(["fio"]).expect("all have defaults");
        assert_eq!(args.build.variant, ["one-page", "stock", "patched"]);
        assert_eq!(args.server, ["virtiofsd", "thrufs"]);
        assert_eq!(args.job, JOBS);
        let words = [
            "fio",
            "seqwrite-psync:4k",
            "--variant",
            "stock,6.12/stock",
            "--rounds",
            "1",
        ];
        let args = Args::try_parse_from(words).expect("good arguments");
        assert_eq!(args.build.variant, ["stock", "6.12/stock"]);
        assert_eq!(
            (args.job, args.rounds),
            (vec!["seqwrite-psync:4k".to_owned()], 1)
        );
        for bad in [["--rounds", "0"], ["--runtime", "0"], ["--runtime", "61"]] {
            assert!(
                Args::try_parse_from([&["fio"], bad.as_slice()].concat()).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn negative_control_with_one_page_has_a_patch() {
        let base = plan::Base::find(plan::Base::NEWEST).expect("there is a newest");
        assert_eq!(base.series("one-page").expect("it is there").len(), 1);
    }

    #[test]
    fn answer_is_a_result_only_if_the_guest_gave_a_pass() {
        let verdict = |test: &str, mark, detail: &str| Verdict {
            test: test.to_owned(),
            mark,
            detail: detail.to_owned(),
        };
        let outcome = Outcome {
            verdicts: vec![
                verdict("a:1/thrufs", Mark::Pass, "{}"),
                verdict("b:1/thrufs", Mark::Fail, "fio: broken"),
            ],
            reports: Vec::new(),
            end: End::Died,
            running: None,
            console: "/console".into(),
            took: Duration::ZERO,
        };
        assert_eq!(answer(&outcome, "a:1/thrufs"), Ok("{}".to_owned()));
        assert_eq!(
            answer(&outcome, "b:1/thrufs"),
            Err("fio: broken".to_owned())
        );
        let silent = answer(&outcome, "c:1/thrufs").expect_err("no word of it");
        assert!(silent.contains("/console"), "{silent}");
    }
}
