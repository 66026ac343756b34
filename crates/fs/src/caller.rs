//! What /proc tells of the thread that waits for an answer, where the protocol or fuser does not.

use rustix::thread::CapabilitySet;

use crate::passthrough::Caller;

/// In the masks of /proc/TID/status.
const CAP_FSETID: u64 = CapabilitySet::FSETID.bits();

/// The system call a caller is in, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// flock(2)
    Flock,
    /// Any other, or not to be seen from here.
    Other,
}

/// flock(2) in a 32-bit process on x86-64 (and on 32-bit Arm).
const SYS_FLOCK_32: i64 = 143;
/// How often to look again at a caller that has sent its request but is not yet asleep.
const LOOKS: usize = 200;

/// The system call that thread `tid` is blocked in (/proc/TID/syscall).
pub(crate) fn system_call(tid: u32) -> System {
    for _ in 0..LOOKS {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{tid}/syscall")) else {
            break;
        };
        if text.trim() == "running" {
            std::thread::yield_now();
            continue;
        }
        let number = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<i64>().ok());
        return match number {
            Some(libc::SYS_flock | SYS_FLOCK_32) => System::Flock,
            _other => System::Other,
        };
    }
    System::Other
}

/// Whether thread `tid` has a signal to attend to, or is gone. A caller that cannot be seen from
/// here (`tid` 0) counts as having none.
pub(crate) fn is_interrupted(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{tid}/status")) else {
        return true;
    };
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

/// Supplementary groups of a thread, from /proc; none when it cannot be seen from here.
pub(crate) fn supplementary_groups(tid: u32) -> Vec<u32> {
    let groups = status_field(tid, "Groups:");
    groups
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|gid| gid.parse().ok())
        .collect()
}

/// Whether the caller may change a file that is set-uid or set-gid and leave it so. One that is
/// not root counts as without: a capability that it shows in /proc may be its user namespace's.
pub(crate) fn has_fsetid(caller: &Caller) -> bool {
    if caller.uid != 0 {
        return false;
    }
    let effective = status_field(caller.pid, "CapEff:")
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_none_or(|caps| caps & CAP_FSETID != 0)
}

fn status_field(tid: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let mut lines = status.lines();
    lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_fsetid_of_another_user_is_false() {
        let (uid, gid, pid) = (12345, 0, std::process::id());
        assert!(!has_fsetid(&Caller { uid, gid, pid }));
    }

    #[test]
    fn is_interrupted_of_a_thread_that_is_gone_is_true() {
        assert!(is_interrupted(u32::MAX));
        assert!(!is_interrupted(std::process::id()));
    }

    #[test]
    fn system_call_of_a_sleeper_is_not_flock() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert_eq!(system_call(child.id()), System::Other);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
