//! An idmapped mount of a directory, for a test: unmounted when it is dropped.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use thrufs_sys::idmapped::idmapped_copy;

use super::skip::missing;
use super::wait::wait_until;

const SOON: Duration = Duration::from_secs(10);

/// Where the mount is.
#[derive(Debug)]
pub struct IdmappedMount {
    at: PathBuf,
}

/// Ids of files from `first` on, of which `count` are those from `shown` on through the mount.
#[derive(Clone, Copy, Debug)]
pub struct Shift {
    /// On the file system.
    pub first: u32,
    /// Through the mount.
    pub shown: u32,
    /// How many.
    pub count: u32,
}

impl IdmappedMount {
    /// Mounts `directory` at `at`, which is made.
    ///
    /// # Errors
    /// EINVAL for a file system that has no idmapped mounts; a skip where there are no user namespaces.
    pub fn new(directory: &Path, at: PathBuf, shift: Shift) -> Result<Self> {
        let namespace = UserNamespace::new(shift)?;
        let copy = idmapped_copy(directory, namespace.file.as_fd())?;
        std::fs::create_dir(&at)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&copy, c"", CWD, &at, flags).context("move_mount(2)")?;
        Ok(Self { at })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for IdmappedMount {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.at, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.at.display());
        }
    }
}

/// A user namespace with these maps.
struct UserNamespace {
    file: File,
    _kept_by: Process,
}

impl UserNamespace {
    fn new(
        Shift {
            first,
            shown,
            count,
        }: Shift,
    ) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--user", "sleep", "infinity"]);
        let process = Process(command.stdin(Stdio::null()).spawn()?);
        let proc = PathBuf::from(format!("/proc/{}", process.0.id()));
        let ours = std::fs::read_link("/proc/self/ns/user")?;
        let entered = wait_until("a process in a user namespace of its own", SOON, || {
            Ok(std::fs::read_link(proc.join("ns/user"))? != ours)
        });
        entered.map_err(|error| missing(format!("unshare --user: {error:#}")))?;
        for map in ["uid_map", "gid_map"] {
            std::fs::write(proc.join(map), format!("{first} {shown} {count}")).context(map)?;
        }
        Ok(Self {
            file: File::open(proc.join("ns/user"))?,
            _kept_by: process,
        })
    }
}

/// Killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}
