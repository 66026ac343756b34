//! The least front end that a virtiofs device needs: memory in two pieces, and queues whose rings the caller
//! writes as it likes. In one process with the device, so that thousands of scripts a second can be played.
//!
//! Why not the front end of xtests: that one is a driver, and keeps its rings in order.
#![allow(dead_code, reason = "each user uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of the piece of memory at 0, which is for messages and answers.
pub(crate) const MEMORY: u64 = 4 << 20;
/// Where the piece with the rings begins: an address that nothing names by chance.
pub(crate) const RINGS: u64 = 0x5a3c_9d71_0000_0000;
/// Bytes of one queue's rings: the table, the available ring, the used ring.
pub(crate) const RING: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Queues, of which the first is hiprio.
pub(crate) const QUEUES: usize = 3;

/// VIRTQ_DESC_F_NEXT, _WRITE and _INDIRECT.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// VIRTIO_F_VERSION_1, VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX.
const VERSION_1: u64 = 1 << 32;
const INDIRECT_FEATURE: u64 = 1 << 28;
const EVENT_INDEX: u64 = 1 << 29;

/// A descriptor, as it lies in a table.
pub(crate) fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

struct Events {
    kick: EventFd,
    call: EventFd,
    error: EventFd,
}

/// See the module.
pub(crate) struct FrontEnd {
    frontend: Frontend,
    memory: GuestMemoryMmap,
    events: Vec<Events>,
}

impl FrontEnd {
    /// Connects, and shares the memory; no queue is started.
    pub(crate) fn connect(socket: &Path, event_index: bool) -> Self {
        let mut frontend = Frontend::connect(socket, QUEUES as u64).unwrap();
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        let mut wanted =
            VERSION_1 | INDIRECT_FEATURE | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if event_index {
            wanted |= EVENT_INDEX;
        }
        let all = frontend.get_protocol_features().unwrap();
        // No answer to each message, for which a script would wait longer than for all else.
        let useful = VhostUserProtocolFeatures::MQ;
        frontend.set_protocol_features(all & useful).unwrap();
        frontend.set_features(offered & wanted).unwrap();
        let memory = memory();
        let regions: Vec<_> = memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        frontend.set_mem_table(&regions).unwrap();
        let event = || EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).unwrap();
        let events = || Events {
            kick: event(),
            call: event(),
            error: event(),
        };
        Self {
            frontend,
            memory,
            events: (0..QUEUES).map(|_| events()).collect(),
        }
    }

    /// Starts `queue` with empty rings of `size` entries at index `base`.
    pub(crate) fn start(&mut self, queue: usize, size: u16, base: u16) {
        let at = RINGS + queue as u64 * RING;
        self.write(at, &[0; RING as usize]);
        self.set(available(queue) + 2, base);
        self.set(used(queue) + 2, base);
        let host = |address| self.memory.get_host_address(GuestAddress(address)).unwrap() as u64;
        let addresses = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: host(at),
            used_ring_addr: host(used(queue)),
            avail_ring_addr: host(available(queue)),
            log_addr: None,
        };
        let (front, events) = (&mut self.frontend, &self.events[queue]);
        front.set_vring_num(queue, size).unwrap();
        front.set_vring_addr(queue, &addresses).unwrap();
        front.set_vring_base(queue, base).unwrap();
        front.set_vring_call(queue, &events.call).unwrap();
        front.set_vring_err(queue, &events.error).unwrap();
        front.set_vring_kick(queue, &events.kick).unwrap();
        front.set_vring_enable(queue, true).unwrap();
        // Answered when all of that is done.
        front.get_features().unwrap();
    }

    /// GET_VRING_BASE: stops `queue`, and forgets what it has signalled.
    pub(crate) fn stop(&mut self, queue: usize) -> u32 {
        let base = self.frontend.get_vring_base(queue).unwrap();
        let events = &self.events[queue];
        for event in [&events.kick, &events.call, &events.error] {
            // Nothing to read is no error.
            let _count = event.read();
        }
        base
    }

    pub(crate) fn kick(&self, queue: usize) {
        self.events[queue].kick.write(1).unwrap();
    }

    /// Waits until the device has called for `queue`.
    pub(crate) fn wait_for_call(&self, queue: usize, patience: Duration) -> bool {
        let called = readable(&self.events[queue].call, patience);
        let _count = self.events[queue].call.read();
        called
    }

    /// Waits until the device has signalled that `queue` is in trouble.
    pub(crate) fn wait_for_error(&self, queue: usize, patience: Duration) -> bool {
        readable(&self.events[queue].error, patience)
    }

    /// Writes what lies in memory at this guest address.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub(crate) fn read(&self, at: u64, bytes: &mut [u8]) {
        self.memory.read_slice(bytes, GuestAddress(at)).unwrap();
    }

    /// A word of a ring.
    pub(crate) fn get(&self, at: u64) -> u16 {
        let word = self.memory.load(GuestAddress(at), Ordering::Acquire);
        u16::from_le(word.unwrap())
    }

    pub(crate) fn set(&self, at: u64, word: u16) {
        let place = GuestAddress(at);
        self.memory
            .store(word.to_le(), place, Ordering::Release)
            .unwrap();
    }

    /// Puts `head` into the next entry of `queue`'s available ring, of `size` entries.
    pub(crate) fn offer(&self, queue: usize, size: u16, head: u16) {
        let index = self.get(available(queue) + 2);
        let entry = available(queue) + 4 + 2 * u64::from(index % size);
        self.set(entry, head);
        self.set(available(queue) + 2, index.wrapping_add(1));
    }
}

/// Guest address of a queue's descriptor table.
pub(crate) fn table(queue: usize) -> u64 {
    RINGS + queue as u64 * RING
}

/// Guest address of a queue's available ring.
pub(crate) fn available(queue: usize) -> u64 {
    table(queue) + AVAILABLE
}

/// Guest address of a queue's used ring.
pub(crate) fn used(queue: usize) -> u64 {
    table(queue) + USED
}

fn readable(event: &EventFd, patience: Duration) -> bool {
    let epoll = Epoll::new().unwrap();
    let wanted = EpollEvent::new(EventSet::IN, 0);
    let fd = event.as_raw_fd();
    epoll.ctl(ControlOperation::Add, fd, wanted).unwrap();
    let millis = i32::try_from(patience.as_millis()).unwrap();
    let mut events = [EpollEvent::default()];
    epoll.wait(millis, &mut events).unwrap() > 0
}

fn memory() -> GuestMemoryMmap {
    let piece = |at: u64, len: u64| {
        let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(len).unwrap();
        (
            GuestAddress(at),
            len as usize,
            Some(FileOffset::new(file, 0)),
        )
    };
    let pieces = [piece(0, MEMORY), piece(RINGS, QUEUES as u64 * RING)];
    GuestMemoryMmap::from_ranges_with_files(pieces).unwrap()
}
