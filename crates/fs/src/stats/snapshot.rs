//! Everything that can be said of a mount at one moment, as data that survives JSON: what
//! `thrufs status` shows and `--metrics` serves.
//!
//! Durations are nanoseconds and sizes are bytes throughout.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::callers::CallerCounts;
use super::histogram::Histogram;
use crate::backing_ids::PassedThrough;
use crate::caller::proc;
use crate::negotiated::Negotiated;

/// See the module. Each number was true within the time that it took to collect them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The requests that came at least once, in the order of [`super::Opcode::ALL`].
    pub opcodes: Vec<OpcodeCounts>,
    /// What the WRITEs came to.
    pub writes: Writes,
    /// Bytes that READs returned.
    pub bytes_read: u64,
    /// Requests that are being served now.
    pub in_flight: u64,
    /// Inodes that the kernel holds.
    pub inodes: usize,
    /// Files and directories that are open.
    pub handles: usize,
    /// Servers that died before this one; none where the mount does not outlive its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deaths: Option<u64>,
    /// Inodes of which the last name was removed through the mount, and that the client still uses.
    #[serde(default)]
    pub removed_in_use: usize,
    /// How many inodes the kernel is to know at most; none where nothing bounds them.
    #[serde(default)]
    pub inode_limit: Option<usize>,
    /// Whether the kernel caches the data of files that go through the daemon: false with direct I/O. None before INIT.
    #[serde(default)]
    pub caches_data: Option<bool>,
    /// The calling threads whose requests came lately.
    #[serde(default)]
    pub callers: Vec<CallerCounts>,
    /// How often another version has taken the mount over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrades: Option<u64>,
    /// What goes past the daemon.
    #[serde(default)]
    pub kernel_passthrough: PassedThrough,
    /// The process that serves.
    pub process: Process,
    /// What INIT agreed on; none before it.
    pub negotiated: Option<Negotiated>,
}

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpcodeCounts {
    /// The kernel's name, without `FUSE_`.
    pub opcode: String,
    /// How many came.
    pub requests: u64,
    /// How many were answered with an error.
    pub errors: u64,
    /// Nanoseconds from the request's decoding to its result: the time in the daemon and the
    /// backing file system, without the kernel's queue and the wake-up. A READ's includes the
    /// reply.
    pub latency: Histogram,
}

/// The WRITEs. A file system does not see write(2): it sees the requests that the kernel made of
/// them, so bytes for each WRITE is the figure that shows how well writes were gathered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writes {
    /// WRITE requests.
    pub requests: u64,
    /// Bytes that they brought into backing files.
    pub bytes: u64,
    /// Sizes as requested.
    pub sizes: Histogram,
    /// pwritev2(2) calls made for them: as many as WRITEs, more after short writes and EINTR, less
    /// where WRITEs were joined.
    pub pwritev2_calls: u64,
    /// Calls that made WRITEs durable before they were answered (`--durability=dsync`): less than
    /// WRITEs where several shared one.
    #[serde(default)]
    pub flushes: u64,
    /// WRITEs that shared a pwritev2(2) with another.
    pub joined: u64,
    /// GETXATTRs of `security.capability`: the kernel's question before a write(2) to a file
    /// when extended attributes are on and it has to clear privileges itself.
    pub capability_getxattrs: u64,
}

impl Writes {
    /// Bytes for each WRITE; none without a WRITE.
    pub fn average_size(&self) -> Option<u64> {
        self.sizes.sum.checked_div(self.sizes.count())
    }
}

/// What the process that serves takes of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Open descriptors.
    pub descriptors: u64,
    /// How many it may have (RLIMIT_NOFILE).
    pub descriptors_limit: u64,
    /// Resident memory (VmRSS) in bytes.
    pub resident_bytes: u64,
    /// Address space (VmSize) in bytes.
    #[serde(default)]
    pub virtual_bytes: u64,
    /// CPU time of all its threads, those that have ended included, in nanoseconds.
    #[serde(default)]
    pub cpu_time: u64,
    /// When it started, in nanoseconds since 1970.
    #[serde(default)]
    pub started: u64,
}

impl Process {
    /// Of this process.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub(crate) fn read() -> io::Result<Self> {
        let own = proc::own()?;
        let (virtual_bytes, resident_bytes) = own.memory()?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Ok(Self {
            descriptors: own.count_descriptors()?,
            descriptors_limit: limit.unwrap_or(u64::MAX),
            resident_bytes,
            virtual_bytes,
            cpu_time: nanoseconds(own.cpu_time()?),
            started: nanoseconds(own.started()),
        })
    }
}

/// Enough for 584 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
