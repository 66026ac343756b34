//! Executable specification of the FUSE write rules and of the page-lock protocols they rest on.
//!
//! Two things are stated here once, so that they can be run, checked, and compared with real kernels:
//!
//! - **the write rules**: [`plan()`] says which WRITEs one write(2) becomes under each
//!   [`WriteRule`], in which order and size, what stays locked during each, which READs precede it,
//!   and where user memory is faulted in. [`expected_writes`] is the same as `(offset, size)`
//!   pairs, to compare with the WRITEs that a server counts; [`apply`] also updates the cache, for sequences;
//!   [`table`] makes the tables;
//! - **the protocols**: ten [`models`], each one file that states the question, where it was
//!   asked, and the verdict, and then explores every state within its bounds: variants that must
//!   fail, with the shortest counterexample as an interleaving, and variants that must pass.
//!
//! The crate does no I/O and knows no file system. Invariant: nothing in it is a stored result;
//! what the tests compare with was measured. Why models, and not stress tests: the windows are a
//! few instructions wide, and "did not happen" proves nothing.
//!
//! # What was proposed, what was merged, what comes out
//!
//! Every system discussed in five pieces of mailing list and commit history: (1) FUSE write path
//! and `lock_page`, October 2020; (2) page lock handoff, August 2020; (3) commit 073861ed77b6; (4)
//! `wait_on_page_writeback`, January 2021; (5) bookmarks, March 2022. "Not modelled" is said where it holds.
//!
//! | | proposed | by | merged | our verdict |
//! |---|---|---|---|---|
//! | 1 | `hold-all`: multi-page WRITE, all pages locked until the reply | N. Piggin's `perform_write` | ea9b9907b82a (2.6.26), gone in 5.13 | M1: deadlock with itself and ABBA |
//! | 1 | unlock after each copy, lock all again before sending | V. Goyal, 15 October | no | M1 `relock`: a reader refills the page in between, the WRITE carries old bytes |
//! | 1 | `one-page` per WRITE | L. Torvalds, 15 October | no (still the rule without FUSE_BIG_WRITES) | M1: passes; [`table`]: 16 WRITEs instead of 1 |
//! | 1 | always unlock after the copy | L. Torvalds, M. Szeredi, 16 October | no | M1 `always-unlock`: stale cache |
//! | 1 | `A`: read partial pages first | V. Goyal, M. Wilcox | no | [`table`]: up to 2 READs more, also on O_WRONLY files |
//! | 1 | `B`: track partial writes, block readers | V. Goyal, 20 October | no | as B' in M1: passes, if it never faults in with its range in flight |
//! | 1 | `C`: tail locked, head read first | M. Szeredi, 21 October | no | [`table`]: one READ more |
//! | 1 | `D`: a partial page ends the request | V. Goyal, 21 October | 4f06dd92b5d0 (5.13, 5.10.36) | M1: passes; one WRITE more per unaligned write; see the limits below |
//! | 1 | `E`: head and tail locked, send on a failed copy | this project | needs faa794dd2e17 (6.16) | M1: passes; [`table`]: the minimum |
//! | 1 | E without its deadlock: FGP_NOWAIT under a locked head | this project | - | M1 `E-nowait`: passes; `E-notify-in-read`: waiting there deadlocks with a server that notifies from its READ handler |
//! | 1 | what if the WRITE fails? (D's open points 1 to 3) | V. Goyal, 21 October | 1a061c554253 (7.3) keeps uptodate | M9: ghost data and refused bytes; H passes |
//! | 1 | redirtied through a mapping: "two writes can go in any order" | V. Goyal, 21 October | as it is since 5.13 | M8: "we will just write same data twice" is wrong, the store is lost; G passes, and so does PG_writeback on the folios of the WRITE |
//! | - | FUSE's writeback by iomap | J. Koong | ef7e7cbb323f (6.17) | M10: zeroing beyond i_size loses an append under way; PG_writeback until i_size is raised passes, and so does not zeroing |
//! | 1 | a direct read during the WRITE | V. Goyal, 21 October | as it is | not modelled: no order is promised before write(2) returns |
//! | 1 | iomap for buffered writes | D. Chinner, 16 October | 6.17, writeback_cache only | not a rule of its own: write-through still is D |
//! | 1 | patches 1/4 and 2/4: lock in the callers of `__do_fault`, no lock and unlock around `page_mkwrite` | L. Torvalds, 13 October | no | not modelled: they do not change what is locked when it matters |
//! | 1 | patch 3/4: `do_cow_fault` copies unlocked | L. Torvalds | no | M7: a private copy survives truncation |
//! | 1 | patch 4/4: `map_pages` without the lock for private mappings | L. Torvalds | no; f9ce0be71d1f (5.12) kept the trylock | M6 `no-second-check`: ->mapping == NULL in a page table (K. Shutemov's point) |
//! | 1 | mapcount, then look again, then install | L. Torvalds, 14 October | no | M6: needs the look at the mapping and full barriers on both sides |
//! | 1 | the race with `try_to_unmap` | K. Shutemov, 15 October | - | not modelled apart: as with the trylock, the fault comes after it (L. Torvalds) |
//! | 1 | `page_add_file_rmap` without the lock for compound pages | M. Wilcox, 14 October | no | not modelled |
//! | 2 | pass PG_locked on, clear it late | L. Torvalds, H. Dickins | no | M5: lost wake-up unless cleared under the queue lock |
//! | 2 | the waker takes the lock for the waiter | L. Torvalds | 2a9127fcf229 (5.9) | M5: passes, no waiter is woken in vain |
//! | 2 | bounded unfairness | L. Torvalds | 5ef64cc8987a (5.9) | M5: passes, at most 5 defeats |
//! | 2 | SetPageWaiters after queueing (io_uring) | H. Dickins asks | as it was | M5: only its order against the trylock matters (`try-before-set-waiters` fails) |
//! | 3 | a page reference over end_page_writeback | H. Dickins | 073861ed77b6 (5.10); kept in `folio_end_writeback` | M2: passes; without it the reuse is woken |
//! | 3 | weaken the PageTail check in PageWaiters | M. Wilcox | no | M2 `no-reference`: the stale wake remains |
//! | 4 | `if` > `while` in wait_on_page_writeback | L. Torvalds | c2407cf7d22d (5.11) | M3: `if` fails, `while` passes |
//! | 4 | clear and wake in one step under the i_pages lock | H. Dickins | no | not modelled: M3 shows that `while` is enough |
//! | 4 | clear the bit and test waiters in one step | L. Torvalds' direction | 2580d554585c (6.7), the wake is still later | M3 `if-atomic`: not enough without `while` |
//! | 5 | wait bookmarks | 2554db916586, 11a19c7b099f (4.14) | removed by b0b598ee08f9, 37acade0ce89 (6.7) | M4: livelock; one pass under the lock ends |
//! | 5 | bookmarks for lock_page only | M. Wilcox | no | not modelled apart: lock waiters are handed the lock (M5), they do not requeue |
//! | 5 | put_and_wait_on_page_locked | H. Dickins | 9a1ea439b16b, bd8a1f3655a7 | not modelled: about reference counts, not wake-ups |
//! | 5 | the VFS waits for and sets writeback | M. Wilcox | no; b5612c368648 (6.8) made folio_start_writeback void | not modelled: S of M3 and P of M8 start it under the lock |
//!
//! # What the models say that the threads do not
//!
//! - **D leaves a hole for invalidation** (M1 `D-notify-any-time`, E and plain B' alike): an
//!   uptodate page is unlocked while its WRITE is out. If the server invalidates it then, from any
//!   thread, and a reader reads it before the WRITE is applied, the old bytes are uptodate in the
//!   cache after write(2) has returned. B' closes it if it records whole pages too, from the copy
//!   on.
//! - **B' can deadlock with itself** as hold-all does, if it faults in with its range in flight.
//! - **Handoff does not stop all theft** (M5): between unlock and the waker's walk a thief can take
//!   the lock under both commits of 5.9; what they bound is how often a waiter is *woken* in vain.
//! - **E is not shorter than D for every write**: with large folios (or a max_write that is no
//!   multiple of the page size) *and* a source that is not mapped it may lose what it saved. From
//!   mapped memory it always is the minimum, but for a dirty folio that is not uptodate, and (if it
//!   does not wait under a locked head) for a tail that is busy: there it goes as D.
//!
//! # How to check this in an hour
//!
//! 1. `xtests rules table`, against a count of WRITEs at your own server.
//! 2. [`plan()`] beside `fuse_fill_write_pages()`: one loop, one decision per rule at each of its
//!    points.
//! 3. `xtests rules list`: every variant, its verdict, the number of states.
//! 4. `xtests rules show M3 --variant if`, and the model's file beside the function it names. Each
//!    step of a thread is one atomic operation, or a stretch under one lock.
//!
//! # Limits
//!
//! A model claims nothing beyond its stated bounds: one or two pages, a handful of threads.
//! Signals, memory pressure and errors appear only where the question is about them. Steps are
//! sequentially consistent but in M6, which loom explores with the values that weaker orders allow.
//! State counts are exact up to a collision of 64-bit fingerprints.

pub mod cache;
#[cfg(feature = "models")]
mod explore;
#[cfg(feature = "models")]
pub mod models;
mod plan;
pub mod table;
mod write;

pub use cache::{CacheError, CacheState, Folio, FolioState, PAGE_SIZE};
#[cfg(feature = "models")]
pub use explore::{Exploration, Line, Trace, Unit};
pub use plan::{apply, expected_writes, plan};
pub use write::{
    Held, Limits, Request, RequestError, Source, Step, UnknownRule, WriteRequest, WriteRule,
};
