//! `xtests`, the harness: one binary, one subcommand per question. Each subcommand is a module of
//! its own with an `Args` (clap) and a `run` that returns the process's exit code.

use clap::Parser;

mod rules;

/// The harness of thrufs: runs against thrufs and against any FUSE or virtiofs mount.
#[derive(Parser)]
#[command(name = "xtests", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Rules(rules::Args),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Cli::parse().command {
        Command::Rules(args) => rules::run(&args),
    }
}
