//! What a request is answered with, as a typed value.
//!
//! The kernel takes an answer only if its size is the one that the operation has, to the byte
//! (`fuse_copy_out_args` in fs/fuse/dev.c); otherwise the caller gets EIO. [`Reply::answers`] says
//! which answer belongs to which operation, and encoding is the only place where sizes come from.
//!
//! Data that a transport moves itself, as from a pipe or into a guest's memory, never come here:
//! [`payload_header`] is all that precedes them.

mod dir;
mod values;

use nix::errno::Errno;

pub use dir::{DirBuffer, NotAnEntry, Pushed};

use crate::abi::{
    AttrOut, BmapOut, CopyFileRangeOut, EntryOut, GetxattrOut, InitOut, IoctlFlags, IoctlIovec,
    IoctlOut, LkOut, LseekOut, OpenOut, OutHeader, PollOut, StatfsOut, StatxOut, WriteOut,
};
use crate::encoded::{Encoded, bytes};
use crate::opcode::Opcode;

/// An answer. What it does not name of a struct, as padding, is the struct's `Default`: zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The operation failed. An interrupted one is [`Reply::INTERRUPTED`].
    Error(Errno),
    /// Success without data.
    Empty,
    /// An inode under a name: one more lookup, unless its `nodeid` is 0.
    Entry(EntryOut),
    /// Attributes.
    Attr(AttrOut),
    /// Attributes with birth time and flags.
    Statx(StatxOut),
    /// An open file or directory.
    Open(OpenOut),
    /// A new inode, open.
    Create(EntryOut, OpenOut),
    /// How much was written or copied.
    Write(WriteOut),
    /// How much was copied, in 64 bits.
    CopyFileRange(CopyFileRangeOut),
    /// Sizes of the file system.
    Statfs(StatfsOut),
    /// The lock in the way, or F_UNLCK.
    Lock(LkOut),
    /// The size of a value or a list, of which `fuse_getxattr_in.size` 0 asked.
    XattrSize(GetxattrOut),
    /// Bytes, at most as many as the request's `size`.
    Data(&'a [u8]),
    /// An ioctl's result, and at most `fuse_ioctl_in.out_size` bytes.
    Ioctl(IoctlOut, &'a [u8]),
    /// Send an unrestricted ioctl again, with what these point to: in and out together at most
    /// [`crate::abi::FUSE_IOCTL_MAX_IOV`].
    IoctlRetry(&'a [IoctlIovec], &'a [IoctlIovec]),
    /// Which events are ready.
    Poll(PollOut),
    /// The block on the device.
    Bmap(BmapOut),
    /// Where data or a hole begins.
    Lseek(LseekOut),
    /// What is granted of what INIT offered.
    Init(InitOut),
}

/// The header before `len` bytes of data that the transport writes itself. `None` if the message
/// would be longer than its length can say.
pub fn payload_header(unique: u64, len: usize) -> Option<OutHeader> {
    let len = u32::try_from(len).ok()?;
    Some(OutHeader {
        len: len.checked_add(size_of::<OutHeader>() as u32)?,
        error: 0,
        unique,
    })
}

impl<'a> Reply<'a> {
    /// To a request that INTERRUPT ended.
    pub const INTERRUPTED: Self = Self::Error(Errno::EINTR);

    /// The bytes of the answer to `unique`.
    pub fn encode(&self, unique: u64) -> Encoded<'a> {
        let header = OutHeader {
            len: 0,
            error: 0,
            unique,
        };
        let retried;
        let (first, second): (&[u8], &[u8]) = match self {
            Self::Error(errno) => return Encoded::bare(unique, error_number(*errno)),
            Self::Empty | Self::Data(_) => (&[], &[]),
            Self::Entry(entry) => (bytes(entry), &[]),
            Self::Attr(attr) => (bytes(attr), &[]),
            Self::Statx(statx) => (bytes(statx), &[]),
            Self::Open(open) => (bytes(open), &[]),
            Self::Create(entry, open) => (bytes(entry), bytes(open)),
            Self::Write(write) => (bytes(write), &[]),
            Self::CopyFileRange(copied) => (bytes(copied), &[]),
            Self::Statfs(statfs) => (bytes(statfs), &[]),
            Self::Lock(lock) => (bytes(lock), &[]),
            Self::XattrSize(size) => (bytes(size), &[]),
            Self::Ioctl(ioctl, _) => (bytes(ioctl), &[]),
            Self::IoctlRetry(input, output) => {
                retried = retry(input, output);
                (bytes(&retried), &[])
            }
            Self::Poll(poll) => (bytes(poll), &[]),
            Self::Bmap(bmap) => (bytes(bmap), &[]),
            Self::Lseek(lseek) => (bytes(lseek), &[]),
            Self::Init(init) => (bytes(init), &[]),
        };
        let data: [&[u8]; 2] = match *self {
            Self::Data(data) | Self::Ioctl(_, data) => [data, &[]],
            Self::IoctlRetry(input, output) => [bytes(input), bytes(output)],
            _fixed => [&[], &[]],
        };
        // More than a message can say was not asked for: the caller gets an error, as the kernel would make of it.
        Encoded::new(header, [first, second], data)
            .unwrap_or_else(|| Encoded::bare(unique, error_number(Errno::EIO)))
    }

    /// Whether the kernel takes this answer to a request of that operation.
    #[rustfmt::skip]
    pub fn answers(&self, opcode: Opcode) -> bool {
        use Opcode::*;
        match self {
            Self::Error(_) => opcode.is_answered() || opcode == Interrupt,
            Self::Empty => matches!(opcode,
                Unlink | Rmdir | Rename | Rename2 | Access | Setxattr | Removexattr | Flush
                | Release | Fsync | Fallocate | Setlk | Setlkw | Releasedir | Fsyncdir | Destroy
                | Syncfs | Setupmapping | Removemapping | Readlink | Read | Readdir | Readdirplus
                | Getxattr | Listxattr),
            Self::Entry(_) => matches!(opcode, Lookup | Symlink | Mknod | Mkdir | Link),
            Self::Attr(_) => matches!(opcode, Getattr | Setattr),
            Self::Statx(_) => opcode == Statx,
            Self::Open(_) => matches!(opcode, Open | Opendir),
            Self::Create(_, _) => matches!(opcode, Create | Tmpfile),
            Self::Write(_) => matches!(opcode, Write | CopyFileRange),
            Self::CopyFileRange(_) => opcode == CopyFileRange64,
            Self::Statfs(_) => opcode == Statfs,
            Self::Lock(_) => opcode == Getlk,
            Self::XattrSize(_) => matches!(opcode, Getxattr | Listxattr),
            Self::Data(_) => matches!(opcode,
                Readlink | Read | Readdir | Readdirplus | Getxattr | Listxattr),
            Self::Ioctl(_, _) | Self::IoctlRetry(_, _) => opcode == Ioctl,
            Self::Poll(_) => opcode == Poll,
            Self::Bmap(_) => opcode == Bmap,
            Self::Lseek(_) => opcode == Lseek,
            Self::Init(_) => opcode == Init,
        }
    }
}

/// What the header says. The kernel refuses a positive one and what lies beyond its own errnos,
/// and takes 0 for success: an errno that has no number becomes EIO.
fn error_number(errno: Errno) -> i32 {
    match errno {
        Errno::UnknownErrno => -(Errno::EIO as i32),
        known => -(known as i32),
    }
}

fn retry(input: &[IoctlIovec], output: &[IoctlIovec]) -> IoctlOut {
    IoctlOut {
        result: 0,
        flags: IoctlFlags::FUSE_IOCTL_RETRY,
        in_iovs: u32::try_from(input.len()).unwrap_or(u32::MAX),
        out_iovs: u32::try_from(output.len()).unwrap_or(u32::MAX),
    }
}
