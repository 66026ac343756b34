//! M8: which of two WRITEs of the same page does the server apply last?
//!
//! Source: measured on 6.1 to 7.3.4 (the lost mmap store); possible since 4f06dd92b5d0 (5.13),
//! which unlocks an uptodate page before its synchronous WRITE is answered. W is a write(2) of
//! bytes A to an uptodate page, U a store of B to the same bytes through a shared mapping, P
//! writeback. The server has several workers, and each copies the data when it takes the request.
//!
//! Verdict: with the page unlocked, as under D, E and B' alike, P's newer WRITE can overtake W's
//! older one: the cache says B and is clean, the server has A, and fsync has nothing to do. A
//! server with one worker hides it, hold-all excludes it. G passes: wait for writeback, then
//! fuse_set_nowrite() until the reply. In the other order W waits for a writeback that its own
//! nowrite holds back: deadlock. PG_writeback on the folio passes as well, and stops no other page.
//!
//! Engine: stateright. Folio lock, writeback flag and the fuse_inode lock order all steps.

use std::fmt;

use super::model::{Model, fails, passes};
use crate::explore::{Exploration, Moves, Protocol, explore};

pub(super) const MODEL: Model = Model {
    id: "M8",
    title: "order of a synchronous WRITE and writeback",
    source: "measured on 6.1 to 7.3.4; since 4f06dd92b5d0 (5.13)",
    bounds: "1 uptodate page, 1 write(2), 2 stores through a mapping, writeback as often as dirty",
    variants: &[
        fails(
            "unlocked",
            "D, E and B': an uptodate page is unlocked during its WRITE, 2 workers",
            || run(Guard::None, 2),
        ),
        fails(
            "G-reversed",
            "fuse_set_nowrite() before the wait for writeback",
            || run(Guard::NowriteThenWait, 2),
        ),
        passes(
            "unlocked-one-worker",
            "the same with a single-threaded server, which hides it",
            || run(Guard::None, 1),
        ),
        passes("hold-all", "the page stays locked until the reply", || {
            run(Guard::PageLock, 2)
        }),
        passes(
            "G",
            "wait for writeback, then fuse_set_nowrite() until the reply",
            || run(Guard::WaitThenNowrite, 2),
        ),
        passes(
            "writeback-flag",
            "PG_writeback on the folio from the copy until the reply",
            || run(Guard::WritebackFlag, 2),
        ),
    ],
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    None,
    PageLock,
    WaitThenNowrite,
    NowriteThenWait,
    /// PG_writeback on the folio.
    WritebackFlag,
}

struct Order {
    guard: Guard,
    workers: usize,
}

fn run(guard: Guard, workers: usize) -> Exploration {
    explore(Order { guard, workers })
}

const STORES: u8 = 2;

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum W {
    Copy,
    WaitWriteback,
    SetNowrite,
    Drain,
    Send,
    Wait,
    Done,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum P {
    Idle,
    Send,
    Wait,
}

/// A WRITE at the server.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Slot {
    Free,
    Queued,
    /// A worker has copied these bytes out of the page.
    Taken(char),
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    page: char,
    server: char,
    dirty: bool,
    writeback: bool,
    locked: bool,
    nowrite: bool,
    w: W,
    p: P,
    stores: u8,
    /// W's request and P's.
    slots: [Slot; 2],
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dirty, wb) = (u8::from(self.dirty), u8::from(self.writeback));
        let [w, p] = self.slots;
        let (page, server) = (self.page, self.server);
        write!(
            f,
            "page={page} server={server} dirty={dirty} wb={wb} W:{w:?} P:{p:?}"
        )
    }
}

impl Protocol for Order {
    type State = State;

    fn init(&self) -> Vec<State> {
        vec![State {
            page: '0',
            server: '0',
            dirty: false,
            writeback: false,
            locked: false,
            nowrite: false,
            w: W::Copy,
            p: P::Idle,
            stores: 0,
            slots: [Slot::Free; 2],
        }]
    }

    fn moves(&self, state: &State, moves: &mut Moves<State>) {
        self.write(state, moves);
        writeback(state, moves);
        store(state, moves);
        for slot in 0..2 {
            self.serve(slot, state, moves);
        }
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let quiet = state.w == W::Done && state.p == P::Idle && !state.dirty && !state.writeback;
        (quiet && state.page != state.server).then_some(
            "all is at rest, the page is clean, and the server has other bytes: lost store",
        )
    }

    fn waiting(&self, state: &State) -> Vec<String> {
        let mut waiting = Vec::new();
        if state.w == W::WaitWriteback && state.writeback {
            waiting.push("W waits for PG_writeback".to_owned());
        }
        if state.p == P::Send && state.nowrite {
            waiting.push("P's WRITE_CACHE waits for W's fuse_release_nowrite".to_owned());
        }
        waiting
    }

    fn finished(&self, state: &State) -> bool {
        state.w == W::Done && state.p == P::Idle && !state.dirty
    }

    fn reached(&self, state: &State) -> Option<bool> {
        Some(self.finished(state))
    }
}

impl Order {
    /// `fuse_fill_write_pages()` and `fuse_send_write_pages()` for one page.
    fn write(&self, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let does = match state.w {
            W::Copy if self.guard == Guard::WritebackFlag => {
                if state.writeback {
                    return;
                }
                to.page = 'A';
                to.writeback = true;
                to.w = W::Send;
                "write(2): copies A into the page, sets PG_writeback"
            }
            W::Copy if !state.locked => {
                to.page = 'A';
                to.locked = self.guard == Guard::PageLock;
                to.w = if self.guard == Guard::NowriteThenWait {
                    W::SetNowrite
                } else {
                    W::WaitWriteback
                };
                "write(2): copies A into the page"
            }
            W::WaitWriteback if !state.writeback => {
                to.w = if self.guard == Guard::WaitThenNowrite {
                    W::SetNowrite
                } else {
                    W::Send
                };
                "fuse_wait_on_folio_writeback: none"
            }
            W::SetNowrite => {
                to.nowrite = true;
                to.w = W::Drain;
                "fuse_set_nowrite: no new writeback is sent"
            }
            W::Drain if state.p != P::Wait => {
                to.w = if self.guard == Guard::NowriteThenWait {
                    W::WaitWriteback
                } else {
                    W::Send
                };
                "fuse_set_nowrite: none is out"
            }
            W::Send => {
                to.slots[0] = Slot::Queued;
                to.w = W::Wait;
                "sends WRITE"
            }
            W::Copy | W::WaitWriteback | W::Drain | W::Wait | W::Done => return,
        };
        moves.add("W", does, to);
    }

    /// A worker takes a request, copying the page as it then is; later it applies it and replies.
    fn serve(&self, slot: usize, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let whose = ["W", "P"][slot];
        let busy = state
            .slots
            .iter()
            .filter(|slot| matches!(slot, Slot::Taken(_)))
            .count();
        match state.slots[slot] {
            Slot::Queued if busy < self.workers => {
                to.slots[slot] = Slot::Taken(state.page);
                let does = format!("takes {whose}'s WRITE, which carries {}", state.page);
                moves.add("server", does, to);
            }
            Slot::Taken(bytes) => {
                to.server = bytes;
                to.slots[slot] = Slot::Free;
                if slot == 0 {
                    to.w = W::Done;
                    to.locked = false;
                    to.nowrite = false;
                    to.writeback &= self.guard != Guard::WritebackFlag;
                } else {
                    to.p = P::Idle;
                    to.writeback = false;
                }
                moves.add("server", format!("applies {whose}'s {bytes}, replies"), to);
            }
            Slot::Free | Slot::Queued => {}
        }
    }
}

/// P: writeback of the page, as often as it is dirty.
fn writeback(state: &State, moves: &mut Moves<State>) {
    let mut to = state.clone();
    match state.p {
        P::Idle if state.dirty && !state.locked && !state.writeback => {
            to.dirty = false;
            to.writeback = true;
            to.p = P::Send;
            moves.add("P", "clears dirty, sets writeback, queues WRITE_CACHE", to);
        }
        P::Send if !state.nowrite => {
            to.slots[1] = Slot::Queued;
            to.p = P::Wait;
            moves.add("P", "sends WRITE_CACHE", to);
        }
        P::Idle | P::Send | P::Wait => {}
    }
}

/// U: a store to a page that is not dirty faults, and page_mkwrite waits for the lock and for writeback; to
/// one that is dirty it is a plain store.
fn store(state: &State, moves: &mut Moves<State>) {
    if state.stores < STORES && (state.dirty || (!state.locked && !state.writeback)) {
        let mut to = state.clone();
        to.stores += 1;
        to.page = if state.stores == 0 { 'B' } else { 'C' };
        to.dirty = true;
        moves.add("U", format!("stores {} through the mapping", to.page), to);
    }
}
