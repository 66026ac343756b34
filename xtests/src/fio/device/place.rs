//! Where guest and device run, and what the device's threads have used.

use std::fs;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use xtests::support::process::children;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Place {
    /// As the scheduler likes.
    Free,
    /// All on one CPU.
    Same,
    /// The guest on one CPU, the device on the others.
    Cross,
}

impl Place {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Free => "anywhere",
            Self::Same => "same CPU",
            Self::Cross => "other CPUs",
        }
    }

    /// Pins the calling thread.
    pub(super) fn pin_guest(self) -> Result<()> {
        let is_ours = |cpu: usize| self == Self::Free || cpu == 0;
        pin(Pid::from_raw(0), is_ours)
    }

    /// Pins all threads of the device.
    pub(super) fn pin_device(self, pid: u32) -> Result<()> {
        let is_its = |cpu: usize| match self {
            Self::Free => true,
            Self::Same => cpu == 0,
            Self::Cross => cpu != 0,
        };
        for process in processes(pid)? {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let tid: i32 = task?.file_name().to_string_lossy().parse()?;
                match pin(Pid::from_raw(tid), is_its) {
                    // It has ended meanwhile.
                    Err(error) if error.downcast_ref() == Some(&nix::errno::Errno::ESRCH) => {}
                    pinned => pinned?,
                }
            }
        }
        Ok(())
    }
}

fn pin(thread: Pid, may_use: impl Fn(usize) -> bool) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in (0..std::thread::available_parallelism()?.get().max(2)).filter(|cpu| may_use(*cpu)) {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(thread, &set)?)
}

fn processes(pid: u32) -> Result<Vec<Pid>> {
    let first = Pid::from_raw(i32::try_from(pid)?);
    let mut all = vec![first];
    let mut at = 0;
    while at < all.len() {
        all.extend(children(all[at])?);
        at += 1;
    }
    Ok(all)
}

/// The process that serves: the last child.
pub(super) fn serving(pid: u32) -> Result<u32> {
    let last = *processes(pid)?.last().context("no process")?;
    Ok(u32::try_from(last.as_raw())?)
}

/// CPU seconds of the device's threads so far.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for process in processes(pid)? {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            // One that has ended took its time along: workers, which end a second later.
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0_u64);
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}
