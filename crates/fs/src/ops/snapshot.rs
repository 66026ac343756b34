//! What a mount has counted so far, and holds now.

use std::io;

use crate::passthrough::Passthrough;
use crate::stats::{Opcode, OpcodeCounts, Process, Snapshot};

impl Passthrough {
    /// All that can be said of this file system now. Takes no lock for longer than reading a
    /// number needs.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        let stats = &self.stats;
        let counted = Opcode::ALL.iter().map(|&opcode| OpcodeCounts {
            opcode: opcode.name().to_owned(),
            requests: stats.requests(opcode),
            errors: stats.errors(opcode),
            latency: stats.latency(opcode),
        });
        let opcodes: Vec<OpcodeCounts> = counted.filter(|counts| counts.requests > 0).collect();
        let begun: u64 = opcodes.iter().map(|counts| counts.requests).sum();
        let ended: u64 = opcodes.iter().map(|counts| counts.latency.count()).sum();
        Ok(Snapshot {
            opcodes,
            writes: stats.writes(),
            bytes_read: stats.bytes_read(),
            in_flight: begun.saturating_sub(ended),
            inodes: self.known_inodes(),
            handles: self.open_handles(),
            kernel_passthrough: self.backing_ids.counts(),
            process: Process::read()?,
            negotiated: self.negotiated().cloned(),
        })
    }
}
