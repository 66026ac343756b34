//! The cases of this repository in a guest, by their names in tables: the same programs that run on
//! any machine, on a mount of thrufs or of virtiofs. `grep -rn virtiofs/ghost xtests/src` finds a
//! case and what is expected of it.
//!
//! Invariant: a failing scenario's error begins with the observation, because expectations quote
//! it. A scenario passes only if the kernel is right, not if it does what its version is known to do.

mod folios;
mod instructions;
mod programs;
mod requests;
mod virtiofs;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use thrufs_rules::Limits;
use xtests::suite::{Options, fsx};
use xtests::support::command::{output, succeed};
use xtests::support::{Backing, Mount};

use super::both_sides;
use super::case::{LONGEST_CASE, Transport};
use super::devices::{AUTO, TAG};
use super::verdict::LACKS;
use crate::fio::guests;

/// The reproducer's random mode, by its name in tables.
pub(super) const RANDOM: &str = "repro/random";
/// In no table: `xtests kernel instructions` boots a machine that counts for it.
pub(super) const INSTRUCTIONS: &str = "instructions";
/// A case of the reproducer.
const APPEND: &str = "append-beside-store";

/// A case of ours, by its name in tables and in expect.toml.
#[derive(Debug)]
struct Scenario {
    name: &'static str,
    on: &'static [Transport],
    /// The device that it mounts, where it is about devices.
    device: &'static str,
    /// Runs on a mount; returns the observation.
    run: Body,
}

const FUSE: &[Transport] = &[Transport::Fuse];
const VIRTIOFS: &[Transport] = &[Transport::Virtiofs];
const BOTH: &[Transport] = &[Transport::Fuse, Transport::Virtiofs];

type Body = fn(&TestedDir, &Args) -> anyhow::Result<String>;

const fn scenario(name: &'static str, on: &'static [Transport], run: Body) -> Scenario {
    Scenario {
        name,
        on,
        device: TAG,
        run,
    }
}

/// One of virtiofs alone, on a device that refuses nothing.
const fn on_device(name: &'static str, device: &'static str, run: Body) -> Scenario {
    Scenario {
        device,
        ..scenario(name, VIRTIOFS, run)
    }
}

/// All scenarios, in the order of the table.
const SCENARIOS: &[Scenario] = &[
    scenario("thrufs/daemon", FUSE, |dir, _| daemon(dir)),
    scenario("thrufs/requests", FUSE, count_requests),
    scenario("thrufs/folios", FUSE, |dir, _| folios::check(dir.path())),
    scenario("thrufs/fsx", FUSE, run_fsx),
    scenario("virtiofs/requests", VIRTIOFS, count_requests),
    scenario("virtiofs/folios", VIRTIOFS, |dir, _| {
        folios::check(dir.path())
    }),
    scenario("virtiofs/partly-readable", VIRTIOFS, |dir, _| {
        virtiofs::partly_readable(dir.path())
    }),
    scenario("virtiofs/refused", VIRTIOFS, |dir, _| {
        virtiofs::refused(dir.path())
    }),
    scenario("virtiofs/ghost", VIRTIOFS, |dir, _| {
        virtiofs::ghost(dir.path())
    }),
    on_device(both_sides::NAME, AUTO, |dir, _| {
        both_sides::work(dir.path())
    }),
    on_device("virtiofs/overlay", AUTO, |dir, _| {
        programs::overlay(dir.path())
    }),
    on_device("virtiofs/pjdfstest", AUTO, |dir, _| {
        programs::pjdfstest(dir.path())
    }),
    on_device("virtiofs/git", AUTO, |dir, _| programs::git(dir.path())),
    on_device("virtiofs/fsx-auto", AUTO, run_fsx),
    on_device("virtiofs/fsx-always", "always", run_fsx),
    on_device("virtiofs/fsx-never", "never", run_fsx),
    on_device("virtiofs/fsx-metadata", "metadata", run_fsx),
    on_device("virtiofs/fsx-writeback", "writeback", run_fsx),
    // All cases but the next one: a defect of the kernel must not hide the others.
    scenario("repro/family", BOTH, |dir, _| repro_family(dir)),
    scenario("repro/append-beside-store", BOTH, |dir, _| {
        repro(dir.path(), &["--deadline=20", "--case", APPEND])
    }),
    scenario(RANDOM, BOTH, repro_random),
    scenario(INSTRUCTIONS, &[], |dir, _| {
        instructions::measure(dir.path())
    }),
];

/// The scenarios of a transport, in the order of the table.
pub(super) fn names(on: Transport) -> impl Iterator<Item = &'static str> {
    let all = SCENARIOS.iter();
    all.filter(move |scenario| scenario.on.contains(&on))
        .map(|scenario| scenario.name)
}

/// The device that the case `name` mounts.
pub(super) fn device_of(name: &str) -> &'static str {
    find(name).map_or(TAG, |scenario| scenario.device)
}

fn find(name: &str) -> Result<&'static Scenario, String> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.ok_or_else(|| format!("there is no scenario {name}"))
}

#[derive(Debug, Parser)]
pub(super) struct Args {
    #[arg(value_parser = find)]
    scenario: &'static Scenario,
    #[arg(long, value_enum, default_value = "fuse")]
    on: Transport,
    /// How a mount of thrufs caches.
    #[arg(long, default_value = "auto")]
    cache: String,
    /// How long the random mode runs.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many operations fsx does.
    #[arg(long, default_value_t = 1000)]
    operations: u64,
}

/// Arguments of the hidden subcommand that asks one question of the probe.
#[derive(Debug, Parser)]
pub(super) struct AskArgs {
    question: String,
    /// The healthy beginnings of the answer.
    #[arg(long, required = true)]
    healthy: Vec<String>,
}

/// Arguments of the hidden subcommand that runs one job of fio.
#[derive(Debug, Parser)]
pub(super) struct MeasureArgs {
    job: String,
    server: String,
    /// How long, in seconds.
    #[arg(long)]
    runtime: u32,
}

/// Runs one scenario; a missing feature has an exit code of its own.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match run_scenario(args) {
        Ok(said) => {
            println!("{said}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is::<xtests::support::skip::Missing>() => {
            println!("{error}");
            Ok(ExitCode::from(LACKS))
        }
        Err(error) => Err(error),
    }
}

fn run_scenario(args: &Args) -> anyhow::Result<String> {
    let limit = LONGEST_CASE + Duration::from_secs(args.seconds);
    let dir = match args.on {
        Transport::Fuse => TestedDir::thrufs(args, limit)?,
        Transport::Virtiofs => TestedDir::Virtiofs(virtiofs::Mounted::new(args.scenario.device)?),
    };
    let said = (args.scenario.run)(&dir, args);
    // Also after a failure: the device can be mounted once at a time.
    let left = dir.leave();
    let said = said?;
    left?;
    Ok(said)
}

fn count_requests(dir: &TestedDir, _args: &Args) -> anyhow::Result<String> {
    requests::check(dir.path(), &dir.limits()?)
}

fn run_fsx(dir: &TestedDir, args: &Args) -> anyhow::Result<String> {
    fsx::exercise(dir.path(), 7, &Options::counting(args.operations))?;
    Ok(format!("{} operations", args.operations))
}

fn repro_family(dir: &TestedDir) -> anyhow::Result<String> {
    let others = crate::tools::repro::cases().filter(|name| *name != APPEND);
    let cases = format!("--case={}", others.collect::<Vec<_>>().join(","));
    repro(dir.path(), &["--deadline=5", "--abort", &cases])
}

fn repro_random(dir: &TestedDir, args: &Args) -> anyhow::Result<String> {
    let seconds = format!("--seconds={}", args.seconds);
    repro(dir.path(), &["--random", "--deadline=20", &seconds])
}

/// The directory under test.
enum TestedDir {
    Thrufs(Box<Mount>),
    Virtiofs(virtiofs::Mounted),
}

impl TestedDir {
    fn thrufs(args: &Args, limit: Duration) -> anyhow::Result<Self> {
        let cache = format!("--cache={}", args.cache);
        let mut options = vec![cache.as_str()];
        if args.scenario.name == INSTRUCTIONS {
            // The small kernels that count instructions have no seccomp.
            options.push("--seccomp=none");
        }
        let mount = Mount::new(Backing::Tmpfs, &options)?;
        Ok(Self::Thrufs(Box::new(mount.allow(limit))))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Thrufs(mount) => mount.dir(),
            Self::Virtiofs(mounted) => mounted.dir(),
        }
    }

    /// The limits of a WRITE.
    fn limits(&self) -> anyhow::Result<Limits> {
        match self {
            Self::Thrufs(_) => Ok(Limits::default()),
            Self::Virtiofs(_) => virtiofs::Mounted::limits(),
        }
    }

    /// Unmounts, which must succeed.
    fn leave(self) -> anyhow::Result<()> {
        match self {
            Self::Thrufs(mount) => mount.unmount(),
            Self::Virtiofs(mounted) => mounted.leave(),
        }
    }
}

/// The daemon works on this kernel: written bytes are in SOURCE when write(2) returns, and can be
/// read back, renamed, removed.
fn daemon(dir: &TestedDir) -> anyhow::Result<String> {
    let TestedDir::Thrufs(mount) = dir else {
        bail!(
            "there is no daemon of thrufs behind {}",
            dir.path().display()
        );
    };
    let content: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.path("f"))?;
    file.write_all(&content)?;
    file.write_all_at(b"unaligned", 4090)?;
    let mut expected = content;
    expected[4090..4099].copy_from_slice(b"unaligned");
    ensure!(
        std::fs::read(mount.source("f"))? == expected,
        "SOURCE lacks what was written"
    );
    mount.drop_caches()?;
    file.rewind()?;
    let mut seen = Vec::new();
    file.read_to_end(&mut seen)?;
    ensure!(seen == expected, "what is read is not what was written");
    std::fs::create_dir(mount.path("d"))?;
    std::fs::rename(mount.path("f"), mount.path("d/g"))?;
    ensure!(mount.source("d/g").is_file(), "rename did not reach SOURCE");
    std::fs::remove_file(mount.path("d/g"))?;
    let mut status = Command::new(xtests::support::mount::thrufs()?);
    let status = succeed(status.arg("status").arg(mount.dir()))?;
    ensure!(
        status.contains("WRITE"),
        "the status knows no WRITE:\n{status}"
    );
    let version = status
        .lines()
        .find(|line| line.starts_with("protocol"))
        .unwrap_or_default();
    Ok(version.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// This program, with a subcommand and `--json`; the document, whatever the exit code.
fn own(arguments: &[&str], path: Option<&Path>) -> anyhow::Result<serde_json::Value> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(arguments).arg("--json").args(path);
    let said = output(&mut command)?;
    serde_json::from_slice(&said.stdout).with_context(|| {
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        format!(
            "{} said no JSON ({}): {words}",
            arguments.join(" "),
            said.status
        )
    })
}

/// Runs the reproducer; the error names the bad cases.
fn repro(dir: &Path, options: &[&str]) -> anyhow::Result<String> {
    let mut arguments = vec!["repro"];
    arguments.extend(options);
    let document = own(&arguments, Some(dir))?;
    let empty = Vec::new();
    let cases = document["cases"].as_array().unwrap_or(&empty);
    ensure!(!cases.is_empty(), "no case was run: {document}");
    let (mut bad, mut passed, mut lacking) = (Vec::new(), 0, Vec::new());
    for case in cases {
        let name = case["case"].as_str().unwrap_or("?");
        match case["verdict"].as_str() {
            Some("ok") => passed += 1,
            Some("lacks") => lacking.push(name),
            verdict => bad.push(format!("{} {name} {}", verdict.unwrap_or("?"), seen(case))),
        }
    }
    ensure!(bad.is_empty(), "{}", bad.join(", "));
    let lacking = lacking.join(", ");
    ensure!(passed > 0, "nothing could be run, lacking: {lacking}");
    let last = cases.last().map(seen).unwrap_or_default();
    Ok(format!(
        "{passed} cases ok, not possible here: {lacking}; {last}"
    ))
}

/// The reproducer's detail of a case, or where its first thread is stuck.
fn seen(case: &serde_json::Value) -> String {
    if let Some(detail) = case["detail"].as_str() {
        return detail.to_owned();
    }
    let thread = &case["threads"][0];
    let frames = thread["stack"].as_array().into_iter().flatten();
    let frames: Vec<&str> = frames
        .filter_map(serde_json::Value::as_str)
        .take(8)
        .collect();
    if frames.is_empty() {
        return format!("({})", thread["wchan"].as_str().unwrap_or("no stack"));
    }
    format!("({})", frames.join(" < "))
}

/// Asks the probe one question.
pub(super) fn ask(args: &AskArgs) -> anyhow::Result<ExitCode> {
    // Longer than outside: a guest on a busy host is slow.
    let words = ["probe", "--deadline=10", "--question", &args.question];
    let document = own(&words, None)?;
    let row = &document["rows"][0];
    let answer = row["answer"].as_str().context("the probe gave no answer")?;
    ensure!(!row["failed"].as_bool().unwrap_or(true), "{answer}");
    let well = args
        .healthy
        .iter()
        .any(|start| answer.starts_with(start.as_str()));
    ensure!(well, "{answer}");
    println!("{answer}");
    Ok(ExitCode::SUCCESS)
}

/// Measures one job; the result is one line.
pub(super) fn measure(args: &MeasureArgs) -> anyhow::Result<ExitCode> {
    let line = if guests::serves_device(&args.server) {
        let mounted = virtiofs::Mounted::new(&args.server)?;
        let on = guests::On::Virtiofs(&args.server, mounted.dir());
        let line = guests::measure(&args.job, &on, args.runtime);
        // Also after a failure: the device can be mounted once at a time.
        let left = mounted.leave();
        let line = line?;
        left?;
        line
    } else {
        guests::measure(&args.job, &guests::On::Thrufs(&args.server), args.runtime)?
    };
    println!("{line}");
    Ok(ExitCode::SUCCESS)
}

/// A new file for a test program.
fn fresh(dir: &Path, name: &str) -> anyhow::Result<(PathBuf, File)> {
    let path = dir.join(name);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let file = options
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    Ok((path, file))
}
