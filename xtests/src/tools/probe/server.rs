//! A small file system in memory that records every request and misbehaves on demand. Invariant: it
//! holds no lock while it waits, so that a held WRITE blocks only its own session thread. Mounted
//! by mount(2), not by fuser, whose unmount can hit another file system at the same path.

mod filesystem;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, InitFlags, Notifier};
use parking_lot::{Condvar, Mutex};

/// Attributes and names never expire: only the kernel's own rules drop the cache.
const TTL: Duration = Duration::from_secs(3600);

/// A WRITE is treated like this instead of being served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Applied and answered only after [`Shared::release`].
    Hold,
    Fail(i32),
    /// Writes and reports only so many bytes.
    Shorten(usize),
    /// Sends NOTIFY_INVAL_INODE from the handler, before the answer.
    Invalidate,
    /// First reads the same page through its own mount at this path, in the handler.
    ReadOwnMount(PathBuf),
    Delay(Duration),
    /// Flips one bit of the first byte.
    Corrupt,
}

/// One recorded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) opcode: &'static str,
    pub(crate) ino: u64,
    pub(crate) offset: u64,
    pub(crate) size: usize,
    /// A WRITE by writeback.
    pub(crate) from_cache: bool,
}

struct File {
    name: String,
    content: Vec<u8>,
    /// The number of writes, which its mtime shows.
    writes: u32,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, File>,
    next_ino: u64,
    log: Vec<Recorded>,
    /// For the next WRITE that is no writeback.
    once: Option<Action>,
    /// For each such WRITE.
    always: Option<Action>,
    held: usize,
    released: bool,
}

/// Shared by the server's threads and the prober.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    notifier: OnceLock<Notifier>,
    /// What the kernel offered in INIT, and its largest read-ahead.
    pub(crate) offered: OnceLock<(InitFlags, (u32, u32))>,
}

impl Shared {
    /// Creates a file, which no cache knows, and returns its inode number.
    pub(crate) fn add(&self, name: &str, content: Vec<u8>) -> u64 {
        let mut state = self.state.lock();
        state.next_ino += 1;
        let ino = state.next_ino + 1;
        state.files.insert(
            ino,
            File {
                name: name.to_owned(),
                content,
                writes: 0,
            },
        );
        ino
    }

    pub(crate) fn content(&self, ino: u64) -> Vec<u8> {
        self.state
            .lock()
            .files
            .get(&ino)
            .map(|file| file.content.clone())
            .unwrap_or_default()
    }

    /// The part of the range inside the file.
    fn part(&self, ino: u64, offset: u64, size: usize) -> Vec<u8> {
        let state = self.state.lock();
        let content = state.files.get(&ino).map_or(&[][..], |file| &file.content);
        let start = content.len().min(offset as usize);
        content[start..content.len().min(start + size)].to_vec()
    }

    pub(crate) fn once(&self, action: Action) {
        let mut state = self.state.lock();
        state.once = Some(action);
        state.released = false;
    }

    pub(crate) fn always(&self, action: Action) {
        self.state.lock().always = Some(action);
    }

    pub(crate) fn release(&self) {
        self.state.lock().released = true;
        self.changed.notify_all();
    }

    /// The requests so far for this inode; the log keeps them.
    pub(crate) fn log(&self, ino: u64) -> Vec<Recorded> {
        self.state
            .lock()
            .log
            .iter()
            .filter(|entry| entry.ino == ino)
            .cloned()
            .collect()
    }

    /// Waits until `what` holds for held WRITEs and log, or the time is over; returns which.
    pub(crate) fn wait_for(
        &self,
        limit: Duration,
        what: impl Fn(usize, &[Recorded]) -> bool,
    ) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        while !what(state.held, &state.log) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return what(state.held, &state.log);
            }
        }
        true
    }

    fn record(&self, opcode: &'static str, ino: INodeNo, offset: u64, size: usize, cache: bool) {
        let entry = Recorded {
            opcode,
            ino: ino.0,
            offset,
            size,
            from_cache: cache,
        };
        self.state.lock().log.push(entry);
        self.changed.notify_all();
    }

    fn attr(&self, ino: u64) -> Option<FileAttr> {
        if ino == INodeNo::ROOT.0 {
            return Some(attr(ino, 0, FileType::Directory));
        }
        let state = self.state.lock();
        state.files.get(&ino).map(|file| FileAttr {
            mtime: UNIX_EPOCH + Duration::from_secs(file.writes.into()),
            ..attr(ino, file.content.len(), FileType::RegularFile)
        })
    }

    fn find(&self, name: &OsStr) -> Option<u64> {
        let state = self.state.lock();
        let mut files = state.files.iter();
        files
            .find(|(_, file)| OsStr::new(&file.name) == name)
            .map(|(ino, _)| *ino)
    }

    fn apply(&self, ino: u64, offset: usize, data: &[u8]) -> bool {
        let mut state = self.state.lock();
        let Some(file) = state.files.get_mut(&ino) else {
            return false;
        };
        let end = offset + data.len();
        if file.content.len() < end {
            file.content.resize(end, 0);
        }
        file.content[offset..end].copy_from_slice(data);
        file.writes += 1;
        true
    }

    fn hold(&self) {
        let mut state = self.state.lock();
        state.held += 1;
        self.changed.notify_all();
        while !state.released {
            self.changed.wait(&mut state);
        }
        state.held -= 1;
    }

    fn action(&self, from_cache: bool) -> Option<Action> {
        let mut state = self.state.lock();
        if from_cache {
            return None;
        }
        state.once.take().or_else(|| state.always.clone())
    }

    /// An action's part before the bytes are applied. Err: the answer.
    fn act(
        &self,
        action: &Action,
        ino: INodeNo,
        offset: u64,
        data: &mut Vec<u8>,
    ) -> Result<(), i32> {
        match action {
            Action::Hold => self.hold(),
            Action::Fail(errno) => return Err(*errno),
            Action::Shorten(len) => data.truncate(*len),
            Action::Invalidate => {
                if let Some(notifier) = self.notifier.get() {
                    // Refused when the connection is aborted meanwhile, which is an outcome too.
                    let _aborted = notifier.inval_inode(ino, 0, 0);
                }
            }
            Action::ReadOwnMount(path) => {
                let page = offset / 4096 * 4096;
                let mut buffer = [0; 4096];
                // Whatever the read gives, the WRITE is served after it.
                let _read = std::fs::File::open(path).and_then(|f| f.read_at(&mut buffer, page));
            }
            Action::Delay(time) => std::thread::sleep(*time),
            Action::Corrupt => {
                if let Some(byte) = data.first_mut() {
                    *byte ^= 1;
                }
            }
        }
        Ok(())
    }
}

fn attr(ino: u64, len: usize, kind: FileType) -> FileAttr {
    let (perm, nlink) = if kind == FileType::Directory {
        (0o777, 2)
    } else {
        (0o666, 1)
    };
    FileAttr {
        ino: INodeNo(ino),
        size: len as u64,
        blocks: (len as u64).div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// INIT's options.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) killpriv_v2: bool,
    pub(crate) auto_inval_data: bool,
    /// Files are open with FOPEN_DIRECT_IO, and can be mapped nevertheless.
    pub(crate) direct_io: bool,
}

struct Server {
    shared: Arc<Shared>,
    options: Options,
}

/// A mounted server. Dropping it aborts the connection and unmounts, whatever hangs.
pub(crate) struct Mounted {
    pub(crate) shared: Arc<Shared>,
    pub(crate) path: PathBuf,
    connection: crate::tools::repro::examine::Connection,
}

impl Mounted {
    pub(crate) fn new(path: &Path, options: Options) -> anyhow::Result<Self> {
        use nix::mount::{MsFlags, mount};
        use std::os::fd::AsRawFd;
        let device = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")?;
        std::fs::create_dir_all(path)?;
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("xtests"),
            path,
            Some("fuse.xtests"),
            flags,
            Some(data.as_str()),
        )?;
        let shared = Arc::new(Shared::default());
        let mut config = fuser::Config::default();
        config.n_threads = Some(4);
        let server = Server {
            shared: Arc::clone(&shared),
            options,
        };
        let all = fuser::SessionACL::All;
        let session = fuser::Session::from_fd(server, OwnedFd::from(device), all, config)
            .and_then(fuser::Session::spawn);
        let unmounted = |error| {
            // The first error is reported.
            let _unmounted = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
            anyhow::Error::from(error)
        };
        let session = session.map_err(unmounted)?;
        let _set_once = shared.notifier.set(session.notifier());
        use std::os::unix::fs::MetadataExt;
        let connection = crate::tools::repro::examine::connection(std::fs::metadata(path)?.dev());
        Ok(Self {
            shared,
            path: path.to_owned(),
            connection,
        })
    }

    /// Gives every waiting request ECONNABORTED.
    pub(crate) fn abort(&self) -> std::io::Result<()> {
        self.connection.abort()
    }

    pub(crate) fn waiting(&self) -> Option<u64> {
        self.connection.waiting()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.shared.release();
        if let Err(error) = self.abort() {
            eprintln!("xtests: {}: {error}", self.path.display());
        }
        let detach = nix::mount::MntFlags::MNT_DETACH;
        if let Err(error) = nix::mount::umount2(&self.path, detach) {
            eprintln!("xtests: {} is still mounted: {error}", self.path.display());
        }
        // Fails only if something else is there now, which is not ours to remove.
        let _kept = std::fs::remove_dir(&self.path);
    }
}
