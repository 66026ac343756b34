//! A server that goes on where another one died, in one process: its descriptors stay, and nothing else does.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::backing::{Backing, HostBacking};
use crate::caller::Caller;
use crate::coherence::external::Time;
use crate::config::{Config, InodeFileHandles};
use crate::inode::ROOT_INO;
use crate::inode::identity::InodeKey;
use crate::ops::{DirEntryRef, NewNode, WriteRequest};

fn serve(source: &Path, life: &Life) -> io::Result<Passthrough> {
    serve_by(source, life, Arc::new(HostBacking))
}

fn serve_by(source: &Path, life: &Life, backing: Arc<dyn Backing>) -> io::Result<Passthrough> {
    let config = Config {
        inode_file_handles: InodeFileHandles::Never,
        survive: true,
        ..Config::default()
    };
    let source = File::open(source)?.into();
    Passthrough::with_backing(source, config, backing)?.surviving(life)
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
    let fs = serve(source.path(), &Life::after(&ledger, 0)).unwrap();
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
    let fs = serve(source.path(), &Life::after(&ledger, 1)).unwrap();
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
        let fs = serve(source.path(), &Life::after(&ledger, 0)).unwrap();
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
        let fs = serve(source.path(), &Life::after(&ledger, 1)).unwrap();
        let noted = fs.begin_request(8, 0).unwrap();
        assert_eq!(write(&fs, file, libc::O_APPEND, b"data"), Ok(4));
        drop(noted);
        assert_eq!(std::fs::read(&path).unwrap(), b"before data");
        fs.release(file.0, file.1);
    }
}

/// A caller whose rights are for the kernel to tell got ESTALE, and again when a server died before it had looked again.
#[test]
fn open_after_a_death_goes_by_what_the_kernel_was_told() {
    let source = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::for_tests(4096));
    let fs = serve(source.path(), &Life::after(&ledger, 0)).unwrap();
    let (made, opened) = fs.create(&new("f"), libc::O_RDWR).unwrap();
    let ino = made.into_entry().ino;
    fs.release(ino, opened.fh);
    std::mem::forget(fs);
    // Its number is told by nothing but the kernel.
    let somebody = Caller {
        uid: u32::MAX,
        ..me()
    };
    for (mode, outcome) in [(0o644, Ok(())), (0o600, Err(Errno::ESTALE))] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(source.path().join("f"), mode).unwrap();
        let fs = serve(source.path(), &Life::after(&ledger, 1)).unwrap();
        let opened = fs.open(ino, libc::O_RDONLY, &somebody);
        assert_eq!(opened.map(|opened| fs.release(ino, opened.fh)), outcome);
        std::mem::forget(fs);
    }
}

/// The kernel reports an error of writeback once for each open file: an fsync(2) that comes again would not have it.
#[derive(Debug, Default)]
struct FailsOnce(AtomicBool);

impl Backing for FailsOnce {
    fn sync(&self, _fd: BorrowedFd<'_>, _datasync: bool) -> Result<()> {
        match self.0.swap(true, Ordering::SeqCst) {
            false => Err(Errno::EIO),
            true => Ok(()),
        }
    }
}

#[test]
fn fsync_after_a_death_that_had_an_outcome_has_it_again() {
    let source = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::for_tests(4096));
    let backing = Arc::new(FailsOnce::default());
    let serve = |deaths| {
        serve_by(
            source.path(),
            &Life::after(&ledger, deaths),
            backing.clone(),
        )
    };
    let fs = serve(0).unwrap();
    let (made, opened) = fs.create(&new("f"), libc::O_RDWR).unwrap();
    let file = (made.into_entry().ino, opened.fh);
    let sync = |fs: &Passthrough| fs.fsync(file.0, file.1, false);
    die_in(fs, 8, |fs| assert_eq!(sync(fs), Err(Errno::EIO)));
    let fs = serve(1).unwrap();
    let noted = fs.begin_request(8, 0).unwrap();
    assert_eq!(sync(&fs), Err(Errno::EIO));
    drop(noted);
    die_in(fs, 10, |fs| assert_eq!(sync(fs), Ok(())));
    // Not once more: it has succeeded.
    backing.0.store(false, Ordering::SeqCst);
    let fs = serve(2).unwrap();
    let noted = fs.begin_request(10, 0).unwrap();
    assert_eq!(sync(&fs), Ok(()));
    drop(noted);
    // Begun, and its outcome not known.
    die_in(fs, 12, |fs| fs.note().unwrap().begin([0; 4]));
    let fs = serve(3).unwrap();
    for outcome in [Err(Errno::EIO), Ok(())] {
        let noted = fs.begin_request(12, 0).unwrap();
        assert_eq!(sync(&fs), outcome);
        drop(noted);
    }
    fs.release(file.0, file.1);
}

/// Another file of that name was there before: it is not the request's own.
#[test]
fn mkdir_after_a_death_that_had_failed_fails_again() {
    let source = tempfile::tempdir().unwrap();
    let there = source.path().join("d");
    std::fs::create_dir(&there).unwrap();
    // A time that is a whole hundredth is taken for one of a file system that has no others.
    while std::fs::metadata(&there).unwrap().ctime_nsec() % 10_000_000 == 0 {
        std::fs::remove_dir(&there).unwrap();
        std::fs::create_dir(&there).unwrap();
    }
    let ledger = Arc::new(Ledger::for_tests(4096));
    let fs = serve(source.path(), &Life::after(&ledger, 0)).unwrap();
    // Ticks are coarse.
    let now = Time::tick();
    while Time::tick() == now {
        std::thread::yield_now();
    }
    die_in(fs, 8, |fs| {
        assert_eq!(fs.mkdir(&new("d")).unwrap_err(), Errno::EEXIST);
    });
    let fs = serve(source.path(), &Life::after(&ledger, 1)).unwrap();
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
        may_be_mapped: false,
        told: 0,
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
        may_be_mapped: false,
        told: 0,
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
            ..Life::after(&ledger, 1)
        };
        let fs = serve(source.path(), &life);
        assert_eq!(fs.is_ok(), is_right, "{entry:?} own {is_own}: {fs:?}");
    }
}

/// The sequence is the same in each run.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.0 >> 16 ^ self.0 << 48
    }

    fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }
}

/// Starts of the next two; `THRUFS_MUTATIONS` asks for more.
fn starts() -> u64 {
    let asked = std::env::var("THRUFS_MUTATIONS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// Bytes that a server which was taken over left: never a panic, and nothing that is not there.
#[test]
fn surviving_of_random_bytes_is_damaged_or_right() {
    let source = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::for_tests(8));
    let mut random = Random(1);
    for start in 0..starts() {
        for word in ledger.words_that_count() {
            let value = match random.below(4) {
                0 => random.word(),
                1 => random.below(8),
                _zero => 0,
            };
            word.store(value, Ordering::Relaxed);
        }
        let _init = ledger.init();
        ledger.finish_forgets();
        let is_empty = ledger.descriptors().is_empty();
        let fs = serve(source.path(), &Life::after(&ledger, 1));
        assert_eq!(fs.is_ok(), is_empty, "start {start}");
        if let Ok(fs) = fs {
            // What was given out and what was there before are any numbers.
            let noted = fs.begin_request(random.below(8), 1);
            let _any = fs.mkdir(&new("d"));
            drop(noted);
            let _any = std::fs::remove_dir(source.path().join("d"));
        }
    }
}

/// Above the numbers that other tests of this process get.
const FIRST: i32 = 10_000;
const DESCRIPTORS: i32 = 12;

/// A descriptor of this number on something that a server may have open, and what that is.
fn open_something(source: &Path, at: i32, random: &mut Random) -> Option<(InodeKey, FileKind)> {
    let flags = match random.below(3) {
        0 => OFlags::PATH,
        _data => OFlags::RDONLY | OFlags::NONBLOCK,
    };
    let of = |path: &Path| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).ok();
    let fd: OwnedFd = match random.below(8) {
        0 => return None,
        1 => of(source)?,
        2 => of(&source.join("d"))?,
        3 => of(Path::new("/proc/self/status"))?,
        4 => of(Path::new("/dev/null"))?,
        5 => std::os::unix::net::UnixDatagram::unbound().ok()?.into(),
        6 => of(&source.join("other"))?,
        _most => of(&source.join("f"))?,
    };
    let numbered = rustix::io::fcntl_dupfd_cloexec(&fd, at).unwrap();
    assert_eq!(numbered.into_raw_fd(), at, "a number that is in use");
    identity(&fd).ok()
}

/// An entry with a right checksum, which says this or something else.
fn entry_about(what: Option<(InodeKey, FileKind)>, random: &mut Random) -> Entry {
    let mut any = |right: u64| match random.below(16) {
        0 => random.below(4),
        1 => random.word(),
        _right => right,
    };
    let (key, kind) = what.unwrap_or((
        InodeKey {
            dev: 1,
            ino: 2,
            mnt_id: 3,
        },
        FileKind::Regular,
    ));
    let key = InodeKey {
        dev: any(key.dev),
        ino: any(key.ino),
        mnt_id: any(key.mnt_id),
    };
    let (file, ino) = ((any(key.dev), any(key.ino)), any(key.ino));
    let fh = any(key.ino) << 8 | any(0) & 7;
    let kind = match any(99) {
        99 => kind,
        _other => FileKind::Directory,
    };
    match random.below(6) {
        0..3 => Entry::Inode {
            ino: ino.max(ROOT_INO + 1),
            key,
            kind,
            nlookup: 1 + random.below(3),
            may_be_mapped: random.below(2) == 0,
            told: random.word(),
        },
        3 => Entry::File {
            fh,
            ino,
            file,
            flags: random.word() as i32,
            backing_id: (random.below(2) == 0).then_some(7),
        },
        4 => Entry::Directory { fh, ino, file },
        _locks => Entry::Locks {
            fh,
            ino,
            file,
            owner: random.below(4),
            is_flock: random.below(2) == 0,
            pid: 1,
        },
    }
}

fn is_true(entry: &Entry, what: Option<(InodeKey, FileKind)>) -> bool {
    let Some((is, of)) = what else { return false };
    let is_file = |file: (u64, u64), kind| (is.dev, is.ino) == file && of == kind;
    match *entry {
        Entry::Inode { key, kind, .. } => (key, kind) == (is, of),
        Entry::File { file, .. } | Entry::Locks { file, .. } => is_file(file, FileKind::Regular),
        Entry::Directory { file, .. } => is_file(file, FileKind::Directory),
    }
}

/// Entries as a server which was taken over could make them, of descriptors that it could leave open: what is served after
/// that is what the descriptors are.
#[test]
fn surviving_of_entries_that_lie_is_damaged() {
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir(source.path().join("d")).unwrap();
    for name in ["f", "other"] {
        std::fs::write(source.path().join(name), name).unwrap();
    }
    let limit = getrlimit(Resource::Nofile).maximum;
    if limit.is_some_and(|limit| limit < (FIRST + DESCRIPTORS) as u64) {
        panic!("RLIMIT_NOFILE is {limit:?}");
    }
    let raised = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let ledger = Arc::new(Ledger::for_tests((FIRST + DESCRIPTORS) as usize));
    let (mut random, mut right) = (Random(2), 0);
    for start in 0..starts() {
        let count = 1 + random.below(DESCRIPTORS as u64) as i32 / 3;
        let mut are_true = true;
        let mut entries = Vec::new();
        for at in FIRST..FIRST + count {
            let what = open_something(source.path(), at, &mut random);
            let entry = entry_about(what, &mut random);
            are_true &= is_true(&entry, what);
            assert!(ledger.set(at, entry));
            entries.push(entry);
        }
        match serve(source.path(), &Life::after(&ledger, 1)) {
            Ok(fs) => {
                assert!(are_true, "start {start}: {entries:?}");
                right += 1;
                use_all(&fs, &entries);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "start {start}"),
        }
        for at in FIRST..FIRST + count {
            ledger.clear(at);
            drop(inherited::adopt(at));
        }
    }
    assert!(right > starts() / 100, "{right} were right");
}

/// No request panics, whatever it is about.
fn use_all(fs: &Passthrough, entries: &[Entry]) {
    for entry in entries {
        match *entry {
            Entry::Inode { ino, nlookup, .. } => {
                let _any = fs.getattr(ino, None);
                if let Ok(opened) = fs.open(ino, libc::O_RDONLY, &me()) {
                    fs.release(ino, opened.fh);
                }
                fs.forget(ino, nlookup);
            }
            Entry::File { fh, ino, .. } | Entry::Locks { fh, ino, .. } => {
                let _any = write(fs, (ino, fh), libc::O_APPEND, b"data");
                fs.release(ino, fh);
            }
            Entry::Directory { fh, ino, .. } => {
                let _any = fs.readdir(ino, (fh, 0), &|| Ok(me()), |_found| Ok(false));
                fs.release(ino, fh);
            }
        }
    }
    assert_eq!(fs.open_handles(), 0);
}
