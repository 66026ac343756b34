//! `xtests`, the harness: one binary, one subcommand per question. Each subcommand is a module of
//! its own with an `Args` (clap) and a `run` that returns the process's exit code.

use clap::Parser;
use tools::{probe, repro, rules};
use xtests::support::lock_holder;
use xtests::{check, suite};

mod fio;
mod kernel;
mod tools;

/// The harness of thrufs: tools for any FUSE or virtiofs mount, and the runs of this repository.
#[derive(Parser)]
#[command(
    name = "xtests",
    arg_required_else_help = true,
    after_help = "probe, repro and rules are for everyone: they take any kernel and any mount. suite takes \
    any mount with --on DIR.\ncheck, suite, kernel and fio are what this repository runs on itself."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// In the order of `--help`: tools for any mount, the runs of this repository, and what only this program starts.
#[derive(clap::Subcommand)]
enum Command {
    Probe(probe::Args),
    Repro(repro::Args),
    Rules(rules::Args),
    /// Run all checks of this repository: what must hold before a change goes in.
    Check(check::Args),
    /// Run another project's test suite on a mount.
    Suite(suite::Args),
    /// Build kernels with and without the patch series, boot them and test them.
    Kernel(kernel::Args),
    /// Compare performance: the jobs of fio-jobs on thrufs, its peers and the native directory.
    Fio(fio::Args),
    /// Compare performance: tar, git, cp and builds on thrufs, its peers and the native directory.
    Work(fio::work::Args),
    /// A process that uses the probe's mount.
    #[command(hide = true)]
    ProbeClient,
    /// A server that misbehaves on purpose: the reproducer's negative control.
    #[command(hide = true)]
    Misbehave(probe::misbehave::MisbehaveArgs),
    /// The child process of a case.
    #[command(hide = true)]
    ReproWorker(repro::finding::WorkerArgs),
    /// Take a file lock and keep it until stdin ends (the tests' second process).
    #[command(hide = true)]
    HoldLock(lock_holder::Args),
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
        Command::Work(args) => fio::work::run(&args),
        Command::Kernel(args) => kernel::run(&args),
    }
}
