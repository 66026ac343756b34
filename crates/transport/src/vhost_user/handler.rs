//! What the messages of a front end do: features, memory, and the queues' state.
//!
//! Invariant: a message that is handled twice leads to the same as once, since a server that goes on where another died
//! handles the last one again.
//!
//! Why not the handler of vhost-user-backend: it takes its messages from a listener alone, counts what is said twice as
//! an error, and ties each queue to an epoll(7) loop that is not used here.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thrufs_sys::guest_memory::GuestMemory;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap};

use super::memory::SharedMemory;
use super::offer::Offer;
use super::ring::{QUEUE_SIZE_MAX, USED_INDEX};
use super::setup::REGIONS_MAX;
use super::vring::Vring;

/// One message at a time.
pub(super) type Serial = Mutex<Handler>;

/// An error of the crate, which is no [`std::error::Error`] of ours.
pub(super) fn told(error: &Error) -> io::Error {
    io::Error::other(format!("vhost-user: failed to handle request: {error}"))
}

/// Where the front end's addresses are the guest's.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    front_end: u64,
    size: u64,
    guest: u64,
}

/// See the module.
pub(super) struct Handler {
    offer: Offer,
    /// What the queues see.
    shared: Arc<SharedMemory>,
    vrings: Vec<Vring>,
    features: u64,
    memory: GuestMemory,
    mappings: Vec<Mapping>,
    /// It is told what an earlier server was told.
    is_again: bool,
}

/// The messages that come until this is dropped have been handled before, some long ago.
pub(super) struct Again<'a>(&'a Serial);

impl<'a> Again<'a> {
    pub(super) fn new(handler: &'a Serial) -> Self {
        lock(handler).is_again = true;
        Self(handler)
    }
}

impl Drop for Again<'_> {
    fn drop(&mut self) {
        lock(self.0).is_again = false;
    }
}

/// A panic in a handler leaves what was said before.
fn lock(handler: &Serial) -> MutexGuard<'_, Handler> {
    handler.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handler {
    pub(super) fn new(offer: Offer, shared: Arc<SharedMemory>, vrings: Vec<Vring>) -> Self {
        Self {
            offer,
            shared,
            vrings,
            features: 0,
            memory: GuestMemory::new(),
            mappings: Vec::new(),
            is_again: false,
        }
    }

    fn vring(&self, index: u32) -> Result<&Vring> {
        let vring = usize::try_from(index).ok();
        let vring = vring.and_then(|index| self.vrings.get(index));
        vring.ok_or(Error::InvalidParam)
    }

    /// Where an address of the front end's is in the guest.
    fn in_guest(&self, address: u64) -> Result<u64> {
        let holds = |mapping: &&Mapping| {
            let offset = address.checked_sub(mapping.front_end);
            offset.is_some_and(|offset| offset < mapping.size)
        };
        match self.mappings.iter().find(holds) {
            Some(mapping) => Ok(address - mapping.front_end + mapping.guest),
            None => Err(failed("Missing memory mapping")),
        }
    }

    fn change_memory(&mut self, memory: GuestMemory) {
        self.memory = memory.clone();
        self.shared.set(Some(memory));
        self.vrings.iter().for_each(|vring| vring.shared.wake());
    }

    fn start_if_kicked(&self, index: u32) -> Result<()> {
        self.vring(index)?.start_if_kicked();
        Ok(())
    }

    /// The addresses in the guest, and the index in the used ring that is there.
    fn addresses(&self, descriptors: u64, available: u64, used: u64) -> Result<([u64; 3], u16)> {
        if self.mappings.is_empty() {
            return Err(Error::InvalidParam);
        }
        let all = [
            self.in_guest(descriptors)?,
            self.in_guest(available)?,
            self.in_guest(used)?,
        ];
        let [a, b, c] = all;
        // As virtio 1.3, 2.7 has it.
        if !a.is_multiple_of(16) || !b.is_multiple_of(2) || !c.is_multiple_of(4) {
            return Err(Error::InvalidParam);
        }
        let index = GuestAddress(
            c.checked_add(USED_INDEX as u64)
                .ok_or(Error::InvalidParam)?,
        );
        let index: u16 = self
            .memory
            .read_obj(index)
            .map_err(|_| Error::BackendInternalError)?;
        Ok((all, u16::from_le(index)))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: impl ToString) -> Error {
    Error::ReqHandlerError(io::Error::other(error.to_string()))
}

fn unsupported<T>() -> Result<T> {
    Err(Error::InvalidOperation("not supported"))
}

/// A region that is mapped.
fn mapped(region: &VhostUserMemoryRegion, file: File) -> Result<(GuestRegionMmap, Mapping)> {
    let at = GuestAddress(region.guest_phys_addr);
    let mapped = GuestRegionMmap::new(region.mmap_region(file)?, at);
    let mapped =
        mapped.ok_or_else(|| Error::ReqHandlerError(io::ErrorKind::InvalidInput.into()))?;
    let mapping = Mapping {
        front_end: region.user_addr,
        size: region.memory_size,
        guest: region.guest_phys_addr,
    };
    Ok((mapped, mapping))
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.features = 0;
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offer.features())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offer.features() != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features;
        let event_index = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        // Without SET_VRING_ENABLE queues are enabled at once.
        let is_enabled = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        for vring in &self.vrings {
            vring.set_event_index(event_index);
            if is_enabled {
                vring.set_enabled(true);
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        if postcopy.is_some() {
            return unsupported();
        }
        let (mut all, mut mappings) = (Vec::new(), Vec::new());
        for (region, file) in regions.iter().zip(files) {
            let (region, mapping) = mapped(region, file)?;
            all.push(region);
            mappings.push(mapping);
        }
        let memory = GuestMemory::from_regions(all).map_err(failed)?;
        self.change_memory(memory);
        self.mappings = mappings;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let vring = self.vring(index)?;
        match u16::try_from(num) {
            Ok(size) if (1..=QUEUE_SIZE_MAX).contains(&size) => {
                vring.set_size(size);
                Ok(())
            }
            _none => Err(Error::InvalidParam),
        }
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let vring = self.vring(index)?;
        match self.addresses(descriptors, available, used) {
            Ok((addresses, next_used)) => vring.set_addresses(addresses, next_used),
            // Of a queue that has stopped, in memory that is gone since.
            Err(_gone) if self.is_again => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        // The upper half is for another kind of ring.
        self.vring(index)?.set_base(base as u16, self.is_again);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let base = self.vring(index)?.stop_and_get_base();
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(index.into())?.set_kick(file);
        self.start_if_kicked(index.into())
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(index.into())?.set_call(file);
        self.start_if_kicked(index.into())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(index.into())?.set_error(file);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.offer.protocol_features())
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, is_enabled: bool) -> Result<()> {
        let needed = VhostUserVirtioFeatures::PROTOCOL_FEATURES;
        if self.features & needed.bits() == 0 {
            return Err(Error::InactiveFeature(needed));
        }
        self.vring(index)?.set_enabled(is_enabled);
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        Ok(self.offer.config_part(offset, size))
    }

    fn set_config(
        &mut self,
        _offset: u32,
        _buf: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> Result<()> {
        Ok(())
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        if postcopy.is_some() {
            return unsupported();
        }
        if self.mappings.len() >= REGIONS_MAX {
            return Err(Error::InvalidParam);
        }
        let (region, mapping) = mapped(region, file)?;
        let memory = self
            .memory
            .insert_region(Arc::new(region))
            .map_err(failed)?;
        self.change_memory(memory);
        self.mappings.push(mapping);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let at = GuestAddress(region.guest_phys_addr);
        let removed = self.memory.remove_region(at, region.memory_size);
        let (memory, _region) = removed.map_err(failed)?;
        self.change_memory(memory);
        self.mappings.retain(|mapping| mapping.guest != at.0);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported()
    }
}
