//! `xtests kernel`: builds kernels with and without the patch series, boots each, and runs the tests
//! inside.
//!
//! The lab (crates/lab) knows how to build and boot; here is what is built and what is tested: the
//! selftests that the series brings along, so that what is shown here is what a kernel developer gets,
//! and the programs of this repository. Expectations are data (`kernel/expect.toml`).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

mod case;
mod expect;
mod fio;
mod guest;
mod inside;
mod instructions;
mod plan;
mod program;
mod run;
mod suites;
mod table;
mod verdict;
mod virtiofs;

/// No case of ours takes longer in a guest.
const LONGEST_CASE: Duration = Duration::from_secs(360);

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
    Run(RunArgs),
    /// Build small kernels for QEMU, and count the instructions per write(2) to a mount of thrufs
    Instructions(BuildArgs),
    /// Boot each kernel several times and compare how fast fio's jobs are inside, and what they send
    Fio(fio::Args),
    /// Remove what building and booting has left on the disk, some GB: sources, objects, kernels, consoles
    Clean(CleanArgs),
    /// The first process of a booted kernel
    #[command(hide = true)]
    Guest(guest::Args),
    /// A scenario in a guest
    #[command(hide = true)]
    Inside(inside::Args),
    /// A question of the probe in a guest
    #[command(hide = true)]
    Ask(inside::AskArgs),
    /// A run of fio in a guest
    #[command(hide = true)]
    Measure(inside::MeasureArgs),
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
    /// `stock`, `patched` (with the series of contrib/kernel; `patched@2`: with its first two patches), `rfc`
    /// (and what is for discussion), `rfc-folios` (and large folios), `locked` (the alternative that is not
    /// proposed), or a negative control such as `hold-all`; `6.12/stock` for another base than the rest
    #[arg(long, value_delimiter = ',', default_value = "stock")]
    variant: Vec<String>,
    /// Compilers at a time
    #[arg(long, default_value_t = default_jobs())]
    jobs: usize,
    /// Where sources, objects and kernels are kept
    #[arg(long, value_name = "DIR", default_value_os_t = top().join("target/lab"))]
    lab: PathBuf,
}

/// Which lab.
#[derive(Parser)]
struct CleanArgs {
    /// Where sources, objects and kernels are kept
    #[arg(long, value_name = "DIR", default_value_os_t = top().join("target/lab"))]
    lab: PathBuf,
}

/// Which kernels, and what to do with them.
#[derive(Parser)]
struct RunArgs {
    #[command(flatten)]
    build: BuildArgs,
    /// Boot this kernel of a distribution under QEMU instead: a package such as
    /// linux-image-6.12.95+deb12-cloud-amd64, or an image
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["base", "tree", "variant"])]
    distro: Option<String>,
    /// Build the kernels for a machine with huge pages and boot them under QEMU: User Mode Linux has no huge
    /// pages, and files have no large folios without
    #[arg(long, conflicts_with_all = ["tree", "distro"])]
    qemu: bool,
    /// How requests get to the server
    #[arg(long, value_enum, default_value = "fuse")]
    transport: suites::Transport,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Stop a machine that has not ended after so many seconds
    #[arg(long, default_value_t = 900)]
    deadline: u64,
    /// How long the random reproducer runs
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The --cache of the mount that the random reproducer works on, or of virtiofsd. With `auto` the kernel
    /// drops pages of a file whose mtime it did not expect, also those of a WRITE in flight
    #[arg(long, default_value = "always")]
    cache: String,
    /// How many operations fsx does
    #[arg(long, default_value_t = 2000)]
    operations: u64,
    /// Only these tests (`selftest/deadlock_self`) or suites (`selftest`)
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
}

/// Runs the subcommand. That the archive has no such kernel is no failure of what is tested, so it has an
/// exit code of its own.
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
        Command::Inside(args) => inside::run(args),
        Command::Ask(args) => inside::ask(args),
        Command::Measure(args) => inside::measure(args),
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
