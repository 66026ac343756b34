//! A scratch directory with a SOURCE and a mount point, on the file system that a test asks for.
//!
//! Whether SOURCE is the top of that file system decides how the daemon holds inodes (file handles
//! or descriptors), so a run of the tier can set it for all tests by [`LAYOUT`].
//!
//! Invariant: everything mounted below it is unmounted, last first, before the directory is
//! removed; if that fails the directory stays, since removing it would reach into a mount.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use super::command::succeed;
use super::skip::missing;

/// Variable with the layout of this run of the tier: `whole` or `below`, or else each test's own.
pub const LAYOUT: &str = "THRUFS_TEST_SOURCE";

/// Where SOURCE lies in its file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The top of the file system that a test asks for, else a directory of the temporary one.
    AsBacked,
    /// The top, of a tmpfs where a test asks for no file system.
    Whole,
    /// A directory, also of a file system that a test asks for.
    Below,
}

impl Layout {
    /// By [`LAYOUT`].
    fn of_this_run() -> Result<Self> {
        match std::env::var(LAYOUT).as_deref() {
            Err(_) => Ok(Self::AsBacked),
            Ok("whole") => Ok(Self::Whole),
            Ok("below") => Ok(Self::Below),
            Ok(other) => anyhow::bail!("{LAYOUT}={other}: it can be whole or below"),
        }
    }
}

/// The file system that holds SOURCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Whatever holds the temporary directory.
    Here,
    /// A tmpfs.
    Tmpfs,
    /// A fresh ext4 of so many MiB on a loop device.
    Ext4(u32),
    /// A fresh btrfs of so many MiB on a loop device (reflinks).
    Btrfs(u32),
}

/// The directory; see the module's invariant.
#[derive(Debug)]
pub struct Scratch {
    root: Option<TempDir>,
    path: PathBuf,
    source: PathBuf,
    mounted: Mutex<Vec<PathBuf>>,
}

impl Scratch {
    /// Another mount point for the SOURCE of another scratch, which outlives this one.
    pub fn sharing(source: PathBuf) -> Result<Self> {
        let mut scratch = Self::new(Backing::Here)?;
        scratch.source = source;
        Ok(scratch)
    }

    /// Creates it, with an empty `source` on `backing` and an empty `mnt`, open to every user.
    pub fn new(backing: Backing) -> Result<Self> {
        Self::with(backing, Layout::of_this_run()?)
    }

    /// The same for a test that works with one layout only.
    pub fn with(backing: Backing, layout: Layout) -> Result<Self> {
        let root = tempfile::Builder::new()
            .prefix("thrufs-test-")
            .tempdir()
            .context("cannot make a scratch directory; set TMPDIR to one that can be written")?;
        let path = root.path().to_owned();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        let top = path.join("source");
        let source = match layout {
            Layout::Below => top.join("below"),
            Layout::AsBacked | Layout::Whole => top.clone(),
        };
        let scratch = Self {
            root: Some(root),
            path,
            source,
            mounted: Mutex::default(),
        };
        for directory in [&top, &scratch.mountpoint()] {
            std::fs::create_dir(directory)?;
        }
        match backing {
            Backing::Here if layout == Layout::Whole => scratch.mount_tmpfs(&top)?,
            Backing::Here => {}
            Backing::Tmpfs => scratch.mount_tmpfs(&top)?,
            Backing::Ext4(mib) => scratch.mount_image("ext4", &["-q", "-F"], mib, &top)?,
            Backing::Btrfs(mib) => scratch.mount_image("btrfs", &["-q"], mib, &top)?,
        }
        if layout == Layout::Below {
            std::fs::set_permissions(&top, PermissionsExt::from_mode(0o755))?;
            std::fs::create_dir(scratch.source())?;
        }
        std::fs::set_permissions(scratch.source(), PermissionsExt::from_mode(0o755))?;
        Ok(scratch)
    }

    /// The directory itself, outside SOURCE.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SOURCE.
    pub fn source(&self) -> PathBuf {
        self.source.clone()
    }

    /// Whether SOURCE is the top of its file system.
    pub fn is_whole(&self) -> bool {
        super::mount_table::is_mounted(&self.source)
    }

    /// The empty directory to mount on.
    pub fn mountpoint(&self) -> PathBuf {
        self.path.join("mnt")
    }

    /// Mounts a tmpfs on `directory`, until the scratch directory goes.
    pub fn mount_tmpfs(&self, directory: &Path) -> Result<()> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs"])
            .arg(directory);
        succeed(&mut mount).map_err(|error| missing(format!("mounting a tmpfs: {error:#}")))?;
        self.adopt(directory);
        Ok(())
    }

    fn mount_image(&self, kind: &str, options: &[&str], mib: u32, top: &Path) -> Result<()> {
        let image = self.path.join("image");
        std::fs::File::create(&image)?.set_len(u64::from(mib) << 20)?;
        let mkfs = format!("mkfs.{kind}");
        let made = Command::new(&mkfs).args(options).arg(&image).output();
        let made = made.map_err(|error| missing(format!("{mkfs}: {error}")))?;
        anyhow::ensure!(
            made.status.success(),
            "{mkfs}: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut mount = Command::new("mount");
        mount.args(["-t", kind, "-o", "loop"]).arg(&image).arg(top);
        succeed(&mut mount)
            .map_err(|error| missing(format!("a loop device with {kind}: {error:#}")))?;
        self.adopt(top);
        Ok(())
    }

    /// Unmounts `directory` together with the scratch directory.
    pub fn adopt(&self, directory: &Path) {
        let mut mounted = self.mounted.lock().expect("no holder of this lock panics");
        mounted.push(directory.to_owned());
    }

    /// Unmounts now the last mount of [`Scratch::mount_tmpfs`].
    pub fn unmount_last(&self) -> Result<()> {
        let mut mounted = self.mounted.lock().expect("no holder of this lock panics");
        let last = mounted
            .last()
            .context("nothing is mounted in this scratch directory")?;
        umount2(last, MntFlags::empty()).with_context(|| format!("umount {}", last.display()))?;
        mounted.pop();
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mounted = self
            .mounted
            .get_mut()
            .expect("no holder of this lock panics");
        let mut clean = true;
        for directory in mounted.drain(..).rev() {
            match umount2(&directory, MntFlags::empty()) {
                Ok(()) => continue,
                // The test has unmounted it.
                Err(Errno::EINVAL) => continue,
                Err(_busy) => {}
            }
            // A lazy unmount frees the loop device with its last user.
            if let Err(error) = umount2(&directory, MntFlags::MNT_DETACH) {
                eprintln!("{} stays mounted: {error}", directory.display());
                clean = false;
            }
        }
        clean &= !super::mount_table::is_mounted(&self.mountpoint());
        if let (false, Some(root)) = (clean, self.root.take()) {
            eprintln!(
                "kept because something is still mounted there: {}",
                root.keep().display()
            );
        }
    }
}
