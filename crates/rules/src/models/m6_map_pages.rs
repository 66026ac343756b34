//! M6: can filemap_map_pages() install a page without its lock, and what must it order to do so?
//!
//! Source: L. Torvalds, "[PATCH 0/4] Some more lock_page work", patch 4/4 and 14 October 2020; K.
//! Shutemov on pages with ->mapping == NULL in a page table. The proposal: take the page table
//! lock, see that the page is not locked, raise the mapcount "(atomic and ordered)", see that it
//! still is not locked, and that the mapping is still there, install. Truncation takes the page
//! lock, and the page table lock only if it sees a mapcount. Never merged; f9ce0be71d1f (5.12) kept the trylock.
//!
//! Verdict: as posted (no mapcount before the checks) a truncated page is installed, by
//! interleaving alone. With the second look and acquire loads it still is: each side writes its own
//! word and reads the other's, which is store buffering. Full barriers on both sides end it. The
//! look at the mapping is needed as well. On x86 each locked instruction is such a barrier; a plain
//! atomic_inc() on arm64 is not.
//!
//! Engine: loom, because what each load may return is the question. What it counts is executions:
//! orders of steps times values of loads. Its SeqCst accesses are only acquire and release, its
//! fences are exact: so the fences are written as such, like smp_mb(). It explores no load that
//! runs ahead of its own program order into the future (load buffering), which no variant here depends on.

use std::sync::{Arc, Mutex as StdMutex};

use loom::sync::Mutex;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicBool, AtomicUsize, fence};

use super::model::{Model, fails, passes};
use crate::explore::{Exploration, Line, Trace, Unit};

pub(super) const MODEL: Model = Model {
    id: "M6",
    title: "map_pages without the page lock",
    source: "patch 4/4 of October 2020 and its thread; f9ce0be71d1f (5.12) kept the trylock",
    bounds: "1 page, 1 faulting thread, 1 truncating thread, all values the loads may return",
    variants: &[
        fails(
            "no-second-check",
            "as posted: looks once, then installs",
            || {
                run(Checks {
                    again: false,
                    mapping: true,
                    barriers: true,
                })
            },
        ),
        fails(
            "no-mapping-check",
            "looks at the lock twice, but not at page->mapping",
            || {
                run(Checks {
                    again: true,
                    mapping: false,
                    barriers: true,
                })
            },
        ),
        fails(
            "acquire-only",
            "all checks, ordered by lock_page's acquire and unlock_page's release alone",
            || {
                run(Checks {
                    again: true,
                    mapping: true,
                    barriers: false,
                })
            },
        ),
        passes(
            "full-barriers",
            "all checks, smp_mb() between own write and look at the other's on both sides",
            || {
                run(Checks {
                    again: true,
                    mapping: true,
                    barriers: true,
                })
            },
        ),
    ],
};

#[derive(Clone, Copy)]
struct Checks {
    again: bool,
    mapping: bool,
    barriers: bool,
}

struct Page {
    /// How often the lock was taken or dropped: odd is locked. A flag would not tell an old "not
    /// locked" from a new one.
    lock: AtomicUsize,
    mapcount: AtomicUsize,
    mapping: AtomicBool,
    /// The page table lock and the entry under it.
    pte: Mutex<bool>,
    log: StdMutex<Log>,
}

/// What was written so far, in the order of the execution, so that a stale load can be called one.
#[derive(Default)]
struct Log {
    lock: usize,
    mapcount: usize,
    truncated: bool,
    pte: bool,
    lines: Vec<Line>,
    /// Loads that returned an older value than was written by then.
    stale: usize,
}

impl Log {
    fn state(&self) -> String {
        let (locked, pte) = (self.lock % 2, u8::from(self.pte));
        let mapping = if self.truncated { "NULL" } else { "set" };
        format!(
            "written: locked={locked} mapcount={} mapping={mapping} pte={pte}",
            self.mapcount
        )
    }
}

impl Page {
    /// Notes a step. loom runs its threads one at a time, so the log's order is the execution's.
    fn note(&self, thread: &str, does: &str, change: impl FnOnce(&mut Log)) {
        let mut log = self
            .log
            .lock()
            .expect("no thread panics with the log locked");
        change(&mut log);
        let line = Line {
            thread: thread.to_owned(),
            does: does.to_owned(),
            state: log.state(),
        };
        log.lines.push(line);
    }

    /// Notes a load, and whether it returned an older value than was written by then.
    fn note_load(&self, thread: &str, does: &str, is_stale: impl FnOnce(&Log) -> bool) {
        let stale = is_stale(
            &self
                .log
                .lock()
                .expect("no thread panics with the log locked"),
        );
        let suffix = if stale { " (stale)" } else { "" };
        self.note(thread, &format!("{does}{suffix}"), |log| {
            log.stale += usize::from(stale);
        });
    }

    fn looks_locked(&self, check: &str) -> bool {
        let lock = self.lock.load(Acquire);
        let seen = if lock % 2 == 1 {
            "locked"
        } else {
            "not locked"
        };
        self.note_load("F", &format!("{check}: PageLocked? {seen}"), |log| {
            log.lock != lock
        });
        lock % 2 == 1
    }
}

fn run(checks: Checks) -> Exploration {
    let found: Arc<StdMutex<(u64, Option<Failure>)>> = Arc::default();
    let results = Arc::clone(&found);
    let mut builder = loom::model::Builder::new();
    // Whatever the environment says, the whole space is explored.
    builder.preemption_bound = None;
    builder.max_permutations = None;
    builder.max_duration = None;
    builder.checkpoint_file = None;
    builder.check(move || {
        let failure = execute(checks);
        let mut results = results
            .lock()
            .expect("no thread panics with the results locked");
        results.0 += 1;
        if let Some(failure) = failure {
            let best = results.1.as_ref().map(Failure::length);
            if best.is_none_or(|best| failure.length() < best) {
                results.1 = Some(failure);
            }
        }
    });
    let mut found = found
        .lock()
        .expect("no thread panics with the results locked");
    let (visited, failure) = (found.0, found.1.take());
    let counterexample = failure.map(|failure| failure.trace);
    Exploration {
        visited,
        unit: Unit::Executions,
        depth: 0,
        counterexample,
    }
}

struct Failure {
    stale: usize,
    trace: Trace,
}

impl Failure {
    /// The easiest to believe has the fewest stale loads, then the fewest steps.
    fn length(&self) -> (usize, usize) {
        (self.stale, self.trace.lines.len())
    }
}

/// One execution: the trace if a truncated page is left in the page table.
fn execute(checks: Checks) -> Option<Failure> {
    let page = Arc::new(Page {
        lock: AtomicUsize::new(0),
        mapcount: AtomicUsize::new(0),
        mapping: AtomicBool::new(true),
        pte: Mutex::new(false),
        log: StdMutex::default(),
    });
    let start = Log::default().state();
    let other = Arc::clone(&page);
    let fault = loom::thread::spawn(move || map_pages(&other, checks));
    truncate(&page, checks);
    fault.join().expect("map_pages does not panic");
    let installed = *page.pte.lock().expect("map_pages does not panic");
    let mut log = page
        .log
        .lock()
        .expect("no thread panics with the log locked");
    let stale = log.stale;
    let trace = installed.then(|| Trace {
        start,
        lines: std::mem::take(&mut log.lines),
        repeats_from: None,
        wrong: "truncation is over, and its page is still in a page table".to_owned(),
    });
    trace.map(|trace| Failure { stale, trace })
}

/// F: one page of `filemap_map_pages()`.
fn map_pages(page: &Page, checks: Checks) {
    let mut pte = page.pte.lock().expect("truncate does not panic");
    page.note("F", "takes the page table lock", |_| {});
    if page.looks_locked("first check") {
        return;
    }
    page.mapcount.fetch_add(1, Relaxed);
    page.note("F", "mapcount++", |log| log.mapcount += 1);
    if checks.barriers {
        fence(SeqCst);
    }
    let mapped = !(checks.again && page.looks_locked("second check"))
        && (!checks.mapping || has_mapping(page));
    if mapped {
        *pte = true;
        page.note("F", "installs the pte, drops the page table lock", |log| {
            log.pte = true;
        });
    } else {
        page.mapcount.fetch_sub(1, Relaxed);
        page.note("F", "mapcount--, drops the page table lock", |log| {
            log.mapcount -= 1;
        });
    }
}

fn has_mapping(page: &Page) -> bool {
    let set = page.mapping.load(Relaxed);
    let seen = if set {
        "page->mapping is set"
    } else {
        "page->mapping is NULL"
    };
    page.note_load("F", seen, |log| log.truncated == set);
    set
}

/// T: one page of `truncate_inode_pages()`.
fn truncate(page: &Page, checks: Checks) {
    page.lock.fetch_add(1, Acquire);
    page.note("T", "lock_page", |log| log.lock += 1);
    if checks.barriers {
        fence(SeqCst);
    }
    let mapcount = page.mapcount.load(Relaxed);
    let does = format!("page_mapped? mapcount reads {mapcount}");
    page.note_load("T", &does, |log| log.mapcount != mapcount);
    if mapcount > 0 {
        let mut pte = page.pte.lock().expect("map_pages does not panic");
        if std::mem::take(&mut *pte) {
            page.mapcount.fetch_sub(1, Relaxed);
            page.note("T", "page table lock: clears the pte", |log| {
                log.pte = false;
                log.mapcount -= 1;
            });
        }
    }
    page.mapping.store(false, Relaxed);
    page.note("T", "page->mapping = NULL", |log| log.truncated = true);
    page.lock.fetch_add(1, Release);
    page.note("T", "unlock_page", |log| log.lock += 1);
}
