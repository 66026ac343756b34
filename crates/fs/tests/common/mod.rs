//! What the tests of this crate share: a file system on a scratch directory, and short calls.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use tempfile::TempDir;
use thrufs_fs::{
    Backing, Caller, Config, CountedEntry, DirEntryRef, Entry, HostBacking, NewNode, Opened,
    Passthrough, ROOT_INO, Result, SetAttr, WriteRequest,
};

/// A served scratch directory.
pub(crate) struct Served {
    pub(crate) source: TempDir,
    pub(crate) fs: Passthrough,
}

impl Served {
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), Arc::new(HostBacking))
    }

    pub(crate) fn with(config: Config, backing: Arc<dyn Backing>) -> Self {
        let source = tempfile::tempdir().unwrap();
        let fd = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(source.path())
            .unwrap();
        let fs = Passthrough::with_backing(fd.into(), config, backing).unwrap();
        Self { source, fs }
    }

    pub(crate) fn new_node<'a>(&self, parent: u64, name: &'a str, mode: u32) -> NewNode<'a> {
        NewNode {
            groups: None,
            labels: &[],
            parent,
            name: OsStr::new(name),
            mode,
            umask: 0o022,
            caller: caller(),
        }
    }

    pub(crate) fn create(&self, parent: u64, name: &str) -> Result<(Entry, Opened)> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let node = self.new_node(parent, name, libc::S_IFREG | 0o644);
        let (made, opened) = self.fs.create(&node, flags)?;
        Ok((made.into_entry(), opened))
    }

    pub(crate) fn lookup(&self, parent: u64, name: &str) -> Result<Entry> {
        let found = self.fs.lookup(parent, OsStr::new(name));
        found.map(CountedEntry::into_entry)
    }

    pub(crate) fn open(&self, ino: u64, flags: i32) -> Result<Opened> {
        self.fs.open(ino, flags, &caller())
    }

    pub(crate) fn unlink(&self, at: DirEntryRef<'_>) -> Result<()> {
        self.fs.unlink(at, &caller())
    }

    pub(crate) fn rmdir(&self, at: DirEntryRef<'_>) -> Result<()> {
        self.fs.rmdir(at, &caller())
    }

    pub(crate) fn write(&self, ino: u64, fh: u64, offset: u64, data: &[u8]) -> Result<usize> {
        self.fs.write(&WriteRequest {
            ino,
            fh,
            offset,
            data,
            flags: 0,
            from_cache: false,
        })
    }

    pub(crate) fn read(&self, ino: u64, fh: u64, offset: u64, size: usize) -> Result<Vec<u8>> {
        let mut buf = vec![0; size];
        let count = self.fs.read(ino, fh, offset, 0, &mut buf)?;
        buf.truncate(count);
        Ok(buf)
    }

    pub(crate) fn truncate(&self, ino: u64, fh: Option<u64>, size: u64) -> Result<()> {
        let set = SetAttr {
            size: Some(size),
            fh,
            ..SetAttr::default()
        };
        self.fs.setattr(ino, &set).map(drop)
    }

    /// Names in a directory, without `.` and `..`, through READDIR.
    pub(crate) fn names(&self, ino: u64) -> Result<Vec<String>> {
        let opened = self.fs.opendir(ino, &caller())?;
        let mut names = Vec::new();
        let listed = self
            .fs
            .readdir(ino, (opened.fh, 0), &|| Ok(caller()), |entry| {
                if !entry.is_dot() {
                    names.push(entry.name.to_str().unwrap().to_owned());
                }
                Ok(false)
            });
        self.fs.release(ino, opened.fh);
        listed?;
        names.sort();
        Ok(names)
    }
}

/// This process.
pub(crate) fn caller() -> Caller {
    Caller {
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        pid: std::process::id(),
    }
}

pub(crate) fn at(parent: u64, name: &str) -> DirEntryRef<'_> {
    DirEntryRef {
        parent,
        name: OsStr::new(name),
    }
}

pub(crate) const ROOT: u64 = ROOT_INO;
