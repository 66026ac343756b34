//! M10: what does writeback of the file's last page do to an append that is under way?
//!
//! Source: measured on 6.18 and 7.3.4; since ef7e7cbb323f (6.17) FUSE's writeback is iomap's. W appends, by
//! write(2), to a page that is uptodate and that U stores to through a mapping; P is writeback, which
//! sync_file_range(2), syncfs(2), close(2) or the flusher starts. iomap_writeback_handle_eof() zeroes the folio
//! beyond i_size, under its lock, and fuse_perform_write() raises i_size when the last WRITE has been answered.
//!
//! Verdict: in between, the appended bytes are beyond i_size. Zeroed before the server has taken the WRITE,
//! they are lost there at once (`stock-server`); zeroed after it, they are lost in the cache, and with the
//! next writeback at the server too (`stock-cache`). The folio lock does not help, since it is given up before
//! i_size is raised (`hold-all`), and neither does fuse_set_nowrite(), which holds back the sending and not the
//! zeroing (`G`). Two things pass: not to zero (what is sent ends at i_size anyway; that bytes stored beyond
//! the end do not become content is the business of every operation that raises i_size, M9), and
//! PG_writeback on the folio from the copy until i_size is raised. Raised by the end of the whole write(2), as
//! today, and not before PG_writeback ends, it fails again.
//!
//! Engine: stateright. What is done under the folio lock is one step, unless the lock is kept.

use std::fmt;

use super::model::{Model, fails, passes};
use crate::explore::{Exploration, Moves, Protocol, explore};

pub(super) const MODEL: Model = Model {
    id: "M10",
    title: "an append and writeback of the page at the file's end",
    source: "measured on 6.18 and 7.3.4; since ef7e7cbb323f (6.17)",
    bounds: "1 uptodate page of 3 cells, 2 appends, 3 stores to its first cell, 2 workers, writeback as often \
             as dirty",
    variants: &[
        fails(
            "stock-server",
            "D since 6.17; looks at what the server has",
            || run(Guard::None, Zero::BeyondEnd, Looks::Server),
        ),
        fails(
            "stock-cache",
            "D since 6.17; looks at what read(2) returns while the server has the bytes",
            || run(Guard::None, Zero::BeyondEnd, Looks::Cache),
        ),
        fails(
            "hold-all",
            "the page stays locked until the reply, and i_size is raised after it",
            || run(Guard::PageLock, Zero::BeyondEnd, Looks::Both),
        ),
        fails("G", "fuse_set_nowrite() until the reply", || {
            run(Guard::Nowrite, Zero::BeyondEnd, Looks::Both)
        }),
        fails(
            "writeback-flag-size-late",
            "PG_writeback from the copy until the reply, i_size raised after it",
            || run(Guard::FlagThenSize, Zero::BeyondEnd, Looks::Both),
        ),
        passes(
            "writeback-flag",
            "PG_writeback from the copy until i_size is raised, which each reply does",
            || run(Guard::SizeThenFlag, Zero::BeyondEnd, Looks::Both),
        ),
        passes(
            "no-zeroing",
            "writeback does not zero beyond the end, as before 6.17",
            || run(Guard::None, Zero::Never, Looks::Both),
        ),
        passes("G-no-zeroing", "the same with G (M8)", || {
            run(Guard::Nowrite, Zero::Never, Looks::Both)
        }),
    ],
};

/// What the writer keeps from the copy on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    None,
    PageLock,
    /// From the sending on.
    Nowrite,
    /// PG_writeback, ended before i_size is raised.
    FlagThenSize,
    /// PG_writeback, ended after it.
    SizeThenFlag,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    BeyondEnd,
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    Server,
    /// Where the server has the bytes.
    Cache,
    Both,
}

struct Append {
    guard: Guard,
    zero: Zero,
    looks: Looks,
}

fn run(guard: Guard, zero: Zero, looks: Looks) -> Exploration {
    explore(Append { guard, zero, looks })
}

/// The first one is there from the start, each append adds one.
const CELLS: usize = 3;
const STORES: u8 = 3;

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum W {
    Copy,
    WaitWriteback,
    SetNowrite,
    Send,
    Wait,
    /// Answered; what is left is to raise i_size and to give up what is kept.
    Answered,
    Unmarked,
    Raised,
    Done,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum P {
    Idle,
    /// Found the file to end at this cell.
    Send(usize),
    Wait,
}

/// A WRITE at the server.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Slot {
    Free,
    /// From one cell up to another.
    Queued(usize, usize),
    /// The same, with the page's cells as they were when a worker took the request.
    Taken(usize, usize, [bool; CELLS]),
}

/// A cell is true if it holds what was stored or appended there, and false if it is zero.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    size: usize,
    page: [bool; CELLS],
    server: [bool; CELLS],
    /// Length of the server's file.
    len: usize,
    /// By U, whose page table entry is writable for as long.
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

impl State {
    /// Cells whose append has returned.
    fn returned(&self) -> std::ops::Range<usize> {
        1..if self.w == W::Raised {
            self.size - 1
        } else {
            self.size
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |cells: &[bool]| -> String {
            let cell = |cell: &bool| if *cell { 'X' } else { '0' };
            cells.iter().map(cell).collect()
        };
        let (dirty, wb) = (u8::from(self.dirty), u8::from(self.writeback));
        let (page, server) = (shown(&self.page), shown(&self.server[..self.len]));
        write!(
            f,
            "i_size={} page={page} server={server} dirty={dirty} wb={wb} W:{:?} P:{:?}",
            self.size, self.w, self.p
        )
    }
}

impl Protocol for Append {
    type State = State;

    fn init(&self) -> Vec<State> {
        let first = [true, false, false];
        vec![State {
            size: 1,
            page: first,
            server: first,
            len: 1,
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
        self.writeback(state, moves);
        store(state, moves);
        for slot in 0..2 {
            serve(slot, state, moves);
        }
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let lacks = |cells: &[bool]| state.returned().any(|cell| !cells[cell]);
        let at_server = lacks(&state.server);
        let at_cache = match self.looks {
            Looks::Cache => !at_server && lacks(&state.page),
            Looks::Server | Looks::Both => lacks(&state.page),
        };
        if self.looks != Looks::Cache && at_server {
            return Some("write(2) has returned, and the server has zeros for its bytes");
        }
        if self.looks != Looks::Server && at_cache {
            return Some("write(2) has returned, and an uptodate page has zeros for its bytes");
        }
        let rest = self.finished(state) && state.len != state.size;
        rest.then_some("all is at rest, and the server's file has another length")
    }

    fn waiting(&self, state: &State) -> Vec<String> {
        let mut waiting = Vec::new();
        if state.writeback && matches!(state.w, W::Copy | W::WaitWriteback) {
            waiting.push("W waits for PG_writeback".to_owned());
        }
        if state.nowrite && matches!(state.p, P::Send(_)) {
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

impl Append {
    fn flags(&self) -> bool {
        matches!(self.guard, Guard::FlagThenSize | Guard::SizeThenFlag)
    }

    /// write(2) at the end of the file, of one cell, and then another.
    fn write(&self, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let cell = state.size;
        let does = match state.w {
            W::Copy if !(self.flags() && state.writeback) => {
                to.page[cell] = true;
                to.locked = self.guard == Guard::PageLock;
                to.writeback |= self.flags();
                to.w = if self.flags() {
                    W::Send
                } else {
                    W::WaitWriteback
                };
                if self.flags() {
                    "write(2): copies its bytes beyond i_size, sets PG_writeback"
                } else {
                    "write(2): copies its bytes beyond i_size"
                }
            }
            W::WaitWriteback if !state.writeback => {
                to.w = if self.guard == Guard::Nowrite {
                    W::SetNowrite
                } else {
                    W::Send
                };
                "fuse_wait_on_folio_writeback: none"
            }
            W::SetNowrite if state.p != P::Wait => {
                to.nowrite = true;
                to.w = W::Send;
                "fuse_set_nowrite: none is out, no new writeback is sent"
            }
            W::Send => {
                to.slots[0] = Slot::Queued(cell, cell + 1);
                to.w = W::Wait;
                "sends WRITE"
            }
            W::Answered if self.guard == Guard::FlagThenSize => {
                to.writeback = false;
                to.w = W::Unmarked;
                "folio_end_writeback"
            }
            W::Answered | W::Unmarked => {
                to.size += 1;
                to.w = W::Raised;
                "raises i_size"
            }
            W::Raised => {
                to.writeback &= self.guard != Guard::SizeThenFlag;
                to.w = if to.size == CELLS { W::Done } else { W::Copy };
                "write(2) returns"
            }
            W::Copy | W::WaitWriteback | W::SetNowrite | W::Wait | W::Done => return,
        };
        moves.add("W", does, to);
    }

    /// P: iomap_writeback_folio() under the folio lock, then the sending.
    fn writeback(&self, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        match state.p {
            P::Idle if state.dirty && !state.locked && !state.writeback => {
                to.dirty = false;
                to.writeback = true;
                let mut does = "clears dirty, sets PG_writeback";
                if self.zero == Zero::BeyondEnd {
                    to.page[state.size..].fill(false);
                    does = "clears dirty, zeroes beyond i_size, sets PG_writeback";
                }
                to.p = P::Send(state.size);
                moves.add("P", does, to);
            }
            P::Send(end) if !state.nowrite => {
                to.slots[1] = Slot::Queued(0, end);
                to.p = P::Wait;
                moves.add(
                    "P",
                    format!("sends WRITE_CACHE of the cells before {end}"),
                    to,
                );
            }
            P::Idle | P::Send(_) | P::Wait => {}
        }
    }
}

/// A worker takes a request, copying the page as it then is; later it applies it and replies.
fn serve(slot: usize, state: &State, moves: &mut Moves<State>) {
    let mut to = state.clone();
    let whose = ["W", "P"][slot];
    match state.slots[slot] {
        Slot::Queued(from, end) => {
            to.slots[slot] = Slot::Taken(from, end, state.page);
            let content = if state.page[end - 1] {
                "its bytes"
            } else {
                "zeros"
            };
            moves.add(
                "server",
                format!("takes {whose}'s WRITE, with {content}"),
                to,
            );
        }
        Slot::Taken(from, end, cells) => {
            to.server[from..end].copy_from_slice(&cells[from..end]);
            to.len = to.len.max(end);
            to.slots[slot] = Slot::Free;
            if slot == 0 {
                to.w = W::Answered;
                to.locked = false;
                to.nowrite = false;
            } else {
                to.p = P::Idle;
                to.writeback = false;
            }
            moves.add("server", format!("applies {whose}'s WRITE, replies"), to);
        }
        Slot::Free => {}
    }
}

/// U: a store that faults waits for the folio lock and for PG_writeback, and dirties the page.
fn store(state: &State, moves: &mut Moves<State>) {
    let faults = !state.dirty;
    if state.stores < STORES && faults && !state.locked && !state.writeback {
        let mut to = state.clone();
        to.stores += 1;
        to.dirty = true;
        moves.add("U", "stores to the first cell through the mapping", to);
    }
}
