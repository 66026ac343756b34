//! M7: must the source page of a private write fault stay locked until the copy is installed?
//!
//! Source: L. Torvalds, patch 3/4 of October 2020, "do_cow_fault() does not need the source page to
//! be locked". truncate_pagecache() unmaps twice: after the size is set, and again after the pages
//! are gone, because "it is possible for private pages to be COWed" in between. The page lock is
//! what makes the second time the last word: a fault that passed the size check before truncation
//! got the lock has installed its copy before truncation can go on.
//!
//! Verdict: with 3/4 as posted the private copy can be installed after the second unmap, and stays,
//! beyond the end of the file, where an access should raise SIGBUS. Locked until installed passes;
//! so does a second look at the size under the page table lock. One unmap alone fails even with the
//! lock. Not merged: do_cow_fault() still holds the lock.
//!
//! Engine: stateright; all steps are under the page lock or the page table lock.

use std::fmt;

use super::model::{Model, fails, passes};
use crate::explore::{Moves, Protocol, explore};

pub(super) const MODEL: Model = Model {
    id: "M7",
    title: "private write fault against truncate",
    source: "patch 3/4 of October 2020; not merged",
    bounds: "1 page, 1 private write fault, 1 truncation to zero",
    variants: &[
        fails(
            "patch-3-of-4",
            "the source page is unlocked after the copy, before finish_fault()",
            || {
                explore(Fault {
                    unlocks_early: true,
                    rechecks: false,
                    unmaps_twice: true,
                })
            },
        ),
        fails(
            "one-unmap",
            "locked until installed, but truncation unmaps only the first time",
            || {
                explore(Fault {
                    unlocks_early: false,
                    rechecks: false,
                    unmaps_twice: false,
                })
            },
        ),
        passes("locked-until-installed", "mainline", || {
            explore(Fault {
                unlocks_early: false,
                rechecks: false,
                unmaps_twice: true,
            })
        }),
        passes(
            "recheck-under-ptl",
            "patch 3/4 with a second look at the size under the page table lock",
            || {
                explore(Fault {
                    unlocks_early: true,
                    rechecks: true,
                    unmaps_twice: true,
                })
            },
        ),
    ],
};

struct Fault {
    unlocks_early: bool,
    rechecks: bool,
    unmaps_twice: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum F {
    Find,
    Lock,
    Check,
    Copy,
    UnlockEarly,
    Install,
    Unlock,
    Done,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum T {
    Size,
    FirstUnmap,
    Lock,
    Remove,
    Unlock,
    SecondUnmap,
    Done,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    size: bool,
    cached: bool,
    locked: Option<char>,
    private_pte: bool,
    f: F,
    t: T,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, cached) = (u8::from(self.size), u8::from(self.cached));
        let (lock, pte) = (self.locked.unwrap_or('-'), u8::from(self.private_pte));
        write!(
            f,
            "pages={size} cached={cached} lock={lock} private_pte={pte}"
        )
    }
}

impl Protocol for Fault {
    type State = State;

    fn init(&self) -> Vec<State> {
        let (f, t) = (F::Find, T::Size);
        vec![State {
            size: true,
            cached: true,
            locked: None,
            private_pte: false,
            f,
            t,
        }]
    }

    fn moves(&self, state: &State, moves: &mut Moves<State>) {
        self.fault(state, moves);
        self.truncate(state, moves);
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let left = state.t == T::Done && state.private_pte;
        left.then_some(
            "truncation is over, and a private copy is mapped beyond the end of the file",
        )
    }

    fn finished(&self, state: &State) -> bool {
        state.f == F::Done && state.t == T::Done
    }
}

impl Fault {
    /// `do_cow_fault()`.
    fn fault(&self, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let does = match state.f {
            F::Find if state.cached => {
                to.f = F::Lock;
                "filemap_fault: finds the page"
            }
            F::Find => {
                to.f = F::Done;
                "filemap_fault: no page, beyond the size: SIGBUS"
            }
            F::Lock if state.locked.is_none() => {
                to.locked = Some('F');
                to.f = F::Check;
                "lock_page"
            }
            F::Check if state.size && state.cached => {
                to.f = F::Copy;
                "mapping and size are fine"
            }
            F::Check => {
                to.locked = None;
                to.f = F::Done;
                "truncated: unlock_page, SIGBUS"
            }
            F::Copy => {
                to.f = if self.unlocks_early {
                    F::UnlockEarly
                } else {
                    F::Install
                };
                "copy_user_highpage to the private page"
            }
            F::UnlockEarly => {
                to.locked = None;
                to.f = F::Install;
                "unlock_page, the copy is not installed yet"
            }
            F::Install => {
                to.private_pte = state.size || !self.rechecks;
                to.f = if self.unlocks_early {
                    F::Done
                } else {
                    F::Unlock
                };
                "finish_fault: installs the copy under the page table lock"
            }
            F::Unlock => {
                to.locked = None;
                to.f = F::Done;
                "unlock_page"
            }
            F::Lock | F::Done => return,
        };
        moves.add("F", does, to);
    }

    /// `truncate_setsize()`.
    fn truncate(&self, state: &State, moves: &mut Moves<State>) {
        let mut to = state.clone();
        let does = match state.t {
            T::Size => {
                to.size = false;
                to.t = T::FirstUnmap;
                "i_size_write(inode, 0)"
            }
            T::FirstUnmap => {
                to.private_pte = false;
                to.t = T::Lock;
                "unmap_mapping_range, private copies too"
            }
            T::Lock if state.locked.is_none() => {
                to.locked = Some('T');
                to.t = T::Remove;
                "truncate_inode_pages: lock_page"
            }
            T::Remove => {
                to.cached = false;
                to.t = T::Unlock;
                "removes the page, page->mapping = NULL"
            }
            T::Unlock => {
                to.locked = None;
                to.t = if self.unmaps_twice {
                    T::SecondUnmap
                } else {
                    T::Done
                };
                "unlock_page"
            }
            T::SecondUnmap => {
                to.private_pte = false;
                to.t = T::Done;
                "unmap_mapping_range again"
            }
            T::Lock | T::Done => return,
        };
        moves.add("T", does, to);
    }
}
