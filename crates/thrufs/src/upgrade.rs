//! `thrufs upgrade` and `thrufs set`: another server for a mount that is in use.
//!
//! Invariant: it is the daemon that does it, or leaves all as it was; the exit code says which.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::daemon::control::{self, Order};
use crate::mount_plan::settable;
use crate::status;
use crate::stdout::print;

/// What `thrufs upgrade` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UpgradeArgs {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// What is to serve it [default: this program]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// What `thrufs set` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = keys())]
pub(crate) struct SetArgs {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// Options of `thrufs mount` and their values, as of now
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = settable::parse)]
    items: Vec<String>,
}

fn keys() -> String {
    format!("KEY is one of {}.", settable::KEYS.join(", "))
}

/// Runs `thrufs upgrade`.
pub(crate) fn run(args: &UpgradeArgs) -> anyhow::Result<()> {
    let binary = match &args.binary {
        // The daemon has another working directory.
        Some(path) => std::path::absolute(path)?,
        None => std::env::current_exe().context("this program")?,
    };
    let binary = Some(binary);
    give(&args.mountpoint, &Order::Upgrade { binary })
}

/// Runs `thrufs set`.
pub(crate) fn set(args: &SetArgs) -> anyhow::Result<()> {
    let items = args.items.clone();
    give(&args.mountpoint, &Order::Set { items })
}

fn give(mountpoint: &Path, order: &Order) -> anyhow::Result<()> {
    let shown = mountpoint.display();
    let Some(socket) = status::control_of(mountpoint)? else {
        bail!(
            "{shown} is served by one server alone: mount it with --survive=always, or unmount it and mount it again"
        );
    };
    let told = control::give(&socket, order).with_context(|| format!("{shown}"))?;
    print(&told)
}
