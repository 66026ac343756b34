//! Plays a script of what a hostile guest writes into its rings and memory, to a device in this process: the body
//! of the fuzz target `chains` and of the test `chains`.
//!
//! A script is any sequence of bytes: one that chooses how the front end negotiates, then records, each an operation
//! ([`Op`]) and its operands. The first request queue is the script's. What must hold, whatever the bytes: the
//! queue takes each chain and gives each back once, or is stopped with a signal if and only if its ring lies, which
//! [`Player::outlook`] knows; the other request queue is served; no thread panics or hangs.
//!
//! The index of the available ring is written last, when the queue is kicked: the device may look earlier, and would
//! then find what no script says.
#![allow(dead_code, reason = "each user uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thrufs_transport::vhost_user::{Completion, Device, Request, Service};
use thrufs_wire::abi::{InHeader, OutHeader};
use thrufs_wire::{Opcode, Reply};
use zerocopy::{FromBytes, IntoBytes};

#[path = "front_end.rs"]
pub(crate) mod front_end;

use front_end::{
    FrontEnd, MEMORY, NEXT, QUEUES, RING, RINGS, WRITE, available, descriptor, table, used,
};

/// In a script's first byte: VIRTIO_RING_F_EVENT_IDX.
pub(crate) const EVENT_INDEX: u8 = 1;

/// The script's queue, and another one.
const PLAYED: usize = 1;
const OTHER: usize = 2;
/// Entries of the other queue, and of the script's until it says otherwise.
const SIZE: u16 = 16;
/// What scripts write to and name: messages and indirect tables.
pub(crate) const SCRATCH: u64 = 0x1_0000;
const SCRATCH_LEN: u64 = 0x1_0000;
/// The request by which a queue is known to be served. Written when the script has ended.
const FENCES: u64 = MEMORY - 0x1000;
const FENCE_LEN: u32 = 56;
const FENCE_ROOM: u32 = 120;
/// Nothing that is played takes as long.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a descriptor's address is relative to.
const BASES: [u64; 6] = [
    SCRATCH,
    SCRATCH,
    0,
    1 << 40,
    u64::MAX - 0xffff,
    MEMORY - 0x1_0000,
];
const LENGTHS: [u32; 14] = [
    0,
    1,
    15,
    16,
    24,
    40,
    56,
    120,
    4096,
    32,
    0x1_0000,
    1 << 20,
    1 << 31,
    u32::MAX,
];
const SIZES: [u16; 6] = [1, 2, 4, 16, 64, 128];

/// Operations of a script, in this order.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Op {
    /// `index`, and a descriptor for the queue's table.
    Descriptor,
    /// `page`, `index`, and a descriptor for an indirect table in this page of scratch memory.
    Indirect,
    /// `offset(2) length bytes` for scratch memory.
    Memory,
    /// The same for the queue's rings.
    Ring,
    /// `head(2)`, which is made available.
    Offer,
    /// `index(2)` of the available ring.
    Index,
    /// The queue is kicked, and looked at when it has served or stopped.
    Kick,
    /// `size base(2)`: the queue is stopped and started.
    Restart,
}

/// What a script led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Played {
    /// Chains that came back.
    pub(crate) chains: u64,
    /// Of these, requests that the service was given.
    pub(crate) requests: u64,
    /// How often the queue was stopped for what its ring said.
    pub(crate) stopped: u64,
}

/// Answers in each way that there is.
struct Echo {
    /// The number of each request that was served.
    served: Mutex<Sender<u64>>,
    count: AtomicU64,
}

impl Service for Echo {
    fn serve(&self, request: Request<'_>, mut completion: Completion) {
        assert!(request.head.len() <= request.all.len());
        let mut all = vec![0; request.all.len().min(SCRATCH_LEN as usize)];
        request.all.copy_to(&mut all);
        let Ok((header, _rest)) = InHeader::read_from_prefix(request.head) else {
            return;
        };
        self.count.fetch_add(1, Ordering::SeqCst);
        match header.opcode % 4 {
            0 => drop(completion),
            1 => drop(completion.send(&Reply::Empty.encode(header.unique))),
            2 => {
                let data = Reply::Data(&all);
                drop(completion.send(&data.encode(header.unique)));
            }
            _ => fill(&mut completion, header.unique),
        }
        let served = self.served.lock().unwrap();
        served.send(header.unique).unwrap();
    }

    fn has_resumed(&self) {}

    fn interrupt_waiting(&self) {}
}

fn fill(completion: &mut Completion, unique: u64) {
    let Some(room) = completion.room() else {
        return;
    };
    let len = room.copy_from(&[0xab; 9000]);
    let header = OutHeader {
        len: (size_of::<OutHeader>() + len) as u32,
        error: 0,
        unique,
    };
    drop(completion.send_filled(&header));
}

/// What a kick will lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// So many chains come back.
    Served(u16),
    /// The ring lies.
    Stopped,
}

/// A device, and what its guest knows.
struct Player {
    front: FrontEnd,
    echo: Arc<Echo>,
    served: Receiver<u64>,
    /// Of the script's queue.
    size: u16,
    /// Of its available ring, as the script will have it.
    index: u16,
    /// Index of the next entry of the script's queue, in both of its rings.
    next: u16,
    /// Number of the last fence.
    fence: u64,
}

/// One without the event index, and one with it.
static PLAYERS: Mutex<[Option<Player>; 2]> = Mutex::new([None, None]);

/// Plays `script` and checks what must hold (see the module).
pub(crate) fn play(script: &[u8]) -> Played {
    let (choice, records) = script
        .split_first()
        .map_or((0, script), |(choice, rest)| (*choice, rest));
    // A device that is told to write to its own rings does so: that is no finding.
    let rings = ((RINGS >> 32) as u32).to_le_bytes();
    if records.windows(4).any(|bytes| bytes == rings) {
        return Played::default();
    }
    let event_index = choice & EVENT_INDEX != 0;
    // One that a failed script has left is not used again.
    let mut players = PLAYERS.lock().unwrap_or_else(|poisoned| {
        let mut players = poisoned.into_inner();
        *players = [None, None];
        players
    });
    let player = players[usize::from(event_index)].get_or_insert_with(|| Player::new(event_index));
    player.play(records)
}

impl Player {
    fn new(event_index: bool) -> Self {
        let (sender, served) = channel();
        let echo = Arc::new(Echo {
            served: Mutex::new(sender),
            count: AtomicU64::new(0),
        });
        let service = Arc::clone(&echo) as Arc<dyn Service>;
        let device = Device::new(service, None, QUEUES - 1, None);
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || device.serve(&listener, |_shutdown| {}));
        let mut front = FrontEnd::connect(&socket, event_index);
        for queue in 0..QUEUES {
            front.start(queue, SIZE, 0);
        }
        Self {
            front,
            echo,
            served,
            size: SIZE,
            index: 0,
            next: 0,
            fence: 0xfe0c_e000_0000_0000,
        }
    }

    fn play(&mut self, mut records: &[u8]) -> Played {
        let before = self.echo.count.load(Ordering::SeqCst);
        let mut played = Played::default();
        self.front.write(SCRATCH, &[0; SCRATCH_LEN as usize]);
        while let Some(bytes) = self.record(records, &mut played) {
            records = bytes;
        }
        self.settle(&mut played);
        played.requests = self.echo.count.load(Ordering::SeqCst) - before;
        self.check_other();
        played
    }

    /// Does the first of `records`. Returns the rest, or none at the end.
    fn record<'a>(&mut self, records: &'a [u8], played: &mut Played) -> Option<&'a [u8]> {
        let mut operands = Operands(records);
        match operands.byte()? % 8 {
            op if op == Op::Descriptor as u8 => {
                let index = u64::from(operands.byte()?);
                let at = table(PLAYED) + 16 * index;
                self.front.write(at, &operands.descriptor()?);
            }
            op if op == Op::Indirect as u8 => {
                let (page, index) = (operands.byte()? % 8, operands.byte()?);
                let at = SCRATCH + 0x1000 * u64::from(page) + 16 * u64::from(index);
                self.front.write(at, &operands.descriptor()?);
            }
            op if op == Op::Memory as u8 => {
                let (offset, bytes) = operands.piece()?;
                let offset = offset % (SCRATCH_LEN - bytes.len() as u64);
                self.front.write(SCRATCH + offset, bytes);
            }
            op if op == Op::Ring as u8 => {
                let (offset, bytes) = operands.piece()?;
                let offset = offset % (RING - bytes.len() as u64);
                self.write_ring(table(PLAYED) + offset, bytes);
            }
            op if op == Op::Offer as u8 => {
                let slot = self.slot(self.index);
                self.front.set(slot, operands.word()?);
                self.index = self.index.wrapping_add(1);
            }
            op if op == Op::Index as u8 => self.index = operands.word()?,
            op if op == Op::Kick as u8 => self.settle(played),
            _restart => {
                let size = SIZES[usize::from(operands.byte()?) % SIZES.len()];
                let base = operands.word()?;
                self.restart(size, base);
            }
        }
        Some(operands.0)
    }

    fn restart(&mut self, size: u16, base: u16) {
        self.front.stop(PLAYED);
        self.front.start(PLAYED, size, base);
        (self.size, self.next, self.index) = (size, base, base);
    }

    /// Where the entry of this index of the available ring is.
    fn slot(&self, index: u16) -> u64 {
        available(PLAYED) + 4 + 2 * u64::from(index % self.size)
    }

    /// Writes into the rings, but for the index.
    fn write_ring(&mut self, at: u64, bytes: &[u8]) {
        let index = available(PLAYED) + 2;
        for (at, byte) in (at..).zip(bytes) {
            let mut word = self.index.to_le_bytes();
            match at.wrapping_sub(index) {
                within @ (0 | 1) => {
                    word[within as usize] = *byte;
                    self.index = u16::from_le_bytes(word);
                }
                _ => self.front.write(at, &[*byte]),
            }
        }
    }

    /// What the script's ring says, before it is kicked.
    fn outlook(&self) -> Outlook {
        let ahead = self.index.wrapping_sub(self.next);
        if ahead > self.size {
            return Outlook::Stopped;
        }
        let lies = (0..ahead).any(|at| {
            let slot = self.slot(self.next.wrapping_add(at));
            self.front.get(slot) >= self.size
        });
        match lies {
            true => Outlook::Stopped,
            false => Outlook::Served(ahead),
        }
    }

    /// Kicks, and waits until everything is served, or the queue is stopped as it must be.
    fn settle(&mut self, played: &mut Played) {
        let outlook = self.outlook();
        self.front.set(available(PLAYED) + 2, self.index);
        self.front.kick(PLAYED);
        match outlook {
            // The script may have written another index into the used ring.
            Outlook::Served(0) => {}
            Outlook::Served(chains) => {
                self.next = self.next.wrapping_add(chains);
                self.wait_for_used(PLAYED, self.next);
                played.chains += u64::from(chains);
            }
            Outlook::Stopped => {
                // Complaints about chains before that signal it, too: then the queue is stopped earlier.
                let told = self.front.wait_for_error(PLAYED, DEADLINE);
                assert!(told, "a ring lies, and nothing is signalled");
                played.stopped += 1;
                self.restart(SIZE, 0);
            }
        }
    }

    fn wait_for_used(&self, queue: usize, index: u16) {
        let begin = Instant::now();
        while self.front.get(used(queue) + 2) != index {
            let seen = self.front.get(used(queue) + 2);
            assert!(
                begin.elapsed() < DEADLINE,
                "queue {queue}: used index {seen}, expected {index}"
            );
            std::thread::yield_now();
        }
    }

    /// The other request queue serves.
    fn check_other(&mut self) {
        self.fence += 1;
        let header = InHeader {
            len: FENCE_LEN,
            opcode: Opcode::Getattr.as_raw(),
            unique: self.fence,
            nodeid: 1,
            ..InHeader::default()
        };
        self.front.write(FENCES, header.as_bytes());
        let message = descriptor(FENCES, FENCE_LEN, NEXT, 1);
        let room = descriptor(FENCES + 0x800, FENCE_ROOM, WRITE, 0);
        self.front.write(table(OTHER), &[message, room].concat());
        self.front.offer(OTHER, SIZE, 0);
        let index = self.front.get(available(OTHER) + 2);
        self.front.kick(OTHER);
        self.wait_for_used(OTHER, index);
        // Those of the script were served before, or are not.
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let unique = self.served.recv_timeout(left);
            if unique.expect("the other queue is served") == self.fence {
                return;
            }
        }
    }
}

/// The operands of a record, cut off where the script ends.
struct Operands<'a>(&'a [u8]);

impl<'a> Operands<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn word(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// `base offset(2) length flags next(2)`
    fn descriptor(&mut self) -> Option<[u8; 16]> {
        let base = BASES[usize::from(self.byte()?) % BASES.len()];
        let offset = u64::from(self.word()?);
        let len = LENGTHS[usize::from(self.byte()?) % LENGTHS.len()];
        let flags = u16::from(self.byte()?);
        let next = self.word()?;
        let address = base.wrapping_add(offset);
        Some(descriptor(address, len, flags, next))
    }

    /// `offset(2) length bytes`
    fn piece(&mut self) -> Option<(u64, &'a [u8])> {
        let offset = u64::from(self.word()?);
        let len = usize::from(self.byte()?);
        Some((offset, self.take(len)?))
    }
}
