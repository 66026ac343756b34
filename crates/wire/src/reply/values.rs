//! Answers from a server's own values: timeouts as durations.

use std::time::Duration;

use crate::abi::{
    Attr, AttrOut, CopyFileRangeOut, EntryOut, GetxattrOut, Statx, StatxOut, WriteOut,
};

impl EntryOut {
    /// An inode under a name, which the kernel may rely on for `entry_valid`, and on its
    /// attributes for `attr_valid`.
    pub fn new(
        nodeid: u64,
        generation: u64,
        attr: Attr,
        entry_valid: Duration,
        attr_valid: Duration,
    ) -> Self {
        Self {
            nodeid,
            generation,
            entry_valid: entry_valid.as_secs(),
            attr_valid: attr_valid.as_secs(),
            entry_valid_nsec: entry_valid.subsec_nanos(),
            attr_valid_nsec: attr_valid.subsec_nanos(),
            attr,
        }
    }

    /// The name does not exist, which the kernel may rely on for `entry_valid`. Without that, ENOENT is the answer.
    pub fn negative(entry_valid: Duration) -> Self {
        Self {
            entry_valid: entry_valid.as_secs(),
            entry_valid_nsec: entry_valid.subsec_nanos(),
            ..Self::default()
        }
    }
}

impl AttrOut {
    /// Attributes, which the kernel may rely on for `valid`.
    pub fn new(attr: Attr, valid: Duration) -> Self {
        Self {
            attr_valid: valid.as_secs(),
            attr_valid_nsec: valid.subsec_nanos(),
            dummy: 0,
            attr,
        }
    }
}

impl StatxOut {
    /// Attributes, which the kernel may rely on for `valid`.
    pub fn new(stat: Statx, valid: Duration) -> Self {
        Self {
            attr_valid: valid.as_secs(),
            attr_valid_nsec: valid.subsec_nanos(),
            stat,
            ..Self::default()
        }
    }
}

impl WriteOut {
    /// `size` bytes have been written.
    pub fn new(size: u32) -> Self {
        Self { size, padding: 0 }
    }
}

impl CopyFileRangeOut {
    /// `bytes_copied` bytes have been copied.
    pub fn new(bytes_copied: u64) -> Self {
        Self { bytes_copied }
    }
}

impl GetxattrOut {
    /// The value or the list has `size` bytes.
    pub fn new(size: u32) -> Self {
        Self { size, padding: 0 }
    }
}
