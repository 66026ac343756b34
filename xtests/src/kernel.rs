//! `xtests kernel`: builds kernels with and without the patch series, boots each, and runs the tests inside.
//!
//! The lab (crates/lab) knows how to build and boot; here is what is built and what is tested: the
//! selftests that the series brings, so that a kernel developer sees the same results, and the
//! programs of this repository. Expectations are data (`kernel/expect.toml`).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

mod both_sides;
mod build_args;
mod case;
mod devices;
mod expect;
mod fio;
mod guest;
mod guest_scenarios;
mod instructions;
mod plan;
mod program;
mod run;
mod suites;
mod table;
mod verdict;
mod virtiofs;

use build_args::{BuildArgs, default_lab, say};

/// Arguments of `xtests kernel`.
#[derive(Parser)]
#[command(
    after_help = "Exit codes: 0 everything as expected, 1 something not, 77 the package archive \
    has no such kernel."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Fetch a kernel's source, lay the series over it and build it as User Mode Linux
    Build(BuildArgs),
    /// Build, boot each kernel, run the tests inside and print a table: test by kernel
    Run(run::Args),
    /// Build small kernels for QEMU, and count the instructions per write(2) to a mount of thrufs
    Instructions(BuildArgs),
    /// Boot each kernel several times and compare how fast fio's jobs are inside, and what they send
    Fio(fio::Args),
    /// Remove the products of building and booting, some GB: sources, objects, kernels, consoles
    Clean(CleanArgs),
    /// The first process of a booted kernel
    #[command(hide = true)]
    Guest(guest::Args),
    /// A scenario in a guest
    #[command(hide = true)]
    Scenario(guest_scenarios::Args),
    /// A question of the probe in a guest
    #[command(hide = true)]
    Ask(guest_scenarios::AskArgs),
    /// A run of fio in a guest
    #[command(hide = true)]
    Measure(guest_scenarios::MeasureArgs),
}

/// Which lab.
#[derive(Parser)]
struct CleanArgs {
    /// Where sources, objects and kernels are kept
    #[arg(long, value_name = "DIR", default_value_os_t = default_lab())]
    lab: PathBuf,
}

/// Runs the subcommand. An archive without such a kernel is no failed test, so it has an exit code of its own.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match run_command(args) {
        Err(error)
            if error
                .downcast_ref()
                .is_some_and(thrufs_lab::Error::is_lacking) =>
        {
            eprintln!("xtests kernel: {error}");
            Ok(ExitCode::from(verdict::LACKS))
        }
        other => other,
    }
}

fn run_command(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Build(args) => {
            for kernel in plan::build(args, plan::Purpose::UserMode)? {
                println!(
                    "{}\t{}\t{}",
                    kernel.name,
                    kernel.kernel.source,
                    kernel.kernel.image.display()
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(args) => run::run(args),
        Command::Instructions(args) => instructions::run(args),
        Command::Fio(args) => fio::run(args),
        Command::Clean(args) => clean(&args.lab),
        Command::Guest(args) => guest::run(args),
        Command::Scenario(args) => guest_scenarios::run(args),
        Command::Ask(args) => guest_scenarios::ask(args),
        Command::Measure(args) => guest_scenarios::measure(args),
    }
}

fn clean(lab: &Path) -> anyhow::Result<ExitCode> {
    if !lab.exists() {
        println!("{}: nothing is there", lab.display());
        return Ok(ExitCode::SUCCESS);
    }
    let bytes = thrufs_lab::Lab::new(lab, 1)?.remove(&say)?;
    println!("{}: removed, {} MB", lab.display(), bytes / 1_000_000);
    Ok(ExitCode::SUCCESS)
}
