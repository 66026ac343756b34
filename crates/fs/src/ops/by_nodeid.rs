//! LOOKUP of "." and "..": the kernel has a nodeid, from a file handle of the mount, and wants its inode or the
//! directory above (`fuse_get_dentry`, `fuse_get_parent`).
//!
//! Invariant: what is found is SOURCE or below it. A directory that was moved out of SOURCE meanwhile has no
//! parent here. Whether the inode is the one that the file handle is of, the kernel tells by the generation.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::error::{Errno, IntoErrno, Result};
use crate::inode::identity::{key_of, statx};
use crate::inode::open_handle;
use crate::ops::counted::CountedEntry;
use crate::passthrough::Passthrough;

impl Passthrough {
    /// The inode with the nodeid `ino`, which the kernel may have forgotten.
    ///
    /// # Errors
    /// ESTALE where it is gone, or was forgotten too long ago.
    pub(crate) fn lookup_nodeid(&self, ino: u64) -> Result<CountedEntry<'_>> {
        let fd = match self.inodes.get(ino) {
            Some(inode) => self
                .path_fd(&inode)?
                .as_fd()
                .try_clone_to_owned()
                .or_errno()?,
            None => {
                let (mount, fid) = self.forgotten.get(ino).ok_or(Errno::ESTALE)?;
                open_handle(&mount, &fid, libc::O_PATH)?
            }
        };
        self.enter(fd)
    }

    /// The directory above the directory `ino`.
    ///
    /// # Errors
    /// ESTALE for SOURCE itself, and for what is not below it any more.
    pub(crate) fn lookup_parent(&self, ino: u64) -> Result<CountedEntry<'_>> {
        let inode = self.inode(ino)?;
        let root = self.inodes.root_key();
        if inode.key == root {
            return Err(Errno::ESTALE);
        }
        let parent = above(self.path_fd(&inode)?)?;
        let mut seen = key_of(&statx(&parent)?);
        let mut higher = None;
        while seen != root {
            let next = above(higher.as_ref().unwrap_or(&parent))?;
            let key = key_of(&statx(&next)?);
            if key == seen {
                return Err(Errno::ESTALE);
            }
            (seen, higher) = (key, Some(next));
        }
        self.enter(parent)
    }
}

fn above(dir: impl AsFd) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, c"..", flags, Mode::empty()).or_errno()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;

    use super::*;
    use crate::config::{Config, InodeFileHandles};
    use crate::inode::ROOT_INO;

    fn look_up(fs: &Passthrough, parent: u64, name: &str) -> Result<u64> {
        let found = fs.lookup(parent, OsStr::new(name))?;
        Ok(found.into_entry().ino)
    }

    #[test]
    fn lookup_of_a_nodeid_finds_what_was_forgotten_unless_it_is_gone() {
        let outer = tempfile::tempdir_in("/dev/shm").unwrap();
        let source = outer.path().join("source");
        std::fs::create_dir_all(source.join("a/b")).unwrap();
        std::fs::write(source.join("a/b/f"), "content").unwrap();
        let top = File::open(&source).unwrap();
        let fs = Passthrough::new(top.into(), Config::default()).unwrap();
        if fs.config().inode_file_handles == InodeFileHandles::Never {
            return eprintln!("no privilege to open file handles");
        }
        let a = look_up(&fs, ROOT_INO, "a").unwrap();
        let b = look_up(&fs, a, "b").unwrap();
        let f = look_up(&fs, b, "f").unwrap();
        assert_eq!(look_up(&fs, f, "."), Ok(f));
        assert_eq!(
            (look_up(&fs, b, ".."), look_up(&fs, a, "..")),
            (Ok(a), Ok(ROOT_INO))
        );
        assert_eq!(look_up(&fs, ROOT_INO, ".."), Err(Errno::ESTALE));
        let generation = |ino| {
            let found = fs.lookup(ino, OsStr::new(".")).unwrap().into_entry();
            (found.ino, found.generation)
        };
        let before = generation(f);
        assert!(before.1 > 0 && generation(ROOT_INO) == (ROOT_INO, 0));
        for ino in [f, b, a] {
            fs.forget(ino, u64::MAX);
        }
        assert_eq!(fs.known_inodes(), 1);
        assert_eq!(generation(f), before);
        assert_eq!(look_up(&fs, b, "."), Ok(b));
        assert_eq!(look_up(&fs, b, ".."), Ok(a));
        std::fs::rename(source.join("a/b"), outer.path().join("b")).unwrap();
        assert_eq!(look_up(&fs, b, ".."), Err(Errno::ESTALE));
        std::fs::remove_file(outer.path().join("b/f")).unwrap();
        fs.forget(f, u64::MAX);
        assert_eq!(look_up(&fs, f, "."), Err(Errno::ESTALE));
        assert_eq!(look_up(&fs, 1 << 50, "."), Err(Errno::ESTALE));
    }
}
