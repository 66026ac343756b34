//! READDIR and READDIRPLUS, with the handle of an OPENDIR or, where the kernel sends none, without
//! (`listings.rs`).

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, RawDir, SeekFrom};

use crate::caller::Caller;
use crate::error::{Errno, IntoErrno, Result};
use crate::far_cookies::{Listed, is_far};
use crate::handle_table::{Handle, HandleKind};
use crate::inode::identity::FileKind;
use crate::inode::identity::InodeKey;
use crate::inode::{Inode, ROOT_INO};
use crate::ops::counted::CountedLookup;
use crate::passthrough::{Entry, Passthrough};

/// Bytes of getdents64(2) at a time.
const BUFFER_SIZE: usize = 32 * 1024;

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Number under which the client sees the inode.
    pub ino: u64,
    /// Where to go on after this entry: the backing file system's own cookie.
    pub next_offset: u64,
    /// Type.
    pub kind: FileKind,
    /// Name.
    pub name: &'a OsStr,
}

impl DirEntry<'_> {
    /// `.` or `..`, which READDIRPLUS does not look up.
    pub fn is_dot(&self) -> bool {
        self.name == "." || self.name == ".."
    }
}

impl Passthrough {
    /// Hands the entries from `offset` on to `emit` until that returns true: it is full.
    ///
    /// # Errors
    /// EBADF, ENOTDIR; without a handle EACCES and ESTALE as [`Passthrough::check_still_open_to`]; else the
    /// backing file system's.
    pub fn readdir(
        &self,
        ino: u64,
        (fh, offset): (u64, u64),
        caller: &dyn Fn() -> Result<Caller>,
        mut emit: impl FnMut(&DirEntry<'_>) -> Result<bool>,
    ) -> Result<()> {
        let inode = self.inode(ino)?;
        let handle = self.listed_by(&inode, fh, offset, caller)?;
        let last = self.list(&inode, &handle, offset, &mut emit)?;
        self.keep_listing(fh, offset, last, handle);
        Ok(())
    }

    /// Hands entries of the directory behind `handle` to `emit`; where to go on.
    fn list(
        &self,
        inode: &Inode,
        handle: &Handle,
        offset: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> Result<bool>,
    ) -> Result<u64> {
        let HandleKind::Directory(position) = &handle.kind else {
            return Err(Errno::ENOTDIR);
        };
        let mut position = position.lock();
        let mut emit = |listed: &Listed<'_>| {
            emit(&DirEntry {
                ino: self.seen_number(inode, listed.ino, listed.name.as_bytes()),
                next_offset: listed.next_offset,
                kind: listed.kind,
                name: listed.name,
            })
        };
        let mut last = offset;
        let mut is_full = false;
        match position.take(offset) {
            None => {
                rustix::fs::seek(&handle.fd, SeekFrom::Start(offset)).or_errno()?;
            }
            Some(kept) => {
                for listed in kept.records() {
                    is_full = is_full || emit(&listed)?;
                    match is_full {
                        false => last = listed.next_offset,
                        true => position.push(&listed),
                    }
                }
            }
        }
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER_SIZE];
        let mut entries = RawDir::new(&handle.fd, &mut buffer);
        // What was read and not taken is kept, where it could not be read again.
        while !is_full || is_far(last) && !entries.is_buffer_empty() {
            let Some(entry) = entries.next() else { break };
            let entry = entry.or_errno()?;
            let listed = Listed {
                ino: entry.ino(),
                next_offset: entry.next_entry_cookie(),
                kind: kind_of(entry.file_type()),
                name: OsStr::from_bytes(entry.file_name().to_bytes()),
            };
            is_full = is_full || emit(&listed)?;
            match is_full {
                false => last = listed.next_offset,
                true if is_far(last) => position.push(&listed),
                true => break,
            }
        }
        position.stop_at(last);
        Ok(last)
    }

    /// As [`Passthrough::readdir`], each entry looked up. `emit` gets no entry for `.` and `..`, for
    /// names whose inodes there is no room to hold, and for those that cannot be looked up, a mount that is
    /// dead or not entered say: these have [`ROOT_INO`] for a number. It returns true if it did not take
    /// the one it got. The lookups of the others are returned, for the reply to hand over.
    ///
    /// # Errors
    /// As there.
    pub fn readdirplus(
        &self,
        ino: u64,
        (fh, offset): (u64, u64),
        caller: &dyn Fn() -> Result<Caller>,
        mut emit: impl FnMut(&DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<Vec<CountedLookup<'_>>> {
        let inode = self.inode(ino)?;
        let handle = self.listed_by(&inode, fh, offset, caller)?;
        let mut emitted = 0_usize;
        let mut lookups = Vec::new();
        let last = self.list(&inode, &handle, offset, &mut |found| {
            let is_first = emitted == 0;
            emitted += 1;
            if found.is_dot() || !self.has_room_for_listed(is_first) {
                return Ok(emit(found, None));
            }
            // A known inode is listed under its nodeid.
            let counted = match self.lookup_listed(&inode, &handle.fd, found.name, found.ino) {
                Ok(counted) => counted,
                // Removed since it was listed.
                Err(Errno::ENOENT) => return Ok(false),
                Err(_shown_by_stat) => {
                    let ino = ROOT_INO;
                    return Ok(emit(&DirEntry { ino, ..*found }, None));
                }
            };
            let full = emit(found, Some(&counted.entry));
            if !full {
                lookups.push(counted.lookup);
            }
            Ok(full)
        })?;
        self.keep_listing(fh, offset, last, handle);
        Ok(lookups)
    }

    /// The number under which the client sees entry `name` of `parent`. A mount point shows the
    /// number of the directory it covers, as everywhere.
    fn seen_number(&self, parent: &Inode, ino: u64, name: &[u8]) -> u64 {
        if name == b".." && parent.ino == ROOT_INO {
            return parent.key.ino;
        }
        self.inodes.number_of(&InodeKey { ino, ..parent.key })
    }
}

fn kind_of(kind: FileType) -> FileKind {
    match kind {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => FileKind::Regular,
    }
}
