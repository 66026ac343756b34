//! `--watch`: what others change under SOURCE becomes NOTIFY_INVAL_ENTRY and NOTIFY_INVAL_INODE, so that a
//! kernel that caches for long (`--cache=always`) shows it soon.
//!
//! By fanotify(7) with a mark on SOURCE's whole file system: one mark, whatever the size of the tree, and
//! each event carries the process that made the change. Events of this process are skipped: the client's
//! kernel knows those changes, and a notification per WRITE would be a storm. inotify(7) reports no process
//! and needs a watch in each directory.
//!
//! Invariant: notifications are sent from a thread that serves no request and holds no lock of ours. The
//! kernel waits in them for folio locks and for the lock of a directory, which requests in flight may hold.
//! The latter also orders an invalidated name after a LOOKUP of it in flight.
//!
//! Memory is bounded by the kernel's queue (fs.fanotify.max_queued_events). After an overflow the changes
//! are unknown, so everything is invalidated: all names by NOTIFY_INC_EPOCH (Linux 6.16; before, by
//! dropping the names in SOURCE itself, and with them the trees below), and all inodes.
//!
//! Not seen: stores through a shared mapping of a file under SOURCE, for which there is no event; and
//! changes on other file systems mounted below SOURCE. An inode whose first reply is in flight keeps those
//! attributes until they expire.

mod event;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::{Dir, Mode, OFlags};
use thrufs_sys::file_handle::FileHandle;

use crate::error::{Errno, IntoErrno};
use crate::inode::ROOT_INO;
use crate::inode::identity::{key_of, statx};
use crate::notifier::{SendEntry, SendEpoch, SendInval};
use crate::passthrough::Passthrough;
use event::Event;

/// Bytes of events at a time: some hundred.
const BUFFER_SIZE: usize = 64 * 1024;
/// What happens to a name.
const NAMES: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// The offset of a notification that is about attributes only.
const ATTRIBUTES_ONLY: i64 = -1;

/// The senders of notifications.
pub struct Notify {
    /// NOTIFY_INVAL_INODE.
    pub inode: SendInval,
    /// NOTIFY_INVAL_ENTRY.
    pub entry: SendEntry,
    /// NOTIFY_INC_EPOCH, where the kernel has it.
    pub epoch: Option<SendEpoch>,
}

/// SOURCE's file system with a mark on it: from now on changes are recorded.
#[derive(Debug)]
pub struct Watch {
    group: Fanotify,
    /// Through which the handles in events are opened.
    mount: OwnedFd,
}

/// The thread that sends the notifications; it ends when this is dropped.
#[derive(Debug)]
pub struct Watching {
    _stop: OwnedFd,
}

fn refused(error: Errno) -> io::Error {
    let why = match error {
        Errno::EPERM => "needs root (CAP_SYS_ADMIN in the first user namespace)",
        Errno::ENODEV | Errno::EOPNOTSUPP | Errno::EXDEV => {
            "SOURCE's file system cannot be watched as a whole: it gives no file handles, or is a \
             btrfs subvolume"
        }
        Errno::EINVAL => "needs Linux 5.9 or later",
        Errno::EMFILE => "too many fanotify groups (sysctl fs.fanotify.max_user_groups)",
        Errno::ENOSYS => "the kernel has no fanotify (CONFIG_FANOTIFY)",
        _other => "fanotify",
    };
    io::Error::other(format!(
        "--watch: {why} ({error}); leave it out, or use --cache=auto"
    ))
}

impl Passthrough {
    /// Begins to record what others change on SOURCE's file system. To be called before the kernel can
    /// cache anything.
    ///
    /// # Errors
    /// When it cannot be watched; the message has the remedy.
    pub fn watch(&self) -> io::Result<Watch> {
        // nix names no FAN_REPORT_FID, and keeps the bits that it is given.
        let reports = libc::FAN_REPORT_FID | libc::FAN_REPORT_DFID_NAME;
        let flags = InitFlags::FAN_CLASS_NOTIF
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::from_bits_retain(reports);
        let group = Fanotify::init(flags, EventFFlags::O_RDONLY).map_err(refused)?;
        let root = self.inode(ROOT_INO)?;
        let source = self.path_fd(&root)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mount = rustix::fs::openat(&source, c".", flags, Mode::empty())?;
        let mask = MaskFlags::FAN_MODIFY
            | MaskFlags::FAN_ATTRIB
            | MaskFlags::FAN_ONDIR
            | MaskFlags::from_bits_retain(NAMES);
        let whole = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        group
            .mark(whole, mask, &mount, None::<&OsStr>)
            .map_err(refused)?;
        FileHandle::of(&mount)?.open(mount.as_fd(), libc::O_PATH).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("--watch: file handles of SOURCE cannot be opened ({error}): CAP_DAC_READ_SEARCH"),
            )
        })?;
        Ok(Watch { group, mount })
    }
}

impl Watch {
    /// Starts the thread that turns changes into notifications.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(self, fs: &Arc<Passthrough>, notify: Notify) -> io::Result<Watching> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // Weak: the thread must not keep the file system, and all it has open, alive.
        let fs = Arc::downgrade(fs);
        let thread = std::thread::Builder::new().name("thrufs-changes".into());
        thread.spawn(move || {
            while self.wait(&stopped) {
                let Some(fs) = fs.upgrade() else { return };
                if let Err(errno) = self.pass_on(&fs, &notify) {
                    tracing::error!(%errno, "--watch: changes under SOURCE are no longer seen");
                    return;
                }
            }
        })?;
        Ok(Watching { _stop: stop })
    }

    /// Waits for events; false when there will be no more.
    fn wait(&self, stopped: &OwnedFd) -> bool {
        let mut fds = [
            PollFd::new(self.group.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => fds[1].revents().is_none_or(|events| events.is_empty()),
            Err(errno) => errno == Errno::EINTR,
        }
    }

    /// Reads what there is, and sends what it comes to. An error is the end of the watch.
    fn pass_on(&self, fs: &Passthrough, notify: &Notify) -> nix::Result<()> {
        let mut buffer = vec![0; BUFFER_SIZE];
        let length = match nix::unistd::read(&self.group, &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            read => read?,
        };
        let own = std::process::id().cast_signed();
        // The same inode twice in one batch is one notification.
        let mut sent = HashSet::new();
        for event in event::parse(&buffer[..length]) {
            if event.mask & libc::FAN_Q_OVERFLOW != 0 {
                tracing::warn!(
                    "--watch: too many changes under SOURCE at once: invalidating everything"
                );
                invalidate_all(fs, notify);
            } else if event.pid != own {
                self.invalidate(fs, notify, event, &mut sent);
            }
        }
        Ok(())
    }

    fn invalidate(
        &self,
        fs: &Passthrough,
        notify: &Notify,
        event: Event,
        sent: &mut HashSet<(u64, i64)>,
    ) {
        let Event {
            mask,
            object,
            place,
            ..
        } = event;
        if mask & NAMES != 0
            && let Some((directory, name)) = &place
            && let Some(parent) = self.known(fs, directory)
        {
            tracing::debug!(parent, ?name, "NOTIFY_INVAL_ENTRY");
            complain((notify.entry)(parent, name));
        }
        // For a directory itself its own handle comes with the name ".".
        let own = place
            .filter(|(_, name)| name == ".")
            .map(|(directory, _)| directory);
        if mask & (libc::FAN_MODIFY | libc::FAN_ATTRIB) != 0
            && let Some(handle) = object.or(own)
            && let Some(ino) = self.known(fs, &handle)
        {
            let offset = match mask & libc::FAN_MODIFY {
                0 => ATTRIBUTES_ONLY,
                _modified => 0,
            };
            if sent.insert((ino, offset)) {
                tracing::debug!(ino, offset, "NOTIFY_INVAL_INODE: changed by others");
                complain((notify.inode)(ino, offset, 0));
            }
        }
    }

    /// The number under which the kernel knows the inode of this handle; none if it does not.
    fn known(&self, fs: &Passthrough, handle: &FileHandle) -> Option<u64> {
        let mut key = None;
        fs.look_aside(|| {
            let fd = handle.open(self.mount.as_fd(), libc::O_PATH);
            key = fd.ok().and_then(|fd| Some(key_of(&statx(&fd).ok()?)));
        });
        fs.inodes.known_number(&key?)
    }
}

fn complain(sent: io::Result<()>) {
    if let Err(error) = sent {
        tracing::warn!(%error, "--watch: a change under SOURCE may not show");
    }
}

/// Events were lost, so every inode may have changed.
fn invalidate_all(fs: &Passthrough, notify: &Notify) {
    match &notify.epoch {
        Some(send) => complain(send()),
        None => names_in_source(fs).iter().for_each(|name| {
            complain((notify.entry)(ROOT_INO, name));
        }),
    }
    for ino in fs.inodes.numbers().into_iter().chain([ROOT_INO]) {
        complain((notify.inode)(ino, 0, 0));
    }
}

fn names_in_source(fs: &Passthrough) -> Vec<std::ffi::OsString> {
    use std::os::unix::ffi::OsStrExt;
    let open = || {
        let root = fs.inode(ROOT_INO)?;
        let fd = fs.open_inode(&root, libc::O_RDONLY | libc::O_DIRECTORY)?;
        Dir::new(fd).or_errno()
    };
    let names = open().into_iter().flatten().flatten();
    names
        .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
        .filter(|name| name != "." && name != "..")
        .collect()
}
