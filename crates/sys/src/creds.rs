//! Acting for a caller: the file system credentials and the umask of the calling thread.
//!
//! Invariant: whatever a guard changed is back when the guard is dropped, on the same thread (the
//! guards are not `Send`). The umask stays, and is set by all that makes files. Why not leave the ids as well:
//! SOURCE on NFS or FUSE would be asked in the last caller's name for what the server does in its own.
//! Why not create as root and chown: quota, setgid directories and the
//! order in which others see the file would be wrong in between.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::LocalKey;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Keeps a guard on the thread that made it.
type NotSend = PhantomData<*const ()>;

/// The thread's file system uid and gid are the caller's while this lives.
///
/// With [`Power::Keep`] the thread's effective capabilities stay as they were: setfsuid(2) drops
/// the file system ones when it leaves 0, which would refuse what the client kernel has already
/// allowed (say, by a supplementary group that FUSE does not tell us).
#[derive(Debug)]
pub struct FsCreds {
    changed: bool,
    /// The thread's supplementary groups were others before.
    regrouped: bool,
    _thread: NotSend,
}

/// What becomes of the effective capabilities when the file system uid changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// They stay: for operations that the client kernel has already permitted.
    Keep,
    /// They stay but for these, which must be file system ones: what they would override is left to
    /// the backing file system.
    KeepBut(CapabilitySet),
    /// The kernel drops the file system ones: permission checks are the caller's own.
    Drop,
}

impl FsCreds {
    /// Becomes `uid` and `gid` for file system operations. Without the privilege to do so (a
    /// daemon of an ordinary user) nothing changes: that daemon serves only its own user.
    ///
    /// # Errors
    /// EOVERFLOW for an id that there is not in the daemon's user namespace: setfsuid(2) fails without a
    /// word, and the caller's work would be done as root. Else from capset(2). Everything is put back.
    pub fn assume(uid: u32, gid: u32, power: Power) -> io::Result<Self> {
        let mut guard = Self {
            changed: false,
            regrouped: false,
            _thread: PhantomData,
        };
        if (uid == 0 && gid == 0) || !is_root() {
            return Ok(guard);
        }
        guard.changed = true;
        set_fs_gid(gid)?;
        if uid != 0 {
            let before = own_capabilities()?;
            set_fs_uid(uid)?;
            let dropped = match power {
                Power::Keep => CapabilitySet::empty(),
                Power::KeepBut(dropped) => dropped,
                Power::Drop => return Ok(guard),
            };
            let mut sets = before;
            sets.effective.remove(dropped);
            rustix::thread::set_capabilities(None, sets)?;
        }
        Ok(guard)
    }
}

impl FsCreds {
    /// The same, in these supplementary groups alone.
    ///
    /// # Errors
    /// As [`FsCreds::assume`]; EPERM where the user namespace has no setgroups(2).
    pub fn assume_with_groups(
        uid: u32,
        gid: u32,
        (groups, power): (&[u32], Power),
    ) -> io::Result<Self> {
        let mut guard = Self::assume(uid, gid, power)?;
        if guard.changed
            && own_groups()?
                .iter()
                .map(|gid| gid.as_raw())
                .ne(groups.iter().copied())
        {
            let groups: Vec<_> = groups
                .iter()
                .copied()
                .map(rustix::fs::Gid::from_raw)
                .collect();
            rustix::thread::set_thread_groups(&groups)?;
            guard.regrouped = true;
        }
        Ok(guard)
    }
}

/// The supplementary groups of each thread outside of any guard: those of the process, which nothing changes
/// once it serves.
fn own_groups() -> io::Result<&'static [rustix::fs::Gid]> {
    static OWN: OnceLock<Vec<rustix::fs::Gid>> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    // Of this thread, outside of a guard that changes them.
    let own = rustix::process::getgroups()?;
    Ok(OWN.get_or_init(|| own))
}

/// Whether this process is root, which it is from its start to its end or never.
fn is_root() -> bool {
    static IS_ROOT: OnceLock<bool> = OnceLock::new();
    *IS_ROOT.get_or_init(|| nix::unistd::geteuid().is_root())
}

/// The calling thread's capabilities outside of any guard, which nothing else changes once it serves: asked for
/// before its first guard.
fn own_capabilities() -> io::Result<CapabilitySets> {
    thread_local! {
        static OWN: Cell<Option<CapabilitySets>> = const { Cell::new(None) };
    }
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let own = rustix::thread::capabilities(None)?;
    OWN.set(Some(own));
    Ok(own)
}

/// An id that the calling thread has taken before: the user namespace has it, now as then.
type Taken = LocalKey<Cell<Option<u32>>>;

thread_local! {
    static TAKEN_GID: Cell<Option<u32>> = const { Cell::new(None) };
    static TAKEN_UID: Cell<Option<u32>> = const { Cell::new(None) };
}

/// setfsgid(2) never fails: whether it did something is asked for by an id that is none.
fn set_fs_gid(gid: u32) -> io::Result<()> {
    let wanted = Gid::from_raw(gid);
    nix::unistd::setfsgid(wanted);
    taken(&TAKEN_GID, gid, || {
        nix::unistd::setfsgid(Gid::from_raw(u32::MAX)) == wanted
    })
}

/// The same by setfsuid(2).
fn set_fs_uid(uid: u32) -> io::Result<()> {
    let wanted = Uid::from_raw(uid);
    nix::unistd::setfsuid(wanted);
    taken(&TAKEN_UID, uid, || {
        nix::unistd::setfsuid(Uid::from_raw(u32::MAX)) == wanted
    })
}

fn taken(before: &'static Taken, id: u32, is_taken: impl FnOnce() -> bool) -> io::Result<()> {
    if before.get() == Some(id) {
        return Ok(());
    }
    match is_taken() {
        true => {
            before.set(Some(id));
            Ok(())
        }
        false => Err(Errno::EOVERFLOW.into()),
    }
}

impl Drop for FsCreds {
    fn drop(&mut self) {
        if self.regrouped {
            // What was allowed before is now; the groups are known since.
            let _changed = own_groups().map(rustix::thread::set_thread_groups);
        }
        if self.changed {
            // Back to 0 raises the file system capabilities again by itself (capabilities(7)).
            nix::unistd::setfsuid(Uid::from_raw(0));
            nix::unistd::setfsgid(Gid::from_raw(0));
        }
    }
}

/// Sets the calling thread's umask (permission bits), so that the backing file system combines it with default
/// ACLs as it would for the caller itself. It stays: each operation that makes a file sets its own, which is a
/// system call only when another one was set last.
///
/// The first use on a thread gives it a root, current directory and umask of its own (unshare(2) with CLONE_FS,
/// which needs no privilege). In a container that refuses the call all threads have one umask, which the guard
/// holds for this one.
///
/// # Errors
/// From unshare(2).
pub fn set_umask(umask: u32) -> io::Result<Umask> {
    thread_local! {
        static OWN: Cell<Own> = const { Cell::new(Own::Unknown) };
    }
    let umask = Mode::from_bits_truncate(umask & 0o777);
    if OWN.get() == Own::Unknown {
        OWN.set(match nix::sched::unshare(CloneFlags::CLONE_FS) {
            Ok(()) => Own::Unset,
            Err(Errno::EPERM | Errno::ENOSYS) => Own::Shared,
            Err(errno) => return Err(errno.into()),
        });
    }
    match OWN.get() {
        Own::Set(set) if set == umask => Ok(Umask(None)),
        Own::Shared => {
            let shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            nix::sys::stat::umask(umask);
            Ok(Umask(Some(shared)))
        }
        Own::Unknown | Own::Unset | Own::Set(_) => {
            nix::sys::stat::umask(umask);
            OWN.set(Own::Set(umask));
            Ok(Umask(None))
        }
    }
}

/// The umask of [`set_umask`] is that of this thread while this lives.
#[derive(Debug)]
#[must_use = "where threads share a umask another one sets it"]
pub struct Umask(#[allow(dead_code, reason = "held")] Option<MutexGuard<'static, ()>>);

/// The umask that threads share where they cannot have their own. Held across the call that makes a file.
static SHARED: Mutex<()> = Mutex::new(());

/// Whose umask a thread has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// Not asked yet.
    Unknown,
    /// Its own, as the process had it.
    Unset,
    /// Its own, which is this.
    Set(Mode),
    /// That of the process.
    Shared,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn umask_of_one_thread_leaves_the_others_alone() {
        let probe = || {
            let now = nix::sys::stat::umask(Mode::empty());
            nix::sys::stat::umask(now);
            now
        };
        let outside = probe();
        std::thread::spawn(move || {
            for umask in [0o123, 0o123, 0o077] {
                let _umask = set_umask(umask).unwrap();
                assert_eq!(probe(), Mode::from_bits_truncate(umask));
            }
        })
        .join()
        .unwrap();
        assert_eq!(probe(), outside);
    }
}
