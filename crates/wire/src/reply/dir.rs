//! A directory's listing as READDIR and READDIRPLUS answer it: records in the caller's buffer.
//!
//! A record is whole or absent: the kernel drops a cut-off one at the end and asks again from the
//! last offset it has seen. With READDIRPLUS that would leak a lookup, since the server has counted
//! the entry and the kernel never saw it; so an entry that did not fit is reported as
//! [`Pushed::Full`], and must not be counted.

use std::ffi::CStr;

use thiserror::Error;
use zerocopy::IntoBytes;

use super::Reply;
use crate::abi::{Dirent, Direntplus, EntryOut};

/// Records are at multiples of this (`FUSE_DIRENT_ALIGN`).
const ALIGN: usize = 8;
/// The longest name: FUSE_NAME_LOW_MAX, which every kernel takes.
const NAME_MAX: usize = 1024;

/// The outcome of adding an entry.
#[must_use = "an entry that did not fit must not be counted as looked up"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The record is in the buffer.
    Added,
    /// The buffer has no room for it; nothing was written.
    Full,
}

/// A name that would make the kernel refuse the whole listing with EIO (`parse_dirfile`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotAnEntry {
    /// "" names nothing.
    #[error("a directory entry without a name")]
    Empty,
    /// Names have no slash.
    #[error("a directory entry with a slash in its name")]
    Slash,
    /// More than 1024 bytes.
    #[error("a directory entry with a name of {len} bytes: at most 1024")]
    TooLong {
        /// Its length.
        len: usize,
    },
}

/// Records up to the requested size.
#[derive(Debug)]
pub struct DirBuffer<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl<'b> DirBuffer<'b> {
    /// Fills `buffer`, of which at most `size` bytes (`fuse_read_in.size`) are used.
    pub fn new(buffer: &'b mut [u8], size: u32) -> Self {
        let room = usize::try_from(size)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let buffer = &mut buffer[..room];
        Self { buffer, len: 0 }
    }

    /// Adds a record of READDIR. `next` is the offset at which the listing goes on after it, `kind` a DT_ value.
    ///
    /// # Errors
    /// The name is none that a directory can have.
    pub fn push(
        &mut self,
        ino: u64,
        next: u64,
        kind: u32,
        name: &CStr,
    ) -> Result<Pushed, NotAnEntry> {
        let name = checked(name)?;
        let head = dirent(ino, next, kind, name);
        Ok(self.record(head.as_bytes(), name))
    }

    /// Adds a record of READDIRPLUS. `entry` with `nodeid` 0 gives the kernel the name and no
    /// inode; "." and ".." must have it, since the kernel counts no lookup for them.
    ///
    /// # Errors
    /// The name is none that a directory can have.
    pub fn push_plus(
        &mut self,
        entry_out: EntryOut,
        next: u64,
        kind: u32,
        name: &CStr,
    ) -> Result<Pushed, NotAnEntry> {
        let name = checked(name)?;
        let dirent = dirent(entry_out.attr.ino, next, kind, name);
        let head = Direntplus { entry_out, dirent };
        Ok(self.record(head.as_bytes(), name))
    }

    /// Whether nothing was added: to the kernel, the end of the directory.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The records.
    pub fn filled(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// The answer.
    pub fn into_reply(self) -> Reply<'b> {
        let Self { buffer, len } = self;
        Reply::Data(&buffer[..len])
    }

    fn record(&mut self, head: &[u8], name: &[u8]) -> Pushed {
        let used = head.len() + name.len();
        let Some(room) = self
            .buffer
            .get_mut(self.len..)
            .and_then(|room| room.get_mut(..used.next_multiple_of(ALIGN)))
        else {
            return Pushed::Full;
        };
        let (head_room, rest) = room.split_at_mut(head.len());
        let (name_room, padding) = rest.split_at_mut(name.len());
        head_room.copy_from_slice(head);
        name_room.copy_from_slice(name);
        padding.fill(0);
        self.len += used.next_multiple_of(ALIGN);
        Pushed::Added
    }
}

fn dirent(ino: u64, off: u64, kind: u32, name: &[u8]) -> Dirent {
    Dirent {
        ino,
        off,
        // `checked` bounds it by 1024.
        namelen: name.len() as u32,
        r#type: kind,
    }
}

fn checked(name: &CStr) -> Result<&[u8], NotAnEntry> {
    let name = name.to_bytes();
    match name.len() {
        0 => Err(NotAnEntry::Empty),
        len if len > NAME_MAX => Err(NotAnEntry::TooLong { len }),
        _len if name.contains(&b'/') => Err(NotAnEntry::Slash),
        _len => Ok(name),
    }
}
