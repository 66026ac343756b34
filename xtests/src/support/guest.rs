//! A front end that plays the guest of a virtiofs device: a memfd as its memory, rings that are driven by
//! hand, and raw FUSE messages. No virtual machine, so a test takes milliseconds and sends what no kernel
//! would.
//!
//! Invariant: nothing waits without a deadline, and the device's process is gone when its [`Device`] is.

pub mod calls;
mod cut;
mod device;
mod driver;

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use thrufs_wire::abi::{InHeader, InitIn, InitOut, OutHeader, WriteIn};
use thrufs_wire::{InitFlags, Opcode};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::support::wait::wait_for;

pub use cut::Cut;
pub use device::Device;
pub use driver::{Descriptor, Driver, INDIRECT, NEXT, WRITE};

/// Bytes of guest memory, of which only what is used becomes resident.
const MEMORY: usize = 512 << 20;
/// Bytes of memory that is added.
const MORE_MEMORY: usize = 1 << 20;
/// Rings lie here, one after the other.
const RINGS: u64 = 0x1_0000;
/// Bytes for the rings of one queue.
pub(crate) const RING: u64 = 0x1_0000;
/// Request buffers lie from here on.
const BUFFERS: u64 = 64 << 20;
/// Bytes of one request's buffers: the message, and from [`ANSWER`] on the answer.
const BUFFER: u64 = 4 << 20;
const ANSWER: u64 = 2 << 20;
/// Limit of one request.
pub const STEP: Duration = Duration::from_secs(10);

/// VIRTIO_F_VERSION_1, VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX.
const VERSION_1: u64 = 1 << 32;
const INDIRECT_FEATURE: u64 = 1 << 28;
const EVENT_INDEX: u64 = 1 << 29;

/// How the guest's driver works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Request queues.
    pub queues: usize,
    /// Entries of each queue.
    pub size: u16,
    /// VIRTIO_RING_F_EVENT_IDX, where the device has it.
    pub event_index: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            size: 128,
            event_index: true,
        }
    }
}

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes that the device says it has written.
    pub used: u32,
    /// 0 or an errno.
    pub error: i32,
    /// After the header.
    pub data: Vec<u8>,
}

impl Answer {
    /// The data, as `T`.
    pub fn value<T: FromBytes>(&self) -> Result<T> {
        ensure!(self.error == 0, "errno {}", self.error);
        let (value, _rest) = T::read_from_prefix(&self.data)
            .ok()
            .with_context(|| format!("an answer of {} bytes", self.data.len()))?;
        Ok(value)
    }
}

/// See the module.
pub struct Guest {
    frontend: Frontend,
    memory: GuestMemoryMmap,
    /// Queue 0 is hiprio.
    pub drivers: Vec<Driver>,
    /// User of the guest's that the next requests are of.
    pub caller: u32,
    /// Its group, if that has another number.
    pub group: Option<u32>,
    features: u64,
    unique: u64,
    buffers: Vec<u64>,
}

/// A request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    queue: usize,
    head: u16,
    buffer: u64,
    room: u32,
    unique: u64,
}

impl Token {
    /// The request's number.
    pub fn unique(self) -> u64 {
        self.unique
    }
}

impl Guest {
    /// Connects to the device at `socket` and starts its queues. virtiofsd listens a moment after its socket is
    /// there.
    pub fn connect(socket: &Path, options: Options) -> Result<Self> {
        let what = format!("{} to be listened on", socket.display());
        let stream = wait_for(&what, STEP, || match UnixStream::connect(socket) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
            Err(error) => bail!("connect to {}: {error}", socket.display()),
        })?;
        Self::over(stream, options)
    }

    /// The same by a connection that there is.
    pub fn over(stream: UnixStream, options: Options) -> Result<Self> {
        let queues = options.queues + 1;
        stream.set_read_timeout(Some(STEP))?;
        let mut frontend = Frontend::from_stream(stream, queues as u64);
        frontend.set_owner()?;
        let offered = frontend.get_features()?;
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let mut wanted = VERSION_1 | INDIRECT_FEATURE | protocol;
        if options.event_index {
            wanted |= EVENT_INDEX;
        }
        let features = offered & wanted;
        ensure!(features & VERSION_1 != 0, "features {offered:#x}");
        let all = frontend.get_protocol_features()?;
        let useful = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        frontend.set_protocol_features(all & useful)?;
        frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
        let have = frontend.get_queue_num()?;
        ensure!(have >= queues as u64, "the device has {have} queues");
        frontend.set_features(features)?;
        let mut guest = Self {
            frontend,
            memory: memory(0, MEMORY)?,
            drivers: Vec::new(),
            caller: 0,
            group: None,
            features,
            unique: 2,
            buffers: (0..64).map(|slot| BUFFERS + slot * BUFFER).collect(),
        };
        guest.share_memory()?;
        for index in 0..queues {
            guest.start_queue(index, options.size)?;
        }
        Ok(guest)
    }

    /// SET_MEM_TABLE with all of the memory.
    pub fn share_memory(&self) -> Result<()> {
        self.frontend.set_mem_table(&[region_info(&self.memory)?])?;
        Ok(())
    }

    /// ADD_MEM_REG: more memory, of a mebibyte at this guest address.
    pub fn add_memory(&mut self, at: u64) -> Result<GuestMemoryMmap> {
        let added = memory(at, MORE_MEMORY)?;
        self.frontend.add_mem_region(&region_info(&added)?)?;
        Ok(added)
    }

    /// REM_MEM_REG of what [`Guest::add_memory`] has added.
    pub fn remove_memory(&mut self, added: &GuestMemoryMmap) -> Result<()> {
        Ok(self.frontend.remove_mem_region(&region_info(added)?)?)
    }

    /// Sets queue `index` up, with empty rings, and enables it.
    pub fn start_queue(&mut self, index: usize, size: u16) -> Result<()> {
        let at = RINGS + index as u64 * RING;
        let zeros = vec![0; RING as usize];
        self.memory.write_slice(&zeros, GuestAddress(at))?;
        let driver = self.place_queue(index, size, at)?;
        match self.drivers.get_mut(index) {
            Some(known) => *known = driver,
            None => self.drivers.push(driver),
        }
        Ok(())
    }

    /// Tells the device of queue `index` with its rings at this guest address, whatever is there.
    pub fn place_queue(&mut self, index: usize, size: u16, at: u64) -> Result<Driver> {
        let driver = Driver::new(at, size, self.has_event_index())?;
        let region = self.memory.iter().next().context("no memory")?;
        let base = region
            .get_host_address(vm_memory::MemoryRegionAddress(0))?
            .addr() as u64;
        let host = |address: u64| base + (address - region.start_addr().0);
        let addresses = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: host(driver.descriptors()),
            used_ring_addr: host(driver.used()),
            avail_ring_addr: host(driver.available()),
            log_addr: None,
        };
        let front = &mut self.frontend;
        front.set_vring_num(index, size)?;
        front.set_vring_addr(index, &addresses)?;
        front.set_vring_base(index, 0)?;
        front.set_vring_call(index, &driver.call)?;
        front.set_vring_err(index, &driver.error)?;
        front.set_vring_kick(index, &driver.kick)?;
        front.set_vring_enable(index, true)?;
        Ok(driver)
    }

    /// GET_VRING_BASE, which stops the queue.
    pub fn stop_queue(&mut self, index: usize) -> Result<u32> {
        self.frontend.set_vring_enable(index, false)?;
        Ok(self.frontend.get_vring_base(index)?)
    }

    /// Whether VIRTIO_RING_F_EVENT_IDX was negotiated.
    pub fn has_event_index(&self) -> bool {
        self.features & EVENT_INDEX != 0
    }

    /// The front end's other messages.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// INIT as Linux 7.3 sends it.
    pub fn init(&mut self) -> Result<InitOut> {
        let reserved = InitFlags::FUSE_INIT_RESERVED;
        self.init_offering(!reserved.bits())?.value()
    }

    /// INIT of a kernel that has these capabilities.
    pub fn init_offering(&mut self, capabilities: u64) -> Result<Answer> {
        let offer = InitIn {
            major: 7,
            minor: 46,
            max_readahead: 128 << 10,
            flags: capabilities as u32,
            flags2: (capabilities >> 32) as u32,
            ..InitIn::default()
        };
        self.call(1, Opcode::Init, 0, &[offer.as_bytes()], 64)
    }

    /// Sends a request on `queue` and waits for its answer of at most `room` bytes of data.
    pub fn call(
        &mut self,
        queue: usize,
        opcode: Opcode,
        nodeid: u64,
        args: &[&[u8]],
        room: usize,
    ) -> Result<Answer> {
        let token = self.send((queue, Cut::Linux), opcode, nodeid, args, room)?;
        self.wait(token)
    }

    /// Sends a request and returns while it is under way.
    pub fn send(
        &mut self,
        (queue, cut): (usize, Cut),
        opcode: Opcode,
        nodeid: u64,
        args: &[&[u8]],
        room: usize,
    ) -> Result<Token> {
        self.unique += 2;
        let header = self.header(opcode, nodeid, args);
        self.send_with_header((queue, cut), &header, args, room)
    }

    /// Sends a request that creates, with this extension, and waits for its answer.
    pub fn call_extended(
        &mut self,
        opcode: Opcode,
        nodeid: u64,
        args: &[&[u8]],
        extension: &[u8],
    ) -> Result<Answer> {
        self.unique += 2;
        let args: Vec<&[u8]> = args.iter().copied().chain([extension]).collect();
        let header = InHeader {
            total_extlen: (extension.len() / 8) as u16,
            ..self.header(opcode, nodeid, &args)
        };
        let token = self.send_with_header((1, Cut::Linux), &header, &args, 144)?;
        self.wait(token)
    }

    /// A request with `data` by an indirect table with an entry for each 2 KiB, whatever the queue's size.
    pub fn call_by_table(
        &mut self,
        opcode: Opcode,
        (nodeid, fh): (u64, u64),
        data: &[u8],
    ) -> Result<Answer> {
        const TABLE: u64 = BUFFERS / 2;
        const ROOM: u32 = 24;
        self.unique += 2;
        let arg = WriteIn {
            fh,
            size: data.len() as u32,
            ..WriteIn::default()
        };
        let header = self.header(opcode, nodeid, &[arg.as_bytes(), data]);
        let buffer = self.buffers.pop().context("too many requests under way")?;
        let mut table = Vec::new();
        let mut at = buffer;
        let head = [header.as_bytes(), arg.as_bytes()].concat();
        for part in std::iter::once(&head[..]).chain(data.chunks(2048)) {
            self.memory.write_slice(part, GuestAddress(at))?;
            table.push(Descriptor::readable(at, part.len() as u32));
            at += part.len() as u64;
        }
        table.push(Descriptor::writable(buffer + ANSWER, ROOM));
        let last = table.len() - 1;
        for (number, entry) in table.iter_mut().enumerate().take(last) {
            entry.flags |= NEXT;
            entry.next = number as u16 + 1;
        }
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.bytes()).collect();
        self.memory.write_slice(&bytes, GuestAddress(TABLE))?;
        let chain = [Descriptor {
            flags: INDIRECT,
            ..Descriptor::readable(TABLE, bytes.len() as u32)
        }];
        let head = self.drivers[1].submit(&self.memory, &chain)?;
        self.wait(Token {
            queue: 1,
            head,
            buffer,
            room: ROOM,
            unique: header.unique,
        })
    }

    fn header(&self, opcode: Opcode, nodeid: u64, args: &[&[u8]]) -> InHeader {
        InHeader {
            len: (40 + args.iter().map(|part| part.len()).sum::<usize>()) as u32,
            opcode: opcode.as_raw(),
            unique: self.unique,
            nodeid,
            uid: self.caller,
            gid: self.group.unwrap_or(self.caller),
            pid: 4711,
            total_extlen: 0,
            padding: 0,
        }
    }

    fn send_with_header(
        &mut self,
        (queue, cut): (usize, Cut),
        header: &InHeader,
        args: &[&[u8]],
        room: usize,
    ) -> Result<Token> {
        let mut parts = vec![header.as_bytes()];
        parts.extend(args);
        let answered = Opcode::from_raw(header.opcode).is_none_or(Opcode::is_answered);
        let room = answered.then_some(16 + room);
        self.send_raw((queue, cut), &parts, room, header.unique)
    }

    /// Sends `parts` as a message, whatever they are, with `room` bytes for an answer.
    pub fn send_raw(
        &mut self,
        (queue, cut): (usize, Cut),
        parts: &[&[u8]],
        room: Option<usize>,
        unique: u64,
    ) -> Result<Token> {
        let buffer = self.buffers.pop().context("too many requests under way")?;
        let mut chain = Vec::new();
        let mut at = buffer;
        for part in cut.apart(parts) {
            self.memory.write_slice(&part, GuestAddress(at))?;
            chain.push(Descriptor::readable(at, part.len() as u32));
            at += part.len() as u64;
            if cut == Cut::Linux {
                // Pages are not next to each other.
                at = at.next_multiple_of(8) + 64;
            }
        }
        let room = room.unwrap_or(0);
        // So that an answer that is not written shows.
        let blank = vec![0xee; room];
        self.memory
            .write_slice(&blank, GuestAddress(buffer + ANSWER))?;
        let mut at = buffer + ANSWER;
        for part in cut.lengths(room) {
            chain.push(Descriptor::writable(at, part as u32));
            at += part as u64;
        }
        let driver = &mut self.drivers[queue];
        let head = driver.submit(&self.memory, &chain)?;
        Ok(Token {
            queue,
            head,
            buffer,
            room: room as u32,
            unique,
        })
    }

    /// Waits for the answer to `token`; others may come before it.
    pub fn wait(&mut self, token: Token) -> Result<Answer> {
        let used = self.drivers[token.queue].wait(&self.memory, token.head, STEP)?;
        self.answer(token, used)
    }

    /// The answer to `token` if it is there.
    pub fn poll(&mut self, token: Token) -> Result<Option<Answer>> {
        match self.drivers[token.queue].take(&self.memory, token.head)? {
            Some(used) => self.answer(token, used).map(Some),
            None => Ok(None),
        }
    }

    fn answer(&mut self, token: Token, used: u32) -> Result<Answer> {
        ensure!(
            used <= token.room,
            "{used} bytes written into {}",
            token.room
        );
        let mut bytes = vec![0; used as usize];
        let at = GuestAddress(token.buffer + ANSWER);
        self.memory.read_slice(&mut bytes, at)?;
        self.buffers.push(token.buffer);
        if used == 0 {
            return Ok(Answer {
                used,
                error: 0,
                data: Vec::new(),
            });
        }
        let Ok((header, data)) = OutHeader::read_from_prefix(&bytes) else {
            bail!("an answer of {used} bytes");
        };
        ensure!(
            header.len == used,
            "a length of {}, used {used}",
            header.len
        );
        ensure!(
            header.unique == token.unique,
            "the answer to {}",
            header.unique
        );
        ensure!(header.error <= 0, "an error of {}", header.error);
        Ok(Answer {
            used,
            error: -header.error,
            data: data.to_vec(),
        })
    }

    /// Whether the device has signalled the error descriptor of `queue`.
    pub fn is_in_error(&self, queue: usize) -> Result<bool> {
        driver::wait_readable(&self.drivers[queue].error, Duration::ZERO)
    }

    /// How often the device has called for `queue` since this or a wait last looked.
    pub fn calls(&self, queue: usize) -> u64 {
        // Nothing to read is none.
        self.drivers[queue].call.read().unwrap_or(0)
    }
}

fn memory(at: u64, len: usize) -> Result<GuestMemoryMmap> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::memfd_create("guest", flags)?);
    file.set_len(len as u64)?;
    let ranges = [(GuestAddress(at), len, Some(FileOffset::new(file, 0)))];
    Ok(GuestMemoryMmap::from_ranges_with_files(ranges)?)
}

fn region_info(memory: &GuestMemoryMmap) -> Result<VhostUserMemoryRegionInfo> {
    let region = memory.iter().next().context("no memory")?;
    Ok(VhostUserMemoryRegionInfo::from_guest_region(region)?)
}
