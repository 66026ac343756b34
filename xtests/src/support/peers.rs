//! Other passthrough file systems, to compare with: libfuse's two examples, built here from the
//! source that Debian has of them, and bindfs.
//! Invariant: a peer is mounted as its authors made it, with only the options that its kind lists,
//! and is gone when its [`Peer`] is (see [`super::daemon_fixture`]). A kind that this machine or
//! kernel lacks is an error of [`super::skip::Missing`], never another kind in disguise.

mod build;
mod uring;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::daemon_fixture::{DaemonFixture, tied_to_us};
use super::scratch::{Backing, Scratch};
use super::skip::missing;
use crate::support::install;

/// Which peer, in which of its modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// libfuse's passthrough_ll, cache=auto: write-through.
    #[value(name = "passthrough_ll")]
    PassthroughLl,
    /// libfuse's passthrough_hp, --nopassthrough --nocache: write-through.
    #[value(name = "passthrough_hp")]
    PassthroughHp,
    /// libfuse's passthrough_hp with its defaults: kernel passthrough.
    #[value(name = "passthrough_hp-kernel-passthrough")]
    PassthroughHpKernel,
    /// libfuse's passthrough_hp, --nopassthrough --nocache, over io_uring.
    #[value(name = "passthrough_hp-io-uring")]
    PassthroughHpUring,
    /// bindfs with its defaults: one thread.
    #[value(name = "bindfs")]
    Bindfs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::PassthroughLl,
        Self::PassthroughHp,
        Self::PassthroughHpKernel,
        Self::PassthroughHpUring,
        Self::Bindfs,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::PassthroughLl => "passthrough_ll",
            Self::PassthroughHp => "passthrough_hp",
            Self::PassthroughHpKernel => "passthrough_hp-kernel-passthrough",
            Self::PassthroughHpUring => "passthrough_hp-io-uring",
            Self::Bindfs => "bindfs",
        }
    }

    /// Makes sure of the program, which may take a minute the first time, and returns its path.
    pub fn provide(self) -> Result<PathBuf> {
        match self {
            Self::PassthroughLl => build::libfuse_example("passthrough_ll"),
            Self::PassthroughHp | Self::PassthroughHpKernel | Self::PassthroughHpUring => {
                build::libfuse_example("passthrough_hp")
            }
            Self::Bindfs => {
                install::apt(&[("bindfs", "bindfs")])?;
                install::find("bindfs").context("apt has installed bindfs, and it is not on PATH")
            }
        }
    }

    /// The options it is mounted with; the kernel checks permissions, for all users.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::PassthroughLl => &["-o", "cache=auto,allow_other,default_permissions"],
            // --nocache keeps it from negotiating WRITEBACK_CACHE.
            Self::PassthroughHp => &["--nopassthrough", "--nocache", "-o", "allow_other"],
            Self::PassthroughHpKernel => &["-o", "allow_other"],
            Self::PassthroughHpUring => &[
                "--nopassthrough",
                "--nocache",
                "-o",
                "allow_other",
                "-o",
                "io_uring",
            ],
            Self::Bindfs => &["-o", "allow_other"],
        }
    }

    /// The command, which stays in the foreground.
    fn command(self, source: &Path, dir: &Path) -> Result<Command> {
        let mut command = tied_to_us(&self.provide()?);
        command.args(self.words());
        match self {
            Self::PassthroughLl => {
                let source = format!("source={}", source.display());
                command.args(["-f", "-o", &source]).arg(dir)
            }
            Self::PassthroughHp | Self::PassthroughHpKernel | Self::PassthroughHpUring => {
                command.arg("--foreground").arg(source).arg(dir)
            }
            Self::Bindfs => command.arg("-f").arg(source).arg(dir),
        };
        Ok(command)
    }
}

/// A mounted peer.
pub struct Peer {
    /// Before `scratch`, so that it is gone when the scratch directory goes.
    served: DaemonFixture,
    scratch: Scratch,
}

impl Peer {
    /// Mounts `source`, which belongs to the caller, on a directory of its own.
    pub fn mount(kind: Kind, source: &Path) -> Result<Self> {
        Self::of(kind, Scratch::sharing(source.to_owned())?)
    }

    /// Mounts a SOURCE of its own on `backing`.
    pub fn new(kind: Kind, backing: Backing) -> Result<Self> {
        Self::of(kind, Scratch::new(backing)?)
    }

    /// Mounts the SOURCE of a scratch directory that the caller has prepared.
    pub fn of(kind: Kind, scratch: Scratch) -> Result<Self> {
        ensure_can_mount()?;
        let dir = scratch.mountpoint();
        let log = scratch.path().join("daemon.log");
        let command = kind.command(&scratch.source(), &dir)?;
        let enabled = match kind {
            Kind::PassthroughHpUring => Some(uring::Enabled::new()?),
            _ => None,
        };
        let served = DaemonFixture::start(kind.name(), command, &dir, &log)?;
        if enabled.is_some() {
            uring::ensure_in_use(served.pid()?)?;
        }
        Ok(Self { served, scratch })
    }

    /// Replaces a test's deadline for users of this mount; it starts now.
    pub fn allow(mut self, limit: Duration) -> Self {
        self.served.allow(limit);
        self
    }

    /// The mount.
    pub fn dir(&self) -> PathBuf {
        self.scratch.mountpoint()
    }

    /// SOURCE.
    pub fn source(&self) -> PathBuf {
        self.scratch.source()
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Result<nix::unistd::Pid> {
        self.served.pid()
    }

    /// Unmounts and checks that it went well.
    pub fn unmount(mut self) -> Result<()> {
        self.served.unmount()
    }
}

fn ensure_can_mount() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(missing("root: run it as root (sudo)"));
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(missing("/dev/fuse: load the fuse module (modprobe fuse)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn kind_name_is_what_the_command_line_takes() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_str(kind.name(), false), Ok(kind));
        }
        assert_eq!(Kind::value_variants(), Kind::ALL);
    }
}
