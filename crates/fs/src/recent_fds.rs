//! Descriptors on the inodes that were looked up last, where those are held by file handle.
//!
//! What the kernel looks up it uses next: GETATTR, OPEN, SETATTR, UNLINK. Should the file be replaced
//! on SOURCE in between, its handle can no longer be opened, and the caller, who gave a name, would get
//! ESTALE; the kernel walks the path a second time after the first one (LOOKUP_REVAL), but not a third
//! time. With a descriptor the file that was found is used, as on a native file system.
//!
//! Invariant: a descriptor stays for [`KEPT`] at most, and at most so many as there is room for: a file
//! that is removed on SOURCE frees its space then, though the kernel still knows it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::aside::Aside;
use crate::inode::Inode;

/// How long a descriptor stays: longer than a busy machine takes from a LOOKUP to the request after it.
pub(crate) const KEPT: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(crate) struct RecentFds {
    most: usize,
    time: Duration,
    aside: Arc<Aside>,
    /// While the thread runs; without it nothing is kept.
    running: AtomicBool,
    /// Oldest first. A leaf lock; descriptors are closed after it.
    kept: Mutex<VecDeque<(Instant, Weak<Inode>)>>,
    changed: Condvar,
}

impl RecentFds {
    /// Keeps at most `most`, each for `time`. They are closed in `aside`.
    pub(crate) fn new(most: usize, time: Duration, aside: Arc<Aside>) -> Self {
        Self {
            most,
            time,
            aside,
            running: AtomicBool::new(false),
            kept: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Keeps `fd`, which is one on `inode`, unless the inode has one.
    pub(crate) fn keep(&self, inode: &Arc<Inode>, fd: Arc<OwnedFd>) {
        if !self.running.load(Ordering::Relaxed) {
            return;
        }
        if !inode.keep_recent(fd) {
            return;
        }
        let mut kept = self.kept.lock();
        if kept.is_empty() {
            self.changed.notify_all();
        }
        kept.push_back((Instant::now(), Arc::downgrade(inode)));
        let oldest = (kept.len() > self.most).then(|| kept.pop_front());
        drop(kept);
        if let Some((_, inode)) = oldest.flatten() {
            self.let_go(&inode);
        }
    }

    /// Starts the thread that lets go of what has been kept long enough.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        self.running.store(true, Ordering::Relaxed);
        let recent = Arc::clone(self);
        std::thread::Builder::new()
            .name("thrufs-recent".into())
            .spawn(move || recent.serve())
            .map(drop)
            .inspect_err(|_| self.stop())
    }

    /// Ends the thread, and keeps nothing from now on.
    pub(crate) fn stop(&self) {
        let mut kept = self.kept.lock();
        self.running.store(false, Ordering::Relaxed);
        let all = std::mem::take(&mut *kept);
        drop(kept);
        self.changed.notify_all();
        all.iter().for_each(|(_, inode)| self.let_go(inode));
    }

    fn let_go(&self, inode: &Weak<Inode>) {
        self.aside.run(|| {
            if let Some(inode) = inode.upgrade() {
                inode.let_recent_go();
            }
        });
    }

    fn serve(&self) {
        let mut kept = self.kept.lock();
        while self.running.load(Ordering::Relaxed) {
            let Some(&(since, _)) = kept.front() else {
                self.changed.wait(&mut kept);
                continue;
            };
            if !self
                .changed
                .wait_until(&mut kept, since + self.time)
                .timed_out()
            {
                continue;
            }
            let now = Instant::now();
            let count = kept.partition_point(|(since, _)| now.duration_since(*since) >= self.time);
            let old: Vec<_> = kept.drain(..count).collect();
            MutexGuard::unlocked(&mut kept, || {
                old.iter().for_each(|(_, inode)| self.let_go(inode));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;

    use super::*;
    use crate::caller::Caller;
    use crate::config::{Config, InodeFileHandles};
    use crate::error::Errno;
    use crate::inode::ROOT_INO;
    use crate::passthrough::Passthrough;

    /// Serves the files f0 to f9, and keeps four of those that are looked up.
    fn serve(time: Duration) -> Option<(tempfile::TempDir, Passthrough)> {
        let source = tempfile::tempdir().unwrap();
        for index in 0..10 {
            File::create(source.path().join(format!("f{index}"))).unwrap();
        }
        let top = File::open(source.path()).unwrap();
        let mut fs = Passthrough::new(top.into(), Config::default()).unwrap();
        fs.recent = Arc::new(RecentFds::new(4, time, Arc::default()));
        fs.start_serving(2).unwrap();
        let has_handles = fs.config.inode_file_handles != InodeFileHandles::Never;
        has_handles.then_some((source, fs))
    }

    fn look_up(fs: &Passthrough, name: &str) -> u64 {
        fs.lookup(ROOT_INO, OsStr::new(name)).unwrap().ino
    }

    fn is_kept(fs: &Passthrough, ino: u64) -> bool {
        fs.inode(ino).unwrap().kept().is_some()
    }

    /// Where one in seven open(2) of a name that was being replaced was ESTALE.
    #[test]
    fn open_of_what_was_replaced_on_source_after_the_lookup_is_the_file_of_before() {
        let Some((source, fs)) = serve(Duration::from_secs(3600)) else {
            return;
        };
        let path = |name: &str| source.path().join(name);
        std::fs::write(path("f0"), "before").unwrap();
        let ino = look_up(&fs, "f0");
        std::fs::rename(path("f1"), path("f0")).unwrap();
        assert_eq!(fs.getattr(ino, None).unwrap().stat.stx_size, 6);
        fs.open(ino, libc::O_RDONLY, &Caller::ROOT).unwrap();
        fs.stop_notifying();
        assert!(!is_kept(&fs, ino));
    }

    #[test]
    fn keep_beyond_the_number_closes_the_oldest() {
        let Some((_source, fs)) = serve(Duration::from_secs(3600)) else {
            return;
        };
        let inodes: Vec<_> = (0..6)
            .map(|index| look_up(&fs, &format!("f{index}")))
            .collect();
        let kept: Vec<_> = inodes.iter().map(|ino| is_kept(&fs, *ino)).collect();
        assert_eq!(kept, [false, false, true, true, true, true]);
        // A second LOOKUP of one that is kept keeps no more.
        look_up(&fs, "f5");
        assert!(is_kept(&fs, inodes[2]));
        fs.forget(inodes[5], 2);
        assert_eq!(fs.inode(inodes[5]).unwrap_err(), Errno::ESTALE);
        fs.stop_notifying();
    }

    #[test]
    fn keep_ends_after_its_time_by_itself() {
        let Some((_source, fs)) = serve(Duration::ZERO) else {
            return;
        };
        let ino = look_up(&fs, "f0");
        let deadline = Instant::now() + Duration::from_secs(60);
        while is_kept(&fs, ino) {
            assert!(Instant::now() < deadline, "still open");
            std::thread::yield_now();
        }
        fs.stop_notifying();
    }
}
