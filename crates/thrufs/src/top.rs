//! `thrufs top`: all mounts live, by opcode and by calling process.
//!
//! Invariant: nothing is asked of a mounted file system, as by `thrufs status`; the daemons count anyway, and know callers
//! by the numbers of their threads alone, which are given names here ([`callers`]). A mount that does not answer keeps
//! neither the keys nor the other mounts waiting: all are asked at once, by tasks beside the one that draws. Plain ANSI, as
//! `thrufs status --watch`: a table needs no library.

mod callers;
mod rates;
mod screen;
mod table;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::{JoinHandle, JoinSet};

use self::callers::Names;
use self::rates::{Rates, Sample};
use self::screen::{Key, Keys, Screen};
use self::table::{By, Shape, Sort};
use crate::signals::{Signals, block_on};
use crate::status::{NOTHING, Which, interval};
use crate::stdout::{draw, print};

/// What `thrufs top` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Only this mount, or any file below; or the socket of a device [default: all]
    mountpoint: Option<PathBuf>,
    /// Seconds between two tables
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    delay: Duration,
    /// Print tables one after the other, without keys: for scripts
    #[arg(short = 'b', long)]
    batch: bool,
    /// End after so many tables
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    /// Print a JSON object for each table, a line each: rates a second, sizes in bytes, latencies in nanoseconds
    #[arg(long)]
    json: bool,
    /// What comes first
    #[arg(long, value_enum, default_value = "requests")]
    sort: Sort,
    /// What the requests are listed by in a terminal
    #[arg(long, value_enum, default_value = "process")]
    by: By,
}

/// Runs `thrufs top`.
///
/// # Errors
/// MOUNTPOINT is no mount of thrufs, there is nothing to show, or standard input and output are no terminal.
pub(crate) fn run(args: &TopArgs) -> anyhow::Result<()> {
    let is_batch = args.batch || args.json;
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !is_batch && !is_terminal {
        bail!("standard input and output are no terminal: use --batch or --json");
    }
    block_on(async {
        let only = match &args.mountpoint {
            Some(path) => Some(Which::at(path).await?),
            None => None,
        };
        if only.is_none() && Which::all().await?.is_empty() {
            bail!(NOTHING);
        }
        match is_batch {
            true => batch(only, args).await,
            false => interactive(only, args).await,
        }
    })
}

async fn batch(only: Option<Which>, args: &TopArgs) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let shape = Shape::of_batch(args.sort);
    let (mut names, mut before) = (Names::default(), samples(only.clone()).await?);
    let mut left = args.iterations.unwrap_or(u64::MAX);
    while left > 0 {
        let now = tokio::select! {
            _ = signals.stop() => return Ok(()),
            now = later(only.clone(), args.delay) => now?,
        };
        let rates = Rates::between(&before, &now, &mut names);
        match args.json {
            true => print(&serde_json::to_string(&rates)?)?,
            false => print(&(table::of(&rates, &shape).join("\n") + "\n"))?,
        }
        before = now;
        left -= 1;
    }
    Ok(())
}

async fn interactive(only: Option<Which>, args: &TopArgs) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let mut keys = Keys::open()?;
    let mut screen = Screen::open()?;
    let mut shape = Shape::of_terminal(args.sort, args.by);
    let mut names = Names::default();
    let mut before = samples(only.clone()).await?;
    let mut rates = Rates::between(&before, &before, &mut names);
    let mut left = args.iterations.unwrap_or(u64::MAX);
    let mut sampling = begin(only.clone(), args.delay);
    while left > 0 {
        draw(&screen::frame(&table::of(&rates, &shape)))?;
        tokio::select! {
            _ = signals.stop() => return Ok(()),
            key = keys.next() => match key? {
                Key::Quit => return Ok(()),
                Key::Suspend => screen.suspend()?,
                Key::Sort(sort) => shape.sort = sort,
                Key::By(by) => shape.by = Some(by),
                Key::Other => {}
            },
            now = &mut sampling => {
                let now = now.context("the task that asks")??;
                rates = Rates::between(&before, &now, &mut names);
                before = now;
                left -= 1;
                sampling = begin(only.clone(), args.delay);
            }
        }
    }
    Ok(())
}

fn begin(only: Option<Which>, delay: Duration) -> JoinHandle<anyhow::Result<Vec<Sample>>> {
    tokio::spawn(later(only, delay))
}

async fn later(only: Option<Which>, delay: Duration) -> anyhow::Result<Vec<Sample>> {
    tokio::time::sleep(delay).await;
    samples(only).await
}

/// What all say now, in the order of the mount table.
async fn samples(only: Option<Which>) -> anyhow::Result<Vec<Sample>> {
    let all = match only {
        Some(only) => vec![only],
        None => Which::all().await?,
    };
    let mut asking = JoinSet::new();
    for (at, which) in all.into_iter().enumerate() {
        asking.spawn(async move { (at, Sample::of(&which).await) });
    }
    let mut found = asking.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, sample)| sample).collect())
}
