//! A file system for SOURCE whose READs and FSYNCs wait until the test lets them go: how slow it is, is not a
//! matter of time.
//!
//! Invariant: what waits is answered when this is dropped, so that no process below it stays behind.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::mount_table::abort;
use super::wait::wait_until;

/// The one file's name.
pub const FILE: &str = "f";
const FILE_INO: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(3600);
const STEP: Duration = Duration::from_secs(20);

/// See the module. Dropped after what serves it, and after [`Gate`].
pub struct HeldSource {
    dir: TempDir,
    gate: Arc<Held>,
}

#[derive(Default)]
struct Held {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    content: Vec<u8>,
    is_open: bool,
    waiting: Vec<Waiting>,
}

enum Waiting {
    Read(ReplyData, u64, u32),
    Sync(ReplyEmpty),
}

/// Lets all go when it is dropped: to be made last in a test.
pub struct Gate(Arc<Held>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl HeldSource {
    /// Mounts it, with `content` in [`FILE`].
    ///
    /// # Errors
    /// FUSE cannot be used here.
    pub fn mount(content: Vec<u8>) -> Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.context("/dev/fuse")?;
        let dir = tempfile::Builder::new().prefix("thrufs-held").tempdir()?;
        let gate = Arc::<Held>::default();
        gate.state.lock().content = content;
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let (name, kind) = (Some("xtests"), Some("fuse.xtests"));
        mount(name, dir.path(), kind, flags, Some(data.as_str())).context("mount(2)")?;
        let source = Self { dir, gate };
        let server = Server(Arc::clone(&source.gate));
        let (all, config) = (fuser::SessionACL::All, fuser::Config::default());
        let session = fuser::Session::from_fd(server, OwnedFd::from(device), all, config)?;
        // Ends with the mount.
        session.spawn()?;
        Ok(source)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Waits until exactly so many requests wait.
    ///
    /// # Errors
    /// They do not come.
    pub fn wait_for_held(&self, count: usize) -> Result<()> {
        wait_until(&format!("{count} requests at SOURCE"), STEP, || {
            Ok(self.held() == count)
        })
    }

    /// How many requests wait.
    pub fn held(&self) -> usize {
        self.gate.state.lock().waiting.len()
    }

    /// Answers what waits, and everything from now on.
    pub fn open(&self) {
        self.gate.open();
    }

    /// See [`Gate`].
    pub fn gate(&self) -> Gate {
        Gate(Arc::clone(&self.gate))
    }
}

impl Drop for HeldSource {
    fn drop(&mut self) {
        self.gate.open();
        abort(self.dir.path());
        if let Err(error) = umount2(self.dir.path(), MntFlags::MNT_DETACH) {
            eprintln!("umount {}: {error}", self.dir.path().display());
        }
    }
}

impl Held {
    fn open(&self) {
        let mut state = self.state.lock();
        state.is_open = true;
        let waiting = std::mem::take(&mut state.waiting);
        waiting.into_iter().for_each(|one| state.answer(one));
    }

    fn come(&self, one: Waiting) {
        let mut state = self.state.lock();
        match state.is_open {
            true => state.answer(one),
            false => state.waiting.push(one),
        }
    }
}

impl State {
    fn answer(&self, one: Waiting) {
        match one {
            Waiting::Read(reply, offset, size) => {
                let start = self.content.len().min(offset as usize);
                let end = self.content.len().min(start + size as usize);
                reply.data(&self.content[start..end]);
            }
            Waiting::Sync(reply) => reply.ok(),
        }
    }
}

struct Server(Arc<Held>);

impl Server {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        match ino == FILE_INO {
            true => FileAttr {
                size: self.0.state.lock().content.len() as u64,
                ..plain_attr(ino, FileType::RegularFile)
            },
            false => plain_attr(ino, FileType::Directory),
        }
    }
}

/// Attributes of an empty file or directory of root's, for a file system that a test serves.
pub fn plain_attr(ino: INodeNo, kind: FileType) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o777,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Server {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == Path::new(FILE) {
            true => reply.entry(&TTL, &self.attr(FILE_INO), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Each read(2) is a READ.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    #[allow(clippy::too_many_arguments, reason = "the trait's signature")]
    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.come(Waiting::Read(reply, offset, size));
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.0.come(Waiting::Sync(reply));
    }
}
