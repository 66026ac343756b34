//! Backing ids with a registrar that counts, and no kernel.

use std::ffi::OsStr;
use std::fs::File;

use super::*;
use crate::caller::Caller;
use crate::config::{Config, InodeFileHandles, KernelPassthrough};
use crate::error::Errno;
use crate::inode::ROOT_INO;
use crate::ledger::{Entry, Ledger};
use crate::negotiated::Negotiated;
use crate::ops::Opened;
use crate::passthrough::Passthrough;
use crate::survival::Life;

/// Refuses with this errno, if it is not 0.
#[derive(Debug, Default)]
struct Fake {
    next: AtomicUsize,
    held: AtomicUsize,
    refuses: AtomicUsize,
}

impl RegisterBacking for Fake {
    fn open(&self, _file: BorrowedFd<'_>) -> io::Result<i32> {
        match self.refuses.load(Ordering::SeqCst) {
            0 => {
                self.held.fetch_add(1, Ordering::SeqCst);
                Ok(self.next.fetch_add(1, Ordering::SeqCst) as i32 + 1)
            }
            errno => Err(io::Error::from_raw_os_error(errno as i32)),
        }
    }

    fn close_soon(&self, _id: i32) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }

    fn flush(&self) {}

    fn keep(&self, ids: &[InUse<'_>]) -> io::Result<()> {
        self.held.store(ids.len(), Ordering::SeqCst);
        Ok(())
    }

    fn settle(&self) {}
}

struct Fixture {
    source: tempfile::TempDir,
    fs: Passthrough,
    registrar: Arc<Fake>,
    /// Attributes that were invalidated.
    invalidated: Arc<Mutex<Vec<u64>>>,
}

fn fixture(passthrough: KernelPassthrough) -> Fixture {
    let source = tempfile::tempdir().unwrap();
    File::create(source.path().join("f")).unwrap();
    fixture_of(source, passthrough, None).unwrap()
}

/// The same in this life of the mount, if it has several.
fn fixture_of(
    source: tempfile::TempDir,
    passthrough: KernelPassthrough,
    life: Option<&Life>,
) -> io::Result<Fixture> {
    let config = Config {
        passthrough,
        inode_file_handles: InodeFileHandles::Never,
        survive: life.is_some(),
        ..Config::default()
    };
    let fs = Passthrough::new(File::open(source.path())?.into(), config)?;
    let fs = match life {
        Some(life) => fs.surviving(life)?,
        None => fs,
    };
    fs.set_negotiated(Negotiated {
        kernel_abi: (7, 45),
        max_write_asked: 1 << 20,
        max_write: 1 << 20,
        max_pages_limit: 256,
        max_readahead: 131_072,
        max_background: 64,
        granted: vec!["FUSE_PASSTHROUGH".to_owned()],
        refused: Vec::new(),
        left_out: Vec::new(),
    });
    let (registrar, invalidated) = (Arc::<Fake>::default(), Arc::<Mutex<Vec<u64>>>::default());
    let noted = Arc::clone(&invalidated);
    let send = Box::new(move |ino, offset, _len| {
        assert_eq!(offset, -1, "more than attributes");
        noted.lock().push(ino);
        Ok(())
    });
    fs.start_passing_through(registrar.clone(), send, None)?;
    Ok(Fixture {
        source,
        fs,
        registrar,
        invalidated,
    })
}

impl Fixture {
    /// Of a small file that was written much.
    fn ino(&self) -> u64 {
        let found = self.fs.lookup(ROOT_INO, OsStr::new("f"));
        let ino = found.unwrap().into_entry().ino;
        let inode = self.fs.inodes.get(ino).unwrap();
        (0..MANY).for_each(|_| inode.sort.note_write());
        ino
    }

    fn open(&self, ino: u64, flags: i32) -> Result<Opened, Errno> {
        self.fs.open(ino, flags, &Caller::ROOT)
    }

    fn held(&self) -> usize {
        self.registrar.held.load(Ordering::SeqCst)
    }
}

#[test]
fn open_while_another_is_open_and_for_a_moment_after_it_shares_its_id() {
    let test = fixture(KernelPassthrough::Auto);
    let ino = test.ino();
    let first = test.open(ino, libc::O_RDWR).unwrap();
    let id = first.backing_id;
    assert!(id.is_some());
    // A reader of a small file, too: all handles are of one sort.
    let second = test.open(ino, libc::O_RDONLY).unwrap();
    assert_eq!(second.backing_id, id);
    let appending = test.open(ino, libc::O_WRONLY | libc::O_APPEND).unwrap();
    assert_eq!((appending.backing_id, appending.direct_io), (id, true));
    for opened in [first, second, appending] {
        test.fs.release(ino, opened.fh);
    }
    let again = test.open(ino, libc::O_RDONLY).unwrap();
    assert_eq!(again.backing_id, id);
    test.fs.release(ino, again.fh);
    test.fs.stop_notifying();
    assert_eq!(test.held(), 0);
}

#[test]
fn open_after_a_fallback_is_not_passed_through_until_release() {
    let test = fixture(KernelPassthrough::Auto);
    let ino = test.ino();
    test.registrar
        .refuses
        .store(libc::ETIMEDOUT as usize, Ordering::SeqCst);
    let first = test.open(ino, libc::O_RDWR).unwrap();
    assert_eq!(first.backing_id, None);
    test.registrar.refuses.store(0, Ordering::SeqCst);
    let second = test.open(ino, libc::O_RDWR).unwrap();
    assert_eq!(second.backing_id, None);
    test.fs.release(ino, first.fh);
    test.fs.release(ino, second.fh);
    assert!(test.open(ino, libc::O_RDWR).unwrap().backing_id.is_some());
    let counts = test.fs.snapshot().unwrap().kernel_passthrough;
    assert_eq!((counts.files, counts.opens), (1, 1));
    let told: Vec<_> = counts
        .through_daemon
        .iter()
        .map(|reason| reason.opens)
        .collect();
    assert_eq!(told, [1, 1], "{counts:?}");
}

#[test]
fn open_that_must_and_cannot_is_an_error_and_not_counted() {
    let test = fixture(KernelPassthrough::Always);
    let ino = test.ino();
    test.registrar
        .refuses
        .store(libc::ELOOP as usize, Ordering::SeqCst);
    assert_eq!(test.open(ino, libc::O_RDONLY).unwrap_err(), Errno::ELOOP);
    assert_eq!(test.fs.open_handles(), 0);
    test.registrar.refuses.store(0, Ordering::SeqCst);
    assert!(test.open(ino, libc::O_RDONLY).unwrap().backing_id.is_some());
}

#[test]
fn refusal_that_lasts_is_asked_for_once() {
    let test = fixture(KernelPassthrough::Auto);
    let ino = test.ino();
    test.registrar
        .refuses
        .store(libc::ELOOP as usize, Ordering::SeqCst);
    test.fs
        .release(ino, test.open(ino, libc::O_RDWR).unwrap().fh);
    test.registrar.refuses.store(0, Ordering::SeqCst);
    assert_eq!(test.open(ino, libc::O_RDWR).unwrap().backing_id, None);
}

#[test]
fn release_of_a_file_without_a_name_ends_its_id_at_once() {
    let test = fixture(KernelPassthrough::Auto);
    let ino = test.ino();
    let opened = test.open(ino, libc::O_WRONLY).unwrap();
    std::fs::remove_file(test.source.path().join("f")).unwrap();
    assert_eq!(test.held(), 1);
    test.fs.release(ino, opened.fh);
    assert_eq!(test.held(), 0);
}

#[test]
fn id_without_a_handle_ends_by_itself_and_with_its_inode() {
    let test = fixture(KernelPassthrough::Auto);
    let ino = test.ino();
    test.fs
        .release(ino, test.open(ino, libc::O_WRONLY).unwrap().fh);
    let deadline = Instant::now() + Duration::from_secs(60);
    while test.held() > 0 {
        assert!(Instant::now() < deadline, "still held");
        std::thread::yield_now();
    }
    test.fs
        .release(ino, test.open(ino, libc::O_WRONLY).unwrap().fh);
    test.fs.forget(ino, 1);
    test.fs.stop_notifying();
    assert_eq!(test.held(), 0);
}

#[test]
fn open_for_reading_and_writing_makes_attributes_volatile_once() {
    let test = fixture(KernelPassthrough::Auto);
    let ino = test.ino();
    let timeout = || test.fs.attr_timeout(&test.fs.getattr(ino, None).unwrap());
    let writer = test.open(ino, libc::O_WRONLY).unwrap();
    assert_eq!(timeout(), test.fs.config().timeouts.attr);
    let first = test.open(ino, libc::O_RDWR).unwrap();
    let second = test.open(ino, libc::O_RDWR).unwrap();
    assert_eq!(*test.invalidated.lock(), [ino]);
    assert_eq!(timeout(), Duration::ZERO);
    for opened in [writer, first, second] {
        test.fs.release(ino, opened.fh);
    }
    // A mapping may be left.
    assert_eq!(timeout(), Duration::ZERO);
}

#[test]
fn start_after_a_death_keeps_the_ids_of_open_files_and_what_may_be_mapped() {
    let ledger = Arc::new(Ledger::for_tests(4096));
    let source = tempfile::tempdir().unwrap();
    for name in ["f", "g"] {
        File::create(source.path().join(name)).unwrap();
    }
    let always = KernelPassthrough::Always;
    let test = fixture_of(source, always, Some(&Life::after(&ledger, 0))).unwrap();
    let ino = test.ino();
    let first = test.open(ino, libc::O_RDWR).unwrap();
    let second = test.open(ino, libc::O_RDONLY).unwrap();
    // Open no more: its id waits, and ends.
    let other = test.fs.lookup(ROOT_INO, OsStr::new("g")).unwrap();
    let other = other.into_entry().ino;
    let closed = test.open(other, libc::O_RDONLY).unwrap();
    test.fs.release(other, closed.fh);
    assert_eq!(test.held(), 2);
    let Fixture { source, fs, .. } = test;
    std::mem::forget(fs);
    let test = fixture_of(source, always, Some(&Life::after(&ledger, 1))).unwrap();
    assert_eq!((test.held(), test.fs.open_handles()), (1, 2));
    let known = |ino| test.fs.inodes.get(ino).unwrap();
    assert!(known(ino).sort.may_be_mapped() && !known(other).sort.may_be_mapped());
    let third = test.open(ino, libc::O_RDONLY).unwrap();
    assert_eq!((third.backing_id, test.held()), (first.backing_id, 1));
    for opened in [first, second, third] {
        test.fs.release(ino, opened.fh);
    }
    test.fs.stop_notifying();
    assert_eq!((test.held(), test.fs.open_handles()), (0, 0));
}

/// The kernel answers EIO where they meet, so no server has left that.
#[test]
fn start_after_a_death_with_handles_of_two_sorts_is_refused() {
    let ledger = Arc::new(Ledger::for_tests(4096));
    let source = tempfile::tempdir().unwrap();
    File::create(source.path().join("f")).unwrap();
    let always = KernelPassthrough::Always;
    let test = fixture_of(source, always, Some(&Life::after(&ledger, 0))).unwrap();
    let ino = test.ino();
    for _handle in 0..2 {
        test.open(ino, libc::O_RDONLY).unwrap();
    }
    let entries = ledger.entries().unwrap();
    let changed = entries.into_iter().find_map(|(number, entry)| match entry {
        Entry::File {
            fh,
            ino,
            file,
            flags,
            ..
        } => {
            let backing_id = None;
            let entry = Entry::File {
                fh,
                ino,
                file,
                flags,
                backing_id,
            };
            Some((number, entry))
        }
        _other => None,
    });
    let (number, entry) = changed.unwrap();
    assert!(ledger.set(number, entry));
    let Fixture { source, fs, .. } = test;
    std::mem::forget(fs);
    let refused = fixture_of(source, always, Some(&Life::after(&ledger, 1)));
    assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::InvalidData);
}
