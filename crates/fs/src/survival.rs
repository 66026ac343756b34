//! A file system that goes on where a server that died has left it: its inodes and handles again, as the
//! [`Ledger`] has them and as they are found to be.
//!
//! Invariant: nothing is opened. Each descriptor that the ledger names must be open, belong to nothing else of this
//! process, and be on the inode that the ledger says, or there is an error and the mount is given up.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thrufs_sys::inherited;

use crate::error::{Errno, Result};
use crate::handle_table::{Handle, HandleKind};
use crate::inode::Inode;
use crate::inode::identity::{FileKind, InodeKey, key_of, statx};
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
        self.deaths = begun.deaths;
        self.goes_on = life.is_later;
        if life.is_later {
            self.take_over(life)?;
        }
        self.journal = Some(journal);
        Ok(self)
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
        if let Some(given) = entered.given {
            if given.fh != 0 {
                self.release(given.ino, given.fh);
            }
            if given.ino != 0 {
                self.forget(given.ino, 1);
            }
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
        for (number, entry) in entries.iter().filter(is_inode) {
            self.take_inode(*number, entry)?;
        }
        for (number, entry) in &entries {
            self.take_handle(*number, entry)?;
        }
        Ok(())
    }

    fn take_inode(&self, number: i32, entry: &Entry) -> std::result::Result<(), Damaged> {
        let Entry::Inode {
            ino,
            key,
            kind,
            nlookup,
        } = *entry
        else {
            return Ok(());
        };
        let fd = adopt(number)?;
        let found = identity(&fd).map_err(|_| Damaged("an inode cannot be looked at"))?;
        if found != (key, kind) {
            return Err(Damaged("a descriptor is on another inode"));
        }
        let inode = self.inodes.take_over((ino, nlookup), key, kind, fd);
        let inode = inode.ok_or(Damaged("two inodes have one number"))?;
        self.sub_mounts.looked_up(&inode);
        Ok(())
    }

    fn take_handle(&self, number: i32, entry: &Entry) -> std::result::Result<(), Damaged> {
        let (fh, ino, file, flags) = match *entry {
            Entry::Inode { .. } => return Ok(()),
            Entry::File {
                fh,
                ino,
                file,
                flags,
            } => (fh, ino, file, Some(flags)),
            Entry::Directory { fh, ino, file } => (fh, ino, file, None),
        };
        let fd = adopt(number)?;
        let found = identity(&fd).map_err(|_| Damaged("a file cannot be looked at"))?;
        let expected = match flags {
            Some(_) => FileKind::Regular,
            None => FileKind::Directory,
        };
        if ((found.0.dev, found.0.ino), found.1) != (file, expected) {
            return Err(Damaged("a handle is on another file"));
        }
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
            is_kept: AtomicBool::new(false),
        };
        match self.handles.take_over(fh, handle) {
            true => Ok(()),
            false => Err(Damaged("two handles have one number")),
        }
    }
}

fn adopt(number: i32) -> std::result::Result<OwnedFd, Damaged> {
    inherited::adopt(number).map_err(|_| Damaged("a descriptor is closed"))
}

/// What `fd` is on.
fn identity(fd: &OwnedFd) -> Result<(InodeKey, FileKind)> {
    let stat = statx(fd)?;
    Ok((key_of(&stat), FileKind::from_mode(u32::from(stat.stx_mode))))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::fd::IntoRawFd;
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::caller::Caller;
    use crate::coherence::external::Time;
    use crate::config::{Config, InodeFileHandles};
    use crate::inode::ROOT_INO;
    use crate::ops::{DirEntryRef, NewNode, WriteRequest};

    fn life(ledger: &Arc<Ledger>, deaths: u64) -> Life {
        Life {
            ledger: Arc::clone(ledger),
            is_later: deaths > 0,
            died: deaths > 0,
            crashed: false,
            own: Arc::from([]),
        }
    }

    fn serve(source: &Path, life: &Life) -> io::Result<Passthrough> {
        let config = Config {
            inode_file_handles: InodeFileHandles::Never,
            survive: true,
            ..Config::default()
        };
        Passthrough::new(File::open(source)?.into(), config)?.surviving(life)
    }

    fn me() -> Caller {
        Caller {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            pid: 0,
        }
    }

    fn new(name: &str) -> NewNode<'_> {
        NewNode {
            parent: ROOT_INO,
            name: OsStr::new(name),
            mode: 0o644,
            umask: 0,
            caller: me(),
            groups: None,
            labels: &[],
        }
    }

    fn write(fs: &Passthrough, (ino, fh): (u64, u64), flags: i32, data: &[u8]) -> Result<usize> {
        fs.write(&WriteRequest {
            ino,
            fh,
            offset: 0,
            data,
            flags,
            from_cache: false,
        })
    }

    /// Serves one request and dies before its answer, in the process of the test: the descriptors stay.
    fn die_in(fs: Passthrough, unique: u64, request: impl FnOnce(&Passthrough)) {
        let noted = fs.begin_request(unique, 0).unwrap();
        request(&fs);
        std::mem::forget(noted);
        std::mem::forget(fs);
    }

    #[test]
    fn surviving_has_the_inodes_and_handles_of_the_dead_server() {
        let source = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::for_tests(4096));
        let fs = serve(source.path(), &life(&ledger, 0)).unwrap();
        let (made, opened) = fs.create(&new("f"), libc::O_RDWR).unwrap();
        let ino = made.into_entry().ino;
        let at = DirEntryRef {
            parent: ROOT_INO,
            name: OsStr::new("f"),
        };
        fs.unlink(at, &me()).unwrap();
        let closed = fs.open(ino, libc::O_RDONLY, &me()).unwrap();
        fs.release(ino, closed.fh);
        std::mem::forget(fs);
        let fs = serve(source.path(), &life(&ledger, 1)).unwrap();
        assert_eq!((fs.known_inodes(), fs.open_handles()), (2, 1));
        assert_eq!(write(&fs, (ino, opened.fh), 0, b"unlinked"), Ok(8));
        let other = fs.open(ino, libc::O_RDONLY, &me()).unwrap();
        assert!(other.fh > closed.fh && other.fh != opened.fh, "{other:?}");
        fs.release(ino, other.fh);
        fs.release(ino, opened.fh);
        fs.forget(ino, 1);
        assert_eq!((fs.known_inodes(), fs.open_handles()), (1, 0));
        assert!(ledger.descriptors().is_empty());
    }

    /// A server that is killed in pwritev2(2) may have written a part.
    #[test]
    fn write_that_appends_after_a_death_adds_what_is_missing() {
        for there in [&b""[..], b"da", b"data"] {
            let source = tempfile::tempdir().unwrap();
            let path = source.path().join("f");
            let ledger = Arc::new(Ledger::for_tests(4096));
            let fs = serve(source.path(), &life(&ledger, 0)).unwrap();
            let (made, opened) = fs.create(&new("f"), libc::O_WRONLY).unwrap();
            let file = (made.into_entry().ino, opened.fh);
            write(&fs, file, libc::O_APPEND, b"before ").unwrap();
            die_in(fs, 8, |fs| {
                write(fs, file, libc::O_APPEND, b"data").unwrap();
                let len = (b"before ".len() + there.len()) as u64;
                File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(len)
                    .unwrap();
            });
            let fs = serve(source.path(), &life(&ledger, 1)).unwrap();
            let noted = fs.begin_request(8, 0).unwrap();
            assert_eq!(write(&fs, file, libc::O_APPEND, b"data"), Ok(4));
            drop(noted);
            assert_eq!(std::fs::read(&path).unwrap(), b"before data");
            fs.release(file.0, file.1);
        }
    }

    /// Another file of that name was there before: it is not the request's own.
    #[test]
    fn mkdir_after_a_death_that_had_failed_fails_again() {
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("d")).unwrap();
        let ledger = Arc::new(Ledger::for_tests(4096));
        let fs = serve(source.path(), &life(&ledger, 0)).unwrap();
        // Ticks are coarse.
        let now = Time::tick();
        while Time::tick() == now {
            std::thread::yield_now();
        }
        die_in(fs, 8, |fs| {
            assert_eq!(fs.mkdir(&new("d")).unwrap_err(), Errno::EEXIST);
        });
        let fs = serve(source.path(), &life(&ledger, 1)).unwrap();
        let noted = fs.begin_request(8, 0).unwrap();
        assert_eq!(fs.mkdir(&new("d")).unwrap_err(), Errno::EEXIST);
        drop(noted);
    }

    #[test]
    fn surviving_of_what_is_not_the_inode_or_not_a_file_s_is_damaged() {
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("f"), "").unwrap();
        let file = || File::open(source.path().join("f")).unwrap();
        let (key, kind) = identity(&file().into()).unwrap();
        let right = Entry::Inode {
            ino: 77,
            key,
            kind,
            nlookup: 1,
        };
        let other = InodeKey {
            ino: key.ino + 1,
            ..key
        };
        let wrong = Entry::Inode {
            ino: 77,
            key: other,
            kind,
            nlookup: 1,
        };
        let handle = Entry::Directory {
            fh: 1,
            ino: 77,
            file: (key.dev, key.ino),
        };
        for (entry, is_own, is_right) in [
            (right, false, true),
            (right, true, false),
            (wrong, false, false),
            (handle, false, false),
        ] {
            let ledger = Arc::new(Ledger::for_tests(4096));
            // Closed by what takes it over, unless nothing does.
            let number = file().into_raw_fd();
            assert!(ledger.set(number, entry));
            let own = if is_own { vec![number] } else { Vec::new() };
            let life = Life {
                own: own.into(),
                ..life(&ledger, 1)
            };
            let fs = serve(source.path(), &life);
            assert_eq!(fs.is_ok(), is_right, "{entry:?} own {is_own}: {fs:?}");
        }
    }

    /// Bytes that a server which was taken over left: never a panic, and nothing that is not there.
    #[test]
    fn surviving_of_random_bytes_is_damaged_or_right() {
        let source = tempfile::tempdir().unwrap();
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 16 ^ seed << 48
        };
        let rounds = std::env::var("THRUFS_MUTATIONS").ok();
        let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(300);
        for _round in 0..rounds {
            let ledger = Arc::new(Ledger::for_tests(8));
            for word in ledger.words() {
                match random() % 4 {
                    0 => word.store(random(), Ordering::Relaxed),
                    1 => word.store(random() % 8, Ordering::Relaxed),
                    _zero => {}
                }
            }
            let _init = ledger.init();
            let journal = Journal::new(Arc::clone(&ledger), true);
            let _noted = journal.enter(random() % 8, 1);
            let fs = serve(source.path(), &life(&ledger, 1));
            let is_empty = ledger.descriptors().is_empty();
            assert_eq!(fs.is_ok(), is_empty, "{fs:?}");
        }
    }
}
