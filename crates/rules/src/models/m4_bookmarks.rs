//! M4: does wake_up_page_bit() come to an end if it drops the queue lock on the way?
//!
//! Source: M. Wilcox and L. Torvalds, 16 March 2022; bookmarks were added in 2554db916586 and
//! 11a19c7b099f (4.14) and removed in b0b598ee08f9 and 37acade0ce89 (6.7). To bound the hold time
//! the waker wakes a batch, leaves a bookmark in the queue and drops the lock. Writeback waiters
//! loop (`while`, M3): a waiter that finds the bit set again goes back to the tail, behind the bookmark.
//!
//! Verdict: with bookmarks the waker can walk for ever; the counterexample is a fair cycle. One
//! pass under the lock ends after as many wakes as there were waiters. That a waiter may be unlucky
//! for ever is true of both, and not the question here.
//!
//! Engine: the livelock needs "eventually" over cycles, which stateright does not look for; the
//! search for a fair endless run in `explore` does. The states are stateright's.

use std::fmt;

use super::model::{Model, fails, passes};
use crate::explore::{Moves, Protocol, explore};

pub(super) const MODEL: Model = Model {
    id: "M4",
    title: "wait bookmarks and livelock",
    source: "thread of March 2022; removed by b0b598ee08f9, 37acade0ce89 (6.7)",
    bounds: "1 page, 1 waker, wake batch 1, 2 waiters, endlessly many writebacks",
    variants: &[
        fails(
            "bookmark",
            "4.14 to 6.6: the queue lock is dropped between batches",
            || explore(Walk { bookmark: true }),
        ),
        passes(
            "one-pass",
            "6.7: the whole queue is walked under the lock",
            || explore(Walk { bookmark: false }),
        ),
    ],
};

struct Walk {
    bookmark: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Entry {
    V1,
    V2,
    Bookmark,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Waiter {
    Asleep,
    Woken,
    Done,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    writeback: bool,
    queue: Vec<Entry>,
    returned: bool,
    waiters: [Waiter; 2],
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [v1, v2] = self.waiters;
        let wb = u8::from(self.writeback);
        write!(f, "wb={wb} queue={:?} V1={v1:?} V2={v2:?}", self.queue)
    }
}

const WAITERS: [(&str, Entry); 2] = [("V1", Entry::V1), ("V2", Entry::V2)];

impl Protocol for Walk {
    type State = State;

    fn init(&self) -> Vec<State> {
        let queue = vec![Entry::V1, Entry::V2];
        let waiters = [Waiter::Asleep; 2];
        vec![State {
            writeback: false,
            queue,
            returned: false,
            waiters,
        }]
    }

    fn moves(&self, state: &State, moves: &mut Moves<State>) {
        self.wake_up_page_bit(state, moves);
        for (index, (name, entry)) in WAITERS.into_iter().enumerate() {
            if state.waiters[index] != Waiter::Woken {
                continue;
            }
            let mut to = state.clone();
            if state.writeback {
                to.queue.push(entry);
                to.waiters[index] = Waiter::Asleep;
                moves.add(
                    name,
                    "while (PageWriteback): set again, requeue at the tail",
                    to,
                );
            } else {
                to.waiters[index] = Waiter::Done;
                moves.add(name, "PG_writeback clear: done", to);
            }
        }
        let mut to = state.clone();
        to.writeback = !state.writeback;
        if state.writeback {
            // Its own walk of the queue is left out: it could only wake a waiter twice.
            moves.add("D", "the device is done: PG_writeback cleared", to);
        } else {
            moves.add("S", "starts writeback again: PG_writeback set", to);
        }
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let bookmarks = state
            .queue
            .iter()
            .filter(|entry| **entry == Entry::Bookmark)
            .count();
        let left = state.returned && bookmarks > 0;
        (left || bookmarks > 1).then_some("a bookmark is left in the queue")
    }

    fn finished(&self, _state: &State) -> bool {
        true
    }

    fn goal(&self) -> &'static str {
        "wake_up_page_bit() returns"
    }

    fn reached(&self, state: &State) -> Option<bool> {
        Some(state.returned)
    }
}

impl Walk {
    fn wake_up_page_bit(&self, state: &State, moves: &mut Moves<State>) {
        if state.returned {
            return;
        }
        let mut to = state.clone();
        if !self.bookmark {
            for entry in to.queue.drain(..) {
                wake(&mut to.waiters, entry);
            }
            to.returned = true;
            moves.add("E", "take q->lock, wake all, drop q->lock, return", to);
            return;
        }
        let at = state
            .queue
            .iter()
            .position(|entry| *entry == Entry::Bookmark);
        if let Some(at) = at {
            to.queue.remove(at);
        }
        let at = at.unwrap_or(0);
        if at < to.queue.len() {
            let entry = to.queue.remove(at);
            wake(&mut to.waiters, entry);
        }
        if at < to.queue.len() {
            to.queue.insert(at, Entry::Bookmark);
            moves.add(
                "E",
                "take q->lock, wake one, leave the bookmark, drop q->lock",
                to,
            );
        } else {
            to.returned = true;
            moves.add("E", "take q->lock, wake the last, drop q->lock, return", to);
        }
    }
}

fn wake(waiters: &mut [Waiter; 2], entry: Entry) {
    match entry {
        Entry::V1 => waiters[0] = Waiter::Woken,
        Entry::V2 => waiters[1] = Waiter::Woken,
        Entry::Bookmark => {}
    }
}
