//! Other processes, read from /proc.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::wait_until;

/// The process id of a child.
pub fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// The children of `parent`, found by every process's parent: not every kernel lists a process's
/// children (CONFIG_PROC_CHILDREN).
pub fn children(parent: Pid) -> Result<Vec<Pid>> {
    let wanted = format!("PPid:\t{parent}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has ended meanwhile has no parent.
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line == wanted) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// The letter of a process's state, such as T for stopped; none if the process does not exist.
pub fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether the process waits in one of these system calls, by their numbers (`libc::SYS_...`). One that has ended
/// does not.
pub fn is_in_call(pid: Pid, calls: &[libc::c_long]) -> bool {
    // `running` where it does not wait.
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = text.split(' ').next().and_then(|word| word.parse().ok());
    number.is_some_and(|number| calls.contains(&number))
}

/// Runs `body` while no thread of the process can run.
///
/// # Errors
/// Of `body`; there is no such process, or it does not stop.
pub fn while_stopped<T>(pid: Pid, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let _goes_on = GoesOn(pid);
    kill(pid, Signal::SIGSTOP)?;
    // SIGSTOP stops all threads once one of them sees it, which takes as long on a busy machine as
    // others need for some thousand files.
    let limit = Duration::from_secs(10);
    wait_until("every thread to be stopped", limit, || {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = task?.file_name().to_string_lossy().parse()?;
            if state(Pid::from_raw(thread)) != Some('T') {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    body()
}

/// A stopped process, continued on drop.
struct GoesOn(Pid);

impl Drop for GoesOn {
    fn drop(&mut self) {
        // Fails only if the process is gone.
        let _gone = kill(self.0, Signal::SIGCONT);
    }
}

/// The parent of a process; none if the process does not exist.
pub fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse();
    Some(Pid::from_raw(parent.ok()?))
}

/// How many descriptors the process has open.
pub fn descriptors(pid: Pid) -> Result<usize> {
    let directory = format!("/proc/{pid}/fd");
    Ok(std::fs::read_dir(&directory).context(directory)?.count())
}

/// Resident bytes of the process.
pub fn resident(pid: Pid) -> Result<u64> {
    memory(pid, "VmRSS:")
}

/// A field of /proc/PID/status that is a number of KiB, in bytes.
pub fn memory(pid: Pid, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).context(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib
        .with_context(|| format!("{field} in /proc/PID/status"))?
        .parse()?;
    Ok(kib << 10)
}

/// Whether the process has `file` open.
pub fn has_open(pid: Pid, file: &Path) -> Result<bool> {
    let directory = format!("/proc/{pid}/fd");
    for entry in std::fs::read_dir(&directory).context(directory)? {
        if std::fs::read_link(entry?.path()).is_ok_and(|target| target == file) {
            return Ok(true);
        }
    }
    Ok(false)
}
