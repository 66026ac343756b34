//! The data of a WRITE begins at a page, with the allocator that the daemon has.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/wire.rs"]
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::{
    FileHandle, Filesystem, INodeNo, LockOwner, OpenFlags, ReplyWrite, Request, WriteFlags,
};
use thrufs_sys::session_buffer::PayloadAligning;
use wire::{Kernel, WRITE, request, words};

#[global_allocator]
static MOVED: PayloadAligning = PayloadAligning;

const PAGE: usize = 4096;
const NONE: usize = usize::MAX;

/// Where in a page the data of the last WRITE began.
struct Recorder(Arc<AtomicUsize>);

impl Filesystem for Recorder {
    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.store(data.as_ptr().addr() % PAGE, Ordering::SeqCst);
        reply.written(data.len() as u32);
    }
}

/// Should fuser come to read requests in another way, this fails and the daemon is only slower.
#[test]
fn write_data_begins_at_a_page() {
    let found = Arc::new(AtomicUsize::new(NONE));
    let (mut kernel, theirs) = Kernel::connect(4 * PAGE);
    let (acl, config) = (fuser::SessionACL::All, fuser::Config::default());
    let recorder = Recorder(Arc::clone(&found));
    let session = fuser::Session::from_fd(recorder, theirs, acl, config).unwrap();
    let served = std::thread::spawn(move || session.run());
    kernel.take_init();
    let page = u32::try_from(PAGE).unwrap();
    let body = words(&[1, 0, 0, 0, page, 0, 0, 0, 0, 0]);
    kernel.ask(&request(WRITE, 1, &[&body, &[7; PAGE]]));
    assert_eq!(found.load(Ordering::SeqCst), 0);
    drop(kernel);
    // The end of a socket is an empty message, which is an illegal request to fuser.
    let _ended = served.join().unwrap();
}
