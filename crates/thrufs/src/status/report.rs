//! What a daemon says of its mount: the document that goes through the socket, and that `--json`
//! prints as it came.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thrufs_fs::{Passthrough, Snapshot};
use thrufs_session::ReaderCounts;

use crate::daemon::source_state::{SourceState, SourceView};
use crate::options::process::Transport;

/// Raised when a field changes its meaning or goes; new fields do not raise it.
pub(super) const FORMAT: u32 = 1;

/// One mount at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// [`FORMAT`] of who wrote it.
    pub(crate) format: u32,
    /// The daemon's version.
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// The process that serves, which is another one where it is shut in.
    #[serde(default)]
    pub(crate) server_pid: u32,
    pub(crate) source: String,
    pub(crate) mountpoint: String,
    /// Device of the mounted file system, as `major:minor`.
    pub(crate) device: String,
    pub(crate) uptime_seconds: f64,
    #[serde(default)]
    pub(crate) transport: Transport,
    /// None where fuser has the threads.
    #[serde(default)]
    pub(crate) readers: Option<Readers>,
    /// What became of SOURCE.
    #[serde(default)]
    pub(crate) source_state: SourceState,
    #[serde(flatten)]
    pub(crate) snapshot: Snapshot,
}

/// The threads that read from /dev/fuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readers {
    /// Threads that there are.
    pub(crate) threads: usize,
    /// Those that read now.
    pub(crate) reading: usize,
    /// How often one began or stopped to read.
    pub(crate) changes: u64,
}

impl From<&ReaderCounts> for Readers {
    fn from(counts: &ReaderCounts) -> Self {
        Self {
            threads: counts.threads(),
            reading: counts.reading(),
            changes: counts.changes(),
        }
    }
}

/// Where a [`Status`] comes from.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) fs: Arc<Passthrough>,
    pub(crate) source: String,
    pub(crate) mountpoint: String,
    pub(crate) device: String,
    pub(crate) pid: u32,
    pub(crate) server_pid: u32,
    pub(crate) transport: Transport,
    pub(crate) readers: Option<Arc<ReaderCounts>>,
    pub(crate) started: Instant,
    pub(crate) source_view: SourceView,
}

impl Reporter {
    /// What tells of a mount that begins now and that this process makes and serves.
    pub(crate) fn new(
        fs: &Arc<Passthrough>,
        source: &Path,
        mountpoint: &Path,
        device: &str,
        source_view: SourceView,
    ) -> Self {
        let pid = std::process::id();
        Self {
            fs: Arc::clone(fs),
            source: source.to_string_lossy().into_owned(),
            mountpoint: mountpoint.to_string_lossy().into_owned(),
            device: device.to_owned(),
            pid,
            server_pid: pid,
            transport: Transport::default(),
            readers: None,
            started: Instant::now(),
            source_view,
        }
    }

    /// The same, where these processes make and serve it.
    pub(crate) fn of_processes(self, pid: u32, server_pid: u32) -> Self {
        Self {
            pid,
            server_pid,
            ..self
        }
    }

    /// The same, where messages come by this transport to these threads.
    pub(crate) fn by_transport(
        self,
        (transport, readers): (Transport, Option<Arc<ReaderCounts>>),
    ) -> Self {
        Self {
            transport,
            readers,
            ..self
        }
    }

    /// The mount now.
    pub(crate) fn status(&self) -> io::Result<Status> {
        Ok(Status {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: self.pid,
            server_pid: self.server_pid,
            source: self.source.clone(),
            mountpoint: self.mountpoint.clone(),
            device: self.device.clone(),
            transport: self.transport,
            readers: self.readers.as_deref().map(Readers::from),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            source_state: self.source_view.now(),
            snapshot: self.fs.snapshot()?,
        })
    }
}
