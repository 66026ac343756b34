//! `thrufs status`: what a mount or a device is doing, asked of its daemon through a unix socket.
//!
//! Invariant: the mounted file system itself is asked nothing (it may hang, and that is when one
//! wants to know); which daemon serves it follows from the mount table. Only where no daemon can
//! be found is the mount asked whether it is dead, with a deadline.

mod dead;
mod devices;
mod find;
mod report;
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
pub(crate) use find::{control_of, daemon_of, is_thrufs};
#[cfg(test)]
pub(crate) use report::Carrier;
pub(crate) use report::{Reporter, Status};
pub(crate) use server::{Askers, SocketFile, StatusSocket, may_order, serve};
pub(crate) use table::plain;

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

fn interval(text: &str) -> Result<Duration, String> {
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

/// What is asked.
#[derive(Clone, Debug)]
enum Which {
    Mount(Found),
    Device(devices::Device),
}

impl Which {
    async fn at(path: &Path) -> anyhow::Result<Self> {
        match devices::at(path).await? {
            Some(device) => Ok(Self::Device(device)),
            None => find::mount_of(path).map(Self::Mount),
        }
    }

    async fn ask(&self) -> anyhow::Result<Status> {
        match self {
            Self::Mount(mount) => find::ask(mount).await,
            Self::Device(device) => device.ask().await,
        }
    }
}

async fn one(which: &Which, json: bool) -> anyhow::Result<()> {
    let status = which.ask().await?;
    if json {
        print(&serde_json::to_string_pretty(&status)?)
    } else {
        print(&table::of_mount(&status))
    }
}

/// A mount or device in the list of all.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed {
    Served(Box<Status>),
    Failed { mountpoint: String, error: String },
}

async fn all(json: bool) -> anyhow::Result<()> {
    let mut listed = Vec::new();
    for mount in find::mounts()? {
        listed.push(match find::ask(&mount).await {
            Ok(status) => Listed::Served(Box::new(status)),
            Err(error) => Listed::Failed {
                mountpoint: mount.mountpoint.to_string_lossy().into_owned(),
                error: format!("{error:#}"),
            },
        });
    }
    for (_, device) in devices::of(runtime_dir::uid()).await {
        listed.push(match device {
            Ok(status) => Listed::Served(Box::new(status)),
            Err(error) => Listed::Failed {
                mountpoint: String::new(),
                error: format!("{error:#}"),
            },
        });
    }
    if json {
        return print(&serde_json::to_string_pretty(&listed)?);
    }
    if listed.is_empty() {
        return print("nothing is mounted by thrufs here");
    }
    let mut lines = Vec::new();
    for mount in &listed {
        lines.push(match mount {
            Listed::Served(status) => table::line_of_list(status),
            Listed::Failed { error, .. } => plain(error),
        });
    }
    print(&lines.join("\n"))
}

async fn only_one() -> anyhow::Result<Which> {
    let devices = devices::of(runtime_dir::uid()).await;
    let mounts = find::mounts()?.into_iter().map(Which::Mount);
    let mut all: Vec<_> = mounts
        .chain(devices.into_iter().map(|(device, _)| Which::Device(device)))
        .collect();
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => bail!("nothing is mounted by thrufs here"),
        (Some(_), false) => bail!("there are several mounts or devices: name the one to watch"),
    }
}
