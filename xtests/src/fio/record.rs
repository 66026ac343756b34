//! The result as a document: the content of `report.json`, which `compare` reads and the reports show.
//!
//! Invariant: runs are the facts, everything else is derived from them (see [`super::summary`]), so
//! that a tool for another statistic has all it needs. Units are in the names: `_seconds`, `bytes`,
//! and MB or GB are 10^6 and 10^9 bytes; latencies are nanoseconds.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::jobs::{Figure, Job};
use super::load::Load;
use super::output::Moved;

/// Raised when a field changes its meaning or is removed; new fields do not raise it.
const FORMAT: u32 = 1;

/// `report.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Document {
    pub(super) format: u32,
    /// UTC.
    pub(super) started: String,
    /// UTC.
    pub(super) finished: String,
    /// Whether an interrupted session lacks runs of the plan.
    pub(super) incomplete: bool,
    pub(super) rounds: usize,
    /// fio's runtime of each run.
    pub(super) runtime_seconds: u32,
    /// Whether caches were dropped before each run, instead of the backing being warm.
    pub(super) cold: bool,
    /// The configuration that ratios are to, unless a configuration has its own.
    pub(super) baseline: String,
    pub(super) machine: Machine,
    pub(super) backings: Vec<Backing>,
    pub(super) configs: Vec<Configuration>,
    pub(super) jobs: Vec<Job>,
    /// Requested, but unavailable.
    pub(super) skipped: Vec<Skipped>,
    /// In the order in which they ran.
    pub(super) runs: Vec<Run>,
    /// Where they were counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) system_calls: Vec<SystemCalls>,
}

/// The system calls of a server for each operation of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SystemCalls {
    pub(super) job: String,
    pub(super) config: String,
    /// The most frequent first.
    pub(super) calls: Vec<(String, f64)>,
}

/// A job or configuration that is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Skipped {
    pub(super) what: String,
    pub(super) why: String,
}

/// Where it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) distribution: String,
    pub(super) cpu: String,
    pub(super) cpus: usize,
    pub(super) memory_bytes: u64,
    /// fs.fuse.max_pages_limit, where the kernel has it.
    pub(super) fuse_max_pages_limit: Option<u64>,
    pub(super) fio: String,
}

/// The file system below SOURCE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Backing {
    /// `tmpfs`, or the type of the disk's file system.
    pub(super) name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Configuration {
    pub(super) name: String,
    /// The server's command line; SOURCE and MOUNTPOINT stand for the directories.
    pub(super) command: Option<String>,
    /// The program's version, in its own words.
    pub(super) version: Option<String>,
    /// Its own baseline, if that is not the document's.
    #[serde(default)]
    pub(super) baseline: Option<String>,
}

/// One run of fio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    /// From 0.
    pub(super) round: usize,
    /// Its place among the configurations of the round, from 0.
    pub(super) position: usize,
    pub(super) backing: String,
    pub(super) job: String,
    pub(super) config: String,
    /// The exact command; DIR stands for the directory.
    pub(super) command: String,
    /// Why there is no measurement.
    pub(super) error: Option<String>,
    pub(super) measured: Option<Measured>,
}

/// A run's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub(super) moved: Moved,
    pub(super) load: Load,
    /// The counts of thrufs; none for other servers.
    pub(super) requests: Option<Requests>,
}

/// Requests that the daemon answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Requests {
    pub(super) write: u64,
    pub(super) read: u64,
    /// All opcodes.
    pub(super) all: u64,
}

impl Measured {
    /// The job's figure, in its unit.
    pub(super) fn figure(&self, figure: Figure) -> f64 {
        let (read, written) = (&self.moved.read, &self.moved.written);
        match figure {
            Figure::Read => read.bytes_per_second / 1e6,
            Figure::Written => written.bytes_per_second / 1e6,
            Figure::Both => (read.bytes_per_second + written.bytes_per_second) / 1e6,
            Figure::Operations => read.per_second + written.per_second,
        }
    }

    /// Latencies of the figure's direction, in nanoseconds (of writes, if it has both).
    pub(super) fn latency(&self, figure: Figure) -> &[(f64, f64)] {
        match figure {
            Figure::Read | Figure::Operations => &self.moved.read.latency,
            Figure::Written | Figure::Both => &self.moved.written.latency,
        }
    }

    /// The divisor of CPU seconds: gigabytes moved in both directions, or millions of operations if no data move.
    pub(super) fn volume(&self, figure: Figure) -> f64 {
        let (read, written) = (&self.moved.read, &self.moved.written);
        match figure {
            Figure::Operations => (read.operations + written.operations) as f64 / 1e6,
            Figure::Read | Figure::Written | Figure::Both => {
                (read.bytes + written.bytes) as f64 / 1e9
            }
        }
    }

    /// WRITEs for each write(2).
    pub(super) fn writes_per_write(&self) -> Option<f64> {
        per(self.requests?.write, self.moved.written.operations)
    }

    /// READs for each read(2).
    pub(super) fn reads_per_read(&self) -> Option<f64> {
        per(self.requests?.read, self.moved.read.operations)
    }
}

fn per(requests: u64, operations: u64) -> Option<f64> {
    (operations > 0).then(|| requests as f64 / operations as f64)
}

impl Document {
    /// The format that this build writes.
    pub(super) fn format() -> u32 {
        FORMAT
    }

    /// The baseline of `config`.
    pub(super) fn baseline_of(&self, config: &str) -> &str {
        let found = self.configs.iter().find(|known| known.name == config);
        let own = found.and_then(|known| known.baseline.as_deref());
        own.unwrap_or(&self.baseline)
    }

    /// What the runs of an earlier part of the session have said of fio and of the servers.
    pub(super) fn take_from(&mut self, before: Self) {
        self.machine.fio = before.machine.fio;
        for earlier in before.configs {
            let config = self.configs.iter_mut();
            if let Some(config) = config.into_iter().find(|c| c.name == earlier.name) {
                config.command = earlier.command;
            }
        }
    }

    /// Reads `report.json`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        ensure!(
            format == Some(u64::from(FORMAT)),
            "{}: its format is {format:?} and this build reads {FORMAT}; take the report.json of \
             `xtests fio` of one build for both",
            path.display()
        );
        serde_json::from_value(value).with_context(|| format!("{}: no report", path.display()))
    }
}
