//! The users of the CPUs during a run: fio, the daemon, the kernel's own threads, and others.
//!
//! Invariant: "others" are all processes that are neither ours nor the kernel's, ended ones
//! included, since their time is then counted in their parent. Not the machine's total less ours:
//! the timer tick samples the total, while the processes' times are exact.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// CPU seconds between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Load {
    /// From the first look to the second.
    pub(super) wall_seconds: f64,
    /// The daemon with all its threads; none if the server is not a known process.
    pub(super) daemon_seconds: Option<f64>,
    /// All CPUs, without idle time.
    pub(super) machine_seconds: f64,
    /// Processes beside fio, the daemon and this one.
    pub(super) other_seconds: f64,
    /// Time that the hypervisor gave to other guests.
    pub(super) stolen_seconds: f64,
}

/// A run counts as disturbed if others use more than this part of one CPU.
pub(super) const DISTURBED_ABOVE: f64 = 0.10;

impl Load {
    /// Other load as a part of one CPU.
    pub(super) fn other(&self) -> f64 {
        if self.wall_seconds <= 0.0 {
            return 0.0;
        }
        (self.other_seconds + self.stolen_seconds) / self.wall_seconds
    }

    /// Whether others used too much CPU to trust the figure.
    pub(super) fn is_disturbed(&self) -> bool {
        self.other() > DISTURBED_ABOVE
    }
}

pub(super) struct Snapshot {
    at: Instant,
    daemon: Option<f64>,
    machine: f64,
    stolen: f64,
    other: f64,
}

/// From proc(5): a kernel thread's flag.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The needed part of a process's line.
struct Process {
    is_kernel: bool,
    /// Its own time and that of its reaped children, in ticks.
    ticks: u64,
    /// Its own time only.
    own_ticks: u64,
}

impl Snapshot {
    /// Samples now; `daemon` is the server under test.
    pub(super) fn take(daemon: Option<u32>) -> Result<Self> {
        let tick = ticks_per_second()?;
        let ours = std::process::id();
        let (mut other, mut own) = (0, None);
        for entry in fs::read_dir("/proc").context("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // A process that has ended by now has its time counted in its parent.
            let Ok(line) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let process = parse_process(&line).with_context(|| format!("/proc/{pid}/stat"))?;
            if Some(pid) == daemon {
                own = Some(process.own_ticks as f64 / tick);
            } else if pid != ours && !process.is_kernel {
                other += process.ticks;
            }
        }
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let (machine, stolen) = parse_machine(&stat).context("/proc/stat: no line `cpu`")?;
        Ok(Self {
            at: Instant::now(),
            daemon: own,
            machine: machine as f64 / tick,
            stolen: stolen as f64 / tick,
            other: other as f64 / tick,
        })
    }

    /// The use between `self` and `after`.
    pub(super) fn until(&self, after: &Self) -> Load {
        let daemon = self.daemon.zip(after.daemon);
        Load {
            wall_seconds: (after.at - self.at).as_secs_f64(),
            daemon_seconds: daemon.map(|(before, after)| (after - before).max(0.0)),
            machine_seconds: (after.machine - self.machine).max(0.0),
            // Negative if a process ended that no parent waits for.
            other_seconds: (after.other - self.other).max(0.0),
            stolen_seconds: (after.stolen - self.stolen).max(0.0),
        }
    }
}

fn ticks_per_second() -> Result<f64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?;
    Ok(ticks.context("sysconf(_SC_CLK_TCK)")? as f64)
}

fn parse_process(line: &str) -> Option<Process> {
    // The name in parentheses may contain spaces and parentheses.
    let (_, rest) = line.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    // By proc(5), with the state as number 3: flags 9, utime 14, stime 15, cutime 16, cstime 17.
    let number = |field: usize| words.get(field - 3)?.parse::<u64>().ok();
    let own = number(14)? + number(15)?;
    Some(Process {
        is_kernel: number(9)? & PF_KTHREAD != 0,
        ticks: own + number(16)? + number(17)?,
        own_ticks: own,
    })
}

/// `(busy, stolen)` ticks of all CPUs.
fn parse_machine(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    // user nice system idle iowait irq softirq steal
    let busy = [0, 1, 2, 5, 6].iter().map(|&at| fields.get(at));
    Some((busy.sum::<Option<u64>>()?, *fields.get(7)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_with_spaces_and_parentheses_in_its_name_is_parsed() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7";
        let process = parse_process(line).expect("a good line");
        assert_eq!((process.ticks, process.own_ticks), (127, 120));
        assert!(!process.is_kernel);
    }

    #[test]
    fn process_of_the_kernel_is_told_by_its_flag() {
        let line = "9 (kworker/0:1) I 2 0 0 0 -1 69238880 0 0 0 0 0 50 0 0 20 0 1 0 5 0 0";
        assert!(parse_process(line).expect("a good line").is_kernel);
    }

    #[test]
    fn machine_is_busy_without_idle_iowait_and_steal() {
        let text = "cpu  1 2 4 1000 2000 8 16 32 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_machine(text), Some((31, 32)));
        assert_eq!(parse_machine("intr 5\n"), None);
    }

    #[test]
    fn load_of_others_above_the_limit_is_a_disturbance() {
        let mut load = Load {
            wall_seconds: 2.0,
            other_seconds: 0.1,
            ..Load::default()
        };
        assert!(!load.is_disturbed());
        load.stolen_seconds = 0.2;
        assert!(load.is_disturbed());
    }

    #[test]
    fn snapshots_around_work_of_our_own_see_no_other_load_for_it() {
        let used = || {
            let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
            let time = nix::time::clock_gettime(clock).expect("every Linux has this clock");
            std::time::Duration::from(time)
        };
        let before = Snapshot::take(Some(std::process::id())).expect("/proc");
        let start = used();
        // This test's own time, however much the machine gives it.
        while (used() - start).as_millis() < 100 {
            std::hint::black_box(0);
        }
        let load = before.until(&Snapshot::take(Some(std::process::id())).expect("/proc"));
        let ours = load.daemon_seconds.expect("this process lives");
        assert!(ours >= 0.05, "{ours} CPU seconds of our own");
        assert!(load.wall_seconds > 0.0);
    }
}
