//! The driver of a virtiofs device, as far as a script of messages needs it: each message is one readable descriptor
//! and one writable one, on the first request queue.
#![allow(dead_code, reason = "each user uses some of it")]

use std::path::Path;
use std::time::Duration;

#[path = "../../../transport/tests/common/front_end.rs"]
mod front_end;

pub(super) use front_end::QUEUES;
use front_end::{FrontEnd, NEXT, WRITE, descriptor, table, used};

const QUEUE: usize = 1;
const SIZE: u16 = 128;
/// Messages under way at most.
const SLOTS: usize = 16;
/// Bytes of memory for each: the message, and from [`ROOM_AT`] on the answer.
const SLOT: u64 = 256 << 10;
const ROOM_AT: u64 = 64 << 10;
const ROOM: u32 = 192 << 10;

/// See the module.
pub(super) struct Driver {
    front: FrontEnd,
    under_way: [bool; SLOTS],
    last_used: u16,
}

impl Driver {
    pub(super) fn connect(socket: &Path) -> Self {
        let mut front = FrontEnd::connect(socket, false);
        for queue in 0..QUEUES {
            front.start(queue, SIZE, 0);
        }
        Self {
            front,
            under_way: [false; SLOTS],
            last_used: 0,
        }
    }

    /// Sends `message`; false when too many are under way.
    pub(super) fn send(&mut self, message: &[u8]) -> bool {
        let Some(slot) = self.under_way.iter().position(|busy| !busy) else {
            return false;
        };
        self.under_way[slot] = true;
        let (at, head) = (slot as u64 * SLOT, 2 * slot as u16);
        self.front.write(at, message);
        let readable = descriptor(at, message.len() as u32, NEXT, head + 1);
        let writable = descriptor(at + ROOM_AT, ROOM, WRITE, 0);
        let place = table(QUEUE) + 16 * u64::from(head);
        self.front.write(place, &[readable, writable].concat());
        self.front.offer(QUEUE, SIZE, head);
        self.front.kick(QUEUE);
        true
    }

    /// The next message that comes back, with its answer, which may be none; `None` when `patience` is over.
    pub(super) fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        if self.front.get(used(QUEUE) + 2) == self.last_used {
            self.front.wait_for_call(QUEUE, patience);
        }
        if self.front.get(used(QUEUE) + 2) == self.last_used {
            return None;
        }
        let entry = used(QUEUE) + 4 + 8 * u64::from(self.last_used % SIZE);
        self.last_used = self.last_used.wrapping_add(1);
        let slot = usize::from(self.front.get(entry) / 2);
        self.under_way[slot] = false;
        let len =
            usize::from(self.front.get(entry + 4)) + (usize::from(self.front.get(entry + 6)) << 16);
        let mut answer = vec![0; len];
        self.front.read(slot as u64 * SLOT + ROOM_AT, &mut answer);
        Some(answer)
    }
}
