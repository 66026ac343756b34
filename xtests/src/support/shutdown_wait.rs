//! Waits for a daemon whose mount is gone to end, as long as it has a reason not to.
//!
//! Seen on a busy machine: 10 seconds were too short, for the peers too. A daemon has two good
//! reasons: it gets no CPU; or the mount lives on in the mount namespace of a process that made its
//! namespace (`unshare -m`, a sandbox, a container) while the mount existed, so that the kernel has
//! not told the daemon to end. Invariant: a daemon that neither works nor has such a holder is
//! reported as hung after [`Limits::idle`]; whatever the reason, the wait ends after
//! [`Limits::longest`], and the error names what the threads wait in, or the holders.

use std::fs;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::mount_table::mount_table;

/// Limits of the wait.
pub(super) struct Limits {
    /// For a daemon that does nothing without a reason.
    idle: Duration,
    /// For a daemon that has one.
    longest: Duration,
}

impl Limits {
    pub(super) const DAEMON: Self = Self {
        idle: Duration::from_secs(10),
        longest: Duration::from_secs(120),
    };
}

/// Between two looks at the child, and between two at the reasons, which take longer.
const POLL: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_millis(200);

/// Waits for `daemon`, whose mount had the device `device` (`0:42`), to end. A daemon that does not
/// is killed, which is the error.
pub(super) fn wait_for_end(
    daemon: &mut Child,
    device: Option<&str>,
    limits: &Limits,
) -> Result<ExitStatus> {
    let began = Instant::now();
    let (mut reasonable, mut looked, mut used) = (began, began, None);
    loop {
        if let Some(status) = daemon.try_wait()? {
            return Ok(status);
        }
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            let now = work(daemon.id());
            let works = now.is_runnable || used.replace(now.ticks) != Some(now.ticks);
            // Finding holders takes longer, and few daemons need it.
            let is_late = reasonable.elapsed() >= limits.idle;
            if works || is_late && !holders(device).is_empty() {
                reasonable = looked;
            }
        }
        if reasonable.elapsed() >= limits.idle + LOOK || began.elapsed() >= limits.longest {
            let why = explain(daemon.id(), device);
            // A child that has ended since cannot be killed; either way it is reaped.
            let _ended = daemon.kill();
            daemon.wait()?;
            bail!(
                "waited {:?} in vain for the daemon to exit; {why}",
                began.elapsed()
            );
        }
        std::thread::sleep(POLL);
    }
}

/// What a process has done so far.
struct Work {
    /// Clock ticks of CPU time, of all its threads.
    ticks: u64,
    /// A thread is runnable.
    is_runnable: bool,
}

fn work(pid: u32) -> Work {
    let threads = threads(pid);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // utime and stime are the 12th and 13th after the name, which may contain anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let times = fields.split(' ').skip(11).take(2);
    Work {
        ticks: times.filter_map(|time| time.parse::<u64>().ok()).sum(),
        is_runnable: threads.iter().any(|thread| thread.state == "R"),
    }
}

struct Thread {
    name: String,
    state: String,
    waits_in: String,
}

fn threads(pid: u32) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let thread = |task: fs::DirEntry| {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let state = stat
            .rsplit_once(") ")
            .map_or("", |(_, fields)| &fields[..1]);
        Thread {
            name: read("comm").trim().to_owned(),
            state: state.to_owned(),
            waits_in: read("wchan"),
        }
    };
    tasks.map(thread).collect()
}

/// The processes in whose mount namespaces the device is still mounted, one for each namespace.
fn holders(device: Option<&str>) -> Vec<String> {
    let Some(device) = device else {
        return Vec::new();
    };
    let mut seen = Vec::new();
    let mut found = Vec::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let path = process.path();
        // No process, a process that has just ended, or no permission.
        let Ok(namespace) = fs::read_link(path.join("ns/mnt")) else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        seen.push(namespace);
        let mounts = mount_table(path.join("mountinfo")).unwrap_or_default();
        if mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some(device))
        {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let pid = process.file_name();
            found.push(format!("{} ({})", pid.to_string_lossy(), name.trim()));
        }
    }
    found
}

fn explain(pid: u32, device: Option<&str>) -> String {
    let holders = holders(device);
    if !holders.is_empty() {
        return format!(
            "its mount lives on in the mount namespace of process {}: end that",
            holders.join(", ")
        );
    }
    let threads = threads(pid);
    let told = threads
        .iter()
        .map(|thread| format!("{} {} in {}", thread.name, thread.state, thread.waits_in));
    format!("its threads: {}", told.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn start(program: &str, arguments: &[&str]) -> Child {
        Command::new(program).args(arguments).spawn().unwrap()
    }

    const SHORT: Limits = Limits {
        idle: Duration::from_secs(1),
        longest: Duration::from_secs(60),
    };

    #[test]
    fn wait_for_end_of_one_that_does_nothing_names_where_and_kills_it() {
        let mut child = start("sleep", &["1000"]);
        let (pid, began) = (child.id(), Instant::now());
        let error = wait_for_end(&mut child, None, &SHORT).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("sleep S in "), "{error}");
        assert!(began.elapsed() >= SHORT.idle && began.elapsed() < SHORT.longest);
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    }

    #[test]
    fn wait_for_end_of_one_that_works_longer_waits() {
        // A loop without children is runnable all the time, also where it gets no CPU: with $(date) in it the
        // test failed on a busy machine, in which the shell slept for a child that did not get on.
        let text = "trap 'exit 3' TERM; (sleep 4; kill $$) & while :; do :; done";
        let mut child = start("sh", &["-c", text]);
        let status = wait_for_end(&mut child, None, &SHORT).unwrap();
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn wait_for_end_of_one_whose_mount_is_held_waits_and_then_names_the_holder() {
        // The device of the root directory, which this process has mounted.
        let mounts = mount_table("/proc/self/mountinfo").unwrap();
        let root = mounts
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/"));
        let device = root.and_then(|line| line.split(' ').nth(2));
        let mut child = start("sleep", &["4"]);
        assert!(wait_for_end(&mut child, device, &SHORT).unwrap().success());
        let longest = Duration::from_secs(3);
        let mut child = start("sleep", &["1000"]);
        let error = wait_for_end(&mut child, device, &Limits { longest, ..SHORT });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("lives on in the mount namespace"), "{error}");
    }
}
