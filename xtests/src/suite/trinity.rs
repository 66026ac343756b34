//! trinity: random system calls with arguments that are nearly right, by an unprivileged user whose
//! files are all on the mount. The deadlock of 2020 was found this way. trinity has no notion of
//! right and wrong: the test is that the mount answers afterwards and the kernel has not complained.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::sandbox::{self, Bounds};
use super::verdicts::{Verdict, Verdicts};
use crate::support::command::{said, tail};
use crate::support::install;
use crate::support::kernel_log::KernelLog;

/// Each child has up to 2 GiB of address space.
const CHILDREN: &str = "4";
const LARGEST_FILE: u64 = 64 << 20;
/// A trinity that crashes at once each time must not be restarted for ever.
const MOST_RUNS: u32 = 200;
/// A run with fewer calls has tested nothing.
const LEAST_CALLS: u64 = 1000;
/// From the first signal to the last.
const GRACE: u64 = 10;

/// Makes sure of the programs.
pub(super) fn provide() -> Result<()> {
    install::apt(&[("trinity", "trinity")])?;
    sandbox::provide()
}

/// Runs it in `dir` for the requested time.
pub(super) fn run(dir: &Path, options: &Options) -> Result<Verdicts> {
    let kernel = KernelLog::mark()?;
    let end = Instant::now() + Duration::from_secs(options.seconds());
    let (mut calls, mut runs, mut text) = (0, 0, String::new());
    // Its own calls crash trinity now and then.
    while Instant::now() < end && runs < MOST_RUNS {
        let room = sandbox::room(dir, &format!("run-{runs}"))?;
        text = fuzz(&room, end.saturating_duration_since(Instant::now()))?;
        calls += count(&text);
        runs += 1;
    }
    eprintln!("  {calls} calls in {runs} runs");
    let called = (|| {
        ensure!(
            calls > LEAST_CALLS,
            "trinity made {calls} calls in {runs} runs\n{}",
            tail(&text)
        );
        Ok(())
    })();
    Ok(Verdicts::from([
        ("calls".to_owned(), called.into()),
        ("mount-answers".to_owned(), answers(dir).into()),
        (
            "kernel-log".to_owned(),
            Verdict::from(kernel.ensure_quiet()),
        ),
    ]))
}

fn fuzz(room: &Path, time: Duration) -> Result<String> {
    let seconds = time.as_secs().max(1);
    let bounds = Bounds {
        time: Duration::from_secs(seconds + GRACE),
        file: LARGEST_FILE,
    };
    let seconds = seconds.to_string();
    // trinity's children may ignore any signal but one; the pid namespace ends them with timeout.
    let program = [
        "timeout",
        "--signal=INT",
        "--kill-after=5",
        &seconds,
        "trinity",
        "-q",
        "-l",
        "off",
        "-C",
        CHILDREN,
        // Its network namespace has no sockets, and trinity crashes on the way to finding that out.
        "--disable-fds=sockets",
        "-V",
        sandbox::INSIDE,
    ];
    Ok(said(&sandbox::run(room, &bounds, &program)?))
}

/// How many calls it reports: at its end, or now and then before.
fn count(text: &str) -> u64 {
    let counts = text.lines().filter_map(|line| {
        let before = line.split_once(" iterations").map(|(before, _)| before);
        let before = before.or_else(|| Some(line.split_once(" syscalls.")?.0))?;
        before.rsplit([' ', ']']).next()?.parse().ok()
    });
    counts.max().unwrap_or(0)
}

/// A hung mount blocks this until the mount's watchdog aborts it.
fn answers(dir: &Path) -> Result<()> {
    let file = dir.join("after");
    let content = vec![0x5a; 100_000];
    std::fs::write(&file, &content).context("write a file afterwards")?;
    ensure!(
        std::fs::read(&file)? == content,
        "a file written afterwards reads differently"
    );
    std::fs::remove_file(&file).context("remove a file afterwards")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_of_several_lines_is_the_last() {
        let text = "[main] 10061 iterations. [F:7631 S:2387 HI:889]\n\
                    [main] Ran 20123 syscalls. Successes: 1262  Failures: 3750\nnoise\n";
        assert_eq!(count(text), 20_123);
        assert_eq!(count("nothing"), 0);
    }
}
