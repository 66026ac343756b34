//! Running fio itself: present, with the engines that jobs want, and never beyond its deadline.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use xtests::support::command::{succeed, tail};
use xtests::support::install;
use xtests::support::interrupt::{Interrupt, Interrupted};
use xtests::support::process::children;

use super::jobs::Job;

/// How often a run polls for its interruption; rare, since polling uses the CPU.
const LOOK: Duration = Duration::from_millis(200);

/// Makes sure of fio; returns its engines.
pub(super) fn provide() -> Result<Vec<String>> {
    install::apt(&[("fio", "fio")])?;
    let text = succeed(Command::new("fio").arg("--enghelp"))?;
    let engines = text.lines().skip(1).map(|line| line.trim().to_owned());
    Ok(engines.filter(|line| !line.is_empty()).collect())
}

/// Lays out the job's files in `dir` without running the job.
pub(super) fn lay_out(job: &Job, path: &Path, dir: &Path) -> Result<()> {
    let mut command = Command::new("fio");
    command
        .arg(format!("--directory={}", dir.display()))
        .args(["--create_only=1", &format!("--section={}", job.section)])
        .arg(path);
    succeed(&mut command)
        .map(|_| ())
        .context("laying the files out")
}

/// The measuring command, for files in `dir`; `extra` are fio's options for this configuration.
pub(super) fn command(job: &Job, path: &Path, dir: &Path, runtime: u32, extra: &[&str]) -> Command {
    let mut command = Command::new("fio");
    command
        .arg(format!("--directory={}", dir.display()))
        .arg(format!("--runtime={runtime}"))
        .args(["--lat_percentiles=1", "--clat_percentiles=1"])
        .args(extra)
        .args([
            "--output-format=json",
            &format!("--section={}", job.section),
        ])
        .arg(path);
    command
}

/// Runs it to its end and returns its output; [`Interrupted`] on request.
pub(super) fn run(
    mut command: Command,
    work: &Path,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<String> {
    let (out, err) = (work.join("fio.json"), work.join("fio.err"));
    let child = command
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .process_group(0)
        // On an error fio would leave this file in the working directory.
        .current_dir(work)
        .spawn();
    let mut child = child.context("cannot run fio (apt-get install fio)")?;
    let status = wait(&mut child, limit, interrupt);
    let said = String::from_utf8_lossy(&std::fs::read(&err)?).into_owned();
    let status = status.with_context(|| tail(&said))?;
    let text = String::from_utf8_lossy(&std::fs::read(&out)?).into_owned();
    ensure!(
        status.success(),
        "fio: {status}\n{}{}",
        tail(&said),
        errors(&text)
    );
    Ok(text)
}

/// fio prints some errors before the JSON on stdout.
fn errors(text: &str) -> String {
    let before = text.split('{').next().unwrap_or_default();
    tail(before)
}

fn wait(child: &mut Child, limit: Duration, interrupt: &Interrupt) -> Result<ExitStatus> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let start = Instant::now();
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(LOOK.subsec_nanos()),
    };
    loop {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => {}
            Ok(_) => return Ok(child.wait()?),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error).context("poll"),
        }
        let overdue = start.elapsed() > limit;
        if overdue || interrupt.is_set() {
            kill_with_jobs(pid)?;
            child.wait()?;
            if overdue {
                bail!("fio had not ended after {limit:?}");
            }
            return Err(Interrupted.into());
        }
    }
}

/// fio and the processes of its jobs, of which each has a session of its own.
fn kill_with_jobs(fio: Pid) -> Result<()> {
    let jobs = children(nix::unistd::Pid::from_raw(fio.as_raw_nonzero().get()))?;
    let gone = |killed: rustix::io::Result<()>| match killed {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("kill fio"),
    };
    gone(kill_process_group(fio, Signal::KILL))?;
    for job in jobs
        .into_iter()
        .filter_map(|job| Pid::from_raw(job.as_raw()))
    {
        gone(kill_process(job, Signal::KILL))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtests::support::wait::wait_until;

    #[test]
    fn run_beyond_its_limit_is_killed_and_says_so() {
        let work = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sleep 60 & echo $! >job; wait"]);
        let limit = Duration::from_millis(300);
        let error = run(command, work.path(), limit, &Interrupt::default()).expect_err("too long");
        assert!(format!("{error:#}").contains("had not ended"), "{error:#}");
        let job = std::fs::read_to_string(work.path().join("job")).expect("the job's number");
        let is_gone = || Ok(!Path::new("/proc").join(job.trim()).exists());
        wait_until("the job to be gone", Duration::from_secs(10), is_gone).expect("killed");
    }

    #[test]
    fn run_that_fails_gives_what_it_said() {
        let work = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", "echo reason >&2; exit 3"]);
        let limit = Duration::from_secs(10);
        let error = run(command, work.path(), limit, &Interrupt::default()).expect_err("exit 3");
        assert!(error.to_string().contains("reason"), "{error}");
    }
}
