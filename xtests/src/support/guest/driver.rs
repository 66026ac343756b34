//! The driver's side of one split ring.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// VIRTQ_DESC_F_NEXT, _WRITE and _INDIRECT.
pub const NEXT: u16 = 1;
#[allow(missing_docs, reason = "above")]
pub const WRITE: u16 = 2;
#[allow(missing_docs, reason = "above")]
pub const INDIRECT: u16 = 4;

/// A descriptor, as it lies in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// See [`NEXT`].
    pub flags: u16,
    /// The one that follows.
    pub next: u16,
}

impl Descriptor {
    /// Bytes for the device to read.
    pub fn readable(address: u64, len: u32) -> Self {
        Self {
            address,
            len,
            flags: 0,
            next: 0,
        }
    }

    /// Room for the device to write.
    pub fn writable(address: u64, len: u32) -> Self {
        Self {
            flags: WRITE,
            ..Self::readable(address, len)
        }
    }

    /// As it lies in a table.
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// See the module.
#[derive(Debug)]
pub struct Driver {
    base: u64,
    size: u16,
    event_index: bool,
    next_available: u16,
    last_used: u16,
    free: Vec<u16>,
    /// Descriptors of each chain under way, by its head.
    chains: HashMap<u16, Vec<u16>>,
    /// Chains that came back and were not waited for, with the bytes written.
    done: HashMap<u16, u32>,
    /// To the device.
    pub kick: EventFd,
    /// From the device.
    pub call: EventFd,
    /// From the device, in trouble.
    pub error: EventFd,
}

impl Driver {
    pub(super) fn new(base: u64, size: u16, event_index: bool) -> Result<Self> {
        Ok(Self {
            base,
            size,
            event_index,
            next_available: 0,
            last_used: 0,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
            done: HashMap::new(),
            kick: eventfd()?,
            call: eventfd()?,
            error: eventfd()?,
        })
    }

    /// Guest address of the descriptor table.
    pub fn descriptors(&self) -> u64 {
        self.base
    }

    /// Guest address of the available ring.
    pub fn available(&self) -> u64 {
        self.base + 0x8000
    }

    /// Guest address of the used ring.
    pub fn used(&self) -> u64 {
        self.base + 0xa000
    }

    /// Puts a chain of these descriptors into the table, makes it available, and kicks.
    pub fn submit(&mut self, memory: &GuestMemoryMmap, chain: &[Descriptor]) -> Result<u16> {
        let mut slots = Vec::new();
        for _ in chain {
            slots.push(self.free.pop().context("no free descriptor")?);
        }
        for (at, descriptor) in chain.iter().enumerate() {
            let linked = match slots.get(at + 1) {
                Some(next) => Descriptor {
                    flags: descriptor.flags | NEXT,
                    next: *next,
                    ..*descriptor
                },
                None => *descriptor,
            };
            self.write_descriptor(memory, slots[at], linked)?;
        }
        let head = *slots.first().context("a chain has descriptors")?;
        self.chains.insert(head, slots);
        self.offer(memory, head)?;
        Ok(head)
    }

    /// Writes one entry of the table, whatever it is.
    pub fn write_descriptor(
        &self,
        memory: &GuestMemoryMmap,
        index: u16,
        descriptor: Descriptor,
    ) -> Result<()> {
        let at = self.descriptors() + 16 * u64::from(index);
        Ok(memory.write_slice(&descriptor.bytes(), GuestAddress(at))?)
    }

    /// Makes `head` available, whatever it is, and kicks.
    pub fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) -> Result<()> {
        let slot = u64::from(self.next_available % self.size);
        let entry = GuestAddress(self.available() + 4 + 2 * slot);
        memory.store(head.to_le(), entry, Ordering::Relaxed)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.set_available_index(memory, self.next_available)
    }

    /// Sets the available ring's index, whatever it is, and kicks.
    pub fn set_available_index(&self, memory: &GuestMemoryMmap, index: u16) -> Result<()> {
        let place = GuestAddress(self.available() + 2);
        memory.store(index.to_le(), place, Ordering::Release)?;
        fence(Ordering::SeqCst);
        Ok(self.kick.write(1)?)
    }

    /// Waits until the chain from `head` has come back. Returns the bytes written.
    pub fn wait(&mut self, memory: &GuestMemoryMmap, head: u16, patience: Duration) -> Result<u32> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(used) = self.take(memory, head)? {
                return Ok(used);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {patience:?} in vain for chain {head}");
            }
            wait_readable(&self.call, left)?;
            // Nothing to read is a timeout.
            let _count = self.call.read();
        }
    }

    /// The bytes written of the chain from `head`, if it has come back.
    pub fn take(&mut self, memory: &GuestMemoryMmap, head: u16) -> Result<Option<u32>> {
        self.reap(memory)?;
        Ok(self.done.remove(&head))
    }

    fn reap(&mut self, memory: &GuestMemoryMmap) -> Result<()> {
        loop {
            let index = GuestAddress(self.used() + 2);
            let index: u16 = memory.load(index, Ordering::Acquire)?;
            let index = u16::from_le(index);
            let new = index.wrapping_sub(self.last_used);
            ensure!(
                new <= self.size,
                "used index {index}, after {}",
                self.last_used
            );
            while self.last_used != index {
                let slot = u64::from(self.last_used % self.size);
                let mut entry = [0; 8];
                memory.read_slice(&mut entry, GuestAddress(self.used() + 4 + 8 * slot))?;
                let entry = u64::from_le_bytes(entry);
                let head = u16::try_from(entry as u32).context("a head of more than 16 bits")?;
                let slots = self.chains.remove(&head);
                self.free.extend(slots.into_iter().flatten());
                self.done.insert(head, (entry >> 32) as u32);
                self.last_used = self.last_used.wrapping_add(1);
            }
            if !self.event_index {
                return Ok(());
            }
            let event = GuestAddress(self.available() + 4 + 2 * u64::from(self.size));
            memory.store(self.last_used.to_le(), event, Ordering::Relaxed)?;
            fence(Ordering::SeqCst);
            let now: u16 = memory.load(GuestAddress(self.used() + 2), Ordering::Acquire)?;
            if u16::from_le(now) == self.last_used {
                return Ok(());
            }
        }
    }
}

/// Whether there is something to read within `patience`.
pub(super) fn wait_readable(event: &EventFd, patience: Duration) -> Result<bool> {
    let epoll = Epoll::new()?;
    let wanted = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, event.as_raw_fd(), wanted)?;
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let mut events = [EpollEvent::default()];
    match epoll.wait(millis, &mut events) {
        Ok(count) => Ok(count > 0),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn eventfd() -> Result<EventFd> {
    Ok(EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?)
}
