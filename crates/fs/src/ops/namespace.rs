//! LINK, UNLINK, RMDIR, RENAME and READLINK: names, and what they stand for.

use std::ffi::{CString, OsStr};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags, Statx};
use rustix::thread::CapabilitySet;

use crate::caller::Caller;
use crate::error::{Errno, IntoErrno, Result};
use crate::inode::PathFd;
use crate::ops::counted::CountedEntry;
use crate::ops::killpriv::mode_and_owner;
use crate::passthrough::Passthrough;
use crate::resolve::component;

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntryRef<'a> {
    /// Nodeid of the directory.
    pub parent: u64,
    /// The name.
    pub name: &'a OsStr,
}

impl Passthrough {
    /// Gives `ino` one more name.
    ///
    /// # Errors
    /// EEXIST, EXDEV, EMLINK, EROFS, and the backing file system's others.
    pub fn link(&self, ino: u64, to: DirEntryRef<'_>) -> Result<CountedEntry<'_>> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        let parent = self.inode(to.parent)?;
        let (fd, dir) = (self.path_fd(&inode)?, self.path_fd(&parent)?);
        let (proc_self_fd, number) = self.proc_path(fd.as_fd());
        let name = component(to.name)?;
        let flags = AtFlags::SYMLINK_FOLLOW;
        let link = || rustix::fs::linkat(proc_self_fd, &number, &dir, &name, flags).or_errno();
        let file = (inode.key.dev, inode.key.ino);
        self.link_once(file, (&dir, &name), || self.with_space(link))?;
        self.sub_mounts.is_present(&parent, to.name);
        // Not by the new name, which may be another file's by now.
        self.enter(fd.as_fd().try_clone_to_owned().or_errno()?)
    }

    /// Removes a name of something that is no directory.
    ///
    /// # Errors
    /// ENOENT, EISDIR, EBUSY, EROFS, and the backing file system's others.
    pub fn unlink(&self, at: DirEntryRef<'_>, caller: &Caller) -> Result<()> {
        self.remove(at, AtFlags::empty(), caller)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENOTEMPTY, EBUSY, EROFS, and the backing file system's others.
    pub fn rmdir(&self, at: DirEntryRef<'_>, caller: &Caller) -> Result<()> {
        self.remove(at, AtFlags::REMOVEDIR, caller)
    }

    fn remove(&self, at: DirEntryRef<'_>, flags: AtFlags, caller: &Caller) -> Result<()> {
        self.check_writable()?;
        let parent = self.inode(at.parent)?;
        self.crossing.check_not_covered(&parent, at.name)?;
        let (dir, name) = (self.path_fd(&parent)?, component(at.name)?);
        let remove = || rustix::fs::unlinkat(&dir, &name, flags).or_errno();
        let remove = || self.as_owner_if_sticky(caller, remove, &[(&dir, &name)]);
        self.removing(&dir, &name, |there| {
            self.remove_once((&dir, &name), there, remove)
        })?;
        self.sub_mounts.is_absent(&parent, at.name);
        Ok(())
    }

    /// Does `act`, which removes these names, so that in a sticky directory the backing file system
    /// checks whose the files are.
    fn as_owner_if_sticky(
        &self,
        caller: &Caller,
        act: impl Fn() -> Result<()>,
        names: &[(&PathFd<'_>, &CString)],
    ) -> Result<()> {
        let mut is_sticky = false;
        if caller.uid != 0 && caller.is_told() {
            for (dir, _) in names {
                is_sticky |= u32::from(mode_and_owner(dir)?.stx_mode) & libc::S_ISVTX != 0;
            }
        }
        match is_sticky {
            true => self.as_owner(caller, CapabilitySet::empty(), act, || {
                self.owners_of(names)
            }),
            false => act(),
        }
    }

    /// Mode and owner of those names that there are. A mount that leads back is not asked: the kernel
    /// refuses to remove what is mounted on.
    fn owners_of(&self, names: &[(&PathFd<'_>, &CString)]) -> Result<Vec<Statx>> {
        let mut found = Vec::new();
        for (dir, name) in names {
            match self.crossing.find(dir, name).and_then(mode_and_owner) {
                Ok(stat) => found.push(stat),
                Err(Errno::ENOENT | Errno::ELOOP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// renameat2(2); `flags` are RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT.
    ///
    /// # Errors
    /// EINVAL for other flags or where the backing file system lacks these; else its own.
    pub fn rename(
        &self,
        from: DirEntryRef<'_>,
        to: DirEntryRef<'_>,
        flags: u32,
        caller: &Caller,
    ) -> Result<()> {
        self.check_writable()?;
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        let (old, new) = (self.inode(from.parent)?, self.inode(to.parent)?);
        self.crossing.check_not_covered(&old, from.name)?;
        self.crossing.check_not_covered(&new, to.name)?;
        let (old_dir, new_dir) = (self.path_fd(&old)?, self.path_fd(&new)?);
        let (old_name, new_name) = (component(from.name)?, component(to.name)?);
        let rename = || {
            let rename = || {
                rustix::fs::renameat_with(&old_dir, &old_name, &new_dir, &new_name, flags)
                    .or_errno()
            };
            let names = [(&old_dir, &old_name), (&new_dir, &new_name)];
            self.as_owner_if_sticky(caller, rename, &names)
        };
        let replaces = !flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE);
        let rename = || match replaces {
            true => self.removing(&new_dir, &new_name, |_there| self.with_space(rename)),
            false => self.with_space(rename),
        };
        let (from_name, is_exchange) = ((&old_dir, &*old_name), flags == RenameFlags::EXCHANGE);
        self.rename_once(from_name, (&new_dir, &new_name), is_exchange, rename)?;
        self.sub_mounts.is_present(&new, to.name);
        Ok(())
    }

    /// Content of a symbolic link.
    ///
    /// # Errors
    /// EINVAL for anything else.
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        let target = rustix::fs::readlinkat(self.path_fd(&inode)?, c"", Vec::new()).or_errno()?;
        Ok(target.into_bytes())
    }
}
