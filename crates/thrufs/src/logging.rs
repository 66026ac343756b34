//! Where log lines go: standard error, or the system log.
//!
//! A daemon in the background without `--syslog` has its standard error turned to /dev/null once it
//! is ready, so the lines end there; nothing here has to know about that.

use std::io::IsTerminal;

use anyhow::{Context, anyhow};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::request::LogRequest;

/// Where syslog(3) delivers.
const SYSLOG_SOCKET: &str = "/dev/log";

/// Starts logging. To be called once.
pub(crate) fn init(request: LogRequest) -> anyhow::Result<()> {
    let filter = filter(request.level);
    if request.syslog {
        let options = syslog_tracing::Options::LOG_PID;
        let facility = syslog_tracing::Facility::Daemon;
        let syslog = syslog_tracing::Syslog::new(c"thrufs", options, facility)
            .ok_or_else(|| anyhow!("the system log is open already"))?;
        if !std::path::Path::new(SYSLOG_SOCKET).exists() {
            crate::complain(&format!(
                "{SYSLOG_SOCKET} does not exist: until a syslog daemon runs, log lines are lost"
            ));
        }
        // The system log adds time and severity itself.
        let lines = fmt::layer()
            .with_writer(syslog)
            .with_ansi(false)
            .without_time()
            .with_level(false);
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .try_init()
    } else {
        let is_terminal = std::io::stderr().is_terminal();
        let lines = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(is_terminal);
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .try_init()
    }
    .context("start logging")
}

/// How a server logs, whose standard error is a pipe to its supervisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLog {
    request: LogRequest,
    ansi: bool,
}

impl ServerLog {
    /// To be made by the supervisor, which can see its standard error.
    pub(crate) fn of(request: LogRequest) -> Self {
        Self {
            request,
            ansi: std::io::stderr().is_terminal() && !request.syslog,
        }
    }

    /// Starts logging. To be called once.
    pub(crate) fn init(self) -> anyhow::Result<()> {
        let filter = filter(self.request.level);
        let lines = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(self.ansi);
        let registry = tracing_subscriber::registry();
        if self.request.syslog {
            // The level goes first, and the system log adds the time.
            let lines = lines.without_time().with_target(false);
            registry.with(lines.with_filter(filter)).try_init()
        } else {
            registry.with(lines.with_filter(filter)).try_init()
        }
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
