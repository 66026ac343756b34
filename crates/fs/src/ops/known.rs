//! LOOKUP and READDIRPLUS of a name that stands for an inode that the kernel knows: one statx(2), where a new
//! inode is opened, looked at and, if it is not new after all, closed.
//!
//! Invariant: the inode was in the table before the statx(2) and is after it, and a descriptor holds it for as
//! long. So the number that the name shows is this inode's, and no later file's that was given it again. Why not
//! look the number up in the table afterwards: by then it may be such a file's. Why not hold the inode meanwhile:
//! the guess may be wrong, and the file removed and forgotten, which must free its space.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags};

use crate::attr::Attr;
use crate::coherence::external::Time;
use crate::error::{Errno, Result};
use crate::inode::Inode;
use crate::inode::identity::key_of;
use crate::ops::counted::{CountedEntry, CountedLookup};
use crate::passthrough::{Entry, Passthrough};

impl Passthrough {
    /// `name` in the directory `parent`, which is behind `dir`, if it stands for `guess`; the entry counts as one
    /// lookup. None, with nothing counted, if it does not or that cannot be told.
    ///
    /// # Errors
    /// ENOENT.
    pub(crate) fn look_up_known(
        &self,
        parent: &Inode,
        dir: impl AsFd,
        name: &CStr,
        guess: u64,
    ) -> Result<Option<CountedEntry<'_>>> {
        if self.name_hints.is_none() || self.sub_mounts.is_below(parent) {
            return Ok(None);
        }
        let Some((key, known)) = self.inodes.held(guess) else {
            return Ok(None);
        };
        let (asked, watch) = (Time::now(), self.watches.get(guess));
        let flags = AtFlags::SYMLINK_NOFOLLOW
            | AtFlags::NO_AUTOMOUNT
            // The name may be that of a mount point, MOUNTPOINT itself say, which may not be asked.
            | AtFlags::STATX_DONT_SYNC;
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let stat = match rustix::fs::statx(dir, name, flags, mask) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Err(Errno::ENOENT),
            Err(_shown_by_opening_it) => return Ok(None),
        };
        // A mount may lead back: opening the name finds out.
        if key_of(&stat) != key || key.mnt_id != parent.key.mnt_id || stat.stx_nlink == 0 {
            return Ok(None);
        }
        let Some(inode) = self.inodes.look_up_again(guess, &known) else {
            return Ok(None);
        };
        let lookup = CountedLookup::new(self, inode.ino);
        self.sub_mounts.looked_up(&inode);
        self.inodes.tell(&inode, &stat);
        let attr = Attr {
            ino: inode.ino,
            stat,
            external: watch.and_then(|watch| watch.judge(asked, &stat)),
            is_volatile: inode.sort.may_be_mapped(),
        };
        let entry = Entry {
            ino: inode.ino,
            generation: inode.generation(),
            attr,
            entry_timeout: self.entry_timeout(inode.kind),
            // On the same mount as its directory.
            is_submount: false,
        };
        Ok(Some(CountedEntry { entry, lookup }))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;

    use super::*;
    use crate::config::{Config, InodeFileHandles};
    use crate::inode::ROOT_INO;

    /// On a file system whose names can be looked at, which /dev/shm is on any Linux.
    fn serve() -> (tempfile::TempDir, Passthrough) {
        let source = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = Config {
            inode_file_handles: InodeFileHandles::Never,
            ..Config::default()
        };
        let top = File::open(source.path()).unwrap();
        let fs = Passthrough::new(top.into(), config).unwrap();
        assert!(fs.name_hints.is_some());
        (source, fs)
    }

    fn look_up(fs: &Passthrough, name: &str) -> Result<u64> {
        fs.lookup(ROOT_INO, OsStr::new(name))
            .map(|found| found.into_entry().ino)
    }

    #[test]
    fn lookup_of_a_known_name_counts_as_one_more_lookup() {
        let (source, fs) = serve();
        std::fs::write(source.path().join("f"), "before").unwrap();
        let ino = look_up(&fs, "f").unwrap();
        std::fs::write(source.path().join("f"), "longer than before").unwrap();
        let again = fs.lookup(ROOT_INO, OsStr::new("f")).unwrap().into_entry();
        assert_eq!((again.ino, again.attr.stat.stx_size), (ino, 18));
        fs.forget(ino, 1);
        assert_eq!(fs.known_inodes(), 2);
        fs.forget(ino, 1);
        assert_eq!(fs.known_inodes(), 1);
        assert_eq!(look_up(&fs, "f"), Ok(ino));
    }

    #[test]
    fn lookup_of_a_name_that_stands_for_another_file_by_now_gives_that() {
        let (source, fs) = serve();
        let path = |name: &str| source.path().join(name);
        std::fs::write(path("f"), "before").unwrap();
        std::fs::write(path("g"), "after").unwrap();
        let (before, after) = (look_up(&fs, "f").unwrap(), look_up(&fs, "g").unwrap());
        assert_ne!(before, after);
        std::fs::rename(path("g"), path("f")).unwrap();
        assert_eq!(look_up(&fs, "f"), Ok(after));
        assert_eq!(look_up(&fs, "g"), Err(Errno::ENOENT));
        std::fs::remove_file(path("f")).unwrap();
        std::fs::create_dir(path("f")).unwrap();
        let found = fs.lookup(ROOT_INO, OsStr::new("f")).unwrap().into_entry();
        assert!(![before, after].contains(&found.ino));
        assert_eq!(found.attr.stat.stx_nlink, 2);
        fs.forget(before, 1);
        fs.forget(after, 2);
        assert_eq!(fs.known_inodes(), 2);
    }

    #[test]
    fn look_up_known_of_another_inode_than_was_guessed_counts_nothing() {
        let (source, fs) = serve();
        std::fs::write(source.path().join("f"), "").unwrap();
        std::fs::write(source.path().join("g"), "").unwrap();
        let (f, root) = (look_up(&fs, "f").unwrap(), fs.inode(ROOT_INO).unwrap());
        let dir = root.path_fd().unwrap();
        assert!(fs.look_up_known(&root, &dir, c"g", f).unwrap().is_none());
        assert!(
            fs.look_up_known(&root, &dir, c"f", f + 1)
                .unwrap()
                .is_none()
        );
        fs.forget(f, 1);
        assert_eq!(fs.known_inodes(), 1);
    }
}
