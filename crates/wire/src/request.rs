//! A message of the kernel's as a typed value.
//!
//! One variant for each operation of FUSE 7.46, with the kernel's own structs for its arguments and
//! its strings as [`CStr`], ready for a system call. A decoded message was checked to the last
//! byte: nothing is missing, nothing follows, no count or length contradicts the message. The file
//! system checks inodes, handles and names.
//!
//! A message is decoded in place and nothing is allocated. The data of WRITE and NOTIFY_REPLY are a
//! [`PayloadRange`]: they may lie in a pipe, in other pages or in a guest's memory, which must
//! never become a slice.

mod body;
mod decode;
mod error;
mod extensions;
mod values;

use std::ffi::CStr;

pub use body::Array;
pub use decode::{decode, head_len, header};
pub use error::{DecodeError, Malformed};
pub use extensions::{Extensions, SecurityContext, SecurityContexts};
pub use values::{LockKind, SetTime, Timestamp};

use crate::abi::{
    AccessIn, BmapIn, CopyFileRangeIn, CreateIn, FallocateIn, FlushIn, ForgetIn, ForgetOne,
    FsyncIn, GetattrIn, GetxattrIn, InHeader, InitIn, InterruptIn, IoctlIn, LinkIn, LkIn, LseekIn,
    MkdirIn, MknodIn, NotifyRetrieveIn, OpenIn, PollIn, ReadIn, ReleaseIn, RemovemappingOne,
    Rename2In, RenameIn, SetattrIn, SetupmappingIn, SetxattrIn, StatxIn, SyncfsIn, WriteIn,
};

/// A message: the caller and the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nodeid`, the caller, and the `unique` to be answered.
    pub header: InHeader,
    /// The operation with its arguments.
    pub request: Request<'a>,
}

/// The data's position in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRange {
    /// Bytes of the message before the data.
    pub start: usize,
    /// Bytes of data, to the end of the message.
    pub len: usize,
}

impl PayloadRange {
    /// The data, where the whole message is one slice.
    pub fn of<'a>(&self, message: &'a [u8]) -> Option<&'a [u8]> {
        message.get(self.start..)?.get(..self.len)
    }
}

/// An operation with its arguments. `nodeid` is the header's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
#[allow(missing_docs, reason = "a table: operation, the kernel's struct, strings and data in order")]
pub enum Request<'a> {
    // The connection
    Init(InitIn),
    Destroy,
    Interrupt(InterruptIn),
    NotifyReply { arg: NotifyRetrieveIn, data: PayloadRange },
    Statfs,
    Syncfs(SyncfsIn),

    // Names
    Lookup { name: &'a CStr },
    Forget(ForgetIn),
    BatchForget(Array<'a, ForgetOne>),
    Symlink { name: &'a CStr, target: &'a CStr, extensions: Extensions<'a> },
    Mknod { arg: MknodIn, name: &'a CStr, extensions: Extensions<'a> },
    Mkdir { arg: MkdirIn, name: &'a CStr, extensions: Extensions<'a> },
    Create { arg: CreateIn, name: &'a CStr, extensions: Extensions<'a> },
    /// `name` is what the VFS calls a file without a name ("/"), and means nothing.
    Tmpfile { arg: CreateIn, name: &'a CStr, extensions: Extensions<'a> },
    Link { arg: LinkIn, name: &'a CStr },
    Unlink { name: &'a CStr },
    Rmdir { name: &'a CStr },
    Rename { arg: RenameIn, name: &'a CStr, new_name: &'a CStr },
    Rename2 { arg: Rename2In, name: &'a CStr, new_name: &'a CStr },

    // Inodes
    Getattr(GetattrIn),
    Statx(StatxIn),
    Setattr(SetattrIn),
    Access(AccessIn),
    Readlink,
    Bmap(BmapIn),
    Setxattr { arg: SetxattrIn, name: &'a CStr, value: &'a [u8] },
    Getxattr { arg: GetxattrIn, name: &'a CStr },
    Listxattr(GetxattrIn),
    Removexattr { name: &'a CStr },

    // Open files
    Open(OpenIn),
    Read(ReadIn),
    Write { arg: WriteIn, data: PayloadRange },
    Flush(FlushIn),
    Release(ReleaseIn),
    Fsync(FsyncIn),
    Fallocate(FallocateIn),
    Lseek(LseekIn),
    CopyFileRange(CopyFileRangeIn),
    CopyFileRange64(CopyFileRangeIn),
    Getlk(LkIn),
    Setlk(LkIn),
    Setlkw(LkIn),
    Ioctl { arg: IoctlIn, data: &'a [u8] },
    Poll(PollIn),
    Setupmapping(SetupmappingIn),
    Removemapping(Array<'a, RemovemappingOne>),

    // Open directories
    Opendir(OpenIn),
    Readdir(ReadIn),
    Readdirplus(ReadIn),
    Releasedir(ReleaseIn),
    Fsyncdir(FsyncIn),
}
