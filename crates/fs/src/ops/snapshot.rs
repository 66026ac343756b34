//! What a mount has counted so far, and holds now.

use std::io;

use crate::backing_ids::PassedThrough;
use crate::ledger::Ledger;
use crate::passthrough::Passthrough;
use crate::stats::{Opcode, OpcodeCounts, Process, Snapshot, Stats};

impl Passthrough {
    /// All that can be said of this file system now. Takes no lock for longer than reading a
    /// number needs.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        Ok(Snapshot {
            inodes: self.known_inodes(),
            handles: self.open_handles(),
            deaths: self.journal.as_ref().map(|_| self.deaths()),
            removed_in_use: self.removed.in_use(),
            inode_limit: self.pressure.as_ref().map(|limit| limit.now(self)),
            caches_data: Some(!self.config.cache.is_direct()),
            upgrades: self.ledger().map(Ledger::upgrades),
            kernel_passthrough: self.backing_ids.counts(),
            negotiated: self.negotiated().cloned(),
            ..Snapshot::of_none(&self.stats)?
        })
    }
}

impl Snapshot {
    /// The same where there is no file system, before INIT, which would count into `stats`.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn of_none(stats: &Stats) -> io::Result<Self> {
        let counted = Opcode::ALL.iter().map(|&opcode| OpcodeCounts {
            opcode: opcode.name().to_owned(),
            requests: stats.requests(opcode),
            errors: stats.errors(opcode),
            latency: stats.latency(opcode),
        });
        let opcodes: Vec<OpcodeCounts> = counted.filter(|counts| counts.requests > 0).collect();
        let begun: u64 = opcodes.iter().map(|counts| counts.requests).sum();
        let ended: u64 = opcodes.iter().map(|counts| counts.latency.count()).sum();
        Ok(Self {
            opcodes,
            writes: stats.writes(),
            bytes_read: stats.bytes_read(),
            in_flight: begun.saturating_sub(ended),
            inodes: 0,
            handles: 0,
            deaths: None,
            removed_in_use: 0,
            inode_limit: None,
            caches_data: None,
            callers: stats.callers(),
            upgrades: None,
            kernel_passthrough: PassedThrough::default(),
            process: Process::read()?,
            negotiated: None,
        })
    }
}
