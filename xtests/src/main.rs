//! `xtests`, the harness: one binary, one subcommand per question. Each subcommand is a module of
//! its own with an `Args` (clap) and a `run` that returns the process's exit code.

use clap::Parser;
use xtests::support::lock_holder;
use xtests::{check, suite};

mod fio;
mod kernel;
mod probe;
mod repro;
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
    Probe(probe::Args),
    /// A process that uses the probe's mount.
    #[command(hide = true)]
    ProbeClient,
    /// A server that misbehaves on purpose: the reproducer's negative control.
    #[command(hide = true)]
    Misbehave(probe::misbehave::MisbehaveArgs),
    Repro(repro::Args),
    /// What a case's child process runs.
    #[command(hide = true)]
    ReproWorker(repro::worker::WorkerArgs),
    Rules(rules::Args),
    /// Run all checks of this repository: what must hold before a change goes in.
    Check(check::Args),
    /// Run another project's test suite on a mount.
    Suite(suite::Args),
    /// Take a file lock and keep it until stdin ends (the tests' second process).
    #[command(hide = true)]
    HoldLock(lock_holder::Args),
    /// Compare performance: the jobs of fio-jobs on thrufs, its peers and the native directory.
    Fio(fio::Args),
    /// Build kernels with and without the patch series, boot them and test them.
    Kernel(kernel::Args),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Cli::parse().command {
        Command::Probe(args) => probe::run(&args),
        Command::ProbeClient => probe::serve_client(),
        Command::Misbehave(args) => probe::misbehave::run(&args),
        Command::Repro(args) => repro::run(&args),
        Command::ReproWorker(args) => repro::worker::run(&args),
        Command::Rules(args) => rules::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Suite(args) => suite::run(&args),
        Command::HoldLock(args) => lock_holder::run(&args),
        Command::Fio(args) => fio::run(&args),
        Command::Kernel(args) => kernel::run(&args),
    }
}
