//! Kernel passthrough of one file: whether it is worth a backing id, and what has to follow from one.
//!
//! Invariant: while an inode may be stored to through a mapping past the daemon, the kernel is given its
//! attributes for no time at all, and what it had of them before is gone when OPEN is answered. No request
//! tells of such a store, of msync(2) and of munmap(2): the mapping is one of the backing file, and outlives
//! the handle. So make(1) sees the new mtime with any --cache.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::fstat;

use crate::attr::Attr;
use crate::backing_ids::{MANY, SMALL, WhyNot};
use crate::coherence::open_files::Seen;
use crate::config::KernelPassthrough;
use crate::error::{Errno, Result, errno};
use crate::handle_sort::RegisterBacking;
use crate::inode::Inode;
use crate::notifier::{SendInval, SendPrune};
use crate::ops::open::Existed;
use crate::passthrough::Passthrough;

impl Passthrough {
    /// Files are passed through from now on, where INIT allows it: `registrar` gives them to the kernel, and
    /// `send` invalidates attributes; with `prune` the kernel is asked to forget what may have been mapped, when it
    /// is closed. To be called after INIT, before the first OPEN.
    ///
    /// # Errors
    /// When there can be no thread that ends the ids of files that were closed. What a server that died has left is
    /// damaged.
    pub fn start_passing_through(
        &self,
        registrar: Arc<dyn RegisterBacking>,
        send: SendInval,
        prune: Option<SendPrune>,
    ) -> io::Result<()> {
        let wanted =
            self.config.passthrough != KernelPassthrough::Never && !self.config.cache.is_direct();
        if !wanted {
            return Ok(());
        }
        let negotiated = self.negotiated.get();
        if !negotiated.is_some_and(|negotiated| negotiated.has("FUSE_PASSTHROUGH")) {
            self.set_not_passed_through("the kernel does not offer it (Linux 6.9)".to_owned());
            return Ok(());
        }
        self.backing_ids.start(registrar, send, prune)?;
        self.take_over_backing_ids()
    }

    /// Notes, for the status, why no file is passed through.
    pub fn set_not_passed_through(&self, reason: String) {
        self.backing_ids.set_off(reason);
    }

    /// How long the kernel may use these attributes without asking again.
    pub fn attr_timeout(&self, attr: &Attr) -> Duration {
        match attr.is_volatile {
            true => Duration::ZERO,
            false => self.config.timeouts.attr,
        }
    }

    /// The backing id by which a file that was just opened with `flags` is passed through, if it is.
    ///
    /// # Errors
    /// Those of the registration, with `--passthrough=always`.
    pub(crate) fn pass_through(
        &self,
        inode: &Arc<Inode>,
        existed: Existed,
        (file, flags): (&OwnedFd, i32),
        seen: Option<Seen>,
    ) -> Result<Option<i32>> {
        if !self.backing_ids.is_on() {
            return Ok(None);
        }
        let must = self.config.passthrough == KernelPassthrough::Always;
        let is_reader = flags & libc::O_ACCMODE == libc::O_RDONLY;
        let size = || match seen {
            Some(seen) => seen.stat.stx_size,
            None => fstat(file).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0)),
        };
        let is_written_much = !is_reader && inode.sort.written() >= MANY;
        let has_no_direct_io = self.lacks_direct_io(inode, flags);
        let why_not = || match () {
            () if has_no_direct_io => Some(WhyNot::Refused),
            () if must => None,
            () if existed == Existed::Before && !is_written_much && size() <= SMALL => {
                Some(WhyNot::Small)
            }
            () if existed == Existed::NotBefore && self.new_files.are_small() => {
                Some(WhyNot::NewAndSmallLately)
            }
            () if is_reader => None,
            () => {
                let is_nearly_full = self.backing_ids.is_nearly_full(inode, file);
                is_nearly_full.then_some(WhyNot::NearlyFull)
            }
        };
        let to_register = || self.path_fd(inode).map_err(io::Error::from);
        let entered = self
            .backing_ids
            .enter(inode, must, why_not, to_register)
            .map_err(|error| errno(&error))?;
        if entered.is_some() && has_no_direct_io {
            self.backing_ids.release(inode, || true);
            return Err(Errno::EINVAL);
        }
        if entered.is_some() && flags & libc::O_ACCMODE == libc::O_RDWR {
            if inode.sort.note_mappable() && existed == Existed::Before {
                self.backing_ids.invalidate_attributes(inode.ino);
            }
            // After that, which a server that dies in between leaves to the next.
            self.inodes.note_mapped(inode);
        }
        Ok(entered)
    }

    /// Whether `flags` ask for direct I/O and SOURCE's file system has none: the kernel opens what it passes
    /// through with the client's flags, and would answer EIO.
    fn lacks_direct_io(&self, inode: &Inode, flags: i32) -> bool {
        // With --allow-direct-io the backing file is open with it by now.
        if flags & libc::O_DIRECT == 0 || self.config.allow_direct_io {
            return false;
        }
        let wanted = libc::O_RDONLY | libc::O_DIRECT | libc::O_NONBLOCK;
        matches!(self.open_inode(inode, wanted), Err(Errno::EINVAL))
    }
}
