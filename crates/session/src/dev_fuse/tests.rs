//! The session against a kernel that is a socket.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::JoinHandle;

use nix::sys::socket::{Shutdown, shutdown};
use tempfile::TempDir;
use thrufs_fs::{Config, InodeFileHandles, Ledger, Life, Locks, ROOT_INO};
use thrufs_sys::shared_buffers::SharedBuffers;
use thrufs_transport::dev_fuse::shared_buffer_size;
use thrufs_wire::abi::{
    Abi, AttrOut, EntryOut, FUSE_UNIQUE_RESEND, FileLock, InitOut, InterruptIn, LkIn, OpenIn,
    OpenOut, OutHeader, ReadIn,
};
use thrufs_wire::{InitFlags, Opcode};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::notify::tests::pair;

const HEADER: usize = 16;

/// The kernel's end, and the session at the other.
struct Kernel {
    socket: File,
    fs: Arc<Passthrough>,
    session: Option<JoinHandle<io::Result<Ended>>>,
    source: TempDir,
}

fn file_system(source: &Path, config: Config) -> Arc<Passthrough> {
    std::fs::write(source.join("f"), "content").unwrap();
    let directory = File::open(source).unwrap();
    Arc::new(Passthrough::new(directory.into(), config).unwrap())
}

fn message(opcode: Opcode, nodeid: u64, unique: u64, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len: (size_of::<InHeader>() + body.len()) as u32,
        opcode: opcode.as_raw(),
        unique,
        nodeid,
        pid: std::process::id(),
        ..InHeader::default()
    };
    [header.as_bytes(), body].concat()
}

fn init(major: u32, minor: u32) -> Vec<u8> {
    let arg = InitIn {
        major,
        minor,
        max_readahead: 1 << 17,
        flags: u32::MAX,
        flags2: u32::MAX,
        ..InitIn::default()
    };
    message(Opcode::Init, 0, 2, arg.as_bytes())
}

impl Kernel {
    /// Serves with `threads`, after INIT.
    fn new(config: Config, threads: usize) -> Self {
        let source = tempfile::tempdir().unwrap();
        let fs = file_system(source.path(), config);
        let (mut socket, server) = pair();
        socket.write_all(&init(7, 45)).unwrap();
        let served = Arc::clone(&fs);
        let session = DevFuseSession::handshake(served, server, Allowed::All).unwrap();
        let session = std::thread::spawn(move || session.run(threads));
        let mut kernel = Self {
            socket,
            fs,
            session: Some(session),
            source,
        };
        assert_eq!(kernel.answer().0.unique, 2);
        kernel
    }

    fn send(&mut self, opcode: Opcode, nodeid: u64, unique: u64, body: &[u8]) {
        let bytes = message(opcode, nodeid, unique, body);
        self.socket.write_all(&bytes).unwrap();
    }

    fn answer(&mut self) -> (OutHeader, Vec<u8>) {
        let mut bytes = vec![0; 1 << 17];
        let len = self.socket.read(&mut bytes).unwrap();
        bytes.truncate(len);
        let word = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let unique = u64::from_ne_bytes(bytes[8..16].try_into().unwrap());
        assert_eq!(word(0), len as i32);
        let header = OutHeader {
            len: len as u32,
            error: word(4),
            unique,
        };
        (header, bytes.split_off(HEADER))
    }

    fn ask<T: Abi>(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> T {
        self.send(opcode, nodeid, 1000, body);
        let (header, body) = self.answer();
        assert_eq!((header.unique, header.error), (1000, 0), "{opcode:?}");
        T::read_from_prefix(&body).unwrap().0
    }

    fn refused(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> i32 {
        self.send(opcode, nodeid, 1000, body);
        let (header, body) = self.answer();
        assert_eq!((header.unique, body.len()), (1000, 0), "{opcode:?}");
        -header.error
    }

    /// From now on every answer is refused.
    fn refuse_answers(&self) {
        shutdown(self.socket.as_raw_fd(), Shutdown::Read).unwrap();
    }

    /// Ends the connection, and waits for the end of the session.
    fn end(mut self) -> Arc<Passthrough> {
        drop(std::mem::replace(&mut self.socket, pair().0));
        let session = self.session.take().unwrap();
        session.join().unwrap().unwrap();
        self.fs
    }
}

fn open_file(kernel: &mut Kernel) -> (u64, u64) {
    let found: EntryOut = kernel.ask(Opcode::Lookup, ROOT_INO, b"f\0");
    let arg = OpenIn {
        flags: libc::O_RDWR as u32,
        ..OpenIn::default()
    };
    let opened: OpenOut = kernel.ask(Opcode::Open, found.nodeid, arg.as_bytes());
    (found.nodeid, opened.fh)
}

fn exclusive(fh: u64, owner: u64) -> LkIn {
    LkIn {
        fh,
        owner,
        lk: FileLock {
            start: 0,
            end: 9,
            r#type: libc::F_WRLCK as u32,
            pid: 1,
        },
        ..LkIn::default()
    }
}

fn host_locks() -> Config {
    Config {
        locks: Locks::Host,
        ..Config::default()
    }
}

/// A file that its first owner has locked.
fn locked_file(threads: usize) -> (Kernel, u64, u64) {
    let mut kernel = Kernel::new(host_locks(), threads);
    let (ino, fh) = open_file(&mut kernel);
    kernel.send(Opcode::Setlk, ino, 10, exclusive(fh, 1).as_bytes());
    assert_eq!(kernel.answer().0.error, 0);
    (kernel, ino, fh)
}

/// The handshake with a kernel that sends `messages`, and the kernel's end.
fn handshake(messages: &[Vec<u8>]) -> (File, io::Result<DevFuseSession>) {
    let source = tempfile::tempdir().unwrap();
    let fs = file_system(source.path(), Config::default());
    let (mut socket, server) = pair();
    for message in messages {
        socket.write_all(message).unwrap();
    }
    (socket, DevFuseSession::handshake(fs, server, Allowed::All))
}

#[test]
fn handshake_grants_what_the_table_wants_and_ends_at_the_connections_end() {
    let kernel = Kernel::new(Config::default(), 1);
    let negotiated = kernel.fs.negotiated().unwrap();
    assert!(negotiated.has("FUSE_HANDLE_KILLPRIV_V2"));
    kernel.end();
}

#[test]
fn handshake_with_a_newer_major_version_answers_ours_and_waits() {
    let (mut socket, session) = handshake(&[init(8, 0), init(7, 45)]);
    let _session = session.unwrap();
    let mut bytes = [0; 200];
    for expected in [InitFlags::empty(), InitFlags::FUSE_PARALLEL_DIROPS] {
        let len = socket.read(&mut bytes).unwrap();
        let (out, _rest) = InitOut::read_from_prefix(&bytes[HEADER..len]).unwrap();
        assert_eq!(out.major, 7);
        assert_eq!(
            out.capabilities().contains(InitFlags::FUSE_PARALLEL_DIROPS),
            !expected.is_empty()
        );
    }
}

#[test]
fn handshake_with_a_kernel_before_5_4_is_refused() {
    let (mut socket, session) = handshake(&[init(7, 30)]);
    let error = session.unwrap_err();
    assert!(error.to_string().contains("7.30"), "{error}");
    let mut bytes = [0; 200];
    assert_eq!(socket.read(&mut bytes).unwrap(), HEADER);
    assert_eq!(bytes[4..8], (-libc::EPROTO).to_ne_bytes());
}

#[test]
fn handshake_without_init_is_refused() {
    let (_socket, session) = handshake(&[message(Opcode::Getattr, ROOT_INO, 2, &[0; 16])]);
    assert!(session.is_err());
}

#[test]
fn lookup_whose_answer_is_refused_is_taken_back() {
    let mut kernel = Kernel::new(Config::default(), 1);
    kernel.refuse_answers();
    kernel.send(Opcode::Lookup, ROOT_INO, 6, b"f\0");
    let fs = kernel.end();
    assert_eq!(fs.stats().requests(thrufs_fs::Opcode::Lookup), 1);
    assert_eq!(fs.known_inodes(), 1);
}

#[test]
fn readdirplus_whose_answer_is_refused_is_taken_back() {
    let mut kernel = Kernel::new(Config::default(), 1);
    let arg = OpenIn::default();
    let opened: OpenOut = kernel.ask(Opcode::Opendir, ROOT_INO, arg.as_bytes());
    kernel.refuse_answers();
    let arg = ReadIn {
        fh: opened.fh,
        size: 4096,
        ..ReadIn::default()
    };
    kernel.send(Opcode::Readdirplus, ROOT_INO, 6, arg.as_bytes());
    let fs = kernel.end();
    assert_eq!(fs.stats().requests(thrufs_fs::Opcode::ReadDirPlus), 1);
    assert_eq!(fs.known_inodes(), 1);
}

#[test]
fn setlk_whose_answer_is_refused_is_released() {
    let mut kernel = Kernel::new(host_locks(), 1);
    let (ino, fh) = open_file(&mut kernel);
    kernel.refuse_answers();
    kernel.send(Opcode::Setlk, ino, 10, exclusive(fh, 1).as_bytes());
    let file = File::options()
        .write(true)
        .open(kernel.source.path().join("f"))
        .unwrap();
    let fs = kernel.end();
    assert_eq!(fs.stats().requests(thrufs_fs::Opcode::SetLk), 1);
    let whole = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)).unwrap();
}

#[test]
fn open_whose_answer_is_refused_is_closed() {
    let mut kernel = Kernel::new(Config::default(), 1);
    let (ino, _fh) = open_file(&mut kernel);
    kernel.refuse_answers();
    kernel.send(Opcode::Open, ino, 6, OpenIn::default().as_bytes());
    let fs = kernel.end();
    assert_eq!(fs.stats().requests(thrufs_fs::Opcode::Open), 2);
    assert_eq!(fs.open_handles(), 1);
}

#[test]
fn setlkw_interrupted_while_it_waits_is_eintr() {
    let (mut kernel, ino, fh) = locked_file(1);
    kernel.send(Opcode::Setlkw, ino, 12, exclusive(fh, 2).as_bytes());
    let interrupt = InterruptIn { unique: 12 };
    kernel.send(Opcode::Interrupt, 0, 13, interrupt.as_bytes());
    let (header, _none) = kernel.answer();
    assert_eq!((header.unique, header.error), (12, -libc::EINTR));
    kernel.end();
}

/// Another thread may read the INTERRUPT of a request before the request is served.
#[test]
fn setlkw_whose_interrupt_was_read_before_it_is_eintr() {
    let (mut kernel, ino, fh) = locked_file(1);
    let interrupt = InterruptIn { unique: 12 };
    kernel.send(Opcode::Interrupt, 0, 13, interrupt.as_bytes());
    kernel.send(Opcode::Setlkw, ino, 12, exclusive(fh, 2).as_bytes());
    let (header, _none) = kernel.answer();
    assert_eq!((header.unique, header.error), (12, -libc::EINTR));
    kernel.end();
}

#[test]
fn setlkw_that_waits_at_the_end_of_the_session_does_not_keep_it() {
    let (mut kernel, ino, fh) = locked_file(2);
    kernel.send(Opcode::Setlkw, ino, 12, exclusive(fh, 2).as_bytes());
    kernel.end();
}

#[test]
fn request_of_no_known_opcode_is_enosys_and_the_session_goes_on() {
    let mut kernel = Kernel::new(Config::default(), 1);
    let mut bytes = message(Opcode::Getattr, ROOT_INO, 1000, &[]);
    bytes[4..8].copy_from_slice(&4000_u32.to_ne_bytes());
    kernel.socket.write_all(&bytes).unwrap();
    assert_eq!(kernel.answer().0.error, -libc::ENOSYS);
    assert_eq!(
        kernel.refused(Opcode::Bmap, ROOT_INO, &[0; 16]),
        libc::ENOSYS
    );
    let attr: AttrOut = kernel.ask(Opcode::Getattr, ROOT_INO, &[0; 16]);
    assert_eq!(attr.attr.mode & libc::S_IFMT, libc::S_IFDIR);
    kernel.end();
}

#[test]
fn request_that_is_cut_off_is_einval_and_the_session_goes_on() {
    let mut kernel = Kernel::new(Config::default(), 1);
    assert_eq!(
        kernel.refused(Opcode::Write, ROOT_INO, &[0; 8]),
        libc::EINVAL
    );
    assert_eq!(kernel.refused(Opcode::Lookup, ROOT_INO, b"f"), libc::EINVAL);
    let _attr: AttrOut = kernel.ask(Opcode::Getattr, ROOT_INO, &[0; 16]);
    kernel.end();
}

/// A server dies in a LOOKUP, and the next one has it sent again: the kernel is told of the inode once.
#[test]
fn resume_after_a_death_asks_for_what_was_not_answered_and_counts_it_once() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("f"), "content").unwrap();
    let messages = SharedBuffers::new(2, shared_buffer_size(1 << 20)).unwrap();
    let ledger = Arc::new(Ledger::new(4096, Arc::new(messages)).unwrap());
    let serve = |deaths| {
        let config = Config {
            survive: true,
            inode_file_handles: InodeFileHandles::Never,
            ..Config::default()
        };
        let life = Life {
            ledger: Arc::clone(&ledger),
            is_later: deaths > 0,
            died: deaths > 0,
            crashed: false,
            own: Arc::from([]),
            looked_at: Arc::from([]),
        };
        let directory = File::open(source.path()).unwrap();
        let fs = Passthrough::new(directory.into(), config).unwrap();
        Arc::new(fs.surviving(&life).unwrap())
    };
    let (mut socket, server) = pair();
    socket.write_all(&init(7, 45)).unwrap();
    let first = DevFuseSession::handshake(serve(0), server, Allowed::All).unwrap();
    let fs = Arc::clone(first.server.fs());
    let noted = fs.begin_request(8, Opcode::Lookup.as_raw()).unwrap();
    let found = fs.lookup(ROOT_INO, "f".as_ref()).unwrap().into_entry();
    std::mem::forget((noted, first, socket));

    let (socket, server) = pair();
    let fs = serve(1);
    let session = DevFuseSession::resume(Arc::clone(&fs), server, Allowed::All).unwrap();
    let session = std::thread::spawn(move || session.run(1));
    let mut kernel = Kernel {
        socket,
        fs,
        session: Some(session),
        source,
    };
    let (resend, nothing) = kernel.answer();
    assert_eq!((resend.unique, resend.error, nothing.len()), (0, 7, 0));
    let unique = 8 | FUSE_UNIQUE_RESEND;
    kernel.send(Opcode::Lookup, ROOT_INO, unique, b"f\0");
    let (header, body) = kernel.answer();
    assert_eq!((header.unique, header.error), (unique, 0));
    let entry = EntryOut::read_from_prefix(&body).unwrap().0;
    assert_eq!(entry.nodeid, found.ino);
    let fs = kernel.end();
    assert_eq!(fs.known_inodes(), 2);
    fs.forget(found.ino, 1);
    assert_eq!(fs.known_inodes(), 1);
}
