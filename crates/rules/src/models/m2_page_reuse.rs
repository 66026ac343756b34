//! M2: may end_page_writeback() look at the page after it has cleared PG_writeback?
//!
//! Source: 073861ed77b6 (5.10), "mm: fix VM_BUG_ON(PageTail) and BUG_ON(PageWriteback)".
//! PageWriteback holds no page reference: as soon as the bit is clear, truncation may free the page
//! and another owner reuse it before wake_up_page() reads PG_waiters. Then the wake-up reaches the
//! waiters of the page's next life.
//!
//! Verdict: without a reference the waiter of the new use runs into BUG_ON(PageWriteback), and even
//! before that E reads flags of a page that is no longer its own. get_page() and put_page() around
//! both steps end it, although V waits with `if` (M3 shows why that is not enough elsewhere).
//!
//! Engine: stateright. PG_writeback and PG_waiters share one word, and the rest is under locks, so
//! interleavings are all there is; no memory ordering is in question.

use std::fmt;

use super::model::{Model, fails, passes};
use crate::explore::{Moves, Protocol, explore};

pub(super) const MODEL: Model = Model {
    id: "M2",
    title: "page reuse at the end of writeback",
    source: "073861ed77b6 (5.10), H. Dickins and M. Wilcox, August to November 2020",
    bounds: "1 page, 2 lives of it, 1 writeback in each, 1 waiter of the second",
    variants: &[
        fails(
            "no-reference",
            "end_page_writeback() holds no reference: a stale wake hits BUG_ON(PageWriteback)",
            || {
                explore(Reuse {
                    pinned: false,
                    touching_is_wrong: false,
                })
            },
        ),
        fails(
            "no-reference-touch",
            "the same, stopped where PG_waiters of another owner's page is read (PageTail)",
            || {
                explore(Reuse {
                    pinned: false,
                    touching_is_wrong: true,
                })
            },
        ),
        passes(
            "get-put",
            "get_page() before clearing the bit, put_page() after the wake",
            || {
                explore(Reuse {
                    pinned: true,
                    touching_is_wrong: true,
                })
            },
        ),
    ],
};

struct Reuse {
    pinned: bool,
    touching_is_wrong: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Owner {
    Old,
    Freed,
    New,
}

/// E: `end_page_writeback()` of the first life.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum End {
    Get,
    Clear,
    Wake,
    Put,
    Done,
}

/// T: truncates, then the page is allocated, dirtied and written back anew, and that ends too.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Truncate {
    Remove,
    Free,
    Reuse,
    Start,
    End,
    Done,
}

/// V: `write_cache_pages()` on the second life.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Wait {
    Test,
    Asleep,
    Woken,
    Bug,
    Done,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    owner: Owner,
    writeback: bool,
    waiters: bool,
    pinned: bool,
    touched: bool,
    e: End,
    t: Truncate,
    v: Wait,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, v, .. } = self;
        let bits = (
            u8::from(self.writeback),
            u8::from(self.waiters),
            u8::from(self.pinned),
        );
        write!(
            f,
            "page={owner:?} wb={} waiters={} pin={} V={v:?}",
            bits.0, bits.1, bits.2
        )
    }
}

impl State {
    fn wake_up_page(&mut self) {
        if self.waiters {
            self.waiters = false;
            if self.v == Wait::Asleep {
                self.v = Wait::Woken;
            }
        }
    }
}

impl Protocol for Reuse {
    type State = State;

    fn init(&self) -> Vec<State> {
        vec![State {
            owner: Owner::Old,
            writeback: true,
            waiters: false,
            pinned: false,
            touched: false,
            e: if self.pinned { End::Get } else { End::Clear },
            t: Truncate::Remove,
            v: Wait::Test,
        }]
    }

    fn moves(&self, state: &State, moves: &mut Moves<State>) {
        self.end_page_writeback(state, moves);
        truncate_and_reuse(state, moves);
        write_cache_pages(state, moves);
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        if state.v == Wait::Bug {
            return Some("V: BUG_ON(PageWriteback(page)) after wait_on_page_writeback()");
        }
        let touched = self.touching_is_wrong && state.touched;
        touched.then_some("E read PG_waiters of a page it does not hold: VM_BUG_ON(PageTail)")
    }

    fn finished(&self, state: &State) -> bool {
        state.e == End::Done && state.t == Truncate::Done && state.v == Wait::Done
    }
}

impl Reuse {
    fn end_page_writeback(&self, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let does = match state.e {
            End::Get => {
                to.pinned = true;
                to.e = End::Clear;
                "get_page(page)"
            }
            End::Clear => {
                to.writeback = false;
                to.e = End::Wake;
                "test_clear_page_writeback(page)"
            }
            End::Wake => {
                to.touched = state.owner != Owner::Old;
                to.wake_up_page();
                to.e = if self.pinned { End::Put } else { End::Done };
                "wake_up_page(page, PG_writeback)"
            }
            End::Put => {
                to.pinned = false;
                to.e = End::Done;
                "put_page(page)"
            }
            End::Done => return,
        };
        moves.add("E", does, to);
    }
}

fn truncate_and_reuse(state: &State, moves: &mut Moves<State>) {
    let mut to = state.clone();
    let does = match state.t {
        Truncate::Remove if !state.writeback => {
            to.t = Truncate::Free;
            "truncate: no writeback, delete from the page cache"
        }
        Truncate::Free if !state.pinned => {
            to.owner = Owner::Freed;
            // The free lists check that no flag is left.
            to.waiters = false;
            to.t = Truncate::Reuse;
            "last reference dropped, page freed"
        }
        Truncate::Reuse => {
            to.owner = Owner::New;
            to.t = Truncate::Start;
            "page allocated for another use, dirtied"
        }
        Truncate::Start => {
            to.writeback = true;
            to.t = Truncate::End;
            "set_page_writeback(page) for the new use"
        }
        Truncate::End => {
            to.writeback = false;
            to.wake_up_page();
            to.t = Truncate::Done;
            "end_page_writeback(page) of the new use"
        }
        Truncate::Remove | Truncate::Free | Truncate::Done => return,
    };
    moves.add("T", does, to);
}

fn write_cache_pages(state: &State, moves: &mut Moves<State>) {
    let mut to = state.clone();
    let does = match state.v {
        Wait::Test if state.owner == Owner::New && state.writeback => {
            to.waiters = true;
            to.v = Wait::Asleep;
            "if (PageWriteback) wait: SetPageWaiters, sleep"
        }
        Wait::Test if state.t == Truncate::Done => {
            to.v = Wait::Done;
            "no writeback to wait for"
        }
        Wait::Woken => {
            to.v = if state.writeback {
                Wait::Bug
            } else {
                Wait::Done
            };
            "BUG_ON(PageWriteback(page))"
        }
        Wait::Test | Wait::Asleep | Wait::Bug | Wait::Done => return,
    };
    moves.add("V", does, to);
}
