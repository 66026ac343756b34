//! `xtests probe`: asks the running kernel, in seconds, how FUSE behaves on it. Each question gets
//! a mount of its own (a recording server of ours, see [`server`]) and a deadline, so that a hang
//! is an answer and leaves nothing behind. Needs root and /dev/fuse, nothing else.

mod client;
mod context;
pub(crate) mod misbehave;
mod questions;
mod server;
pub(crate) mod write_rule;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

pub(crate) use client::serve as serve_client;
use context::Context;

/// Ask the running kernel how FUSE behaves on it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every question answered, 1 a question failed, 77 no root or \
    no /dev/fuse."
)]
pub(crate) struct Args {
    /// Only these questions (default: all).
    #[arg(long, short, value_delimiter = ',')]
    question: Vec<String>,
    /// The mounts are made below this directory.
    #[arg(long, default_value = "/tmp")]
    scratch: PathBuf,
    /// Seconds after which a call that has not come back counts as hanging.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    deadline: u64,
    /// One JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    id: &'static str,
    question: &'static str,
    answer: String,
    meaning: &'static str,
    kernels: &'static str,
    failed: bool,
}

/// Whether there is a question of this name.
#[cfg(test)]
pub(crate) fn is_question(id: &str) -> bool {
    questions::ALL.iter().any(|asked| asked.id == id)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("xtests probe: needs root (it mounts) and /dev/fuse");
        return Ok(ExitCode::from(77));
    }
    let control = Path::new("/sys/fs/fuse/connections");
    if std::fs::read_dir(control).map_or(true, |mut entries| entries.next().is_none()) {
        // Empty or absent: a guest mounts nothing by itself. A second fusectl does no harm.
        let flags = nix::mount::MsFlags::empty();
        let _present =
            nix::mount::mount(Some("none"), control, Some("fusectl"), flags, None::<&str>);
    }
    let scratch = std::path::absolute(&args.scratch)?;
    let context = Context {
        scratch: &scratch,
        limit: Duration::from_secs(args.deadline),
    };
    let mut rows = Vec::new();
    for asked in questions::ALL {
        if !args.question.is_empty() && !args.question.iter().any(|id| id == asked.id) {
            continue;
        }
        let (answer, failed) = match (asked.ask)(&context) {
            Ok(answer) => (answer, false),
            Err(error) => (format!("failed: {error:#}"), true),
        };
        let (id, question, meaning, kernels) =
            (asked.id, asked.question, asked.meaning, asked.kernels);
        rows.push(Row {
            id,
            question,
            answer,
            meaning,
            kernels,
            failed,
        });
    }
    print(args.json, &rows)?;
    if rows.is_empty() {
        let ids: Vec<_> = questions::ALL.iter().map(|asked| asked.id).collect();
        eprintln!(
            "xtests probe: no such question; there are {}",
            ids.join(", ")
        );
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::from(u8::from(rows.iter().any(|row| row.failed))))
}

#[derive(Serialize)]
struct Document<'a> {
    kernel: &'a str,
    rows: &'a [Row],
}

fn print(json: bool, rows: &[Row]) -> anyhow::Result<()> {
    let uname = nix::sys::utsname::uname()?;
    let kernel = &*uname.release().to_string_lossy();
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(&Document { kernel, rows })?
        );
        return Ok(());
    }
    println!("kernel {kernel}");
    for row in rows {
        println!("{:<18} {}", row.id, row.question);
        println!("    answer   {}", row.answer);
        println!("    meaning  {}", row.meaning);
        println!("    kernels  {}", row.kernels);
    }
    Ok(())
}
