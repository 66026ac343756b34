//! `thrufs status`: what a mount or a device is doing, asked of its daemon through a unix socket.
//!
//! Invariant: the mounted file system itself is asked nothing (it may hang, and that is when one
//! wants to know); which daemon serves it follows from the mount table. Only where no daemon can
//! be found is the mount asked whether it is dead, with a deadline.

mod dead;
mod devices;
mod find;
pub(crate) mod report;
mod runtime_dir;
mod server;
mod table;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

pub(crate) use devices::name_of;
use find::Found;
pub(crate) use find::{NoStatus, control_of, daemon_of, is_thrufs};
#[cfg(test)]
pub(crate) use report::Carrier;
pub(crate) use report::{Reporter, Status};
pub(crate) use server::{Askers, SocketFile, StatusSocket, may_order, serve};
pub(crate) use table::plain;

use crate::findings::kernel::Version;
use crate::findings::mount::{self, Seen};
use crate::findings::{Finding, worst};
use crate::signals::block_on;
use crate::stdout::print;

/// What `thrufs status` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Where it is mounted, or any file below; or the socket of a device [default: list all]
    mountpoint: Option<PathBuf>,
    /// Print JSON: durations in nanoseconds, sizes in bytes
    #[arg(long)]
    json: bool,
    /// Show it again and again, with rates; ends on ^C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", value_parser = interval)]
    watch: Option<Duration>,
}

/// Seconds between two tables.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|s| (0.1..=3600.0).contains(s));
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| "expected seconds from 0.1 to 3600".to_owned())
}

/// What `thrufs status` needs of a daemon, if it could be made: a mount works without it.
pub(crate) fn if_possible<T>(made: anyhow::Result<T>) -> Option<T> {
    made.inspect_err(|error| tracing::warn!("`thrufs status` will not work: {error:#}"))
        .ok()
}

/// Runs `thrufs status`.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    block_on(async {
        match (&args.mountpoint, args.watch) {
            (Some(path), None) => one(&Which::at(path).await?, args.json).await,
            (None, None) => all(args.json).await,
            (Some(path), Some(every)) => {
                watch::run(&Which::at(path).await?, every, args.json).await
            }
            (None, Some(every)) => watch::run(&only_one().await?, every, args.json).await,
        }
    })
}

/// The process id of the daemon that serves `mountpoint`.
pub(crate) fn daemon_pid(mountpoint: &Path) -> anyhow::Result<u32> {
    let mount = find::mount_of(mountpoint)?;
    let status = block_on(async { find::ask(&mount).await })?;
    Ok(status.pid)
}

/// What is asked: a mount or a device.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    Mount(Found),
    Device(devices::Device),
}

impl Which {
    /// The mount that `path` is in, or the device whose socket it is.
    ///
    /// # Errors
    /// It is neither.
    pub(crate) async fn at(path: &Path) -> anyhow::Result<Self> {
        match devices::at(path).await? {
            Some(device) => Ok(Self::Device(device)),
            None => find::mount_of(path).map(Self::Mount),
        }
    }

    /// All mounts in the mount table, and this user's devices.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub(crate) async fn all() -> anyhow::Result<Vec<Self>> {
        let devices = devices::of(runtime_dir::uid()).await;
        let mounts = find::mounts()?.into_iter().map(Self::Mount);
        Ok(mounts
            .chain(devices.into_iter().map(|(device, _)| Self::Device(device)))
            .collect())
    }

    /// What its daemon says.
    ///
    /// # Errors
    /// [`NoStatus`] where it is known why; else what the socket says.
    pub(crate) async fn ask(&self) -> anyhow::Result<Status> {
        match self {
            Self::Mount(mount) => find::ask(mount).await,
            Self::Device(device) => device.ask().await,
        }
    }

    /// How it is called: a mount by its MOUNTPOINT.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Mount(mount) => mount.mountpoint.display().to_string(),
            Self::Device(device) => device.to_string(),
        }
    }

    /// By which number the kernel lists the connection in /sys/fs/fuse/connections; none of a device.
    pub(crate) fn connection(&self) -> Option<&str> {
        match self {
            Self::Mount(mount) => Some(mount.device.split_once(':')?.1),
            Self::Device(_) => None,
        }
    }

    /// What can be seen from here.
    pub(crate) fn seen(&self) -> Seen {
        let is_read_only = match self {
            Self::Mount(mount) => mount.is_read_only,
            Self::Device(_) => false,
        };
        Seen {
            kernel: Version::running(),
            is_read_only,
        }
    }

    /// Its status with the warnings that follow.
    pub(crate) fn shown(&self, status: Status) -> Shown {
        let warnings = mount::of(&status, self.seen());
        Shown { status, warnings }
    }
}

/// A daemon's status, and warnings.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    pub(crate) status: Status,
    pub(crate) warnings: Vec<Finding>,
}

async fn one(which: &Which, json: bool) -> anyhow::Result<()> {
    let shown = which.shown(which.ask().await?);
    if json {
        print(&serde_json::to_string_pretty(&shown)?)
    } else {
        print(&table::of_mount(&shown.status, &shown.warnings))
    }
}

/// What `thrufs status MOUNTPOINT` prints, of a mount or device that this process serves.
pub(crate) fn text(status: &Status) -> String {
    let seen = Seen {
        kernel: Version::running(),
        is_read_only: false,
    };
    table::of_mount(status, &mount::of(status, seen))
}

/// A mount or device in the list of all.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed {
    Served(Box<Shown>),
    Failed { mountpoint: String, error: String },
}

async fn all(json: bool) -> anyhow::Result<()> {
    let mut listed = Vec::new();
    for which in Which::all().await? {
        listed.push(match which.ask().await {
            Ok(status) => Listed::Served(Box::new(which.shown(status))),
            Err(error) => Listed::Failed {
                mountpoint: match &which {
                    Which::Mount(mount) => mount.mountpoint.to_string_lossy().into_owned(),
                    Which::Device(_) => String::new(),
                },
                error: format!("{error:#}"),
            },
        });
    }
    if json {
        return print(&serde_json::to_string_pretty(&listed)?);
    }
    if listed.is_empty() {
        return print(NOTHING);
    }
    let mut lines = Vec::new();
    for mount in &listed {
        lines.push(match mount {
            Listed::Served(shown) => {
                let line = table::line_of_list(&shown.status);
                line + &most_important(&shown.warnings)
            }
            Listed::Failed { error, .. } => plain(error),
        });
    }
    print(&lines.join("\n"))
}

/// What is printed where there is nothing to ask.
pub(crate) const NOTHING: &str = "nothing is mounted by thrufs here";

/// The end of a line in the list of all.
fn most_important(warnings: &[Finding]) -> String {
    let first = warnings
        .iter()
        .find(|finding| finding.severity == worst(warnings));
    match (first, warnings.len()) {
        (None, _) => String::new(),
        (Some(first), 1) => format!("; {}", plain(&first.what)),
        (Some(first), all) => format!("; {} (and {} more)", plain(&first.what), all - 1),
    }
}

async fn only_one() -> anyhow::Result<Which> {
    let mut all = Which::all().await?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => bail!(NOTHING),
        (Some(_), false) => bail!("there are several mounts or devices: name the one to watch"),
    }
}
