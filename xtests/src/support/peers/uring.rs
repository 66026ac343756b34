//! FUSE over io_uring is off by default, by a parameter of the fuse module: set while a peer mounts.
//!
//! Invariant: the parameter has its old value again as soon as the connection exists, also after an
//! error; concurrent users take turns. The kernel reads it at INIT only.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

use crate::support::skip::missing;
use crate::support::wait::wait_until;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// The parameter is set while this lives.
pub(super) struct Enabled {
    before: String,
    _turn: Flock<File>,
}

impl Enabled {
    pub(super) fn new() -> Result<Self> {
        let file = File::open(PARAMETER).map_err(|error| {
            missing(format!(
                "FUSE over io_uring: {PARAMETER}: {error}; Linux 6.14 with FUSE_IO_URING has it"
            ))
        })?;
        let turn = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("lock {PARAMETER}"))?;
        let before = std::fs::read_to_string(PARAMETER)?.trim().to_owned();
        std::fs::write(PARAMETER, "Y")
            .map_err(|error| missing(format!("FUSE over io_uring: set {PARAMETER}: {error}")))?;
        Ok(Self {
            before,
            _turn: turn,
        })
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(PARAMETER, &self.before) {
            eprintln!("set {PARAMETER} back to {}: {error}", self.before);
        }
    }
}

/// libfuse falls back to /dev/fuse silently, so the daemon's descriptors are checked.
pub(super) fn ensure_in_use(daemon: Pid) -> Result<()> {
    let what = "the daemon to set up its io_uring (it has fallen back to /dev/fuse)";
    wait_until(what, Duration::from_secs(5), || {
        let descriptors = std::fs::read_dir(format!("/proc/{daemon}/fd"))?;
        let mut targets = descriptors.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        Ok(targets.any(|target| target.to_string_lossy().contains("[io_uring]")))
    })
}
