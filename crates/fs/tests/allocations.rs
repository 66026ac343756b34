//! READ and WRITE allocate nothing: not in fuser, not in the adapter, not in the operation.
//!
//! The whole way is measured, with a socket pair in the place of /dev/fuse and every allocation of
//! the process counted; so there is one test in this file, and it makes the messages beforehand.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use thrufs_fs::{Config, FuseAdapter, Opcode, Passthrough, ROOT_INO};

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

const SIZE: usize = 64 << 10;
const ROUNDS: u64 = 100;

// Opcodes and lengths of linux/fuse.h.
const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;
const OUT_HEADER: usize = 16;

fn request(opcode: u32, nodeid: u64, body: &[&[u8]]) -> Vec<u8> {
    let len = 40 + body.iter().map(|part| part.len()).sum::<usize>();
    let mut message = Vec::with_capacity(len);
    message.extend(u32::try_from(len).unwrap().to_ne_bytes());
    message.extend(opcode.to_ne_bytes());
    message.extend(2_u64.to_ne_bytes());
    message.extend(nodeid.to_ne_bytes());
    for id in [
        nix::unistd::getuid().as_raw(),
        nix::unistd::getgid().as_raw(),
        std::process::id(),
        0,
    ] {
        message.extend(id.to_ne_bytes());
    }
    for part in body {
        message.extend_from_slice(part);
    }
    message
}

/// The words of a message's body.
fn words(of: &[u32]) -> Vec<u8> {
    of.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn u64_at(message: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(message[at..at + 8].try_into().unwrap())
}

/// The kernel's side.
struct Kernel {
    socket: File,
    reply: Vec<u8>,
}

impl Kernel {
    /// Sends a request and returns the body of the reply. Allocates nothing.
    fn ask(&mut self, message: &[u8]) -> &[u8] {
        self.socket.write_all(message).unwrap();
        let len = self.socket.read(&mut self.reply).unwrap();
        let error = i32::from_ne_bytes(self.reply[4..8].try_into().unwrap());
        assert_eq!(error, 0, "an error in the reply");
        &self.reply[OUT_HEADER..len]
    }
}

/// Requests that transfer [`SIZE`] bytes at 0: a READ and a WRITE.
fn transfers(kernel: &mut Kernel) -> [Vec<u8>; 2] {
    let entry = kernel.ask(&request(LOOKUP, ROOT_INO, &[b"f\0"]));
    let ino = u64_at(entry, 0);
    let flags = u32::try_from(libc::O_RDWR).unwrap();
    let opened = kernel.ask(&request(OPEN, ino, &[&words(&[flags, 0])]));
    let fh = u64_at(opened, 0);
    let mut body = fh.to_ne_bytes().to_vec();
    let size = u32::try_from(SIZE).unwrap();
    // Offset, size, flags of the request, lock owner, flags of the file, padding.
    body.extend(words(&[0, 0, size, 0, 0, 0, flags, 0]));
    [
        request(READ, ino, &[&body]),
        request(WRITE, ino, &[&body, &vec![7; SIZE]]),
    ]
}

#[test]
fn read_and_write_allocate_nothing() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("f"), vec![1; SIZE]).unwrap();
    let root: OwnedFd = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(source.path())
        .unwrap()
        .into();
    let fs = Arc::new(Passthrough::new(root, Config::default()).unwrap());
    let kind = SockType::SeqPacket;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    for end in [&ours, &theirs] {
        setsockopt(end, sockopt::SndBuf, &(4 * SIZE)).unwrap();
    }
    let mut kernel = Kernel {
        socket: ours.into(),
        reply: vec![0; 2 * SIZE],
    };
    let init = request(INIT, 0, &[&words(&[7, 45, 1 << 17, u32::MAX, 0]), &[0; 44]]);
    kernel.socket.write_all(&init).unwrap();
    let adapter = FuseAdapter::new(Arc::clone(&fs));
    let acl = fuser::SessionACL::All;
    let session = fuser::Session::from_fd(adapter, theirs, acl, fuser::Config::default()).unwrap();
    let served = std::thread::spawn(move || session.run());
    assert!(
        kernel.socket.read(&mut kernel.reply).unwrap() > OUT_HEADER,
        "INIT"
    );

    let [read, write] = transfers(&mut kernel);
    // The first of each makes what its thread keeps.
    kernel.ask(&read);
    kernel.ask(&write);
    let before = dhat::HeapStats::get().total_blocks;
    for _ in 0..ROUNDS {
        assert_eq!(kernel.ask(&write).len(), 8);
        assert_eq!(kernel.ask(&read).len(), SIZE);
    }
    let made = dhat::HeapStats::get().total_blocks - before;
    assert_eq!(made, 0, "allocations for {ROUNDS} WRITEs and READs");
    // A counter that stands still would prove nothing.
    std::hint::black_box(vec![0_u8; 1]);
    assert!(dhat::HeapStats::get().total_blocks > before + made);
    assert_eq!(fs.stats().requests(Opcode::Write), ROUNDS + 1);
    assert_eq!(kernel.reply[OUT_HEADER..][..SIZE], vec![7; SIZE]);
    assert!(std::fs::read(source.path().join("f")).unwrap() == vec![7; SIZE]);

    drop(kernel);
    // The end of a socket is an empty message, which is an illegal request to fuser.
    let _ended = served.join().unwrap();
}
