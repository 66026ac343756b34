//! From the number of a thread, as the kernel tells it to a daemon, to the process and its name.
//!
//! Invariant: a name is given only where the numbers mean the same here as in the mount's pid namespace; a wrong name
//! would be worse than none. By this program and not by the daemon, which has no /proc in its sandbox.

use std::collections::HashMap;

/// A process that makes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// None where it has ended before it was seen, or cannot be known.
    pub(super) name: Option<String>,
}

/// What was found out so far: a process that has ended since is still named.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<u32, Process>);

impl Names {
    /// The process of the thread `tid`; `is_here`: numbers of threads mean the same here as for the mount.
    pub(super) fn process(&mut self, tid: u32, is_here: bool) -> Process {
        if tid == 0 {
            let name = Some("[kernel]".to_owned());
            return Process { pid: 0, name };
        }
        let unknown = Process {
            pid: tid,
            name: None,
        };
        if !is_here {
            return unknown;
        }
        if let Some(process) = look_up(tid) {
            self.0.insert(tid, process);
        }
        self.0.get(&tid).cloned().unwrap_or(unknown)
    }

    /// Forgets all but `tids`.
    pub(super) fn keep(&mut self, tids: impl Iterator<Item = u32>) {
        let mut kept = HashMap::new();
        for tid in tids {
            if let Some(process) = self.0.remove(&tid) {
                kept.insert(tid, process);
            }
        }
        self.0 = kept;
    }
}

/// Looks into /proc, where a thread's directory exists beside those of processes, unlisted.
fn look_up(tid: u32) -> Option<Process> {
    let status = std::fs::read(format!("/proc/{tid}/status")).ok()?;
    let pid = tgid(&String::from_utf8_lossy(&status))?;
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&name)
        .trim_end_matches('\n')
        .to_owned();
    Some(Process {
        pid,
        name: Some(name),
    })
}

fn tgid(status: &str) -> Option<u32> {
    let value = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number beyond all that the kernel gives (pid_max is at most 2^22).
    const NONE: u32 = (1 << 22) + 1;

    #[test]
    fn process_of_a_thread_is_its_process_and_has_its_name() {
        let own = std::process::id();
        let tid = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get());
        let tid = tid.join().unwrap().unsigned_abs();
        assert_ne!(tid, own);
        let mut names = Names::default();
        let main = names.process(own, true);
        assert_eq!(main.pid, own);
        assert!(main.name.is_some_and(|name| !name.is_empty()));
        // While it lives it has the process's number; this one has ended.
        assert_eq!(names.process(NONE, true).name, None);
    }

    #[test]
    fn process_that_has_ended_keeps_its_name_until_it_is_forgotten() {
        let known = Process {
            pid: 7,
            name: Some("dd".to_owned()),
        };
        let mut names = Names(HashMap::from([(NONE, known.clone())]));
        assert_eq!(names.process(NONE, true), known);
        names.keep([NONE].into_iter());
        assert_eq!(names.process(NONE, true), known);
        names.keep(std::iter::empty());
        assert_eq!(names.process(NONE, true).name, None);
    }

    #[test]
    fn process_of_another_namespace_has_no_name() {
        let own = std::process::id();
        let elsewhere = Names::default().process(own, false);
        assert_eq!((elsewhere.pid, elsewhere.name), (own, None));
    }

    #[test]
    fn process_of_number_0_is_the_kernel() {
        let kernel = Names::default().process(0, true);
        assert_eq!(kernel.name.as_deref(), Some("[kernel]"));
    }
}
