//! The driver's side of a split ring, read where it lies.
//!
//! Invariant: each index is read once and checked before it is used. The ring is mapped as a whole while
//! this exists.

use std::sync::atomic::{Ordering, fence};

use thrufs_sys::guest_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Entries of a queue at most (QEMU's limit, and a request of 4 MiB in pages).
pub(super) const QUEUE_SIZE_MAX: u16 = 1024;

/// Where a ring is, as the front end said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingAddresses {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// VIRTQ_USED_F_NO_NOTIFY and VIRTQ_AVAIL_F_NO_INTERRUPT.
pub(super) const QUIET: u16 = 1;
const AVAILABLE_INDEX: usize = 2;
const AVAILABLE_ENTRIES: usize = 4;
pub(super) const USED_INDEX: usize = 2;
pub(super) const USED_ENTRIES: usize = 4;
pub(super) const USED_ENTRY: usize = 8;

impl RingAddresses {
    pub(super) fn available_len(self) -> usize {
        AVAILABLE_ENTRIES + 2 * usize::from(self.size) + 2
    }

    pub(super) fn used_len(self) -> usize {
        USED_ENTRIES + USED_ENTRY * usize::from(self.size) + 2
    }

    /// `used_event`, in the available ring.
    pub(super) fn used_event_at(self) -> usize {
        self.available_len() - 2
    }

    /// `avail_event`, in the used ring.
    fn available_event_at(self) -> usize {
        self.used_len() - 2
    }
}

/// Why a queue cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RingError {
    #[error("a queue of {0} entries: the size is a power of two up to {max}", max = QUEUE_SIZE_MAX)]
    Size(u16),
    #[error(
        "the {what} at guest address {address:#x} is not in the memory that is shared with the device: does the \
         front end share all of the guest's memory?"
    )]
    NotShared { what: &'static str, address: u64 },
    #[error("the driver's index {index} is {ahead} ahead of {next}, of a queue of {size}")]
    Ahead {
        index: u16,
        next: u16,
        ahead: u16,
        size: u16,
    },
    #[error("the driver offers descriptor {head}, of a queue of {size}")]
    Head { head: u16, size: u16 },
    #[error("the driver has more requests under way than the queue has entries ({0})")]
    InFlight(u16),
    #[error("its thread panicked, which is a bug")]
    Panicked,
    #[error("the ring cannot be accessed: {0}")]
    Access(String),
}

impl From<vm_memory::VolatileMemoryError> for RingError {
    fn from(error: vm_memory::VolatileMemoryError) -> Self {
        Self::Access(error.to_string())
    }
}

/// See the module.
pub(super) struct Ring<'m> {
    pub(super) descriptors: VolatileSlice<'m>,
    available: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
    addresses: RingAddresses,
    event_index: bool,
    next: u16,
}

impl<'m> Ring<'m> {
    /// # Errors
    /// The ring is not in memory, or of no possible size.
    pub(super) fn new(
        memory: &'m GuestMemory,
        addresses: RingAddresses,
        next: u16,
        event_index: bool,
    ) -> Result<Self, RingError> {
        let size = addresses.size;
        if !size.is_power_of_two() || size > QUEUE_SIZE_MAX {
            return Err(RingError::Size(size));
        }
        let part = |what, address, len| {
            let slice = memory.get_slice(GuestAddress(address), len);
            slice.map_err(|_outside| RingError::NotShared { what, address })
        };
        Ok(Self {
            descriptors: part(
                "descriptor table",
                addresses.descriptors,
                16 * usize::from(size),
            )?,
            available: part(
                "available ring",
                addresses.available,
                addresses.available_len(),
            )?,
            used: part("used ring", addresses.used, addresses.used_len())?,
            addresses,
            event_index,
            next,
        })
    }

    /// The index of the next entry.
    pub(super) fn next(&self) -> u16 {
        self.next
    }

    /// The head of the next chain that the driver offers; none when there is none.
    ///
    /// # Errors
    /// The driver's indices make no sense.
    pub(super) fn pop(&mut self) -> Result<Option<u16>, RingError> {
        let (size, next) = (self.addresses.size, self.next);
        // Before the entry, and what that names.
        let index = self.available_index(Ordering::Acquire)?;
        let ahead = index.wrapping_sub(next);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > size {
            return Err(RingError::Ahead {
                index,
                next,
                ahead,
                size,
            });
        }
        let at = AVAILABLE_ENTRIES + 2 * usize::from(next % size);
        let head = u16::from_le(self.available.load(at, Ordering::Relaxed)?);
        if head >= size {
            return Err(RingError::Head { head, size });
        }
        self.next = next.wrapping_add(1);
        Ok(Some(head))
    }

    /// Whether the driver offers another chain.
    ///
    /// # Errors
    /// The ring cannot be accessed.
    pub(super) fn has_more(&self) -> Result<bool, RingError> {
        Ok(self.available_index(Ordering::Relaxed)? != self.next)
    }

    /// Asks to be kicked; false when there is another chain already.
    ///
    /// # Errors
    /// The ring cannot be accessed.
    pub(super) fn ask_for_kicks(&self) -> Result<bool, RingError> {
        if self.event_index {
            let at = self.addresses.available_event_at();
            self.used.store(self.next.to_le(), at, Ordering::Relaxed)?;
        } else {
            self.used.store(0_u16, 0, Ordering::Relaxed)?;
        }
        // The driver looks at that after it has moved its index.
        fence(Ordering::SeqCst);
        Ok(!self.has_more()?)
    }

    /// Says that the queue is looked at anyway. With the event index nothing needs to be said.
    ///
    /// # Errors
    /// As [`Ring::ask_for_kicks`].
    pub(super) fn refuse_kicks(&self) -> Result<(), RingError> {
        if !self.event_index {
            self.used.store(QUIET.to_le(), 0, Ordering::Relaxed)?;
        }
        Ok(())
    }

    fn available_index(&self, order: Ordering) -> Result<u16, RingError> {
        Ok(u16::from_le(self.available.load(AVAILABLE_INDEX, order)?))
    }
}
