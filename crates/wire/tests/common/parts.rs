//! The shape of every operation on the wire, written down a second time: from linux/fuse.h and the
//! callers in fs/fuse, not from the decoder. With it the tests make messages, and take decoded
//! requests apart again.
#![allow(dead_code, reason = "each user uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::ffi::{CStr, CString};

use thrufs_wire::abi::InHeader;
use thrufs_wire::request::Extensions;
use thrufs_wire::{Dialect, InitFlags, Opcode, Request};
use zerocopy::{Immutable, IntoBytes};

/// What follows the argument and the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    Nothing,
    Extensions,
    /// As many items of so many bytes as the argument's `u32` at this offset says.
    Items {
        count_at: usize,
        unit: usize,
    },
    /// Data of as many bytes as the argument's `u32` at this offset says, which need not be there.
    Payload {
        size_at: usize,
    },
}

/// An operation: bytes of its argument, number of its strings, and what follows.
pub(crate) struct Shape {
    pub(crate) opcode: Opcode,
    pub(crate) arg: usize,
    pub(crate) names: usize,
    pub(crate) tail: Tail,
}

const fn shape(opcode: Opcode, arg: usize, names: usize, tail: Tail) -> Shape {
    Shape {
        opcode,
        arg,
        names,
        tail,
    }
}

const fn items(count_at: usize, unit: usize) -> Tail {
    Tail::Items { count_at, unit }
}

const PAYLOAD: Tail = Tail::Payload { size_at: 16 };

/// All of FUSE 7.46, with everything granted.
#[rustfmt::skip]
pub(crate) const SHAPES: &[Shape] = &[
    shape(Opcode::Lookup, 0, 1, Tail::Nothing),
    shape(Opcode::Forget, 8, 0, Tail::Nothing),
    shape(Opcode::Getattr, 16, 0, Tail::Nothing),
    shape(Opcode::Setattr, 88, 0, Tail::Nothing),
    shape(Opcode::Readlink, 0, 0, Tail::Nothing),
    shape(Opcode::Symlink, 0, 2, Tail::Extensions),
    shape(Opcode::Mknod, 16, 1, Tail::Extensions),
    shape(Opcode::Mkdir, 8, 1, Tail::Extensions),
    shape(Opcode::Unlink, 0, 1, Tail::Nothing),
    shape(Opcode::Rmdir, 0, 1, Tail::Nothing),
    shape(Opcode::Rename, 8, 2, Tail::Nothing),
    shape(Opcode::Link, 8, 1, Tail::Nothing),
    shape(Opcode::Open, 8, 0, Tail::Nothing),
    shape(Opcode::Read, 40, 0, Tail::Nothing),
    shape(Opcode::Write, 40, 0, PAYLOAD),
    shape(Opcode::Statfs, 0, 0, Tail::Nothing),
    shape(Opcode::Release, 24, 0, Tail::Nothing),
    shape(Opcode::Fsync, 16, 0, Tail::Nothing),
    shape(Opcode::Setxattr, 16, 1, items(0, 1)),
    shape(Opcode::Getxattr, 8, 1, Tail::Nothing),
    shape(Opcode::Listxattr, 8, 0, Tail::Nothing),
    shape(Opcode::Removexattr, 0, 1, Tail::Nothing),
    shape(Opcode::Flush, 24, 0, Tail::Nothing),
    shape(Opcode::Init, 64, 0, Tail::Nothing),
    shape(Opcode::Opendir, 8, 0, Tail::Nothing),
    shape(Opcode::Readdir, 40, 0, Tail::Nothing),
    shape(Opcode::Releasedir, 24, 0, Tail::Nothing),
    shape(Opcode::Fsyncdir, 16, 0, Tail::Nothing),
    shape(Opcode::Getlk, 48, 0, Tail::Nothing),
    shape(Opcode::Setlk, 48, 0, Tail::Nothing),
    shape(Opcode::Setlkw, 48, 0, Tail::Nothing),
    shape(Opcode::Access, 8, 0, Tail::Nothing),
    shape(Opcode::Create, 16, 1, Tail::Extensions),
    shape(Opcode::Interrupt, 8, 0, Tail::Nothing),
    shape(Opcode::Bmap, 16, 0, Tail::Nothing),
    shape(Opcode::Destroy, 0, 0, Tail::Nothing),
    shape(Opcode::Ioctl, 32, 0, items(24, 1)),
    shape(Opcode::Poll, 24, 0, Tail::Nothing),
    shape(Opcode::NotifyReply, 40, 0, PAYLOAD),
    shape(Opcode::BatchForget, 8, 0, items(0, 16)),
    shape(Opcode::Fallocate, 32, 0, Tail::Nothing),
    shape(Opcode::Readdirplus, 40, 0, Tail::Nothing),
    shape(Opcode::Rename2, 16, 2, Tail::Nothing),
    shape(Opcode::Lseek, 24, 0, Tail::Nothing),
    shape(Opcode::CopyFileRange, 56, 0, Tail::Nothing),
    shape(Opcode::Setupmapping, 40, 0, Tail::Nothing),
    shape(Opcode::Removemapping, 4, 0, items(0, 16)),
    shape(Opcode::Syncfs, 8, 0, Tail::Nothing),
    shape(Opcode::Tmpfile, 16, 1, Tail::Extensions),
    shape(Opcode::Statx, 24, 0, Tail::Nothing),
    shape(Opcode::CopyFileRange64, 56, 0, Tail::Nothing),
];

/// Everything that changes the form of messages is granted.
pub(crate) fn everything() -> Dialect {
    let granted = InitFlags::FUSE_SETXATTR_EXT
        | InitFlags::FUSE_SECURITY_CTX
        | InitFlags::FUSE_CREATE_SUPP_GROUP;
    Dialect::new(46, granted)
}

/// A message taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) arg: Vec<u8>,
    pub(crate) names: Vec<CString>,
    /// Items, or data that the request holds.
    pub(crate) tail: Vec<u8>,
    /// Labels, in the one extension that they have.
    pub(crate) labels: Vec<(CString, Vec<u8>)>,
    pub(crate) groups: Vec<u32>,
    /// Length of data that lie elsewhere.
    pub(crate) payload: usize,
}

impl Parts {
    /// The bytes of the message, where `payload` are the data. `header` gets length and extensions.
    pub(crate) fn message(&self, mut header: InHeader, payload: &[u8]) -> Vec<u8> {
        assert_eq!(payload.len(), self.payload);
        let extensions = self.extensions();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(&self.arg);
        for name in &self.names {
            bytes.extend(name.as_bytes_with_nul());
        }
        bytes.extend(&self.tail);
        bytes.extend(&extensions);
        bytes.extend(payload);
        header.len = u32::try_from(bytes.len()).unwrap();
        header.total_extlen = u16::try_from(extensions.len() / 8).unwrap();
        bytes[..40].copy_from_slice(header.as_bytes());
        bytes
    }

    /// `get_security_context` and `get_create_supp_group` of fs/fuse/dir.c.
    fn extensions(&self) -> Vec<u8> {
        let mut all = Vec::new();
        if !self.labels.is_empty() {
            let mut labels = Vec::new();
            for (name, context) in &self.labels {
                labels.extend(u32::try_from(context.len()).unwrap().to_ne_bytes());
                labels.extend([0; 4]);
                labels.extend(name.as_bytes_with_nul());
                labels.extend(context);
                labels.resize(labels.len().next_multiple_of(8), 0);
            }
            all.extend(u32::try_from(8 + labels.len()).unwrap().to_ne_bytes());
            all.extend(u32::try_from(self.labels.len()).unwrap().to_ne_bytes());
            all.extend(labels);
        }
        if !self.groups.is_empty() {
            let size = (8 + 4 + 4 * self.groups.len()).next_multiple_of(8);
            let start = all.len();
            all.extend(u32::try_from(size).unwrap().to_ne_bytes());
            all.extend(32_u32.to_ne_bytes());
            all.extend(u32::try_from(self.groups.len()).unwrap().to_ne_bytes());
            all.extend(self.groups.iter().flat_map(|group| group.to_ne_bytes()));
            all.resize(start + size, 0);
        }
        all
    }

    fn arg<T: IntoBytes + Immutable>(arg: &T) -> Self {
        Self {
            arg: arg.as_bytes().to_vec(),
            ..Self::default()
        }
    }

    fn name(mut self, name: &CStr) -> Self {
        self.names.push(name.to_owned());
        self
    }

    fn with(mut self, extensions: &Extensions<'_>) -> Self {
        let labels = extensions.security_contexts();
        self.labels = labels
            .map(|label| (label.name.to_owned(), label.context.to_vec()))
            .collect();
        self.groups = extensions.groups().collect();
        self
    }

    fn items<T: IntoBytes + Immutable>(count: usize, head: usize, items: &[T]) -> Self {
        let mut arg = u32::try_from(count).unwrap().to_ne_bytes().to_vec();
        arg.resize(head, 0);
        Self {
            arg,
            tail: items.as_bytes().to_vec(),
            ..Self::default()
        }
    }

    fn payload(mut self, len: usize) -> Self {
        self.payload = len;
        self
    }
}

/// What was decoded, in pieces.
pub(crate) fn parts(request: &Request<'_>) -> Parts {
    match request {
        Request::Destroy | Request::Statfs | Request::Readlink => Parts::default(),
        Request::Init(arg) => Parts::arg(arg),
        Request::Interrupt(arg) => Parts::arg(arg),
        Request::Syncfs(arg) => Parts::arg(arg),
        Request::Forget(arg) => Parts::arg(arg),
        Request::Getattr(arg) => Parts::arg(arg),
        Request::Statx(arg) => Parts::arg(arg),
        Request::Setattr(arg) => Parts::arg(arg),
        Request::Access(arg) => Parts::arg(arg),
        Request::Bmap(arg) => Parts::arg(arg),
        Request::Listxattr(arg) => Parts::arg(arg),
        Request::Open(arg) | Request::Opendir(arg) => Parts::arg(arg),
        Request::Read(arg) | Request::Readdir(arg) | Request::Readdirplus(arg) => Parts::arg(arg),
        Request::Flush(arg) => Parts::arg(arg),
        Request::Release(arg) | Request::Releasedir(arg) => Parts::arg(arg),
        Request::Fsync(arg) | Request::Fsyncdir(arg) => Parts::arg(arg),
        Request::Fallocate(arg) => Parts::arg(arg),
        Request::Lseek(arg) => Parts::arg(arg),
        Request::CopyFileRange(arg) | Request::CopyFileRange64(arg) => Parts::arg(arg),
        Request::Getlk(arg) | Request::Setlk(arg) | Request::Setlkw(arg) => Parts::arg(arg),
        Request::Poll(arg) => Parts::arg(arg),
        Request::Setupmapping(arg) => Parts::arg(arg),
        Request::Lookup { name }
        | Request::Unlink { name }
        | Request::Rmdir { name }
        | Request::Removexattr { name } => Parts::default().name(name),
        Request::Link { arg, name } => Parts::arg(arg).name(name),
        Request::Getxattr { arg, name } => Parts::arg(arg).name(name),
        _larger => larger_parts(request),
    }
}

fn larger_parts(request: &Request<'_>) -> Parts {
    match request {
        Request::Symlink {
            name,
            target,
            extensions,
        } => Parts::default().name(name).name(target).with(extensions),
        Request::Mknod {
            arg,
            name,
            extensions,
        } => Parts::arg(arg).name(name).with(extensions),
        Request::Mkdir {
            arg,
            name,
            extensions,
        } => Parts::arg(arg).name(name).with(extensions),
        Request::Create {
            arg,
            name,
            extensions,
        }
        | Request::Tmpfile {
            arg,
            name,
            extensions,
        } => Parts::arg(arg).name(name).with(extensions),
        Request::Rename {
            arg,
            name,
            new_name,
        } => Parts::arg(arg).name(name).name(new_name),
        Request::Rename2 {
            arg,
            name,
            new_name,
        } => Parts::arg(arg).name(name).name(new_name),
        Request::Setxattr { arg, name, value } => {
            let mut parts = Parts::arg(arg).name(name);
            parts.tail = value.to_vec();
            parts
        }
        Request::Ioctl { arg, data } => {
            let mut parts = Parts::arg(arg);
            parts.tail = data.to_vec();
            parts
        }
        Request::BatchForget(all) => Parts::items(all.len(), 8, &all.collect::<Vec<_>>()),
        Request::Removemapping(all) => Parts::items(all.len(), 4, &all.collect::<Vec<_>>()),
        Request::Write { arg, data } => Parts::arg(arg).payload(data.len),
        Request::NotifyReply { arg, data } => Parts::arg(arg).payload(data.len),
        other => unreachable!("{other:?}"),
    }
}
