//! Requests that may not be repeated, each done once though it may come twice: the server that read it first
//! may have died with it done, and not answered ([`crate::journal`]).
//!
//! Invariant: what is there is noted before the request is begun. When it comes again, it counts as done if what is
//! there now differs from that as the request would make it; else it is done now. Through the mount nothing else
//! can have changed it meanwhile: the client's kernel holds the directory, or the file, locked until the answer. Changes
//! under SOURCE in just that time can be taken for the request's own.
//!
//! FSYNC may be repeated, but an error of writeback is reported once for each open file: by the server that died, maybe.
//!
//! What may be repeated is not here: WRITE at an offset, SETATTR, OPEN, and all that only reads. Nor are ranges that
//! FALLOCATE collapses or inserts, which no kernel asks for (fuse_file_fallocate).

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxFlags};

use crate::backing::NamedCall;
use crate::buffer::with_read_buffer;
use crate::coherence::external::Time;
use crate::error::{Errno, IntoErrno, Result};
use crate::handle_table::Handle;
use crate::inode::identity::FileKind;
use crate::journal::{Before, Note};
use crate::passthrough::Passthrough;

/// A name in an open directory.
pub(crate) type Named<'a, D> = (&'a D, &'a CStr);

/// The kernel's largest errno.
const MOST_ERRNO: u64 = 4095;
/// FSYNC has succeeded: no errno has this number.
const SYNCED: u64 = 1 << 32;
/// No file: no file system has this number.
const NONE: (u64, u64) = (0, 0);

impl Passthrough {
    /// The note of this request, unless the backing keeps none.
    fn kept_note(&self) -> Option<Note<'_>> {
        self.note().filter(|_| self.backing.keeps_journal())
    }

    /// Notes that this request begins; whether an earlier server had begun it.
    fn begin_again(&self) -> bool {
        let Some(note) = self.kept_note() else {
            return false;
        };
        let is_begun = note.before().is_some();
        note.begin([0; 4]);
        is_begun
    }

    /// Does `remove`, which takes the name `at` away. `there`: what has the name, if that was looked at already.
    ///
    /// # Errors
    /// Of `remove`.
    pub(crate) fn remove_once(
        &self,
        at: Named<'_, impl AsFd>,
        there: Option<(u64, u64)>,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if let Some(note) = self.kept_note() {
            let now = there.map_or_else(|| file_at(at), Ok)?;
            match note.before() {
                Some([dev, ino, ..]) if now != (dev, ino) => return Ok(()),
                _not_done => note.begin([now.0, now.1, 0, 0]),
            }
        }
        let removed = remove();
        self.backing.named(NamedCall::Remove);
        removed
    }

    /// Does `rename`, which moves `from` to `to`, or exchanges them.
    ///
    /// # Errors
    /// Of `rename`.
    pub(crate) fn rename_once(
        &self,
        from: Named<'_, impl AsFd>,
        to: Named<'_, impl AsFd>,
        is_exchange: bool,
        rename: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if let Some(note) = self.kept_note() {
            let now = (file_at(from)?, file_at(to)?);
            if let Some([old_dev, old_ino, new_dev, new_ino]) = note.before() {
                let (old, new) = ((old_dev, old_ino), (new_dev, new_ino));
                let is_done = match is_exchange {
                    true => now == (new, old),
                    false => now.0 != old && now.1 == old,
                };
                // Of two names of one file either is what the other was.
                if is_done && old != new {
                    return Ok(());
                }
            }
            note.begin([now.0.0, now.0.1, now.1.0, now.1.1]);
        }
        let renamed = rename();
        self.backing.named(NamedCall::Rename);
        renamed
    }

    /// Does `make`, which makes something of this kind for the user `uid`, at a name that was free. What is there
    /// because it was made before is given to `found`.
    ///
    /// # Errors
    /// Of `make`; EEXIST for what another has made.
    pub(crate) fn make_once<T>(
        &self,
        at: Named<'_, impl AsFd>,
        (kind, uid): (FileKind, u32),
        make: impl FnOnce() -> Result<T>,
        found: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let note = self.kept_note();
        let before = note.and_then(|note| note.before());
        if let (Some(note), None) = (note, before) {
            let (seconds, nanoseconds) = Time::tick().parts();
            note.begin([seconds.cast_unsigned(), nanoseconds.cast_unsigned(), 0, 0]);
        }
        let made = match (make(), before) {
            (Err(Errno::EEXIST), Some(since)) => match is_made_since(at, (kind, uid), since)? {
                true => found(),
                false => Err(Errno::EEXIST),
            },
            (made, _) => made,
        };
        self.backing.named(NamedCall::Make);
        made
    }

    /// Does `link`, which makes `to` a name of `file`.
    ///
    /// # Errors
    /// Of `link`.
    pub(crate) fn link_once(
        &self,
        file: (u64, u64),
        to: Named<'_, impl AsFd>,
        link: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let is_begun = self.begin_again();
        let linked = match link() {
            Err(Errno::EEXIST) if is_begun && file_at(to)? == file => Ok(()),
            linked => linked,
        };
        self.backing.named(NamedCall::Link);
        linked
    }

    /// Does `change`, which fails with `again` where it is done already: an extended attribute that is there, or gone.
    ///
    /// # Errors
    /// Of `change`.
    pub(crate) fn xattr_once(
        &self,
        again: Errno,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let is_begun = self.begin_again();
        let changed = match change() {
            Err(error) if is_begun && error == again => Ok(()),
            changed => changed,
        };
        self.backing.named(NamedCall::Xattr);
        changed
    }

    /// Does `append`, which writes what it is given to the end of `handle`'s file, with the part of `data` that is not
    /// there yet. A server that is killed may have written some of it.
    ///
    /// # Errors
    /// Of `append`.
    pub(crate) fn append_once(
        &self,
        handle: &Handle,
        data: &[u8],
        append: impl FnOnce(usize) -> Result<usize>,
    ) -> Result<usize> {
        let Some(note) = self.kept_note() else {
            return append(0);
        };
        let _alone = note.append(handle.ino);
        let size = size_of(handle)?;
        let (start, done) = match note.before() {
            None => (size, 0),
            Some([start, ..]) => match self.is_there(handle, data, start, size)? {
                0 => (size, 0),
                done => (start, done),
            },
        };
        if done == data.len() && done > 0 {
            return Ok(done);
        }
        note.begin([start, 0, 0, 0]);
        match append(done) {
            Err(_) if done > 0 => Ok(done),
            written => written.map(|written| done + written),
        }
    }

    /// Does `sync`, which brings what `handle` has open to stable storage. Its outcome is noted; if a server died before
    /// it could note that, syncfs(2) tells whether writeback of anything on the file system has failed since the file
    /// was opened: an open file has its own mark of that, which nothing else moves.
    ///
    /// # Errors
    /// Of `sync`; EIO and the others of syncfs(2) also where the error was another file's.
    pub(crate) fn sync_once(
        &self,
        handle: &Handle,
        sync: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let Some(note) = self.kept_note() else {
            return sync();
        };
        let before = note.before().map(|[outcome, ..]| outcome);
        let synced = match before {
            Some(SYNCED) => return Ok(()),
            Some(errno @ 1..=MOST_ERRNO) => return Err(Errno::from_raw(errno as i32)),
            // The begin was noted, and no more.
            Some(_unknown) => sync().and_then(|()| rustix::fs::syncfs(&handle.fd).or_errno()),
            None => {
                note.begin([0; 4]);
                sync()
            }
        };
        let outcome = match synced {
            Ok(()) => SYNCED,
            Err(errno) => errno as u64,
        };
        note.begin([outcome, 0, 0, 0]);
        synced
    }

    /// How much of `data` is between `start` and the end at `size`; 0 if something else is.
    fn is_there(&self, handle: &Handle, data: &[u8], start: u64, size: u64) -> Result<usize> {
        let grown = usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX);
        let len = grown.min(data.len());
        if len == 0 {
            return Ok(0);
        }
        let reader = self.reopen(&handle.fd, libc::O_RDONLY)?;
        with_read_buffer(len, |buffer| {
            let read = self.backing.read(reader.as_fd(), buffer, start)?;
            let is_same = read == len && buffer[..len] == data[..len];
            Ok(if is_same { len } else { 0 })
        })
    }
}

fn size_of(handle: &Handle) -> Result<u64> {
    let stat = rustix::fs::fstat(&handle.fd).or_errno()?;
    Ok(stat.st_size.cast_unsigned())
}

fn look_at((dir, name): Named<'_, impl AsFd>) -> Result<Option<Statx>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW
        | AtFlags::NO_AUTOMOUNT
        // The name may be that of a mount point, MOUNTPOINT itself say, which may not be asked.
        | AtFlags::STATX_DONT_SYNC;
    let fields = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    match rustix::fs::statx(dir, name, flags, fields) {
        Err(rustix::io::Errno::NOENT) => Ok(None),
        found => found.or_errno().map(Some),
    }
}

/// The device and the number of what the name stands for.
fn file_at(at: Named<'_, impl AsFd>) -> Result<(u64, u64)> {
    Ok(look_at(at)?.map_or(NONE, |stat| {
        let dev = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        (dev, stat.stx_ino)
    }))
}

/// Whether what has the name was made for `uid` since a request was begun.
fn is_made_since(
    at: Named<'_, impl AsFd>,
    (kind, uid): (FileKind, u32),
    [seconds, nanoseconds, ..]: Before,
) -> Result<bool> {
    let Some(stat) = look_at(at)? else {
        return Ok(false);
    };
    let made = match StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) {
        true => stat.stx_btime,
        // It has not been changed since.
        false => stat.stx_ctime,
    };
    let made = Time::new(made.tv_sec, i64::from(made.tv_nsec));
    let since = Time::new(seconds.cast_signed(), nanoseconds.cast_signed());
    Ok(FileKind::from_mode(u32::from(stat.stx_mode)) == kind
        && stat.stx_uid == uid
        && made >= since.rounded_as(made))
}
