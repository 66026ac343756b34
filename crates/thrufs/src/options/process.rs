//! The options that say how the daemon runs and logs.

use std::net::{Ipv4Addr, SocketAddr};

use tracing::level_filters::LevelFilter;

use super::values::{Choices, choice};

/// Session threads when `--thread-pool-size` is not given. Each serves one request at a time, so it
/// is also how many calls on SOURCE may wait for a disk at once; but with many, a sequential reader
/// is served by all of them in turn, each with a buffer that is in no cache
/// (contrib/doc/operations.md, "How many threads").
pub(crate) const DEFAULT_THREADS: usize = 8;
/// The same with `--durability=dsync`, where the threads wait and the more WRITEs meet the fewer
/// flushes there are.
pub(crate) const DEFAULT_THREADS_DSYNC: usize = 16;
/// Each session thread has a 16 MiB buffer; more of them than this is a typing error.
const THREADS_MAX: u64 = 256;

/// How the daemon runs.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Daemon")]
pub(crate) struct ProcessOptions {
    /// Stay in the foreground and log to standard error
    #[arg(short = 'f', long)]
    pub(crate) foreground: bool,
    /// Foreground with --log-level=debug
    #[arg(short = 'd', long, conflicts_with = "log_level")]
    pub(crate) debug: bool,
    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = choice(LEVELS))]
    pub(crate) log_level: LevelFilter,
    /// Log to the system log instead of standard error
    #[arg(long)]
    pub(crate) syslog: bool,
    /// Number of open files to allow, 0 to leave the limit alone [default: the hard limit, or
    /// 1000000 where the kernel allows it]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) rlimit_nofile: Option<u64>,
    /// Serve counters to Prometheus at http://ADDRESS/metrics, and a page for people at /: a port of the
    /// loopback interface, or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Session threads [default: 8, or 16 with --durability=dsync]
    #[arg(long, value_name = "NUMBER", alias = "max-threads", value_parser = threads)]
    pub(crate) thread_pool_size: Option<usize>,
    /// Give each session thread its own /dev/fuse descriptor
    #[arg(long)]
    pub(crate) clone_fd: bool,
    /// How requests come from the kernel: by the fuser library, or by a loop of thrufs's own on
    /// /dev/fuse
    #[arg(long, value_name = "HOW", default_value = "fuser", value_parser = choice(TRANSPORTS))]
    pub(crate) transport: Transport,
    /// What happens when the serving process dies: the mount is dead (never), or another process goes on where it
    /// was, without an error to anybody (always). Needs --transport=device and Linux 6.9; not with --watch or
    /// --inode-file-handles
    #[arg(long, value_name = "WHEN", default_value = "never", value_parser = choice(SURVIVE))]
    pub(crate) survive: Survive,
    /// Deaths within a minute that a mount with --survive outlives
    #[arg(long, value_name = "NUMBER", default_value = "30")]
    pub(crate) survive_deaths: u32,
}

/// Whether a mount outlives its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Survive {
    /// It is dead.
    #[default]
    Never,
    /// Another server goes on.
    Always,
}

pub(super) const SURVIVE: Choices<Survive> =
    &[("never", Survive::Never), ("always", Survive::Always)];

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Transport {
    /// By the fuser library.
    #[default]
    Fuser,
    /// By our own loop on /dev/fuse.
    Device,
}

const TRANSPORTS: Choices<Transport> =
    &[("fuser", Transport::Fuser), ("device", Transport::Device)];

pub(super) const LEVELS: Choices<LevelFilter> = &[
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=THREADS_MAX) => usize::try_from(count).map_err(|_| "too large".to_owned()),
        _ => Err(format!("must be from 1 to {THREADS_MAX} session threads")),
    }
}

/// A port alone is one of the loopback interface: other machines are let in by name only.
pub(super) fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| {
        "must be a port, or an IP address and a port such as 127.0.0.1:9323 or [::1]:9323"
            .to_owned()
    })
}
