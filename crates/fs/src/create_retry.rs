//! A CREATE that met an existing name, from its answer to the LOOKUP that the answer causes.
//!
//! Invariant 7: the kernel checks no mode after CREATE, so CREATE never opens a file that it did not
//! make. The answer is ESTALE, upon which the VFS walks the path once more with LOOKUP_REVAL
//! (do_filp_open in fs/namei.c): LOOKUP of the name, the kernel's own checks of what that gives,
//! OPEN. A second ESTALE would reach the application; a name that is gone by the LOOKUP and back by
//! a second CREATE would cause it. Therefore the LOOKUP, by the same thread, is answered with the
//! inode that CREATE met, whatever the name stands for by then.
//!
//! Why not open with the caller's rights: the server would have to know its supplementary groups,
//! its capabilities over the file in its user namespace, and fs.protected_regular of its machine.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The second walk begins at once, unless its caller was killed. What was met pins nothing longer
/// than this, once there is another CREATE like it or a LOOKUP.
const PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors that are kept at most. Each caller has one CREATE at a time.
const MOST: usize = 64;

/// What a CREATE met, by which thread.
#[derive(Debug)]
pub(crate) struct Met {
    /// The caller's thread id.
    pub(crate) tid: u32,
    /// Nodeid of the directory.
    pub(crate) parent: u64,
    /// Name in it.
    pub(crate) name: OsString,
    /// O_PATH descriptor of what had the name.
    pub(crate) fd: OwnedFd,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct CreateRetries {
    /// Whether there are any, so that a LOOKUP takes no lock when there are none.
    any: AtomicBool,
    /// Oldest first. A leaf lock: descriptors are closed after it.
    met: Mutex<Vec<(Instant, Met)>>,
}

impl CreateRetries {
    /// The CREATE is answered with ESTALE next.
    pub(crate) fn put(&self, met: Met) {
        let now = Instant::now();
        let mut all = self.met.lock();
        let mut closed = expired(&mut all, now);
        if all.len() == MOST {
            closed.push(all.remove(0));
        }
        all.push((now, met));
        self.any.store(true, Ordering::Release);
        drop(all);
        drop(closed);
    }

    /// What the CREATE of `name` in `parent` by thread `tid` has met, if this is its LOOKUP.
    pub(crate) fn take(&self, tid: u32, parent: u64, name: &OsStr) -> Option<OwnedFd> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut all = self.met.lock();
        let closed = expired(&mut all, Instant::now());
        let is_it = |met: &Met| met.tid == tid && met.parent == parent && met.name == name;
        let at = all.iter().position(|(_, met)| is_it(met));
        let found = at.map(|at| all.remove(at).1.fd);
        self.any.store(!all.is_empty(), Ordering::Release);
        drop(all);
        drop(closed);
        found
    }
}

/// Takes out what no LOOKUP has come for.
fn expired(all: &mut Vec<(Instant, Met)>, now: Instant) -> Vec<(Instant, Met)> {
    let kept = all.partition_point(|(met, _)| now.duration_since(*met) > PATIENCE);
    all.drain(..kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn met(tid: u32, parent: u64, name: &str) -> Met {
        Met {
            tid,
            parent,
            name: name.into(),
            fd: File::open("/dev/null").unwrap().into(),
        }
    }

    #[test]
    fn take_gives_what_was_met_once_and_to_its_thread_only() {
        let retries = CreateRetries::default();
        retries.put(met(7, 1, "a"));
        for (tid, parent, name) in [(8, 1, "a"), (7, 2, "a"), (7, 1, "b")] {
            assert!(retries.take(tid, parent, OsStr::new(name)).is_none());
        }
        assert!(retries.take(7, 1, OsStr::new("a")).is_some());
        assert!(retries.take(7, 1, OsStr::new("a")).is_none());
        assert!(!retries.any.load(Ordering::Relaxed));
    }

    #[test]
    fn put_of_too_many_closes_the_oldest() {
        let retries = CreateRetries::default();
        for tid in 0..=u32::try_from(MOST).unwrap() {
            retries.put(met(tid, 1, "a"));
        }
        assert_eq!(retries.met.lock().len(), MOST);
        assert!(retries.take(0, 1, OsStr::new("a")).is_none());
        assert!(retries.take(1, 1, OsStr::new("a")).is_some());
    }

    #[test]
    fn take_of_anything_closes_what_no_lookup_came_for() {
        let retries = CreateRetries::default();
        let long_ago = Instant::now().checked_sub(2 * PATIENCE).unwrap();
        retries.met.lock().push((long_ago, met(7, 1, "a")));
        retries.put(met(8, 1, "a"));
        assert_eq!(retries.met.lock().len(), 1);
        retries.met.lock().insert(0, (long_ago, met(7, 1, "a")));
        assert!(retries.take(7, 1, OsStr::new("a")).is_none());
        assert!(retries.take(8, 1, OsStr::new("a")).is_some());
    }
}
