//! The first process of a booted kernel: runs the cases of a list one by one and passes their verdicts on.
//!
//! Invariant: a case ends with a verdict within its limit, or the guest reports why it cannot go
//! on. What a case has left (a process, a FUSE connection) is ended before the next one begins. A
//! killed process that served its own mount needs that: closing the file waits for an answer, and
//! the device is closed only after that.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thrufs_lab::{Mark, guest};
use xtests::support::skip::SKIP_LOG;

use super::case::Case;
use super::verdict;

/// Arguments of the first process.
#[derive(Parser)]
pub(super) struct Args {
    /// The list of cases, as JSON
    cases: PathBuf,
}

/// Where the kernel lists FUSE connections.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// Where memory cgroups of the first version are; /sys/fs/cgroup belongs to the machine.
const MEMORY_CGROUPS: &str = "/tmp/memory-cgroups";
/// For a killed process to end, and for its last output.
const GRACE: Duration = Duration::from_secs(5);
/// Seconds that a task may wait without being killable; the test's own limits come first. With
/// less, a busy host is reported: a task waits for a lock whose owner gets no CPU.
const HUNG_TASK: (&str, &str) = ("/proc/sys/kernel/hung_task_timeout_secs", "30");
/// How a skipping test begins its line.
const SKIPS: &str = "/tmp/skips";

/// Does not return in a guest; refuses to start elsewhere.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    guest::enter(&[&args.cases])?;
    if let Err(error) = run_all(&args.cases) {
        guest::verdict("guest", Mark::Fail, &format!("{error:#}"));
    }
    guest::power_off()
}

fn run_all(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let cases: Vec<Case> = serde_json::from_slice(&text).context("the list of cases")?;
    let flags = MsFlags::empty();
    mount(
        Some("fusectl"),
        CONNECTIONS,
        Some("fusectl"),
        flags,
        None::<&str>,
    )
    .context("mounting fusectl")?;
    mount_memory_cgroups()?;
    let (limit, seconds) = HUNG_TASK;
    // A kernel that counts instructions has no detectors.
    if Path::new(limit).exists() {
        std::fs::write(limit, seconds).context(limit)?;
    }
    for case in &cases {
        guest::start(&case.name);
        let (mark, detail) = run_case(case)?;
        guest::verdict(&case.name, mark, &detail);
        abort_connections()?;
    }
    Ok(())
}

/// Mounts them, if the kernel has any: in these, reclaim waits for writeback. The test that needs them skips without.
fn mount_memory_cgroups() -> anyhow::Result<()> {
    // One line a controller; without cgroups there is no such file.
    let controllers = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    if !controllers.lines().any(|line| line.starts_with("memory\t")) {
        return Ok(());
    }
    std::fs::create_dir(MEMORY_CGROUPS).context(MEMORY_CGROUPS)?;
    let (kind, flags) = (Some("cgroup"), MsFlags::empty());
    match mount(kind, MEMORY_CGROUPS, kind, flags, Some("memory")) {
        // Listed, but of the second version only.
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno).context("mounting memory cgroups"),
    }
}

enum Event {
    Line(String),
    End(std::io::Result<ExitStatus>),
}

/// The output of one case, and how it ended; `None`: it was killed at its limit.
struct Ended {
    lines: Vec<String>,
    status: Option<ExitStatus>,
}

fn run_case(case: &Case) -> anyhow::Result<(Mark, String)> {
    // The case before may have left it.
    let _absent = std::fs::remove_file(SKIPS);
    let ended = match start(case) {
        Ok((child, lines)) => follow(case, child, &lines)?,
        Err(error) => return Ok((Mark::Fail, format!("{}: {error}", case.program))),
    };
    let Some(status) = ended.status else {
        return Ok((Mark::Fail, format!("not done after {} seconds", case.limit)));
    };
    if let Ok(skip) = std::fs::read_to_string(SKIPS) {
        return Ok((Mark::Skip, skip.trim().to_owned()));
    }
    if let Some(signal) = status.signal() {
        return Ok((Mark::Fail, format!("ended by signal {signal}")));
    }
    Ok(verdict::read(case.language, status.code(), &ended.lines))
}

fn start(case: &Case) -> std::io::Result<(Child, Receiver<Event>)> {
    let mut command = Command::new(&case.program);
    command.args(&case.arguments);
    // The kernel gives its first process almost no environment.
    command
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("RUST_BACKTRACE", "0")
        .env("TMPDIR", "/tmp")
        .env(SKIP_LOG, SKIPS)
        .envs(case.environment.iter().map(|(name, value)| (name, value)));
    // A harness may print results to standard output, and a test its messages to standard error.
    let (output, input) = nix::unistd::pipe()?;
    command.stdout(input.try_clone()?).stderr(input);
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .process_group(0);
    let child = command.spawn()?;
    // The command holds the writing ends, and the output does not end before they are closed.
    drop(command);
    let (sender, events) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(File::from(output))
            .split(b'\n')
            .map_while(Result::ok);
        lines
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .all(|line| sender.send(Event::Line(line)).is_ok())
    });
    Ok((child, events))
}

/// Stores and prints the program's output, until it has ended or its time is over.
fn follow(case: &Case, mut child: Child, lines: &Receiver<Event>) -> anyhow::Result<Ended> {
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let (sender, ends) = channel();
    std::thread::spawn(move || sender.send(Event::End(child.wait())));
    let begin = Instant::now();
    let mut said = Vec::new();
    let mut suspicious = case.suspicious_after.map(Duration::from_secs);
    let mut status = None;
    loop {
        let limit = Duration::from_secs(case.limit);
        let elapsed = begin.elapsed();
        if suspicious.is_some_and(|at| elapsed >= at) {
            guest::show_blocked()?;
            suspicious = None;
        }
        if elapsed >= limit {
            break;
        }
        while let Ok(Event::Line(line)) = lines.try_recv() {
            println!("{line}");
            said.push(line);
        }
        // Short, because lines and end come by different ways.
        match ends.recv_timeout(Duration::from_millis(20).min(limit - elapsed)) {
            Ok(Event::End(result)) => {
                status = Some(result?);
                break;
            }
            Ok(Event::Line(_)) | Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // Also when it has ended: its own children may be left.
    let _gone = killpg(group, Signal::SIGKILL);
    if status.is_none() {
        abort_connections()?;
        ends.recv_timeout(GRACE)
            .with_context(|| format!("{} cannot be killed", case.name))?;
    }
    let until = Instant::now() + GRACE;
    while let Ok(Event::Line(line)) =
        lines.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        println!("{line}");
        said.push(line);
    }
    Ok(Ended {
        lines: said,
        status,
    })
}

/// Ends all existing connections.
fn abort_connections() -> std::io::Result<()> {
    for entry in std::fs::read_dir(CONNECTIONS)? {
        match std::fs::write(entry?.path().join("abort"), "1") {
            // The connection is gone already.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
            result => result?,
        }
    }
    Ok(())
}
