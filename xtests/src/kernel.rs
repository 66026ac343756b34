//! `xtests kernel`: builds kernels with and without the patch series, boots each, and runs the tests
//! inside.
//!
//! The lab (crates/lab) knows how to build and boot; here is what is built and what is tested. The tests
//! are the selftests that the series brings along, so that what is shown here is what a kernel
//! developer gets. Expectations are data (`kernel/expect.toml`).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

mod expect;
mod guest;
mod plan;
mod program;
mod run;
mod table;

/// Arguments of `xtests kernel`.
#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Fetch a kernel's source, lay the series over it and build it as User Mode Linux
    Build(BuildArgs),
    /// Build, boot each kernel, run the tests inside and print a table: test by kernel
    Run(RunArgs),
    /// The first process of a booted kernel
    #[command(hide = true)]
    Guest(guest::Args),
}

/// Which kernels.
#[derive(Parser)]
struct BuildArgs {
    /// The kernel version that the series is for
    #[arg(long, default_value = "7.3")]
    base: String,
    /// Build this kernel tree as it is instead; it has to be free of build products
    #[arg(long, value_name = "PATH", conflicts_with = "base")]
    tree: Option<PathBuf>,
    /// `stock`, `patched` (with the series of contrib/kernel), or a negative control such as `hold-all`
    #[arg(long, value_delimiter = ',', default_value = "stock")]
    variant: Vec<String>,
    /// Compilers at a time
    #[arg(long, default_value_t = default_jobs())]
    jobs: usize,
    /// Where sources, objects and kernels are kept
    #[arg(long, value_name = "DIR", default_value_os_t = top().join("target/lab"))]
    lab: PathBuf,
}

/// Which kernels, and what to do with them.
#[derive(Parser)]
struct RunArgs {
    #[command(flatten)]
    build: BuildArgs,
    /// Stop a machine that has not ended after so many seconds
    #[arg(long, default_value_t = 300)]
    deadline: u64,
    /// Only these tests
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Build(args) => {
            for kernel in plan::build(args)? {
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
        Command::Guest(args) => guest::run(args),
    }
}

/// The top of the repository that this program was built from.
fn top() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Progress goes to stderr, so that stdout is the result alone.
fn say(line: &str) {
    eprintln!("{line}");
}
