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

mod escape;
mod lines;
mod pipe;

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::request::LogRequest;

pub(crate) use escape::escaped;
pub(crate) use lines::{Lines, flush, in_the_system_log};
pub(crate) use pipe::LINE_MAX;

/// Where syslog(3) delivers.
const SYSLOG_SOCKET: &str = "/dev/log";
/// How long the end of the process waits for a log that is not read.
pub(crate) const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// What is behind the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A file, a pipe or a terminal: time and level stand in the line.
    Stderr { colour: bool },
    /// Standard error is the journal's socket: it knows the time, and `<N>` tells it the level
    /// (sd-daemon(3)).
    Journal,
    /// syslog(3).
    Syslog,
}

impl Destination {
    fn of(request: LogRequest) -> Self {
        if request.syslog {
            Self::Syslog
        } else if stderr_is_journal() {
            Self::Journal
        } else {
            Self::Stderr {
                colour: std::io::stderr().is_terminal(),
            }
        }
    }

    /// Whether a line names the module that it comes from.
    fn shows_target(self) -> bool {
        matches!(self, Self::Stderr { .. })
    }
}

/// Whether standard error is the stream that systemd has connected to the journal for this process:
/// `$JOURNAL_STREAM` is its device and inode number (systemd.exec(5)). A program may have been started
/// with another standard error and the variable of its starter.
pub(crate) fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let found = std::fs::metadata("/proc/self/fd/2");
    found.is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

/// A message of the program itself for standard error, without the log: escaped, and with its level
/// where the journal reads it.
pub(crate) fn for_stderr(level: Level, message: &str) -> String {
    // A message may have several lines.
    let lines = message
        .lines()
        .map(|line| escaped(line.as_bytes(), LINE_MAX));
    let text = lines.collect::<Vec<_>>().join("\n");
    match stderr_is_journal() {
        true => format!("{}{text}", lines::journal_prefix(level)),
        false => text,
    }
}

/// Starts logging, in a thread of its own. To be called once, and after the last fork.
pub(crate) fn init(request: LogRequest) -> anyhow::Result<Lines> {
    let destination = Destination::of(request);
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
        .with(layer.with_filter(filter(request.level)))
        .try_init()
        .context("start logging")?;
    Ok(lines)
}

fn syslog() -> anyhow::Result<syslog_tracing::Syslog> {
    if !std::path::Path::new(SYSLOG_SOCKET).exists() {
        crate::warn(&format!(
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
    request: LogRequest,
    shows_target: bool,
}

impl ServerLog {
    /// To be made by the supervisor, which can see its standard error.
    pub(crate) fn of(request: LogRequest) -> Self {
        Self {
            request,
            shows_target: Destination::of(request).shows_target(),
        }
    }

    /// Starts logging. To be called once. Every line begins with its level; the supervisor adds the time.
    pub(crate) fn init(self) -> anyhow::Result<()> {
        let layer = fmt::layer()
            .with_writer(pipe::PipeLog::on_stderr()?)
            .with_ansi(false)
            .without_time()
            .with_target(self.shows_target);
        tracing_subscriber::registry()
            .with(layer.with_filter(filter(self.request.level)))
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
