//! Limits of this user and machine that a mount can run into.

use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::{Finding, Severity};

/// With fewer descriptors a mount serves few clients.
const DESCRIPTORS_WANTED: u64 = 65_536;
/// Processes and threads that one mount has at most by default: session threads and those beside them.
const THREADS_WANTED: u64 = 64;
/// What is used of what there is, as a share, from which on little is left.
const NEARLY: u64 = 10;

/// A number that is used, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    now: u64,
    most: u64,
}

/// See the module. What cannot be found out is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// The hard RLIMIT_NOFILE, to which the daemon of a user raises its own.
    descriptors: Option<u64>,
    /// fs.nr_open, to which that of root can.
    nr_open: Option<u64>,
    /// Open files of the whole system (fs.file-nr).
    files: Option<Used>,
    /// RLIMIT_NPROC of a user.
    processes: Option<u64>,
    /// Processes and threads of this cgroup.
    cgroup: Option<Used>,
}

impl Limits {
    /// Reads those of this process.
    pub(crate) fn read() -> Self {
        let hard = |resource| getrlimit(resource).ok().map(|(_, hard)| hard);
        Self {
            descriptors: hard(Resource::RLIMIT_NOFILE),
            nr_open: number("/proc/sys/fs/nr_open"),
            files: file_nr(&read("/proc/sys/fs/file-nr").unwrap_or_default()),
            processes: hard(Resource::RLIMIT_NPROC).filter(|most| *most != RLIM_INFINITY),
            cgroup: of_cgroup(),
        }
    }

    /// Findings, for root or for a user.
    pub(crate) fn findings(&self, is_root: bool) -> Vec<Finding> {
        let mut found = Vec::new();
        // Root raises the limit as far as the kernel allows.
        let descriptors = match is_root {
            true => self.nr_open,
            false => self.descriptors,
        };
        found.extend(descriptors.map(of_descriptors));
        let why = "open(2) fails with ENFILE, for all programs";
        let remedy = "a higher sysctl fs.file-max, or fewer open files";
        let files = self.files.map(|used| {
            let what = format!("{} of {} files of the system are open", used.now, used.most);
            of_used("system-files", used, (what, why, remedy))
        });
        found.extend(files);
        if let Some(most) = self.processes.filter(|_| !is_root) {
            let what = format!("a user may have {most} processes and threads (RLIMIT_NPROC)");
            found.push(match most < THREADS_WANTED {
                true => Finding::new(
                    Severity::Warning,
                    "processes",
                    (
                        what,
                        "a mount needs a thread for each request that waits",
                        "`ulimit -u`, or limits.conf(5)",
                    ),
                ),
                false => Finding::ok("processes", what),
            });
        }
        let why = "no thread can be started for a request, and no server after one that died";
        let remedy = "a higher TasksMax= of the unit, or --pids-limit of the container";
        let cgroup = self.cgroup.map(|used| {
            let what = format!(
                "{} of {} processes and threads of this cgroup are there",
                used.now, used.most
            );
            of_used("cgroup-pids", used, (what, why, remedy))
        });
        found.extend(cgroup);
        found
    }
}

fn of_descriptors(most: u64) -> Finding {
    let what = format!("a daemon may have {most} descriptors");
    if most >= DESCRIPTORS_WANTED {
        return Finding::ok("descriptor-limit", what);
    }
    let why = "each file that is open takes one, and each inode that is held by a descriptor";
    let remedy = "a higher hard limit (`ulimit -Hn`, LimitNOFILE= of the unit), or --max-inodes";
    Finding::new(Severity::Note, "descriptor-limit", (what, why, remedy))
}

fn of_used(check: &'static str, used: Used, (what, why, remedy): (String, &str, &str)) -> Finding {
    match used.now >= used.most - used.most / NEARLY {
        true => Finding::new(Severity::Warning, check, (what, why, remedy)),
        false => Finding::ok(check, what),
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn number(path: &str) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// The value of the line that begins with `name`.
pub(super) fn field(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().to_owned())
}

/// Allocated, unused (always 0), most.
fn file_nr(text: &str) -> Option<Used> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (now, _unused, most) = (
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    );
    Some(Used { now, most })
}

/// The limit of cgroup 2; none where there is none.
fn of_cgroup() -> Option<Used> {
    let group = field("/proc/self/cgroup", "0::")?;
    let directory = format!("/sys/fs/cgroup{}", group.trim_end_matches('/'));
    Some(Used {
        now: number(&format!("{directory}/pids.current"))?,
        // `max` is no number.
        most: number(&format!("{directory}/pids.max"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(limits: &Limits, is_root: bool) -> Vec<(&'static str, Severity)> {
        let found = limits.findings(is_root).into_iter();
        found.map(|found| (found.check, found.severity)).collect()
    }

    #[test]
    fn findings_of_few_descriptors_are_for_whom_the_limit_holds() {
        let limits = Limits {
            descriptors: Some(4096),
            nr_open: Some(1 << 20),
            ..Limits::default()
        };
        assert_eq!(
            found(&limits, false),
            [("descriptor-limit", Severity::Note)]
        );
        assert_eq!(found(&limits, true), [("descriptor-limit", Severity::Ok)]);
    }

    #[test]
    fn findings_of_what_is_nearly_used_up_are_warnings() {
        let used = |now| Limits {
            files: Some(Used { now, most: 100 }),
            cgroup: Some(Used { now, most: 100 }),
            processes: Some(63),
            ..Limits::default()
        };
        let severities = |limits: &Limits| -> Vec<_> {
            found(limits, true).iter().map(|found| found.1).collect()
        };
        assert_eq!(severities(&used(89)), [Severity::Ok; 2]);
        assert_eq!(severities(&used(90)), [Severity::Warning; 2]);
        let user = found(&used(1), false);
        assert!(user.contains(&("processes", Severity::Warning)), "{user:?}");
    }

    #[test]
    fn file_nr_has_what_is_open_first_and_the_limit_last() {
        let used = Used {
            now: 1120,
            most: 9_223,
        };
        assert_eq!(file_nr("1120\t0\t9223\n"), Some(used));
        assert_eq!(file_nr("1120"), None);
    }

    #[test]
    fn read_of_this_machine_finds_the_descriptors() {
        assert!(Limits::read().descriptors.is_some());
    }

    #[test]
    fn field_of_a_file_is_what_follows_its_name() {
        let pid = field("/proc/self/status", "Pid:").unwrap();
        assert_eq!(pid, std::process::id().to_string());
        assert_eq!(field("/proc/self/status", "NoSuchField:"), None);
        assert_eq!(field("/nonexistent", "Pid:"), None);
    }
}
