//! The kernel's side of the protocol on a socket pair, for tests of what fuser and the adapter make
//! of messages.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use thrufs_wire::abi::InHeader;
use zerocopy::IntoBytes;

// Opcodes and lengths of linux/fuse.h.
pub(crate) const LOOKUP: u32 = 1;
pub(crate) const OPEN: u32 = 14;
pub(crate) const READ: u32 = 15;
pub(crate) const WRITE: u32 = 16;
const INIT: u32 = 26;
const OUT_HEADER: usize = 16;

pub(crate) fn request(opcode: u32, nodeid: u64, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let header = InHeader {
        len: u32::try_from(size_of::<InHeader>() + body.len()).unwrap(),
        opcode,
        unique: 2,
        nodeid,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        pid: std::process::id(),
        ..InHeader::default()
    };
    [header.as_bytes(), &body].concat()
}

/// The words of a message's body.
pub(crate) fn words(of: &[u32]) -> Vec<u8> {
    of.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(crate) fn u64_at(message: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(message[at..at + 8].try_into().unwrap())
}

/// Two connected sockets in the place of /dev/fuse: the kernel's end, and the session's.
pub(crate) fn pair(room: usize) -> (File, OwnedFd) {
    let kind = SockType::SeqPacket;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    for end in [&ours, &theirs] {
        setsockopt(end, sockopt::SndBuf, &room).unwrap();
    }
    (ours.into(), theirs)
}

/// The kernel's side.
pub(crate) struct Kernel {
    socket: File,
    reply: Vec<u8>,
    len: usize,
}

impl Kernel {
    /// Both ends of a connection with room for messages of `size` bytes, and an INIT on its way.
    pub(crate) fn connect(size: usize) -> (Self, OwnedFd) {
        let (socket, theirs) = pair(2 * size);
        let mut kernel = Self {
            socket,
            reply: vec![0; size],
            len: 0,
        };
        let init = request(INIT, 0, &[&words(&[7, 45, 1 << 17, u32::MAX, 0]), &[0; 44]]);
        kernel.socket.write_all(&init).unwrap();
        (kernel, theirs)
    }

    /// Takes the answer to INIT.
    pub(crate) fn take_init(&mut self) {
        assert!(
            self.socket.read(&mut self.reply).unwrap() > OUT_HEADER,
            "INIT"
        );
    }

    /// The body of the last reply.
    pub(crate) fn last(&self) -> &[u8] {
        &self.reply[OUT_HEADER..self.len]
    }

    /// Sends a request and returns the body of the reply. Allocates nothing.
    pub(crate) fn ask(&mut self, message: &[u8]) -> &[u8] {
        self.socket.write_all(message).unwrap();
        self.len = self.socket.read(&mut self.reply).unwrap();
        let error = i32::from_ne_bytes(self.reply[4..8].try_into().unwrap());
        assert_eq!(error, 0, "an error in the reply");
        self.last()
    }
}
