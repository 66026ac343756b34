//! What is run inside of a guest beside the selftests: the same programs that run on any machine, on a
//! mount of thrufs or of virtiofs.
//!
//! Invariant: a scenario fails by an error that begins with what was seen, because the expectations
//! name it. It passes only if the kernel does what it should, not what this version of it does.

mod folios;
mod instructions;
mod requests;
mod virtiofs;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use thrufs_rules::Limits;
use xtests::suite::{Options, fsx};
use xtests::support::command::{output, succeed};
use xtests::support::{Backing, Mount};

use super::case::LONGEST_CASE;
use super::verdict::LACKS;
use crate::fio::guests;

/// A case of the reproducer.
const APPEND: &str = "append-beside-store";

/// What the scenario works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum On {
    /// A fresh mount of thrufs over a tmpfs.
    Thrufs,
    /// The virtiofs device of the machine.
    Virtiofs,
}

/// The scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// Mount, use, ask for the status, unmount.
    Daemon,
    /// The WRITEs of a write(2), counted by the kernel, against the rules.
    Requests,
    /// The folios that a write(2) adds to the page cache, counted by the kernel.
    Folios,
    /// Instructions per write(2), on a machine that counts them.
    Instructions,
    /// The reproducer's family, but for the next one.
    Family,
    /// Its case of an append beside writeback, by itself: what a kernel fails in cannot hide the others.
    AppendBesideStore,
    /// Its random mode.
    Random,
    /// fsx.
    Fsx,
    /// A write that the server refuses, inside the file.
    Refused,
    /// A write that the server refuses, beyond the end, and a file that grows later.
    Ghost,
    /// A buffer that can be read in its first part only.
    PartlyReadable,
}

/// Arguments of the hidden subcommand.
#[derive(Debug, Parser)]
pub(super) struct Args {
    what: What,
    #[arg(long, value_enum, default_value = "thrufs")]
    on: On,
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
    /// With one of these the answer has to begin.
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

/// Runs one scenario; what is lacking has an exit code of its own.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match scenario(args) {
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

fn scenario(args: &Args) -> anyhow::Result<String> {
    let limit = LONGEST_CASE + Duration::from_secs(args.seconds);
    let place = match args.on {
        On::Thrufs => TestedDir::thrufs(args, limit)?,
        On::Virtiofs => TestedDir::Virtiofs(virtiofs::Mounted::new()?),
    };
    let said = exercise(args, &place);
    // Also when it has failed: the device can be mounted once at a time.
    let left = place.leave();
    let said = said?;
    left?;
    Ok(said)
}

fn exercise(args: &Args, place: &TestedDir) -> anyhow::Result<String> {
    match args.what {
        What::Daemon => daemon(place),
        What::Requests => requests::check(place.dir(), &place.limits()?),
        What::Folios => folios::check(place.dir()),
        What::Instructions => instructions::measure(place.dir()),
        What::Family => {
            let others = crate::tools::repro::cases().filter(|name| *name != APPEND);
            let cases = format!("--case={}", others.collect::<Vec<_>>().join(","));
            repro(place.dir(), &["--deadline=5", "--abort", &cases])
        }
        What::AppendBesideStore => repro(place.dir(), &["--deadline=20", "--case", APPEND]),
        What::Random => {
            let seconds = format!("--seconds={}", args.seconds);
            repro(place.dir(), &["--random", "--deadline=20", &seconds])
        }
        What::Fsx => fsx::exercise(place.dir(), 7, &Options::counting(args.operations))
            .map(|()| format!("{} operations", args.operations)),
        What::Refused => virtiofs::refused(place.dir()),
        What::Ghost => virtiofs::ghost(place.dir()),
        What::PartlyReadable => virtiofs::partly_readable(place.dir()),
    }
}

/// A directory to work in.
enum TestedDir {
    Thrufs(Box<Mount>),
    Virtiofs(virtiofs::Mounted),
}

impl TestedDir {
    fn thrufs(args: &Args, limit: Duration) -> anyhow::Result<Self> {
        let cache = format!("--cache={}", args.cache);
        let mut options = vec![cache.as_str()];
        if args.what == What::Instructions {
            // The small kernels that count have no filters.
            options.push("--seccomp=none");
        }
        let mount = Mount::new(Backing::Tmpfs, &options)?;
        Ok(Self::Thrufs(Box::new(mount.allow(limit))))
    }

    fn dir(&self) -> &Path {
        match self {
            Self::Thrufs(mount) => mount.dir(),
            Self::Virtiofs(mounted) => mounted.dir(),
        }
    }

    /// What a WRITE is limited to.
    fn limits(&self) -> anyhow::Result<Limits> {
        match self {
            Self::Thrufs(_) => Ok(Limits::default()),
            Self::Virtiofs(_) => virtiofs::Mounted::limits(),
        }
    }

    /// Unmounts, which has to succeed.
    fn leave(self) -> anyhow::Result<()> {
        match self {
            Self::Thrufs(mount) => mount.unmount(),
            Self::Virtiofs(mounted) => mounted.leave(),
        }
    }
}

/// The daemon does its work on this kernel: what is written is in SOURCE when write(2) returns, and all
/// of it can be restored, renamed, removed.
fn daemon(place: &TestedDir) -> anyhow::Result<String> {
    let TestedDir::Thrufs(mount) = place else {
        bail!(
            "there is no daemon of thrufs behind {}",
            place.dir().display()
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

/// Runs the reproducer; what is not well is named, the case first.
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

/// What the reproducer says of a case, or where its first thread is stuck.
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
    // Longer than on a machine that is not a guest on a busy one.
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
    let line = if args.server == guests::VIRTIOFSD {
        let mounted = virtiofs::Mounted::new()?;
        let line = guests::measure(
            &args.job,
            &guests::On::Virtiofs(mounted.dir()),
            args.runtime,
        );
        // Also when it has failed: the device can be mounted once at a time.
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

/// A path for a test program that is not there yet.
fn fresh(dir: &Path, name: &str) -> anyhow::Result<(PathBuf, File)> {
    let path = dir.join(name);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let file = options
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    Ok((path, file))
}
