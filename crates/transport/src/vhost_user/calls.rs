//! Which answers of a queue's thread share a call to the driver: those of small READs and WRITEs in a row, while
//! more requests wait in the ring.
//!
//! Invariant: an answer waits for its call only while the thread serves at most [`MOST`] requests, of
//! [`BYTES_MOST`] bytes together, which were fast lately; never while the thread sleeps.
//!
//! Why not one call a request: each interrupts the guest for one answer. Why not one for all that wait in the
//! ring: the guest works on the first answers while the device goes on.

use std::time::{Duration, Instant};

use thrufs_wire::{Opcode, request};

use super::used::Used;

/// Requests in a row.
const MOST: usize = 8;
/// Their bytes, with the room for answers.
const BYTES_MOST: usize = 64 << 10;
/// A row that takes longer has waited for SOURCE: copying its bytes does not.
const FAST: Duration = Duration::from_millis(1);
/// Requests after such a row that are not held back.
const PENANCE: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// When the row began, its requests and their bytes.
    row: Option<(Instant, usize, usize)>,
    /// Requests that share no call yet, since one was slow.
    alone: usize,
}

impl Calls {
    /// To be called before the request that begins with `head` is served: of so many bytes with its room for the
    /// answer, and with another one behind it or not.
    pub(super) fn before(&mut self, used: &Used, head: &[u8], bytes: usize, has_more: bool) {
        let shares = has_more && bytes <= BYTES_MOST && is_quick(head);
        let is_full = self
            .row
            .is_some_and(|(_since, requests, held)| requests == MOST || held + bytes > BYTES_MOST);
        if !shares || is_full {
            self.release(used);
        }
        if !shares {
            return;
        }
        if self.alone > 0 {
            self.alone -= 1;
            return;
        }
        let (_since, requests, held) = self.row.get_or_insert_with(|| {
            used.hold_calls();
            (Instant::now(), 0, 0)
        });
        *requests += 1;
        *held += bytes;
    }

    /// To be called before the thread may wait.
    pub(super) fn release(&mut self, used: &Used) {
        if let Some((since, _requests, _bytes)) = self.row.take() {
            used.release_calls();
            if since.elapsed() > FAST {
                self.alone = PENANCE;
            }
        }
    }
}

/// Whether the request takes no longer than its bytes where SOURCE is fast: what is known to wait goes to another
/// thread.
fn is_quick(head: &[u8]) -> bool {
    let opcode = request::header(head).map(|header| Opcode::from_raw(header.opcode));
    matches!(opcode, Ok(Some(Opcode::Read | Opcode::Write)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use thrufs_wire::abi::InHeader;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn head(opcode: Opcode) -> InHeader {
        let mut header = InHeader::new_zeroed();
        header.len = size_of::<InHeader>() as u32;
        header.opcode = opcode.as_raw();
        header
    }

    /// How many of `requests` READs of so many bytes are in the row after each.
    fn rows(calls: &mut Calls, requests: usize, bytes: usize) -> Vec<usize> {
        let used = Used::default();
        let head = head(Opcode::Read);
        let mut rows = Vec::new();
        for _ in 0..requests {
            calls.before(&used, head.as_bytes(), bytes, true);
            rows.push(calls.row.map_or(0, |(_since, requests, _bytes)| requests));
        }
        rows
    }

    #[test]
    fn row_ends_by_its_requests_and_by_its_bytes() {
        let by_requests = rows(&mut Calls::default(), 10, 4096);
        assert_eq!(by_requests, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]);
        let by_bytes = rows(&mut Calls::default(), 5, 30 << 10);
        assert_eq!(by_bytes, [1, 2, 1, 2, 1]);
        assert_eq!(rows(&mut Calls::default(), 3, BYTES_MOST + 1), [0, 0, 0]);
    }

    #[test]
    fn row_ends_before_what_may_wait_and_before_the_last_in_the_ring() {
        let used = Used::default();
        for (opcode, has_more) in [(Opcode::Fsync, true), (Opcode::Read, false)] {
            let mut calls = Calls::default();
            assert_eq!(rows(&mut calls, 3, 4096), [1, 2, 3]);
            calls.before(&used, head(opcode).as_bytes(), 4096, has_more);
            assert!(calls.row.is_none(), "{opcode:?}");
        }
    }

    #[test]
    fn row_that_was_slow_is_followed_by_requests_alone() {
        let mut calls = Calls::default();
        rows(&mut calls, 1, 4096);
        let slow = Instant::now().checked_sub(2 * FAST).unwrap();
        calls.row = Some((slow, MOST, 0));
        let after = rows(&mut calls, PENANCE + 3, 4096);
        assert_eq!(after.iter().filter(|row| **row == 0).count(), PENANCE);
        assert_eq!(after[PENANCE..], [1, 2, 3]);
    }
}
