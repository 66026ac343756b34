//! READ and WRITE allocate nothing: not in fuser, not in the adapter, not in the operation.
//!
//! The whole way is measured, with a socket pair in the place of /dev/fuse and every allocation of
//! the process counted; so there is one test in this file, and it makes the messages beforehand.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use thrufs_fs::{Config, Durability, Opcode, Passthrough, ROOT_INO};
use thrufs_session::FuseAdapter;

#[path = "common/wire.rs"]
mod wire;

use wire::{Kernel, LOOKUP, OPEN, READ, WRITE, request, u64_at, words};

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

const SIZE: usize = 64 << 10;
const ROUNDS: u64 = 100;

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
    check(Config::default());
    // A WRITE that meets no other, between taking and giving back its inode's lead.
    check(Config {
        durability: Durability::Dsync,
        ..Config::default()
    });
}

fn check(config: Config) {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("f"), vec![1; SIZE]).unwrap();
    let root: OwnedFd = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(source.path())
        .unwrap()
        .into();
    let fs = Arc::new(Passthrough::new(root, config).unwrap());
    let (mut kernel, theirs) = Kernel::connect(2 * SIZE);
    let adapter = FuseAdapter::new(Arc::clone(&fs));
    let acl = fuser::SessionACL::All;
    let session = fuser::Session::from_fd(adapter, theirs, acl, fuser::Config::default()).unwrap();
    let served = std::thread::spawn(move || session.run());
    kernel.take_init();

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
    assert_eq!(kernel.last()[..SIZE], vec![7; SIZE]);
    assert!(std::fs::read(source.path().join("f")).unwrap() == vec![7; SIZE]);

    drop(kernel);
    // The end of a socket is an empty message, which is an illegal request to fuser.
    let _ended = served.join().unwrap();
}
