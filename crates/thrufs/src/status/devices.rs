//! Devices of virtual machines, which are in no mount table: what lists them is their sockets in the runtime
//! directory, and which is which they say themselves.
//!
//! A status socket is named by the number of the socket that front ends connect to, which no two have at a
//! time, whatever namespaces they are in. Why not by process id: that of a container may be taken outside.

use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

use super::find::{fetch, is_refused};
use super::report::Status;
use super::runtime_dir;

/// How the names of their status sockets begin.
const PREFIX: &str = "vhost-user-";

/// What [`super::SocketFile::make`] takes in place of a mount's device, for the device at `listener`.
///
/// # Errors
/// Of fstat(2).
pub(crate) fn name_of(listener: impl AsFd) -> anyhow::Result<String> {
    let number = rustix::fs::fstat(listener).context("the socket's number")?;
    Ok(format!("{PREFIX}{}", number.st_ino))
}

/// A device that answers.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    status: PathBuf,
    owner: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.display())
    }
}

impl Device {
    /// What it says of itself.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub(super) async fn ask(&self) -> anyhow::Result<Status> {
        let ended = || anyhow!("the device has ended");
        fetch(&self.status, self.owner).await?.ok_or_else(ended)
    }
}

/// Those of `owner` that live, with what they say.
pub(super) async fn of(owner: u32) -> Vec<(Device, anyhow::Result<Status>)> {
    let mut found = Vec::new();
    for status in runtime_dir::of(owner)
        .iter()
        .flat_map(|place| sockets(place))
    {
        let device = Device { status, owner };
        match fetch(&device.status, owner).await {
            // Ended meanwhile, or killed.
            Ok(None) => {}
            Err(error) if is_refused(&error) => {}
            Ok(Some(status)) => found.push((device, Ok(status))),
            Err(error) => found.push((device, Err(error))),
        }
    }
    found
}

fn sockets(place: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    let is_device = |name: &str| name.starts_with(PREFIX) && name.ends_with(".sock");
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_device))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The device whose front ends connect to `path`; none if that is no socket.
///
/// # Errors
/// No device of thrufs is there.
pub(super) async fn at(path: &Path) -> anyhow::Result<Option<Device>> {
    let Some(made_by) = owner_of_socket(path) else {
        return Ok(None);
    };
    let shown = path.display();
    let path = path.canonicalize().with_context(|| format!("{shown}"))?;
    let path = path.to_string_lossy();
    let is_there = |status: &Status| {
        let guest = status.guest.as_ref();
        guest.and_then(|guest| guest.socket.as_deref()) == Some(&*path)
    };
    // An inherited socket need not be the device's own user's. Others are asked by root alone.
    let mut owners = vec![runtime_dir::uid()];
    if owners == [0] && made_by != 0 {
        owners.push(made_by);
    }
    let mut errors = Vec::new();
    for owner in owners {
        for (device, status) in of(owner).await {
            match status {
                Ok(status) if is_there(&status) => return Ok(Some(device)),
                Ok(_other) => {}
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
    }
    let mut text = format!("no device of this user is served at {shown}");
    if !errors.is_empty() {
        text += &format!(" (not asked: {})", errors.join("; "));
    }
    Err(anyhow!("{text}"))
}

/// Asks no file system: one that hangs is what a status is wanted of.
fn owner_of_socket(path: &Path) -> Option<u32> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let mask = StatxFlags::TYPE | StatxFlags::UID;
    let stat = rustix::fs::statx(CWD, path, flags, mask).ok()?;
    let is_socket = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Socket;
    is_socket.then_some(stat.stx_uid)
}
