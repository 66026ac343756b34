//! What /proc tells of the thread that waits for an answer, where the protocol or fuser does not.

use rustix::thread::CapabilitySet;

use super::proc::callers;
use super::{Caller, CallerStatus, IdRanges};

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

/// What /proc says of thread `tid`; none when it is gone or cannot be seen.
pub fn read_status(tid: u32) -> Option<CallerStatus> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let mask = |name: &str| u64::from_str_radix(field(name)?.trim(), 16).ok();
    let pending = mask("SigPnd:").unwrap_or(0) | mask("ShdPnd:").unwrap_or(0);
    let effective = mask("CapEff:");
    // Real, effective, saved, file system.
    let id = |name: &str| field(name)?.split_whitespace().nth(3)?.parse().ok();
    let ids = id("Uid:").zip(id("Gid:"));
    let is_root = ids.is_some_and(|(uid, _gid)| uid == 0);
    let mapped = |file: &str| match effective {
        Some(1..) if !is_root => mapped_ids(tid, file).unwrap_or_default(),
        Some(_) | None => IdRanges::default(),
    };
    Some(CallerStatus {
        ids,
        groups: field("Groups:")
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|gid| gid.parse().ok())
            .collect(),
        effective,
        pending: pending & !mask("SigBlk:").unwrap_or(0),
        mapped_users: mapped("uid_map"),
        mapped_groups: mapped("gid_map"),
    })
}

/// The ids of this process's user namespace that the thread's has, by `file`: uid_map or gid_map.
fn mapped_ids(tid: u32, file: &str) -> Option<IdRanges> {
    let map = std::fs::read_to_string(format!("/proc/{tid}/{file}")).ok()?;
    let ours = std::fs::read_to_string(format!("/proc/self/{file}")).ok()?;
    // Of its own namespace, a process reads which ids of the parent's it has (user_namespaces(7)).
    match map == ours {
        true => Some(IdRanges::all()),
        false => Some(IdRanges::outside(&map)),
    }
}

/// Number of the system call that thread `tid` is blocked in (/proc/TID/syscall).
pub fn read_system_call(tid: u32) -> Option<i64> {
    for _ in 0..LOOKS {
        let text = std::fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
        if text.trim() == "running" {
            std::thread::yield_now();
            continue;
        }
        return text.split_whitespace().next()?.parse().ok();
    }
    None
}

fn status(tid: u32) -> Option<CallerStatus> {
    match callers() {
        Some(callers) => callers.status(tid),
        None => read_status(tid),
    }
}

/// The system call that thread `tid` is blocked in.
pub(crate) fn system_call(tid: u32) -> System {
    let number = match callers() {
        Some(callers) => callers.system_call(tid),
        None => read_system_call(tid),
    };
    match number {
        Some(libc::SYS_flock | SYS_FLOCK_32) => System::Flock,
        _other => System::Other,
    }
}

/// Whether thread `tid` has a signal to attend to, or is gone. A caller that cannot be seen from
/// here (`tid` 0) counts as having none.
pub fn is_interrupted(tid: u32) -> bool {
    tid != 0 && status(tid).is_none_or(|status| status.pending != 0)
}

/// Whether thread `tid` has been killed: the kernel makes any signal that ends its process one of these for each of its
/// threads (`complete_signal`), but for those that dump core. A caller that cannot be seen from here counts as living.
pub fn is_dying(tid: u32) -> bool {
    const KILLED: u64 = 1 << (libc::SIGKILL - 1);
    tid != 0 && status(tid).is_some_and(|status| status.pending & KILLED != 0)
}

/// Supplementary groups of a thread; none when it cannot be seen from here.
pub(crate) fn supplementary_groups(tid: u32) -> Vec<u32> {
    status(tid).unwrap_or_default().groups
}

/// File system uid and gid of a thread, as they are outside of every idmapped mount; none when it cannot be seen
/// from here.
pub(crate) fn ids(tid: u32) -> Option<(u32, u32)> {
    status(tid)?.ids
}

/// Whether the caller may change a file that is set-uid or set-gid and leave it so. One that is
/// not root counts as without: a capability that it shows in /proc may be its user namespace's. Nor has one that
/// neither the kernel nor /proc tells of.
pub(crate) fn has_fsetid(caller: &Caller) -> bool {
    if caller.is_told() && caller.uid != 0 {
        return false;
    }
    let status = status(caller.pid);
    let ids = status.as_ref().and_then(|status| status.ids);
    if !caller.is_told() && ids.is_none_or(|(uid, _gid)| uid != 0) {
        return false;
    }
    let effective = status.and_then(|status| status.effective);
    effective.is_none_or(|caps| caps & CAP_FSETID != 0)
}

/// Whether thread `tid`, which is not root, has one of `capabilities` over files of these users and
/// groups: its user namespace must have them (capable_wrt_inode_uidgid). None when it cannot be seen
/// from here, or is gone.
pub(crate) fn has_over(
    tid: u32,
    capabilities: CapabilitySet,
    mut owners: impl Iterator<Item = (u32, u32)>,
) -> Option<bool> {
    let status = status(tid)?;
    let is_mapped = |(uid, gid)| status.mapped_users.has(uid) && status.mapped_groups.has(gid);
    Some(status.effective? & capabilities.bits() != 0 && owners.all(is_mapped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_fsetid_of_another_user_is_false() {
        let (uid, gid, pid) = (12345, 0, std::process::id());
        assert!(!has_fsetid(&Caller { uid, gid, pid }));
    }

    /// Root by the kernel's word keeps the capability although its process is gone; root by /proc only what that
    /// shows.
    #[test]
    fn has_fsetid_of_a_caller_that_is_not_told_is_what_proc_says() {
        let untold = |pid| Caller {
            uid: u32::MAX,
            gid: u32::MAX,
            pid,
        };
        let own = read_status(std::process::id()).unwrap();
        let is_root = own.ids.unwrap().0 == 0;
        let has = is_root && own.effective.unwrap() & CAP_FSETID != 0;
        assert_eq!(has_fsetid(&untold(std::process::id())), has);
        assert!(!has_fsetid(&untold(u32::MAX)), "gone");
        assert!(!has_fsetid(&untold(0)), "no process here");
    }

    #[test]
    fn has_over_of_a_thread_that_is_gone_is_not_known() {
        let has = |tid, capabilities| has_over(tid, capabilities, [(0, 0)].into_iter());
        assert_eq!(has(u32::MAX, CapabilitySet::all()), None);
        assert_eq!(has(0, CapabilitySet::all()), None);
        assert_eq!(has(std::process::id(), CapabilitySet::empty()), Some(false));
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
