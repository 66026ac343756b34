//! How a suite is run: what the command line of `xtests suite` and the stages of `xtests check` set.

use std::path::PathBuf;
use std::time::Duration;

/// How a suite is run; each suite has its own defaults.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// An option for `thrufs mount` (may be given several times): `--with=--cache=never`.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub(super) with: Vec<String>,
    /// A built checkout of xfstests, or an installed LTP.
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// How long trinity and dbench run, and all stressors of stress-ng together (default: 60, or 5 with --quick).
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..))]
    seconds: Option<u64>,
    /// How many operations fsx does in each cache mode (default: 100,000, or 5,000 with --quick).
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    operations: Option<u64>,
    /// The shortest run that is worth having, for `suite all --peers`.
    #[arg(long)]
    pub(super) quick: bool,
    /// Only these tests of xfstests or LTP, instead of the selection.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) test: Vec<String>,
}

impl Options {
    /// For suites with a number of operations.
    pub fn counting(operations: u64) -> Self {
        Self {
            operations: Some(operations),
            ..Self::default()
        }
    }

    /// For suites with a duration.
    pub fn lasting(seconds: u64) -> Self {
        Self {
            seconds: Some(seconds),
            ..Self::default()
        }
    }

    /// With this checkout of xfstests, if there is one.
    pub fn with_checkout(dir: Option<PathBuf>) -> Self {
        Self {
            dir,
            ..Self::default()
        }
    }

    pub(super) fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 5 } else { 60 })
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
            .unwrap_or(if self.quick { 5_000 } else { 100_000 })
    }

    /// When a mount counts as hung.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(600 + 2 * self.seconds())
    }

    /// With another option of `thrufs mount`; the user's options override it.
    pub(super) fn and_with(&self, option: &str) -> Self {
        let mut options = self.clone();
        options.with.insert(0, option.to_owned());
        options
    }

    pub(super) fn says_cache_mode(&self) -> bool {
        self.with.iter().any(|option| option.starts_with("--cache"))
    }
}
