//! The first process of a booted kernel: runs the test program and passes its verdicts on.
//!
//! The program speaks TAP as the kernel's harness does. A test that it has begun and of which it says
//! nothing more gets no verdict, which the host takes for a failure.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::mount::{MsFlags, mount};
use thrufs_lab::{Mark, guest};

/// Arguments of the first process.
#[derive(Parser)]
pub(super) struct Args {
    /// The test program
    program: PathBuf,
    /// The tests to run
    tests: Vec<String>,
}

/// A test that has not ended by then is taken to hang. The harness itself gives up after 30 seconds.
const HANGS_AFTER: Duration = Duration::from_secs(15);

/// Where the kernel lists FUSE connections.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Does not return in a guest; elsewhere it refuses to start.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    guest::enter()?;
    if let Err(error) = run_program(args) {
        guest::verdict(
            "guest",
            Mark::Fail,
            &format!("{}: {error}", args.program.display()),
        );
    }
    guest::power_off()
}

fn run_program(args: &Args) -> std::io::Result<()> {
    mount(
        Some("fusectl"),
        CONNECTIONS,
        Some("fusectl"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let mut command = Command::new(&args.program);
    for test in &args.tests {
        command.args(["-t", test]);
    }
    // The kernel gives its first process next to no environment.
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    // The harness prints results to its standard output, and what a test has to say to the other one.
    let (output, input) = nix::unistd::pipe()?;
    command.stdout(input.try_clone()?).stderr(input);
    let mut child = command.current_dir("/").stdin(Stdio::null()).spawn()?;
    // It holds the writing ends, and as long as it does there is no end of the output.
    drop(command);
    let output = std::fs::File::from(output);
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
        lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
    });
    follow(&lines)?;
    // It fails if a test does, which the verdicts say; but it is to be seen if it has said nothing.
    println!("{}: {}", args.program.display(), child.wait()?);
    Ok(())
}

/// Passes on what the program says, until it says no more.
fn follow(lines: &Receiver<Vec<u8>>) -> std::io::Result<()> {
    let mut reader = Tap::default();
    let mut hangs_at: Option<Instant> = None;
    loop {
        let patience = hangs_at.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        });
        match lines.recv_timeout(patience) {
            Ok(line) => match reader.line(&show(&line)) {
                Some(Event::Start(test)) => {
                    guest::start(&test);
                    hangs_at = Some(Instant::now() + HANGS_AFTER);
                }
                Some(Event::Verdict(test, mark, detail)) => {
                    guest::verdict(&test, mark, &detail);
                    hangs_at = None;
                    abort_connections()?;
                }
                None => (),
            },
            Err(RecvTimeoutError::Timeout) => {
                guest::show_blocked()?;
                hangs_at = None;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Puts a line of the program's on the console, too.
fn show(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line).into_owned();
    println!("{line}");
    line
}

/// Ends what a finished test has left. A killed process that served its own mount cannot end without:
/// closing the file waits for an answer, and the device is closed only after that.
fn abort_connections() -> std::io::Result<()> {
    for entry in std::fs::read_dir(CONNECTIONS)? {
        match std::fs::write(entry?.path().join("abort"), "1") {
            // It went away by itself.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
            result => result?,
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Start(String),
    Verdict(String, Mark, String),
}

/// Reads the harness's TAP.
#[derive(Default)]
struct Tap {
    /// The last thing that the running test said.
    detail: String,
}

impl Tap {
    fn line(&mut self, line: &str) -> Option<Event> {
        let line = line.trim_end();
        if let Some(comment) = line.strip_prefix('#') {
            let comment = comment.trim();
            if let Some(rest) = comment.strip_prefix("RUN") {
                self.detail.clear();
                let test = name(rest.trim().trim_end_matches("...").trim())?;
                return Some(Event::Start(test));
            }
            // The message ends the line file:line:test:message; a time-out has none.
            if comment.contains(".c:") || comment.contains("terminated by timeout") {
                self.detail = message(comment).to_owned();
            }
            return None;
        }
        let (mark, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => (Mark::Fail, rest),
            None => (Mark::Pass, line.strip_prefix("ok ")?),
        };
        let (_number, rest) = rest.split_once(' ')?;
        let (test, directive) = rest.split_once('#').unwrap_or((rest, ""));
        let skipped = directive.trim().strip_prefix("SKIP");
        let mark = if skipped.is_some() { Mark::Skip } else { mark };
        let detail = match mark {
            Mark::Pass => String::new(),
            Mark::Fail => std::mem::take(&mut self.detail),
            Mark::Skip => skipped.unwrap_or_default().trim().to_owned(),
        };
        Some(Event::Verdict(name(test.trim())?, mark, detail))
    }
}

fn name(test: &str) -> Option<String> {
    test.strip_prefix("fuse.").map(str::to_owned)
}

fn message(comment: &str) -> &str {
    comment.splitn(4, ':').nth(3).unwrap_or(comment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(tap: &str) -> Vec<Event> {
        let mut reader = Tap::default();
        tap.lines().filter_map(|line| reader.line(line)).collect()
    }

    #[test]
    fn line_of_a_failed_test_carries_its_last_message() {
        let tap = "#  RUN           fuse.a ...\n# t.c:1:a:Expected 1 == 2\n# t.c:2:a:WRITEs: 3@1 4@4\n\
                   # a: Test terminated by assertion\n#          FAIL  fuse.a\nnot ok 1 fuse.a\n";
        let verdict = Event::Verdict("a".into(), Mark::Fail, "WRITEs: 3@1 4@4".into());
        assert_eq!(events(tap), [Event::Start("a".into()), verdict]);
    }

    #[test]
    fn line_of_a_timed_out_test_says_so() {
        let tap = "# a: Test terminated by timeout\nnot ok 1 fuse.a\n";
        let verdict = Event::Verdict(
            "a".into(),
            Mark::Fail,
            "a: Test terminated by timeout".into(),
        );
        assert_eq!(events(tap), [verdict]);
    }

    #[test]
    fn line_of_a_skipped_test_is_no_pass() {
        let verdict = Event::Verdict("a".into(), Mark::Skip, "need root".into());
        assert_eq!(events("ok 1 fuse.a # SKIP need root\n"), [verdict]);
    }
}
