//! What a daemon says of its mount or device: the document that goes through the socket, and that `--json`
//! prints as it came.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thrufs_fs::{Passthrough, Snapshot};
use thrufs_session::{DeviceView, ReaderCounts};

use crate::daemon::source_space::{SourceAnswer, SpaceAsker};
use crate::daemon::source_state::{SourceState, SourceView};
use crate::options::process::Transport;

/// Raised when a field changes its meaning or goes; new fields do not raise it.
pub(super) const FORMAT: u32 = 1;

/// One mount or device at one moment.
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
    /// Empty for a device.
    pub(crate) mountpoint: String,
    /// Device of the mounted file system, as `major:minor`. Empty for a device of a virtual machine.
    pub(crate) device: String,
    /// The virtual machine that a device is for; none for a mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guest: Option<Guest>,
    pub(crate) uptime_seconds: f64,
    #[serde(default)]
    pub(crate) transport: Carrier,
    /// None where fuser has the threads.
    #[serde(default)]
    pub(crate) readers: Option<Readers>,
    /// What became of SOURCE.
    #[serde(default)]
    pub(crate) source_state: SourceState,
    /// What is free there.
    #[serde(default)]
    pub(crate) source_answer: SourceAnswer,
    #[serde(flatten)]
    pub(crate) snapshot: Snapshot,
    /// The process that made the socket by which this came, by its number here; none where it came by none.
    #[serde(skip)]
    pub(crate) listener: Option<i32>,
}

impl Status {
    /// Whether numbers of processes mean the same here as for the daemon, and so for the mount that it made.
    pub(crate) fn is_of_this_namespace(&self) -> bool {
        self.listener
            .is_some_and(|pid| u32::try_from(pid) == Ok(self.pid))
    }
}

/// How requests come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Carrier {
    /// From /dev/fuse, by the fuser library.
    #[default]
    Fuser,
    /// From /dev/fuse, by our own loop.
    Device,
    /// From the queues of a virtual machine.
    VhostUser,
}

impl From<Transport> for Carrier {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Fuser => Self::Fuser,
            Transport::Device => Self::Device,
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fuser => "fuser",
            Self::Device => "device",
            Self::VhostUser => "vhost-user",
        })
    }
}

/// The virtual machine that a device is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guest {
    /// Where its monitor connects; none for an inherited socket without a name.
    pub(crate) socket: Option<String>,
    pub(crate) tag: Option<String>,
    /// Beside the priority queue.
    pub(crate) request_queues: usize,
    /// The monitor is connected.
    pub(crate) is_connected: bool,
    /// The guest has mounted it.
    pub(crate) is_mounted: bool,
    /// How many monitors there have been.
    pub(crate) front_ends: u64,
}

/// The threads that read from /dev/fuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readers {
    /// Threads that there are.
    pub(crate) threads: usize,
    /// How many were started so far.
    pub(crate) started: u64,
}

impl From<&ReaderCounts> for Readers {
    fn from(counts: &ReaderCounts) -> Self {
        Self {
            threads: counts.threads(),
            started: counts.started(),
        }
    }
}

/// What is counted.
#[derive(Clone, Debug)]
pub(crate) enum Served {
    /// A mount's file system.
    Mount(Arc<Passthrough>),
    /// A device, with its socket and its tag.
    Device(DeviceView, Option<String>, Option<String>),
}

impl Served {
    /// The file system; none of a device that is not mounted.
    pub(crate) fn fs(&self) -> Option<Arc<Passthrough>> {
        match self {
            Self::Mount(fs) => Some(Arc::clone(fs)),
            Self::Device(view, ..) => view.fs(),
        }
    }
}

/// Where a [`Status`] comes from.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) served: Served,
    pub(crate) source: String,
    pub(crate) mountpoint: String,
    pub(crate) device: String,
    pub(crate) pid: u32,
    pub(crate) server_pid: u32,
    pub(crate) transport: Carrier,
    pub(crate) readers: Option<Arc<ReaderCounts>>,
    pub(crate) started: Instant,
    pub(crate) source_view: SourceView,
    pub(crate) space: SpaceAsker,
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
            served: Served::Mount(Arc::clone(fs)),
            source: source.to_string_lossy().into_owned(),
            mountpoint: mountpoint.to_string_lossy().into_owned(),
            device: device.to_owned(),
            pid,
            server_pid: pid,
            transport: Carrier::default(),
            readers: None,
            started: Instant::now(),
            source_view,
            space: SpaceAsker::default(),
        }
    }

    /// What tells of a device that begins now, with its `socket` and `tag`.
    pub(crate) fn of_device(
        view: DeviceView,
        source: &Path,
        (socket, tag): (Option<String>, Option<String>),
    ) -> Self {
        let pid = std::process::id();
        Self {
            served: Served::Device(view, socket, tag),
            source: source.to_string_lossy().into_owned(),
            mountpoint: String::new(),
            device: String::new(),
            pid,
            server_pid: pid,
            transport: Carrier::VhostUser,
            readers: None,
            started: Instant::now(),
            source_view: SourceView::new(SourceState::default),
            space: SpaceAsker::default(),
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
            transport: transport.into(),
            readers,
            ..self
        }
    }

    /// The mount or device now.
    pub(crate) fn status(&self) -> io::Result<Status> {
        let (snapshot, guest) = match &self.served {
            Served::Mount(fs) => (fs.snapshot()?, None),
            Served::Device(view, socket, tag) => {
                let used = view.used();
                let guest = Guest {
                    socket: socket.clone(),
                    tag: tag.clone(),
                    request_queues: used.request_queues,
                    is_connected: used.is_connected,
                    is_mounted: used.is_mounted,
                    front_ends: used.front_ends,
                };
                (view.snapshot()?, Some(guest))
            }
        };
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
            source_answer: self.space.of(self.served.fs()),
            guest,
            snapshot,
            listener: None,
        })
    }
}
