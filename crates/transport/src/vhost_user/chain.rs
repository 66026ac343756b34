//! One chain of descriptors: the driver's bytes, then room for the device's.
//!
//! Invariant: whatever the tables say, the walk ends: every descriptor counts, and there are at most
//! [`MOST`]. The order is the specification's: what the device reads, then what it writes, and nothing is
//! assumed about where either is cut.

use thrufs_sys::guest_memory::{GuestBuffers, GuestMemory, NotShared};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Descriptors of one chain at most: a request of 16 MiB in pages, with its headers.
const MOST: usize = 4096 + 64;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = size_of::<Descriptor>();

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChainError {
    #[error("{0}: does the front end share all of the guest's memory?")]
    NotShared(#[from] NotShared),
    #[error("a descriptor names descriptor {0}, which the table does not have")]
    NoSuchDescriptor(u16),
    #[error("a chain has more than {MOST} descriptors, or is a loop")]
    TooLong,
    #[error("a readable descriptor follows a writable one")]
    OutOfOrder,
    #[error("an indirect table of {0} bytes")]
    TableSize(u32),
    #[error("an indirect descriptor in an indirect table, or with a successor")]
    Indirect,
}

/// Appends to `readable` and `writable` what the chain from `head` in `table` has.
///
/// # Errors
/// The chain makes no sense; the lists are not to be used then.
pub(super) fn walk(
    memory: &GuestMemory,
    table: &VolatileSlice<'_>,
    head: u16,
    readable: &mut GuestBuffers,
    writable: &mut GuestBuffers,
) -> Result<(), ChainError> {
    let mut left = MOST;
    let mut add = |descriptor: &Descriptor| {
        let (address, len) = (descriptor.addr().0, descriptor.len());
        match descriptor.is_write_only() {
            true => writable.push(address, len).map_err(ChainError::from),
            false if !writable.is_empty() => Err(ChainError::OutOfOrder),
            false => readable.push(address, len).map_err(ChainError::from),
        }
    };
    let mut next = Some(head);
    while let Some(index) = next {
        let descriptor = descriptor(table, index, &mut left)?;
        if !descriptor.refers_to_indirect_table() {
            add(&descriptor)?;
            next = descriptor.has_next().then(|| descriptor.next());
            continue;
        }
        if descriptor.has_next() {
            return Err(ChainError::Indirect);
        }
        let indirect = indirect(memory, &descriptor)?;
        let mut next_indirect = Some(0);
        while let Some(index) = next_indirect {
            let descriptor = self::descriptor(&indirect, index, &mut left)?;
            if descriptor.refers_to_indirect_table() {
                return Err(ChainError::Indirect);
            }
            add(&descriptor)?;
            next_indirect = descriptor.has_next().then(|| descriptor.next());
        }
        next = None;
    }
    Ok(())
}

/// One descriptor, read once: the guest may change it meanwhile.
fn descriptor(
    table: &VolatileSlice<'_>,
    index: u16,
    left: &mut usize,
) -> Result<Descriptor, ChainError> {
    *left = left.checked_sub(1).ok_or(ChainError::TooLong)?;
    let at = usize::from(index) * DESCRIPTOR;
    table
        .read_obj(at)
        .map_err(|_beyond| ChainError::NoSuchDescriptor(index))
}

/// The table that an indirect descriptor names, in one piece of memory.
fn indirect<'m>(memory: &'m GuestMemory, of: &Descriptor) -> Result<VolatileSlice<'m>, ChainError> {
    let (address, len) = (of.addr(), of.len());
    if len == 0 || !(len as usize).is_multiple_of(DESCRIPTOR) {
        return Err(ChainError::TableSize(len));
    }
    let table = memory.get_slice(GuestAddress(address.0), len as usize);
    table.map_err(|_outside| {
        ChainError::NotShared(NotShared {
            address: address.0,
            len,
        })
    })
}
