//! Runs a machine and reads its console until it ends or the deadline comes.
//!
//! Invariant: when [`run`] returns no process of the guest is left, whatever the outcome; none is
//! left either when the caller is killed.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Result, at};
use crate::outcome::{End, Outcome, Reader};
use crate::process::{missing, tied};

/// How often a silent machine is checked for a request to stop.
const STOP_WITHIN: Duration = Duration::from_millis(200);
/// QEMU's message when its hypervisor cannot go on; QEMU stays, and does nothing.
const BROKEN_DOWN: &str = "KVM internal error";

/// Runs the machine in a process group of its own, and reads its console. Setting `stopped` ends
/// the run as the deadline does.
pub(crate) fn run(
    command: &Command,
    dir: &Path,
    deadline: Duration,
    stopped: &AtomicBool,
) -> Result<Outcome> {
    let console = dir.join("console");
    let mut command = tied(command, "KILL")?;
    command.stdin(Stdio::null()).process_group(0);
    let (output, input) = std::io::pipe().map_err(at(dir))?;
    command
        .stdout(input.try_clone().map_err(at(dir))?)
        .stderr(input);
    let begin = Instant::now();
    let mut child = command
        .spawn()
        .map_err(|source| missing(&command, source))?;
    // The command holds the writing end; the output ends with the machine only without it.
    drop(command);
    let lines = console_lines(output, &console)?;
    let mut reader = Reader::default();
    let in_time = read_until(&lines, begin + deadline, stopped, &mut reader);
    stop(&mut child).map_err(at(dir))?;
    // Lines in flight when the machine stopped.
    lines.iter().for_each(|line| reader.line(&line));
    let end = match (reader.done, in_time) {
        (true, _) => End::Done,
        (false, true) => End::Died,
        (false, false) => End::Deadline,
    };
    let Reader {
        verdicts,
        reports,
        running,
        ..
    } = reader;
    Ok(Outcome {
        verdicts,
        reports,
        end,
        running,
        console,
        took: begin.elapsed(),
    })
}

/// Stores the console in a file and passes its lines on.
fn console_lines(output: PipeReader, console: &PathBuf) -> Result<Receiver<String>> {
    let mut file = File::create(console).map_err(at(console))?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            // A console that cannot be stored is still read; a receiver that is gone needs no line.
            let kept = writeln!(file, "{line}");
            if sender.send(line).is_err() || kept.is_err() {
                break;
            }
        }
    });
    Ok(lines)
}

/// Reads until the console closes or the hypervisor gives up; false if the deadline came first.
fn read_until(
    lines: &Receiver<String>,
    deadline: Instant,
    stop: &AtomicBool,
    reader: &mut Reader,
) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return false;
        }
        match lines.recv_timeout(left.min(STOP_WITHIN)) {
            Ok(line) if line.contains(BROKEN_DOWN) => return true,
            Ok(line) => reader.line(&line),
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Ends all processes of the machine, which are a process group of their own.
fn stop(child: &mut Child) -> std::io::Result<()> {
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits"));
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => child.wait().map(|_| ()),
        Err(errno) => Err(errno.into()),
    }
}
