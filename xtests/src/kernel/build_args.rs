//! The command line's options for the kernels that the subcommands of `xtests kernel` build.

use std::path::PathBuf;

use clap::Parser;
use xtests::support::install;

/// Which kernels.
#[derive(Parser)]
pub(super) struct BuildArgs {
    /// The kernel version that the series is for
    #[arg(long, default_value = "7.3")]
    pub(super) base: String,
    /// Build this kernel tree as it is instead; it must be free of build products
    #[arg(long, value_name = "PATH", conflicts_with = "base")]
    pub(super) tree: Option<PathBuf>,
    /// `stock`, `patched` (with the series of contrib/kernel; `patched@2`: with its first two patches), `rfc`
    /// (and what is for discussion), `rfc-folios` (and large folios), `locked` (the alternative that is not
    /// proposed), or a negative control such as `hold-all`; `6.12/stock` for another base than the rest
    #[arg(long, value_delimiter = ',', default_value = "stock")]
    pub(super) variant: Vec<String>,
    /// Compilers at a time
    #[arg(long, default_value_t = default_jobs())]
    pub(super) jobs: usize,
    /// Where sources, objects and kernels are kept
    #[arg(long, value_name = "DIR", default_value_os_t = default_lab())]
    pub(super) lab: PathBuf,
}

fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Where sources, objects and kernels are kept unless `--lab` says otherwise.
pub(super) fn default_lab() -> PathBuf {
    install::root().join("target/lab")
}

/// Progress goes to stderr, so that stdout is the result alone.
pub(super) fn say(line: &str) {
    eprintln!("{line}");
}
