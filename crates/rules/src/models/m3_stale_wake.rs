//! M3: is a waiter that was woken entitled to believe that writeback is over?
//!
//! Source: L. Torvalds and H. Dickins, 4 January 2021, and c2407cf7d22d (5.11), "mm: make
//! wait_on_page_writeback() wait for multiple pending writebacks". end_page_writeback() clears the
//! bit and wakes later, holding no page lock; in between another writer may set the bit again under
//! the page lock, and a waiter of that second writeback gets the first one's wake.
//!
//! Verdict: `if` fails. Clearing the bit and testing PG_waiters in one step (2580d554585c, 6.7)
//! does not save it: PG_waiters also stands for waiters of PG_locked. If H holds the page lock when
//! E clears the bit and a thread waits for that lock (L, or V itself), E goes and wakes, late. With
//! no holder, hence no lock waiter, it would be enough. `while` passes in both forms.
//!
//! Engine: stateright. All bits are in one word and changed by atomic operations, so each order is an interleaving.

use std::fmt;

use super::model::{Model, fails, passes};
use crate::explore::{Exploration, Moves, Protocol, explore};

pub(super) const MODEL: Model = Model {
    id: "M3",
    title: "stale wake: `if` against `while`",
    source: "thread of January 2021; c2407cf7d22d (5.11), 2580d554585c (6.7)",
    bounds: "1 page, 2 writebacks, 1 lock holder, 1 waiter for writeback, 1 waiter for the lock",
    variants: &[
        fails(
            "if",
            "5.9 to 5.10: clear, then test PG_waiters and wake; the waiter trusts the wake",
            || run(false, false, true),
        ),
        fails(
            "if-atomic",
            "clear and test in one step, wake later; a lock waiter has set PG_waiters",
            || run(true, false, true),
        ),
        passes(
            "if-atomic-alone",
            "the same with the lock free at first, so that no thread waits for it: shows the cause",
            || run(true, false, false),
        ),
        passes("while", "5.11: the waiter looks again", || {
            run(false, true, true)
        }),
        passes("while-atomic", "6.7 and later: both", || {
            run(true, true, true)
        }),
    ],
};

struct Wake {
    /// E clears PG_writeback and tests PG_waiters in one atomic operation.
    atomic: bool,
    /// V tests the bit again after it was woken.
    looks_again: bool,
    /// H holds the page lock at first, and L waits for it.
    lock_waiter: bool,
}

fn run(atomic: bool, looks_again: bool, lock_waiter: bool) -> Exploration {
    explore(Wake {
        atomic,
        looks_again,
        lock_waiter,
    })
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum End {
    Clear,
    /// The bit is clear; PG_waiters as seen in the same step, if it was.
    Delayed(Option<bool>),
    Done,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Start {
    Lock,
    Set,
    Unlock,
    Done,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Wait {
    Lock,
    AsleepOnLock,
    Test,
    Asleep,
    Woken,
    Bug,
    Unlock,
    Done,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    writeback: bool,
    waiters: bool,
    locked: bool,
    /// H has the page lock from the start.
    holds: bool,
    e: End,
    s: Start,
    second_ended: bool,
    v: Wait,
    l: Wait,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bit = |set: bool| u8::from(set);
        let (wb, waiters, locked) = (bit(self.writeback), bit(self.waiters), bit(self.locked));
        write!(
            f,
            "wb={wb} waiters={waiters} locked={locked} V={:?} L={:?}",
            self.v, self.l
        )
    }
}

impl State {
    fn unlock_page(&mut self) {
        self.locked = false;
        if self.waiters {
            for waiter in [&mut self.v, &mut self.l] {
                if *waiter == Wait::AsleepOnLock {
                    *waiter = Wait::Lock;
                }
            }
        }
        self.clear_waiters_if_none();
    }

    fn wake_for_writeback(&mut self) {
        if self.v == Wait::Asleep {
            self.v = Wait::Woken;
        }
        self.clear_waiters_if_none();
    }

    fn clear_waiters_if_none(&mut self) {
        let sleeps = |waiter| matches!(waiter, Wait::Asleep | Wait::AsleepOnLock);
        self.waiters &= sleeps(self.v) || sleeps(self.l);
    }
}

impl Protocol for Wake {
    type State = State;

    fn init(&self) -> Vec<State> {
        vec![State {
            writeback: true,
            waiters: false,
            locked: self.lock_waiter,
            holds: self.lock_waiter,
            e: End::Clear,
            s: Start::Lock,
            second_ended: false,
            v: Wait::Lock,
            l: if self.lock_waiter {
                Wait::Lock
            } else {
                Wait::Done
            },
        }]
    }

    fn moves(&self, state: &State, moves: &mut Moves<State>) {
        self.first_end(state, moves);
        second_writeback(state, moves);
        self.waiter(state, moves);
        lock_waiter(state, moves);
        if state.holds {
            let mut to = state.clone();
            to.holds = false;
            to.unlock_page();
            moves.add("H", "unlock_page(page)", to);
        }
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let bug = state.v == Wait::Bug;
        bug.then_some("V: BUG_ON(PageWriteback(page)) in write_cache_pages()")
    }

    fn finished(&self, state: &State) -> bool {
        let ended = state.e == End::Done && state.second_ended;
        ended && state.v == Wait::Done && state.l == Wait::Done
    }
}

impl Wake {
    fn first_end(&self, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        match state.e {
            End::Clear => {
                to.writeback = false;
                to.e = End::Delayed(self.atomic.then_some(state.waiters));
                let does = match self.atomic {
                    true => "end_page_writeback: clear PG_writeback and test PG_waiters",
                    false => "end_page_writeback: clear PG_writeback ... delayed",
                };
                moves.add("E", does, to);
            }
            End::Delayed(seen) => {
                to.e = End::Done;
                if seen.unwrap_or(state.waiters) {
                    to.wake_for_writeback();
                    moves.add("E", "wake_up_page(page, PG_writeback)", to);
                } else {
                    moves.add("E", "PG_waiters was clear: no wake", to);
                }
            }
            End::Done => {}
        }
    }

    fn waiter(&self, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let does = match state.v {
            Wait::Lock if !state.locked => {
                to.locked = true;
                to.v = Wait::Test;
                "lock_page(page)"
            }
            Wait::Lock => {
                to.waiters = true;
                to.v = Wait::AsleepOnLock;
                "lock_page(page): locked, SetPageWaiters, sleep"
            }
            Wait::Test if state.writeback => {
                to.waiters = true;
                to.v = Wait::Asleep;
                "wait_on_page_writeback: bit set, SetPageWaiters, sleep"
            }
            Wait::Woken if state.writeback && self.looks_again => {
                to.waiters = true;
                to.v = Wait::Asleep;
                "while (PageWriteback): set again, sleep again"
            }
            Wait::Test | Wait::Woken => {
                to.v = if state.writeback {
                    Wait::Bug
                } else {
                    Wait::Unlock
                };
                "BUG_ON(PageWriteback(page))"
            }
            Wait::Unlock => {
                to.unlock_page();
                to.v = Wait::Done;
                "unlock_page(page)"
            }
            Wait::AsleepOnLock | Wait::Asleep | Wait::Bug | Wait::Done => return,
        };
        moves.add("V", does, to);
    }
}

/// S starts the second writeback under the page lock, having found none; then that ends.
fn second_writeback(state: &State, moves: &mut Moves<State>) {
    let mut to = state.clone();
    match state.s {
        Start::Lock if !state.locked && !state.writeback => {
            to.locked = true;
            to.s = Start::Set;
            moves.add("S", "lock_page(page), finds no writeback", to);
        }
        Start::Set => {
            to.writeback = true;
            to.s = Start::Unlock;
            moves.add("S", "set_page_writeback(page)", to);
        }
        Start::Unlock => {
            to.unlock_page();
            to.s = Start::Done;
            moves.add("S", "unlock_page(page)", to);
        }
        Start::Done if !state.second_ended => {
            to.second_ended = true;
            to.writeback = false;
            to.wake_for_writeback();
            moves.add(
                "E2",
                "end_page_writeback of S's writeback: clear and wake",
                to,
            );
        }
        Start::Lock | Start::Done => {}
    }
}

fn lock_waiter(state: &State, moves: &mut Moves<State>) {
    let mut to = state.clone();
    let does = match state.l {
        Wait::Lock if state.locked => {
            to.waiters = true;
            to.l = Wait::AsleepOnLock;
            "lock_page(page): locked, SetPageWaiters, sleep"
        }
        Wait::Lock => {
            to.locked = true;
            to.l = Wait::Unlock;
            "lock_page(page)"
        }
        Wait::Unlock => {
            to.unlock_page();
            to.l = Wait::Done;
            "unlock_page(page)"
        }
        Wait::Test | Wait::AsleepOnLock | Wait::Asleep | Wait::Woken | Wait::Bug | Wait::Done => {
            return;
        }
    };
    moves.add("L", does, to);
}
