//! UNLINK, RMDIR and a replacing RENAME as far as they concern the inode behind the name, and its FORGET.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Statx, StatxFlags};

use crate::error::{Errno, IntoErrno, Result};
use crate::inode::identity::{FileKind, key_of};
use crate::inode::{Inode, PinCount};
use crate::ledger::ForgetPlace;
use crate::passthrough::Passthrough;
use crate::removed::FORGET_IS_DUE;

/// A request that found SOURCE full tries again after this, if something was forgotten meanwhile.
const STEP: Duration = Duration::from_millis(5);
/// An UNLINK waits as long for one of too many pinned inodes.
const PIN_WAIT: Duration = Duration::from_millis(100);

/// An inode that the kernel holds no longer.
#[derive(Debug)]
pub struct Gone(Arc<Inode>);

impl Passthrough {
    /// Calls `remove`, which takes `name` in `dir` away if it succeeds, with the device and number of what has the name, if
    /// that was seen.
    ///
    /// # Errors
    /// Of `remove`.
    pub(crate) fn removing(
        &self,
        dir: impl AsFd,
        name: &CStr,
        remove: impl FnOnce(Option<(u64, u64)>) -> Result<()>,
    ) -> Result<()> {
        let stat = by_name(dir, name);
        let there = stat.as_ref().map(|stat| key_of(stat).file());
        let known = stat.and_then(|stat| Some((self.inodes.known(&key_of(&stat))?, stat)));
        let Some((inode, stat)) = known else {
            return remove(there);
        };
        // Some file systems count no links of directories.
        if inode.kind != FileKind::Directory && stat.stx_nlink > 1 {
            return self.removing_one_of_several(&inode, || remove(there));
        }
        // The file that the kernel knows may be gone, and another one have its inode number.
        let fd = inode.fd_to_pin().ok().flatten();
        let pinned = self.pin(&inode, fd.clone());
        let removed = remove(there);
        match removed {
            Ok(()) => {
                self.keep_for_setattr(&inode, fd);
                self.note_removed(&inode);
            }
            Err(_) if pinned => inode.let_go(),
            Err(_) => {}
        }
        removed
    }

    /// A link count above one may be of names that are all being removed now.
    fn removing_one_of_several(
        &self,
        inode: &Arc<Inode>,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let to_pin = inode.fd_to_pin();
        remove()?;
        let Ok(to_pin) = to_pin else { return Ok(()) };
        let stat = match &to_pin {
            Some(fd) => rustix::fs::fstat(fd).or_errno(),
            None => inode
                .path_fd()
                .and_then(|fd| rustix::fs::fstat(fd).or_errno()),
        };
        if stat.is_ok_and(|stat| stat.st_nlink == 0) {
            self.pin(inode, to_pin.clone());
            self.keep_for_setattr(inode, to_pin);
            self.note_removed(inode);
        }
        Ok(())
    }

    /// With the writeback cache, unlink(2) sends the times of what it has removed (fuse_entry_unlinked), and the
    /// next syncfs(2) on the mount, of whatever caller, has the error of that SETATTR.
    fn keep_for_setattr(&self, inode: &Arc<Inode>, fd: Option<Arc<OwnedFd>>) {
        if let Some(fd) = fd.filter(|_| self.config.writeback && !inode.is_pinned()) {
            self.recent.keep(inode, fd);
        }
    }

    /// Keeps `fd`, if any, on `inode` until it is forgotten. Returns whether that is new.
    pub(crate) fn pin(&self, inode: &Inode, fd: Option<Arc<OwnedFd>>) -> bool {
        let Some(fd) = fd.filter(|_| !inode.is_pinned()) else {
            return false;
        };
        let count = self.removed.admit().or_else(|| self.wait_for_pin());
        count.map(|count| inode.pin(fd, count)).is_some()
    }

    /// Too many inodes are pinned: waits until one of them is forgotten.
    fn wait_for_pin(&self) -> Option<PinCount> {
        let removed = &self.removed;
        let is_room = || removed.pinned() < removed.most;
        if let Some(waiting) = self.forgets.enter() {
            // In vain if clients use all of them.
            let done = || is_room() || !removed.is_any_due();
            waiting.until(Instant::now() + PIN_WAIT, done);
        }
        let count = removed.admit();
        if count.is_none() && !removed.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "clients use {} files that were removed, all that --rlimit-nofile leaves room for: further \
                 ones are gone for a client that has no descriptor of open(2) on them (ESTALE)",
                removed.pinned()
            );
        }
        count
    }

    fn note_removed(&self, inode: &Arc<Inode>) {
        inode.sort.let_idle_go();
        self.removed.insert(inode.ino);
        // No kernel sends the FORGET before it has the reply, but a client may be hostile.
        let known = self.inodes.get(inode.ino);
        if !known.is_some_and(|known| Arc::ptr_eq(&known, inode)) {
            self.removed.remove(inode.ino);
        }
    }

    /// The kernel gives back `count` lookups of `ino`.
    pub fn forget(&self, ino: u64, count: u64) {
        if let Some(gone) = self.count_forget(ino, count, None) {
            self.let_go(gone);
        }
    }

    /// The same, without what may take long: an inode that the kernel does not hold any more is returned, for
    /// [`Passthrough::let_go`]. A server that dies in the one has forgotten nothing of what came with it.
    /// `place`: where the message is, for the next server to find.
    pub fn count_forget(&self, ino: u64, count: u64, place: Option<ForgetPlace>) -> Option<Gone> {
        self.inodes.forget(ino, count, place).map(Gone)
    }

    /// Closes what holds the inode.
    pub fn let_go(&self, Gone(inode): Gone) {
        let ino = inode.ino;
        inode.let_go();
        if inode.kind == FileKind::Directory {
            self.listings.forget(ino);
        }
        self.sub_mounts.forgotten(&inode);
        if !self.removed.has(ino) {
            self.forgotten.note(&inode);
        }
        // Before it counts as freed.
        drop(inode);
        self.removed.forgotten(ino);
        if let Some(pressure) = &self.pressure {
            pressure.forgotten();
        }
        self.forgets.notify();
        self.parked.notify();
    }

    /// As [`Aside::run`].
    pub(crate) fn look_aside(&self, look: impl FnOnce()) {
        self.removed.aside.run(look);
    }

    /// Runs `act`, again if it fails for want of space that removed inodes occupy until their FORGETs come.
    ///
    /// # Errors
    /// Of `act`.
    pub(crate) fn with_space<T>(&self, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        let before = self.removed.freed();
        match act() {
            Err(Errno::ENOSPC | Errno::EDQUOT) if self.backing_ids.is_on() => {
                self.backing_ids.settle();
                match act() {
                    Err(full @ (Errno::ENOSPC | Errno::EDQUOT)) => {
                        self.when_freed(before, full, act)
                    }
                    done => done,
                }
            }
            Err(full @ (Errno::ENOSPC | Errno::EDQUOT)) => self.when_freed(before, full, act),
            done => done,
        }
    }

    fn when_freed<T>(
        &self,
        mut seen: u64,
        mut full: Errno,
        mut act: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let removed = &self.removed;
        let deadline = Instant::now() + FORGET_IS_DUE;
        let freed = || removed.freed();
        let waiting = self.forgets.enter();
        // Also if none is due: the RELEASE that makes one due may be under way.
        let mut is_worth_a_step = removed.count.load(Ordering::Relaxed) > 0;
        loop {
            if let Some(waiting) = &waiting {
                let step = Instant::now() + STEP;
                match is_worth_a_step {
                    true => waiting.until(step, || freed() != seen),
                    false => waiting.until(step, || !removed.is_any_due()),
                };
                is_worth_a_step = false;
            }
            let now = freed();
            if now != seen {
                seen = now;
                self.backing_ids.settle();
                match act() {
                    Err(error @ (Errno::ENOSPC | Errno::EDQUOT)) => full = error,
                    done => return done,
                }
            } else if waiting.is_none() || !removed.is_any_due() {
                return Err(full);
            }
            if Instant::now() >= deadline {
                return Err(full);
            }
        }
    }
}

/// What `name` stands for. What is wrong with it, its removal will say.
fn by_name(dir: impl AsFd, name: &CStr) -> Option<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW
        | AtFlags::NO_AUTOMOUNT
        // The name may be that of a mount point, MOUNTPOINT itself say, which may not be asked.
        | AtFlags::STATX_DONT_SYNC;
    let mask = StatxFlags::INO | StatxFlags::NLINK | StatxFlags::MNT_ID;
    rustix::fs::statx(dir, name, flags, mask).ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;

    use super::*;
    use crate::caller::Caller;
    use crate::config::{Config, InodeFileHandles};
    use crate::inode::ROOT_INO;
    use crate::ops::{DirEntryRef, SetAttr, SetTime};
    use crate::removed::Removed;

    /// Serves f0 to f3, all looked up; two may be pinned.
    fn serve() -> Option<(tempfile::TempDir, Passthrough, Vec<u64>)> {
        let source = tempfile::tempdir().unwrap();
        let top = File::open(source.path()).unwrap();
        let mut fs = Passthrough::new(top.into(), Config::default()).unwrap();
        fs.removed = Removed::new(2, Arc::default());
        let look_up = |index| {
            let name = format!("f{index}");
            File::create(source.path().join(&name)).unwrap();
            fs.lookup(ROOT_INO, OsStr::new(&name))
                .unwrap()
                .into_entry()
                .ino
        };
        let inodes = (0..4).map(look_up).collect();
        let has_handles = fs.config.inode_file_handles != InodeFileHandles::Never;
        has_handles.then_some((source, fs, inodes))
    }

    fn unlink(fs: &Passthrough, name: &str) {
        let name = OsStr::new(name);
        let parent = ROOT_INO;
        fs.unlink(DirEntryRef { parent, name }, &Caller::ROOT)
            .unwrap();
    }

    #[test]
    fn removal_of_more_known_files_than_can_be_pinned_succeeds() {
        let Some((_source, fs, inodes)) = serve() else {
            return;
        };
        ["f0", "f1", "f2"].iter().for_each(|name| unlink(&fs, name));
        let pinned = |ino: &u64| fs.inode(*ino).unwrap().is_pinned();
        assert!(pinned(&inodes[0]) && pinned(&inodes[1]) && !pinned(&inodes[2]));
        assert!(fs.removed.told.load(Ordering::Relaxed));
        fs.forget(inodes[0], 1);
        unlink(&fs, "f3");
        assert!(pinned(&inodes[3]));
        inodes[1..].iter().for_each(|ino| fs.forget(*ino, 1));
        assert_eq!((fs.removed.pinned(), fs.removed.since.lock().len()), (0, 0));
    }

    #[test]
    fn removal_of_too_many_files_waits_for_forgets_before_it_goes_without_a_pin() {
        let Some((_source, fs, inodes)) = serve() else {
            return;
        };
        fs.start_serving(2).unwrap();
        ["f0", "f1"].iter().for_each(|name| unlink(&fs, name));
        std::thread::scope(|scope| {
            scope.spawn(|| fs.forget(inodes[0], 1));
            while !fs.inode(inodes[2]).unwrap().is_pinned() {
                let inode = fs.inode(inodes[2]).unwrap();
                fs.pin(&inode, inode.fd_to_pin().unwrap());
            }
        });
        assert_eq!(fs.removed.pinned(), 2);
        fs.stop_notifying();
    }

    /// unlink(2) of a file that there was no room to pin was followed by a SETATTR that was ESTALE, and syncfs(2) on
    /// the mount failed with that.
    #[test]
    fn setattr_of_the_times_of_a_file_removed_without_a_pin_succeeds_with_the_writeback_cache() {
        let Some((_source, mut fs, inodes)) = serve() else {
            return;
        };
        fs.config.writeback = true;
        fs.start_serving(2).unwrap();
        ["f0", "f1", "f2"].iter().for_each(|name| unlink(&fs, name));
        assert!(!fs.inode(inodes[2]).unwrap().is_pinned());
        let times = SetAttr {
            mtime: Some(SetTime::Now),
            ..SetAttr::default()
        };
        assert_eq!(fs.setattr(inodes[2], &times).map(drop), Ok(()));
        fs.stop_notifying();
    }

    /// The RELEASE of a removed file that was open for long makes its FORGET due.
    #[test]
    fn released_makes_a_forget_due_again() {
        let removed = Removed::new(2, Arc::default());
        removed.insert(7);
        let long_ago = Instant::now().checked_sub(2 * FORGET_IS_DUE).unwrap();
        removed.since.lock().insert(7, long_ago);
        assert!(!removed.is_any_due());
        removed.released(8);
        assert!(!removed.is_any_due());
        removed.released(7);
        assert!(removed.is_any_due());
        removed.forgotten(7);
        assert!(!removed.is_any_due());
    }
}
