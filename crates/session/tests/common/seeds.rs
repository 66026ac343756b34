//! Scripts (`script.rs`) in which every request of the protocol occurs as a kernel sends it: what
//! mutations begin with.
#![allow(dead_code, reason = "each user uses some of it")]

use super::script::wire::words;
use super::script::{FIX_HANDLE, FIX_LENGTH, FIX_NODE, FIX_ROOT, message, record};

// Opcodes of linux/fuse.h.
pub(crate) const LOOKUP: u32 = 1;
pub(crate) const FORGET: u32 = 2;
pub(crate) const GETATTR: u32 = 3;
pub(crate) const SETATTR: u32 = 4;
pub(crate) const OPEN: u32 = 14;
pub(crate) const READ: u32 = 15;
pub(crate) const WRITE: u32 = 16;
pub(crate) const RELEASE: u32 = 18;
pub(crate) const CREATE: u32 = 35;
pub(crate) const BATCH_FORGET: u32 = 42;

/// Words of 64 bits.
pub(crate) fn longs(of: &[u64]) -> Vec<u8> {
    of.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A script under the file system's configuration `choice`.
pub(crate) struct Script(pub(crate) Vec<u8>);

impl Script {
    pub(crate) fn new(choice: u8) -> Self {
        Self(vec![choice])
    }

    pub(crate) fn add(mut self, kind: u8, opcode: u32, body: &[u8]) -> Self {
        let unique = 2 * self.0.len() as u64;
        self.0
            .extend(record(kind, &message(opcode, 1, unique, body)));
        self
    }

    /// A request on the root.
    pub(crate) fn root(self, opcode: u32, body: &[u8]) -> Self {
        self.add(FIX_LENGTH | FIX_ROOT, opcode, body)
    }

    /// A request on the root and the handle that was answered last, which `body` begins with.
    pub(crate) fn opened_root(self, opcode: u32, body: &[u8]) -> Self {
        self.add(FIX_LENGTH | FIX_ROOT | FIX_HANDLE, opcode, body)
    }

    /// A request on the inode that was answered last.
    pub(crate) fn node(self, opcode: u32, body: &[u8]) -> Self {
        self.add(FIX_LENGTH | FIX_NODE, opcode, body)
    }

    /// A request on that inode and the handle that was answered last, which `body` begins with.
    pub(crate) fn open(self, opcode: u32, body: &[u8]) -> Self {
        self.add(FIX_LENGTH | FIX_NODE | FIX_HANDLE, opcode, body)
    }

    /// CREATE of `name`, for reading and writing.
    pub(crate) fn create(self, name: &[u8]) -> Self {
        let body = join(&[&words(&[0o102, 0o100_644, 0o022, 0]), name, b"\0"]);
        self.root(CREATE, &body)
    }
}

/// struct fuse_read_in, and fuse_write_in: handle, offset, size, flags, owner, file flags.
pub(crate) fn range(offset: u64, size: u32) -> Vec<u8> {
    join(&[&longs(&[0, offset]), &words(&[size, 0, 0, 0, 2, 0])])
}

/// One script a theme.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("names", names().0),
        ("data", data().0),
        ("attributes", attributes().0),
        ("directories", directories().0),
        ("locks", locks().0),
        ("extended-attributes", extended_attributes().0),
        ("unsupported", unsupported().0),
        ("forget", forget().0),
        ("recent", recent().0),
    ]
}

fn names() -> Script {
    Script::new(0)
        .root(LOOKUP, b"f\0")
        .root(LOOKUP, b"..\0")
        .root(LOOKUP, b"a/b\0")
        .root(LOOKUP, b"\0")
        .root(6, b"link\0target\0")
        .node(5, &[])
        .root(8, &join(&[&words(&[0o010_644, 0, 0o022, 0]), b"fifo\0"]))
        .node(OPEN, &words(&[2, 0]))
        .root(9, &join(&[&words(&[0o755, 0o022]), b"d\0"]))
        .root(12, &join(&[&longs(&[1]), b"f\0g\0"]))
        .root(45, &join(&[&longs(&[1]), &words(&[1, 0]), b"g\0h\0"]))
        .root(13, &join(&[&longs(&[1]), b"hard\0"]))
        .root(10, b"g\0")
        .root(11, b"d\0")
}

fn data() -> Script {
    Script::new(0)
        .create(b"data")
        .open(WRITE, &join(&[&range(0, 100), &[7; 100]]))
        .open(WRITE, &join(&[&range(1 << 62, 8), &[7; 8]]))
        .open(READ, &range(0, 4096))
        .open(READ, &range(u64::MAX, u32::MAX))
        .open(43, &join(&[&longs(&[0, 0, 8192]), &words(&[0, 0])]))
        .open(
            43,
            &join(&[&longs(&[0, u64::MAX, u64::MAX]), &words(&[3, 0])]),
        )
        .open(46, &join(&[&longs(&[0, 0]), &words(&[3, 0])]))
        .open(47, &longs(&[0, 0, 1, 1, 4096, u64::MAX, 0]))
        .open(20, &join(&[&longs(&[0]), &words(&[1, 0])]))
        .open(25, &join(&[&longs(&[0]), &words(&[0, 0]), &longs(&[9])]))
        // FS_IOC_GETFLAGS
        .open(
            39,
            &join(&[
                &longs(&[0]),
                &words(&[0, 0x8008_6601]),
                &longs(&[0]),
                &words(&[0, 8]),
            ]),
        )
        .open(
            RELEASE,
            &join(&[&longs(&[0]), &words(&[2, 0]), &longs(&[9])]),
        )
        .open(
            RELEASE,
            &join(&[&longs(&[0]), &words(&[2, 0]), &longs(&[9])]),
        )
        .open(READ, &range(0, 4096))
}

/// struct fuse_setattr_in.
pub(crate) fn setattr(valid: u32, size: u64, times: [u64; 3], nanoseconds: [u32; 3]) -> Vec<u8> {
    join(&[
        &words(&[valid, 0]),
        &longs(&[0, size, 0]),
        &longs(&times),
        &words(&nanoseconds),
        &words(&[0o644, 0, 0, 0, 0]),
    ])
}

/// The same, to change the owner.
pub(crate) fn setattr_owner(valid: u32, uid: u32, gid: u32) -> Vec<u8> {
    let mut body = setattr(valid, 0, [0; 3], [0; 3]);
    body[76..84].copy_from_slice(&words(&[uid, gid]));
    body
}

fn attributes() -> Script {
    Script::new(0)
        .root(GETATTR, &[0; 16])
        .root(LOOKUP, b"f\0")
        .node(GETATTR, &join(&[&words(&[1, 0]), &longs(&[77])]))
        .node(SETATTR, &setattr(1 << 3, 5000, [0; 3], [0; 3]))
        .node(SETATTR, &setattr(1 << 3, u64::MAX, [0; 3], [0; 3]))
        .node(SETATTR, &setattr(1 | 0x30, 0, [1, 2, 3], [4, 5, 6]))
        .node(
            SETATTR,
            &setattr(0x30, 0, [u64::MAX, 1 << 63, 0], [999_999_999, 1, 0]),
        )
        .node(SETATTR, &setattr_owner(6, u32::MAX, u32::MAX))
        .node(34, &words(&[4, 0]))
        .root(17, &[])
}

fn directories() -> Script {
    let release = join(&[&longs(&[0]), &words(&[0, 0]), &longs(&[0])]);
    Script::new(0)
        .root(27, &words(&[0, 0]))
        .opened_root(28, &range(0, 4096))
        .opened_root(44, &range(0, 4096))
        .opened_root(44, &range(u64::MAX, 1))
        .opened_root(28, &range(0, u32::MAX))
        .opened_root(30, &join(&[&longs(&[0]), &words(&[0, 0])]))
        .opened_root(READ, &range(0, 16))
        .opened_root(WRITE, &join(&[&range(0, 4), b"1234"]))
        .opened_root(29, &release)
}

fn locks() -> Script {
    // handle, owner, start, end, type and pid, flags
    let lock = |kind: u32, end: u64| {
        join(&[
            &longs(&[0, 5, 0, end]),
            &words(&[kind, 77]),
            &words(&[0, 0]),
        ])
    };
    Script::new(4)
        .create(b"locked")
        .open(32, &lock(1, u64::MAX >> 1))
        .open(31, &lock(0, 100))
        .open(32, &lock(9, u64::MAX))
        .open(33, &lock(2, 100))
        .open(25, &join(&[&longs(&[0]), &words(&[0, 0]), &longs(&[5])]))
}

fn extended_attributes() -> Script {
    Script::new(3)
        .root(LOOKUP, b"f\0")
        .node(21, &join(&[&words(&[5, 0]), b"user.a\0hello"]))
        .node(22, &join(&[&words(&[64, 0]), b"user.a\0"]))
        .node(22, &join(&[&words(&[2, 0]), b"user.a\0"]))
        .node(23, &words(&[0, 0]))
        .node(23, &words(&[u32::MAX, 0]))
        .node(24, b"user.a\0")
        .node(22, &join(&[&words(&[64, 0]), b"system.posix_acl_access\0"]))
}

fn unsupported() -> Script {
    Script::new(8)
        .root(36, &longs(&[4]))
        .root(37, &join(&[&longs(&[0]), &words(&[4096, 0])]))
        .root(40, &join(&[&longs(&[0, 0]), &words(&[0, 1])]))
        .root(41, &[0; 40])
        .root(26, &words(&[7, 45, 0, 0]))
        .root(7, b"nothing")
        .root(50, &[])
        .root(4096, &[0; 16])
        .root(u32::MAX, &[])
        .create(b"refused")
}

fn forget() -> Script {
    let both = join(&[&words(&[2, 0]), &longs(&[1, 1, 999, u64::MAX])]);
    Script::new(0)
        .root(LOOKUP, b"f\0")
        .node(FORGET, &longs(&[1]))
        .node(FORGET, &longs(&[1]))
        .node(GETATTR, &[0; 16])
        .root(FORGET, &longs(&[u64::MAX]))
        .root(BATCH_FORGET, &both)
        .root(BATCH_FORGET, &words(&[u32::MAX, 0]))
        .root(LOOKUP, b"f\0")
        .root(38, &[])
}

fn recent() -> Script {
    let copied = longs(&[0, 0, 1, 0, 10, 4096, 0]);
    Script::new(super::script::BY_GUEST)
        .root(52, &join(&[&longs(&[0, 0]), &words(&[0, 0xfff])]))
        .root(51, &join(&[&words(&[2, 0o100_600, 0o022, 0]), b"tmp\0"]))
        .open(WRITE, &join(&[&range(0, 4), b"1234"]))
        .open(53, &copied)
        .open(
            52,
            &join(&[&words(&[1, 0]), &longs(&[0]), &words(&[0, 0x7ff])]),
        )
        .root(50, &longs(&[0]))
        .open(48, &longs(&[0, 0, 4096, 3, 0]))
        .root(49, &join(&[&words(&[1, 0]), &longs(&[0, 4096])]))
        .root(50, &[])
}
