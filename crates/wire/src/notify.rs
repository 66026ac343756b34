//! Notifications: messages from the server that answer no request.
//!
//! On the wire a notification is an answer with `unique` 0 and its code as `error`. The kernel
//! handles it within the write(2), and may wait for locks there; the session decides when a
//! notification may be sent.

use std::ffi::CStr;

use thiserror::Error;

use crate::abi::{
    InvalEntryFlags, NotifyDeleteOut, NotifyInvalEntryOut, NotifyInvalInodeOut,
    NotifyPollWakeupOut, NotifyPruneOut, NotifyRetrieveOut, NotifyStoreOut, OutHeader, numbers,
};
use crate::dialect::Dialect;
use crate::encoded::{Encoded, bytes};
use crate::init_flags::InitFlags;

numbers! {
    /// `enum fuse_notify_code`.
    Code: u32 {
        Poll = FUSE_NOTIFY_POLL, 1;
        InvalInode = FUSE_NOTIFY_INVAL_INODE, 2;
        InvalEntry = FUSE_NOTIFY_INVAL_ENTRY, 3;
        Store = FUSE_NOTIFY_STORE, 4;
        Retrieve = FUSE_NOTIFY_RETRIEVE, 5;
        Delete = FUSE_NOTIFY_DELETE, 6;
        Resend = FUSE_NOTIFY_RESEND, 7;
        IncEpoch = FUSE_NOTIFY_INC_EPOCH, 8;
        Prune = FUSE_NOTIFY_PRUNE, 9;
    }
}

/// A message to the kernel without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification<'a> {
    /// The awaited events of POLL may be ready.
    Poll {
        /// `fuse_poll_in.kh`.
        kh: u64,
    },
    /// The kernel drops attributes and cached data of an inode.
    InvalInode {
        /// The inode.
        nodeid: u64,
        /// Begin of the data; below 0, only attributes are dropped.
        offset: i64,
        /// Length of the data; 0 or below, to the end of the file.
        len: i64,
    },
    /// The kernel drops a name.
    InvalEntry {
        /// Directory of the name.
        parent: u64,
        /// The name.
        name: &'a CStr,
        /// With FUSE_EXPIRE_ONLY, the kernel asks again at the next use and drops nothing.
        flags: InvalEntryFlags,
    },
    /// As [`Notification::InvalEntry`], and watchers of the directory learn of the deletion.
    Delete {
        /// Directory of the name.
        parent: u64,
        /// The inode that had it.
        child: u64,
        /// The name.
        name: &'a CStr,
    },
    /// The kernel puts data into its page cache.
    Store {
        /// The inode.
        nodeid: u64,
        /// Where the data begin.
        offset: u64,
        /// The data.
        data: &'a [u8],
    },
    /// The kernel sends what its page cache holds, as a NOTIFY_REPLY with this `unique`.
    Retrieve {
        /// `unique` of the NOTIFY_REPLY.
        unique: u64,
        /// The inode.
        nodeid: u64,
        /// Where the data begin.
        offset: u64,
        /// How much at most.
        size: u32,
    },
    /// The kernel sends again what was read and not answered, with [`crate::abi::FUSE_UNIQUE_RESEND`].
    Resend,
    /// All names and listings that the kernel has cached are asked for again.
    IncEpoch,
    /// The kernel forgets these inodes, if nothing uses them.
    Prune {
        /// The inodes.
        nodeids: &'a [u64],
    },
}

/// More than the length of a message can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a notification of more than 4 GiB: send it in parts")]
pub struct TooLong;

impl<'a> Notification<'a> {
    /// Its code.
    pub fn code(&self) -> Code {
        match self {
            Self::Poll { .. } => Code::Poll,
            Self::InvalInode { .. } => Code::InvalInode,
            Self::InvalEntry { .. } => Code::InvalEntry,
            Self::Delete { .. } => Code::Delete,
            Self::Store { .. } => Code::Store,
            Self::Retrieve { .. } => Code::Retrieve,
            Self::Resend => Code::Resend,
            Self::IncEpoch => Code::IncEpoch,
            Self::Prune { .. } => Code::Prune,
        }
    }

    /// Whether the kernel knows it. An older one answers EINVAL, or, for FUSE_EXPIRE_ONLY, drops the name.
    pub fn is_known(&self, dialect: Dialect) -> bool {
        match self {
            Self::InvalEntry { flags, .. } if !flags.is_empty() => {
                dialect.granted().contains(InitFlags::FUSE_HAS_EXPIRE_ONLY)
            }
            Self::Resend => dialect.granted().contains(InitFlags::FUSE_HAS_RESEND),
            Self::IncEpoch => dialect.minor() >= 44,
            Self::Prune { .. } => dialect.minor() >= 45,
            Self::Poll { .. }
            | Self::InvalInode { .. }
            | Self::InvalEntry { .. }
            | Self::Delete { .. }
            | Self::Store { .. }
            | Self::Retrieve { .. } => true,
        }
    }

    /// The bytes of the message.
    ///
    /// # Errors
    /// [`TooLong`]: data or nodeids of more than 4 GiB.
    #[rustfmt::skip]
    pub fn encode(&self) -> Result<Encoded<'a>, TooLong> {
        let padding = 0;
        match *self {
            Self::Poll { kh } => self.message(&NotifyPollWakeupOut { kh }, &[]),
            Self::InvalInode { nodeid: ino, offset: off, len } => {
                self.message(&NotifyInvalInodeOut { ino, off, len }, &[])
            }
            Self::InvalEntry { parent, name, flags } => {
                let namelen = count(name.count_bytes())?;
                let arg = NotifyInvalEntryOut { parent, namelen, flags };
                self.message(&arg, name.to_bytes_with_nul())
            }
            Self::Delete { parent, child, name } => {
                let namelen = count(name.count_bytes())?;
                let arg = NotifyDeleteOut { parent, child, namelen, padding };
                self.message(&arg, name.to_bytes_with_nul())
            }
            Self::Store { nodeid, offset, data } => {
                let size = count(data.len())?;
                self.message(&NotifyStoreOut { nodeid, offset, size, padding }, data)
            }
            Self::Retrieve { unique: notify_unique, nodeid, offset, size } => {
                let arg = NotifyRetrieveOut { notify_unique, nodeid, offset, size, padding };
                self.message(&arg, &[])
            }
            Self::Resend | Self::IncEpoch => self.message(&[0_u8; 0], &[]),
            Self::Prune { nodeids } => {
                let count = count(nodeids.len())?;
                self.message(&NotifyPruneOut { count, padding, spare: 0 }, bytes(nodeids))
            }
        }
    }

    fn message<T>(&self, arg: &T, data: &'a [u8]) -> Result<Encoded<'a>, TooLong>
    where
        T: zerocopy::IntoBytes + zerocopy::Immutable,
    {
        let header = OutHeader {
            len: 0,
            error: self.code().as_raw().cast_signed(),
            unique: 0,
        };
        Encoded::new(header, [bytes(arg), &[]], [data, &[]]).ok_or(TooLong)
    }
}

fn count(len: usize) -> Result<u32, TooLong> {
    u32::try_from(len).map_err(|_larger| TooLong)
}
