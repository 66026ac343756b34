//! M9: what do readers see of a WRITE that failed?
//!
//! Source: measured on 6.1 to 7.3.4. 1a061c554253 (7.3) no longer clears uptodate when a WRITE
//! fails, which lost stores through mappings; so the refused bytes stay in an uptodate page. Beyond
//! the end of the file they become content when the file is extended by copy_file_range or
//! O_DIRECT, which do not zero the gap in the cache as write, ftruncate and fallocate do. Within
//! the file they are read at once.
//!
//! Verdict: 7.3.4 fails in both places; what 6.1 to 7.2 did passes here (it fails elsewhere: the
//! stores). H passes: on an error or a short reply drop the refused range,
//! truncate_pagecache_range() beyond the end, invalidate_inode_pages2_range() within. A store
//! through a mapping beyond the end, in its last page, is the other way to plant bytes there: then
//! each operation that extends must zero the gap, which 6.18 did for none, 7.3.4 does for three,
//! and H completed does for copy_file_range and O_DIRECT too.
//!
//! Engine: stateright, as a sequential search: one operation after the other in any order, until no
//! new state appears. inode_lock excludes all others, so there is nothing to interleave.

use std::fmt;

use super::model::{Model, fails, passes};
use crate::explore::{Exploration, Moves, Protocol, explore};

pub(super) const MODEL: Model = Model {
    id: "M9",
    title: "ghost data of a failed WRITE",
    source: "measured on 6.1 to 7.3.4; 1a061c554253 (7.3)",
    bounds: "2 pages of 2 cells, every sequence of operations of any length",
    variants: &[
        fails(
            "7.3.4-beyond-eof",
            "refused bytes beyond the end stay uptodate; only writes at the end fail",
            || run(OnError::Keep, Fails::Beyond, Gap::Usual, false),
        ),
        fails(
            "7.3.4-within-eof",
            "refused bytes within the file stay uptodate; only writes within it fail",
            || run(OnError::Keep, Fails::Within, Gap::Usual, false),
        ),
        fails(
            "6.18-store-beyond-eof",
            "no operation zeroes the gap; a store through a mapping put bytes there",
            || run(OnError::Drop, Fails::Both, Gap::Never, true),
        ),
        fails(
            "H-store-beyond-eof",
            "H without the gap: copy_file_range and O_DIRECT do not zero it",
            || run(OnError::Drop, Fails::Both, Gap::Usual, true),
        ),
        passes(
            "H",
            "the refused range is dropped (as, with other losses, in 6.1 to 7.2)",
            || run(OnError::Drop, Fails::Both, Gap::Usual, false),
        ),
        passes(
            "H-and-gap",
            "H, and every operation that extends zeroes the gap",
            || run(OnError::Drop, Fails::Both, Gap::Always, true),
        ),
    ],
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnError {
    Keep,
    Drop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fails {
    Beyond,
    Within,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    Never,
    /// By write, truncate and fallocate.
    Usual,
    Always,
}

struct Ghost {
    on_error: OnError,
    fails: Fails,
    gap: Gap,
    /// Stores through a mapping beyond the end, in the last page.
    stores: bool,
}

fn run(on_error: OnError, fails: Fails, gap: Gap, stores: bool) -> Exploration {
    explore(Ghost {
        on_error,
        fails,
        gap,
        stores,
    })
}

const CELLS: usize = 4;
/// Cells a page.
const CELLS_A_PAGE: usize = 2;

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    /// i_size in cells; the server's file is as long.
    size: usize,
    /// Content of each uptodate page.
    cache: [Option<[u8; CELLS_A_PAGE]>; CELLS / CELLS_A_PAGE],
    server: [u8; CELLS],
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |cell: &u8| if *cell == 0 { '0' } else { 'X' };
        let page = |page: &Option<[u8; 2]>| match page {
            Some(cells) => cells.iter().map(cell).collect::<String>(),
            None => "--".to_owned(),
        };
        let cache: String = self.cache.iter().map(page).collect();
        let server: String = self.server[..self.size].iter().map(cell).collect();
        write!(f, "i_size={} cache={cache} server={server}", self.size)
    }
}

impl State {
    fn cached(&mut self, cell: usize) -> Option<&mut u8> {
        let page = self.cache[cell / CELLS_A_PAGE].as_mut();
        page.map(|cells| &mut cells[cell % CELLS_A_PAGE])
    }

    /// Copies into the cache; a page written wholly becomes uptodate.
    fn copy_in(&mut self, from: usize, to: usize) {
        for page in from / CELLS_A_PAGE..=(to - 1) / CELLS_A_PAGE {
            let (first, end) = (page * CELLS_A_PAGE, (page + 1) * CELLS_A_PAGE);
            if from <= first && end <= to {
                self.cache[page] = Some([1; CELLS_A_PAGE]);
            }
        }
        for cell in from..to {
            if let Some(cached) = self.cached(cell) {
                *cached = 1;
            }
        }
    }

    fn drop_pages(&mut self, from: usize, to: usize) {
        if from < to {
            self.cache[from / CELLS_A_PAGE..=(to - 1) / CELLS_A_PAGE].fill(None);
        }
    }

    fn applied(&mut self, from: usize, to: usize) {
        self.server[from..to].fill(1);
        if from < to {
            self.size = self.size.max(to);
        }
    }

    fn zero_gap(&mut self, to: usize) {
        for cell in self.size..to {
            if let Some(cached) = self.cached(cell) {
                *cached = 0;
            }
        }
    }
}

impl Protocol for Ghost {
    type State = State;

    fn init(&self) -> Vec<State> {
        vec![State {
            size: 0,
            cache: [None; 2],
            server: [0; CELLS],
        }]
    }

    fn moves(&self, state: &State, moves: &mut Moves<State>) {
        for from in 0..CELLS {
            for to in from + 1..=CELLS {
                self.write(state, (from, to), moves);
                self.around_the_cache(state, (from, to), moves);
            }
        }
        self.resize(state, moves);
        read(state, moves);
        if self.stores {
            store_beyond_the_end(state, moves);
        }
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let shown = (0..state.size).any(|cell| {
            let page = state.cache[cell / CELLS_A_PAGE];
            page.is_some_and(|cells| cells[cell % CELLS_A_PAGE] != state.server[cell])
        });
        shown.then_some("read(2) returns from the cache what the server does not have")
    }

    fn finished(&self, _state: &State) -> bool {
        true
    }
}

impl Ghost {
    /// write(2): succeeds, comes short, or fails.
    fn write(&self, state: &State, (from, to): (usize, usize), moves: &mut Moves<State>) {
        for end in from..=to {
            let refused_beyond = end >= state.size;
            let may_fail = match self.fails {
                Fails::Beyond => refused_beyond,
                Fails::Within => to <= state.size,
                Fails::Both => true,
            };
            if end < to && !may_fail {
                continue;
            }
            let mut after = state.clone();
            if self.gap != Gap::Never {
                after.zero_gap(from);
            }
            after.copy_in(from, to);
            after.applied(from, end);
            if self.on_error == OnError::Drop {
                after.drop_pages(end, to);
            }
            let does = match end {
                end if end == to => format!("write [{from},{to}): all written"),
                end if end == from => format!("write [{from},{to}): the WRITE fails"),
                end => format!("write [{from},{to}): short, written to {end}"),
            };
            moves.add("app", does, after);
        }
    }

    /// copy_file_range and O_DIRECT: the server's file changes, the cached range is dropped.
    fn around_the_cache(&self, state: &State, range: (usize, usize), moves: &mut Moves<State>) {
        let (from, to) = range;
        for name in ["copy_file_range to", "O_DIRECT write"] {
            let mut after = state.clone();
            if self.gap == Gap::Always {
                after.zero_gap(from);
            }
            after.drop_pages(from, to);
            after.applied(from, to);
            moves.add("app", format!("{name} [{from},{to})"), after);
        }
    }

    /// ftruncate in both directions; fallocate extends as ftruncate does.
    fn resize(&self, state: &State, moves: &mut Moves<State>) {
        for size in 0..=CELLS {
            let mut after = state.clone();
            if size > state.size {
                if self.gap != Gap::Never {
                    after.zero_gap(size);
                }
            } else {
                after.server[size..].fill(0);
                for page in size.div_ceil(CELLS_A_PAGE)..after.cache.len() {
                    after.cache[page] = None;
                }
                // The rest of the last page; a page that starts at the new end is gone.
                if let Some(cached) = (size < CELLS).then(|| after.cached(size)).flatten() {
                    *cached = 0;
                }
            }
            after.size = size;
            let name = if size > state.size {
                "ftruncate or fallocate"
            } else {
                "ftruncate"
            };
            moves.add("app", format!("{name} to {size}"), after);
        }
    }
}

/// read(2) fills the cache, zeroes beyond the end.
fn read(state: &State, moves: &mut Moves<State>) {
    for page in 0..state.cache.len() {
        let first = page * CELLS_A_PAGE;
        if state.cache[page].is_none() && first < state.size {
            let mut after = state.clone();
            after.cache[page] = Some([state.server[first], state.server[first + 1]]);
            moves.add("app", format!("read of page {page}"), after);
        }
    }
}

fn store_beyond_the_end(state: &State, moves: &mut Moves<State>) {
    let mut after = state.clone();
    if state.size.is_multiple_of(CELLS_A_PAGE) {
        return;
    }
    if let Some(cached) = after.cached(state.size) {
        *cached = 1;
        let does = format!(
            "store through a mapping to cell {}, beyond the end",
            state.size
        );
        moves.add("app", does, after);
    }
}
