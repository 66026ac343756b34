//! What the log calls an inode, so that an operator can find it: its path below SOURCE where the kernel knows
//! one, its device and its number.
//!
//! The path is the kernel's own (d_path of a descriptor, by its link in /proc/self/fd): nothing is resolved,
//! and no path is kept. Read only when the line is written, so a log level that leaves the line out costs
//! nothing. Why not always the path: an inode that is held by file handle has none until it is opened, and
//! has none then if no directory entry of it is cached.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::inode::{Inode, ROOT_INO};
use crate::passthrough::Passthrough;
use crate::resolve::link_in;

impl Passthrough {
    /// The inode `ino` for a log line: `"sub/file" (device 8:1, inode 77)`.
    pub fn identify(&self, ino: u64) -> impl fmt::Display + '_ {
        Identified { fs: self, ino }
    }

    /// The path of `inode` below SOURCE; None for one that was moved out of it, or has no name the
    /// kernel knows of. A removed file's ends with ` (deleted)`.
    fn path_below_source(&self, inode: &Inode) -> Option<PathBuf> {
        let link = |inode: &Inode| {
            let link = link_in(&self.proc_self_fd, self.path_fd(inode).ok()?).ok()?;
            Some(PathBuf::from(OsStr::from_bytes(link.as_bytes())))
        };
        let (root, path) = (link(&*self.inodes.get(ROOT_INO)?)?, link(inode)?);
        let below = path.strip_prefix(root).ok()?;
        // The link of an inode without a directory entry is that of its mount.
        let is_root = below.as_os_str().is_empty();
        (is_root == (inode.ino == ROOT_INO)).then(|| match is_root {
            true => PathBuf::from("."),
            false => below.to_owned(),
        })
    }
}

struct Identified<'a> {
    fs: &'a Passthrough,
    ino: u64,
}

impl fmt::Display for Identified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(inode) = self.fs.inodes.get(self.ino) else {
            return write!(f, "nodeid {}, which the kernel does not hold", self.ino);
        };
        match self.fs.path_below_source(&inode) {
            // Quoted, so that no name breaks the line.
            Some(path) => write!(f, "{path:?}")?,
            None => f.write_str("no known path")?,
        }
        let dev = inode.key.dev;
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        write!(f, " (device {major}:{minor}, inode {})", inode.key.ino)
    }
}
