//! Where log lines go: standard error, the journal behind it, or the system log.
//!
//! Invariant: no thread that logs waits for the reader of the log. A process that may write there itself
//! queues its lines for a thread ([`lines`]); the server, which must have one thread until it is sealed,
//! writes to a pipe that does not block ([`pipe`]), and its supervisor queues what comes out. Lines that
//! find no room are dropped and counted. Why not tracing-appender: its queue is bounded in lines and not
//! in bytes, and it never tells in the log what it has dropped.
//!
//! A daemon in the background without `--syslog` has its standard error turned to /dev/null once it is
//! ready, so the lines end there; nothing here has to know about that.

pub(crate) mod destination;
pub(crate) mod escape;
pub(crate) mod lines;
pub(crate) mod pipe;

use std::time::Duration;

use anyhow::{Context, anyhow};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::stderr::warn;

use destination::Destination;
pub(crate) use escape::escaped;
pub(crate) use lines::{Lines, flush, in_the_system_log};
pub(crate) use pipe::LINE_MAX;

/// Where syslog(3) delivers.
const SYSLOG_SOCKET: &str = "/dev/log";
/// How long the end of the process waits for a log that is not read.
pub(crate) const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// How the daemon logs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LogOptions {
    pub(crate) level: LevelFilter,
    pub(crate) syslog: bool,
}

/// Starts logging, in a thread of its own. To be called once, and after the last fork.
pub(crate) fn init(options: LogOptions) -> anyhow::Result<Lines> {
    let destination = Destination::of(options.syslog);
    let lines = match destination {
        Destination::Syslog => Lines::start(destination, Some(syslog()?)),
        Destination::Stderr { .. } | Destination::Journal => Lines::start(destination, None),
    };
    let lines = lines.context("start the thread that writes the log")?;
    let layer = fmt::layer()
        .with_writer(lines.clone())
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_target(destination.shows_target());
    tracing_subscriber::registry()
        .with(layer.with_filter(filter(options.level)))
        .try_init()
        .context("start logging")?;
    Ok(lines)
}

fn syslog() -> anyhow::Result<syslog_tracing::Syslog> {
    if !std::path::Path::new(SYSLOG_SOCKET).exists() {
        warn(&format!(
            "{SYSLOG_SOCKET} does not exist: until a syslog daemon runs, log lines are lost"
        ));
    }
    let options = syslog_tracing::Options::LOG_PID;
    let facility = syslog_tracing::Facility::Daemon;
    syslog_tracing::Syslog::new(c"thrufs", options, facility)
        .ok_or_else(|| anyhow!("the system log is open already"))
}

/// How a server logs, whose standard error is a pipe to its supervisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLog {
    options: LogOptions,
    shows_target: bool,
}

impl ServerLog {
    /// To be made by the supervisor, which can see its standard error.
    pub(crate) fn of(options: LogOptions) -> Self {
        Self {
            options,
            shows_target: Destination::of(options.syslog).shows_target(),
        }
    }

    /// Of a process that was told what the supervisor sees.
    pub(crate) fn shown(options: LogOptions, shows_target: bool) -> Self {
        Self {
            options,
            shows_target,
        }
    }

    /// Whether lines have the place in the program that they come from.
    pub(crate) fn shows_target(&self) -> bool {
        self.shows_target
    }

    /// Starts logging. To be called once. Every line begins with its level; the supervisor adds the time.
    pub(crate) fn init(self) -> anyhow::Result<()> {
        let layer = fmt::layer()
            .with_writer(pipe::PipeLog::on_stderr()?)
            .with_ansi(false)
            .without_time()
            .with_target(self.shows_target);
        tracing_subscriber::registry()
            .with(layer.with_filter(filter(self.options.level)))
            .try_init()
            .context("start logging")
    }
}

fn filter(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(others(level))
        .with_target("thrufs", level)
}

/// Libraries say at `info` what belongs to `debug`.
fn others(level: LevelFilter) -> LevelFilter {
    if level == LevelFilter::INFO {
        LevelFilter::WARN
    } else {
        level
    }
}
