//! A file system that goes on where a server that died has left it: its inodes and handles again, as the
//! [`Ledger`] has them and as they are found to be.
//!
//! Invariant: nothing is opened. Each descriptor that the ledger names must be open, belong to nothing else of this
//! process, and be on the inode that the ledger says, or there is an error and the mount is given up.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thrufs_sys::inherited;

use crate::error::{Errno, Result};
use crate::handle_table::{Handle, HandleKind};
use crate::host_locks::{Family, OwnerFile};
use crate::inode::identity::{FileKind, file_of, identity};
use crate::inode::{Inode, InodeRef};
use crate::journal::{Journal, Note, Noted};
use crate::ledger::{Damaged, Entry, Ledger};
use crate::passthrough::Passthrough;

/// A server among those that serve one mount one after the other.
#[derive(Clone, Debug)]
pub struct Life {
    /// What all of them share.
    pub ledger: Arc<Ledger>,
    /// Another one has served before.
    pub is_later: bool,
    /// That one died, and did not hand over.
    pub died: bool,
    /// It ended by its own fault, and was not killed.
    pub crashed: bool,
    /// Descriptors that are not for files: those of the process that starts servers.
    pub own: Arc<[i32]>,
    /// Descriptors of inodes that this process itself has found to be on what the ledger says (`Ledger::take_in`);
    /// sorted.
    pub looked_at: Arc<[i32]>,
}

#[cfg(test)]
impl Life {
    /// That after so many `deaths`, by a kill, in the process of the test.
    pub(crate) fn after(ledger: &Arc<Ledger>, deaths: u64) -> Self {
        Self {
            ledger: Arc::clone(ledger),
            is_later: deaths > 0,
            died: deaths > 0,
            crashed: false,
            own: Arc::from([]),
            looked_at: Arc::from([]),
        }
    }
}

/// Numbers of handles begin with that of the life in these bits, so none is given twice.
const LIFE_SHIFT: u32 = 40;

impl Passthrough {
    /// The same file system as one of several lives; from the second on with what the first one had. To be called
    /// before it serves.
    ///
    /// # Errors
    /// The ledger is damaged ([`Damaged`]).
    pub fn surviving(mut self, life: &Life) -> io::Result<Self> {
        life.ledger.finish_forgets();
        let journal = Journal::new(Arc::clone(&life.ledger), life.crashed);
        let journal = Arc::new(journal);
        self.inodes
            .note_in(Arc::clone(&life.ledger), Arc::clone(&journal));
        let begun = life.ledger.begin(life.died);
        self.handles
            .note_in(Arc::clone(&life.ledger), begun.lives << LIFE_SHIFT | 1);
        self.locks.note_in(Arc::clone(&life.ledger));
        (self.deaths, self.lives) = (begun.deaths, begun.lives);
        self.goes_on = life.is_later;
        if life.is_later {
            self.take_over(life)?;
        }
        self.journal = Some(journal);
        Ok(self)
    }

    /// What servers that died had under way may come again at any time, until [`Self::has_resumed`]; else it comes before
    /// other requests.
    pub fn resume_when_told(&self) {
        self.journal.iter().for_each(|journal| journal.is_told());
    }

    /// All of it has come again that ever will.
    pub fn has_resumed(&self) {
        self.journal
            .iter()
            .for_each(|journal| journal.has_resumed());
    }

    /// Servers before this one.
    pub fn lives(&self) -> u64 {
        self.lives
    }

    /// Those that the mount has outlived.
    pub fn deaths(&self) -> u64 {
        self.deaths
    }

    /// Whether another server has served before.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// For what INIT was.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.journal.as_deref().map(Journal::ledger)
    }

    /// This thread serves the request `unique` until the result is dropped, after the answer; none
    /// where nothing outlives this server. What an earlier server gave out in answer to it is taken back.
    ///
    /// # Errors
    /// EIO: two servers have ended by their own fault while they served it.
    pub fn begin_request(&self, unique: u64, opcode: u32) -> Result<Option<Noted<'_>>> {
        let journal = self.journal.as_deref();
        let Some(entered) = journal.and_then(|journal| journal.enter(unique, opcode)) else {
            return Ok(None);
        };
        if let Some(fh) = entered.take_handle() {
            self.release(0, fh);
        }
        while let Some(ino) = entered.take_lookup() {
            self.forget(ino, 1);
        }
        if entered.is_poison {
            return Err(Errno::EIO);
        }
        Ok(Some(entered.serve()))
    }

    /// The note of the request that this thread serves.
    pub(crate) fn note(&self) -> Option<Note<'_>> {
        self.journal.as_ref()?.note()
    }

    /// Files that the kernel passes through stay so, by the ids that the ledger has; all others end.
    ///
    /// # Errors
    /// The ledger is damaged.
    pub(crate) fn take_over_backing_ids(&self) -> io::Result<()> {
        if !self.goes_on {
            return Ok(());
        }
        let mut in_use = HashMap::new();
        for handle in self.handles.all() {
            let Some(inode) = handle.file().and_then(|file| file.inode.as_ref()) else {
                continue;
            };
            self.backing_ids.take_over(inode, handle.backing_id)?;
            if let Some(id) = handle.backing_id {
                in_use.insert(inode.ino, (id, Arc::clone(inode)));
            }
        }
        let mut ids = Vec::new();
        for (id, inode) in in_use.values() {
            if let InodeRef::Fd(fd) = &inode.held {
                ids.push((*id, fd.as_fd()));
            }
        }
        self.backing_ids.keep(&ids)
    }

    fn take_over(&self, life: &Life) -> std::result::Result<(), Damaged> {
        let entries = life.ledger.entries()?;
        // Before any is adopted: what is dropped is closed.
        if entries
            .iter()
            .any(|(number, _)| life.own.contains(number) || *number <= 2)
        {
            return Err(Damaged("it names a descriptor that is no file's"));
        }
        let is_inode = |(_, entry): &&(i32, Entry)| matches!(entry, Entry::Inode { .. });
        self.inodes.make_room(entries.len());
        for (number, entry) in entries.iter().filter(is_inode) {
            self.take_inode(life, *number, entry)?;
        }
        for (number, entry) in &entries {
            self.take_handle(*number, entry)?;
        }
        for (number, entry) in &entries {
            self.take_locks(life, *number, entry)?;
        }
        Ok(())
    }

    fn take_inode(
        &self,
        life: &Life,
        number: i32,
        entry: &Entry,
    ) -> std::result::Result<(), Damaged> {
        let Entry::Inode {
            ino,
            key,
            kind,
            nlookup,
            may_be_mapped,
            told,
        } = *entry
        else {
            return Ok(());
        };
        let fd = adopt(number)?;
        if life.looked_at.binary_search(&number).is_err() {
            let found = identity(&fd).map_err(|_| Damaged("an inode cannot be looked at"))?;
            if found != (key, kind) {
                return Err(Damaged("a descriptor is on another inode"));
            }
        }
        let inode = self.inodes.take_over((ino, nlookup), key, kind, fd);
        let inode = inode.ok_or(Damaged("two inodes have one number"))?;
        self.sub_mounts.looked_up(&inode);
        inode.take_over_told(told);
        if may_be_mapped {
            self.backing_ids.take_over_mapped(&inode);
        }
        Ok(())
    }

    fn take_handle(&self, number: i32, entry: &Entry) -> std::result::Result<(), Damaged> {
        let (fh, ino, file, flags, backing_id) = match *entry {
            Entry::Inode { .. } | Entry::Locks { .. } => return Ok(()),
            Entry::File {
                fh,
                ino,
                file,
                flags,
                backing_id,
            } => (fh, ino, file, Some(flags), backing_id),
            Entry::Directory { fh, ino, file } => (fh, ino, file, None, None),
        };
        let fd = adopt(number)?;
        let expected = match flags {
            Some(_) => FileKind::Regular,
            None => FileKind::Directory,
        };
        check_is(&fd, file, expected)?;
        let inode: Option<Arc<Inode>> = self.inodes.get(ino);
        let is_of = |inode: &Arc<Inode>| (inode.key.dev, inode.key.ino) == file;
        if !inode.as_ref().is_none_or(is_of) {
            return Err(Damaged("a handle is not of its inode"));
        }
        let kind = match flags {
            Some(flags) => HandleKind::File(self.open_file((ino, inode), &fd, flags, None)),
            None => HandleKind::Directory(parking_lot::Mutex::default()),
        };
        let handle = Handle {
            ino,
            fd,
            kind,
            flags: flags.unwrap_or_default(),
            backing_id,
            is_kept: AtomicBool::new(false),
        };
        match self.handles.take_over(fh, handle) {
            true => Ok(()),
            false => Err(Damaged("two handles have one number")),
        }
    }

    /// A file that holds locks, after the handles: those of a handle that is released are released.
    fn take_locks(
        &self,
        life: &Life,
        number: i32,
        entry: &Entry,
    ) -> std::result::Result<(), Damaged> {
        let Entry::Locks {
            fh,
            ino,
            file,
            owner,
            is_flock,
            pid,
        } = *entry
        else {
            return Ok(());
        };
        let fd = adopt(number)?;
        check_is(&fd, file, FileKind::Regular)?;
        let family = match is_flock {
            true => Family::Whole,
            false => Family::Range,
        };
        match self.handles.get(fh, ino) {
            Ok(handle) if file_of(&handle.fd).is_ok_and(|of| of == file) => {
                let locked_by = OwnerFile { fd, file, fh, pid };
                self.locks.take_over((ino, family, owner), locked_by);
            }
            _released => life.ledger.clear(number),
        }
        Ok(())
    }
}

/// Whether what `fd` is open on is `file`, of this kind.
fn check_is(fd: &OwnedFd, file: (u64, u64), kind: FileKind) -> std::result::Result<(), Damaged> {
    let found = identity(fd).map_err(|_| Damaged("a file cannot be looked at"))?;
    match ((found.0.dev, found.0.ino), found.1) == (file, kind) {
        true => Ok(()),
        false => Err(Damaged("a descriptor is on another file")),
    }
}

fn adopt(number: i32) -> std::result::Result<OwnedFd, Damaged> {
    inherited::adopt(number).map_err(|_| Damaged("a descriptor is closed"))
}

#[cfg(test)]
mod tests;
