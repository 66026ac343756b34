//! M5: which thread gets the page lock when it is released, and how often may a woken waiter be robbed of it?
//!
//! Source: L. Torvalds and H. Dickins, 7 August 2020; 2a9127fcf229 and 5ef64cc8987a (5.9). The word
//! has PG_locked (L) and PG_waiters (W). A waiter, under the queue lock, sets W, tries L, and
//! queues. unlock clears L and tests W in one operation; if W was set it takes the queue lock and wakes.
//!
//! Verdict: trying L before setting W loses the wake-up: the unlock in between sees no waiter.
//! 2a9127 hands L to the first waiter as it wakes it, so none is woken in vain (a thief can still
//! take L before the waker gets to the queue; then no waiter is woken). 5ef64cc lets a woken waiter
//! race, and hands L over after five defeats. The handoff of August 2020, which passes L on without
//! ever clearing it, must clear it under the queue lock when it finds no taker; if W was set for
//! another reason (a thread waits for PG_writeback), a compare-and-exchange after dropping the lock
//! sees no difference, and the waiter that came in between sleeps for ever.
//!
//! Engine: stateright. L and W are bits of one word and every access is an atomic operation on it,
//! so coherence alone orders them: loom would find nothing that interleavings do not.

use std::fmt;

use super::model::{Model, fails, passes};
use crate::explore::{Exploration, Moves, Protocol, explore};

pub(super) const MODEL: Model = Model {
    id: "M5",
    title: "page-lock handoff and bounded unfairness",
    source: "thread of August 2020; 2a9127fcf229, 5ef64cc8987a (5.9)",
    bounds: "1 page, 1 holder, 2 waiters, 1 thief that takes the lock up to 7 times",
    variants: &[
        fails(
            "try-before-set-waiters",
            "the waiter tries the lock before it sets PG_waiters",
            || run(Handoff::Always, true),
        ),
        fails(
            "august-2020-late-clear",
            "L is passed on; with no taker it is cleared after q->lock was dropped",
            || {
                run(
                    Handoff::Pass {
                        clear_under_lock: false,
                    },
                    false,
                )
            },
        ),
        fails(
            "unfair-for-ever",
            "woken waiters always race, held to the bound of five",
            || run(Handoff::Never, false),
        ),
        passes(
            "august-2020",
            "L is passed on; with no taker it is cleared under q->lock",
            || {
                run(
                    Handoff::Pass {
                        clear_under_lock: true,
                    },
                    false,
                )
            },
        ),
        passes(
            "2a9127fcf229",
            "the waker takes L for the waiter: no waiter is woken in vain",
            || run(Handoff::Always, false),
        ),
        passes(
            "5ef64cc8987a",
            "a woken waiter races, after five defeats it is handed L",
            || run(Handoff::AfterDefeats, false),
        ),
    ],
};

/// sysctl_page_lock_unfairness.
const UNFAIRNESS: u8 = 5;
const STEALS: u8 = 7;
const NAMES: [&str; 4] = ["H", "A", "B", "K"];
const THIEF: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Handoff {
    Always,
    AfterDefeats,
    Never,
    /// unlock never clears L while W is set, but passes it on.
    Pass {
        clear_under_lock: bool,
    },
}

struct PageLock {
    handoff: Handoff,
    try_first: bool,
}

fn run(handoff: Handoff, try_first: bool) -> Exploration {
    explore(PageLock { handoff, try_first })
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum At {
    Start,
    /// Holds q->lock between its two steps.
    Queueing,
    Asleep,
    Woken,
    Owner,
    /// unlock saw W and goes for q->lock.
    Waking,
    /// August 2020: walked the queue, found no taker, dropped q->lock.
    LateClear,
    Done,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    locked: bool,
    waiters: bool,
    /// A thread sleeps on PG_writeback of this page: W stays set.
    writeback_waiter: bool,
    queue_lock: bool,
    queue: Vec<u8>,
    at: [At; 4],
    defeats: [u8; 4],
    steals: u8,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue: Vec<_> = self
            .queue
            .iter()
            .map(|who| NAMES[usize::from(*who)])
            .collect();
        let (l, w) = (u8::from(self.locked), u8::from(self.waiters));
        let defeats = &self.defeats[1..3];
        write!(
            f,
            "L={l} W={w} queue=[{}] defeats(A,B)={defeats:?}",
            queue.join(" ")
        )
    }
}

impl Protocol for PageLock {
    type State = State;

    fn init(&self) -> Vec<State> {
        let start = |writeback_waiter| State {
            locked: true,
            waiters: writeback_waiter,
            writeback_waiter,
            queue_lock: false,
            queue: Vec::new(),
            at: [At::Owner, At::Start, At::Start, At::Start],
            defeats: [0; 4],
            steals: 0,
        };
        vec![start(false), start(true)]
    }

    fn moves(&self, state: &State, moves: &mut Moves<State>) {
        for (who, at) in state.at.into_iter().enumerate() {
            match at {
                At::Start if who == THIEF => steal(state, moves),
                At::Start | At::Queueing => self.enqueue(who, state, moves),
                At::Woken => race(who, state, moves),
                At::Owner => self.unlock(who, state, moves),
                At::Waking if !state.queue_lock => self.wake(who, state, moves),
                At::LateClear => {
                    let mut to = state.clone();
                    to.locked = false;
                    to.at[who] = after_unlock(who, state);
                    moves.add(NAMES[who], "cmpxchg: word unchanged, clear L", to);
                }
                At::Asleep | At::Waking | At::Done => {}
            }
        }
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        if state.at.iter().filter(|at| **at == At::Owner).count() > 1 {
            return Some("two owners of the page lock");
        }
        let comes = |at: &At| matches!(at, At::Owner | At::Waking | At::LateClear | At::Woken);
        if !state.queue.is_empty() && !state.locked && !state.at.iter().any(comes) {
            return Some(
                "a waiter sleeps, L is clear, and no thread is about to wake it: lost wake-up",
            );
        }
        let allowed = match self.handoff {
            Handoff::Always | Handoff::Pass { .. } => 0,
            Handoff::AfterDefeats | Handoff::Never => UNFAIRNESS,
        };
        let robbed = state.defeats.iter().any(|defeats| *defeats > allowed);
        robbed.then_some("a woken waiter was robbed of the lock more often than promised")
    }

    fn finished(&self, state: &State) -> bool {
        let done = |who: usize| state.at[who] == At::Done;
        done(0) && done(1) && done(2) && matches!(state.at[THIEF], At::Start | At::Done)
    }
}

impl PageLock {
    /// `__lock_page`: under q->lock set W and try L, in the order that is the question.
    fn enqueue(&self, who: usize, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let first = state.at[who] == At::Start;
        if first && state.queue_lock {
            return;
        }
        to.queue_lock = first;
        to.at[who] = At::Queueing;
        let sets = first != self.try_first;
        to.waiters |= sets;
        let tries = !sets;
        if tries && !state.locked {
            to.locked = true;
            to.queue_lock = false;
            to.at[who] = At::Owner;
            moves.add(NAMES[who], "q->lock; L clear: takes the lock", to);
            return;
        }
        if !first {
            to.queue.push(who as u8);
            to.queue_lock = false;
            to.at[who] = At::Asleep;
        }
        let does = match (first, sets) {
            (true, true) => "takes q->lock, SetPageWaiters",
            (true, false) => "takes q->lock, trylock fails",
            (false, true) => "SetPageWaiters, queues, drops q->lock, sleeps",
            (false, false) => "trylock fails, queues, drops q->lock, sleeps",
        };
        moves.add(NAMES[who], does, to);
    }

    fn unlock(&self, who: usize, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let passes = matches!(self.handoff, Handoff::Pass { .. }) && state.waiters;
        to.locked = passes;
        to.at[who] = if state.waiters {
            At::Waking
        } else {
            after_unlock(who, state)
        };
        let does = match (passes, state.waiters) {
            (true, _) => "unlock_page: W set, keeps L to pass it on",
            (false, true) => "unlock_page: clears L, sees W",
            (false, false) => "unlock_page: clears L, no waiters",
        };
        moves.add(NAMES[who], does, to);
    }

    /// `wake_up_page_bit`: one walk under q->lock.
    fn wake(&self, who: usize, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        to.at[who] = after_unlock(who, state);
        let first = state.queue.first().map(|first| usize::from(*first));
        let passes = matches!(self.handoff, Handoff::Pass { .. });
        let does = match first {
            Some(_) if state.locked && !passes => "q->lock; L was taken meanwhile: wakes none",
            Some(first) if self.hands_over(state.defeats[first]) => {
                to.locked = true;
                to.queue.remove(0);
                to.at[first] = At::Owner;
                "q->lock; takes L for the first waiter and wakes it"
            }
            Some(first) => {
                to.queue.remove(0);
                to.at[first] = At::Woken;
                "q->lock; wakes the first waiter, which must race"
            }
            None if self.handoff
                == (Handoff::Pass {
                    clear_under_lock: false,
                }) =>
            {
                to.at[who] = At::LateClear;
                "q->lock; no taker; drops q->lock with L still set"
            }
            None if passes => {
                to.locked = false;
                "q->lock; no taker: clears L under q->lock"
            }
            None => "q->lock; no thread waits for L",
        };
        to.waiters = !to.queue.is_empty() || state.writeback_waiter;
        moves.add(NAMES[who], does, to);
    }

    fn hands_over(&self, defeats: u8) -> bool {
        match self.handoff {
            Handoff::Always | Handoff::Pass { .. } => true,
            Handoff::AfterDefeats => defeats >= UNFAIRNESS,
            Handoff::Never => false,
        }
    }
}

fn after_unlock(who: usize, state: &State) -> At {
    if who == THIEF && state.steals < STEALS {
        At::Start
    } else {
        At::Done
    }
}

fn steal(state: &State, moves: &mut Moves<State>) {
    if !state.locked {
        let mut to = state.clone();
        to.locked = true;
        to.steals += 1;
        to.at[THIEF] = At::Owner;
        moves.add(NAMES[THIEF], "trylock_page succeeds", to);
    }
}

fn race(who: usize, state: &State, moves: &mut Moves<State>) {
    let mut to = state.clone();
    if state.locked {
        to.defeats[who] += 1;
        to.at[who] = At::Start;
        moves.add(
            NAMES[who],
            "woken, but L is taken: defeated, tries again",
            to,
        );
    } else {
        to.locked = true;
        to.at[who] = At::Owner;
        moves.add(NAMES[who], "woken, takes L", to);
    }
}
