//! The requests that are under way, by `unique`, so that one that is sent again after a death is not done twice.
//!
//! A request is noted when a session thread begins it ([`Journal::enter`]), with what it gives out:
//! lookups, a handle. What may not be repeated is noted before it is begun, with what was there
//! ([`Note::begin`], `ops/once.rs`). The answer takes the note away. So of a request that comes again, the
//! next server knows whether it was begun, and takes back what it gave out.
//!
//! Invariants: a lookup is counted before it is noted, and its note is gone before it is given back; a death between the
//! two leaves one lookup too many, never one too few: the kernel's inode stays usable. A handle is noted before it is
//! in the ledger. A request that was under way when two servers ended by their own fault gets EIO.
//!
//! Why by thread and not by an argument: forty operations would carry it, of which ten look at it.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::ledger::{LOOKUPS, Ledger, REQUESTS};

/// Words of a request.
const UNIQUE: usize = 0;
const OPCODE: usize = 1;
const BEGUN: usize = 2;
/// How many lookups are given out.
const COUNTED: usize = 3;
const FH: usize = 4;
const CRASHES: usize = 5;
const BEFORE: usize = 6;

/// `unique` of a slot that is free, and of one that a thread is just taking; the kernel's are even, from 2 on.
const FREE: u64 = 0;
const TAKEN: u64 = 1;
/// Deaths by a server's own fault with a request under way, after which that is not served.
const POISON: u64 = 2;
/// What the kernel sends again it sends first: when so many others have come, no thread has one of them yet to begin.
const OTHERS: usize = 4096;
/// Locks of appending WRITEs.
const APPENDING: usize = 64;

/// What is noted in `from` of requests under way, to a ledger without any. Slots that are free have no more than what was
/// there before, and are most of them.
pub(crate) fn copy_requests(from: &Ledger, to: &Ledger) {
    for slot in 0..REQUESTS {
        let words = from.request(slot);
        if words[UNIQUE].load(Ordering::Relaxed) <= TAKEN {
            continue;
        }
        let given = words[COUNTED].load(Ordering::Relaxed).min(LOOKUPS as u64);
        let lookups = &from.lookups(slot)[..given as usize];
        let copy = |from: &[AtomicU64], to: &[AtomicU64]| {
            for (from, to) in from.iter().zip(to) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        };
        copy(lookups, to.lookups(slot));
        copy(words, to.request(slot));
    }
}

/// What was there before a request.
pub(crate) type Before = [u64; 4];

thread_local! {
    /// The slot of the request that this thread serves, and what an earlier server noted when it began it.
    static CURRENT: Cell<Option<(usize, Option<Before>)>> = const { Cell::new(None) };
    /// The slot that this thread had last, or [`NONE`].
    static LAST: Cell<usize> = const { Cell::new(NONE) };
}

/// No slot.
const NONE: usize = usize::MAX;
/// The slot that the next thread begins with: each has one of its own, as a rule, whose line no other thread writes to.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// See the module.
pub(crate) struct Journal {
    ledger: Arc<Ledger>,
    /// False when `earlier` has none any more, as most of the time: no request takes the lock then.
    has_earlier: AtomicBool,
    earlier: Mutex<Earlier>,
    /// Held while an appending WRITE is done, so that its bytes are where the file ended. By inode.
    appending: [Mutex<()>; APPENDING],
}

/// What servers that died have left.
struct Earlier {
    /// Their slots, by `unique`.
    slots: HashMap<u64, usize>,
    /// Requests that have come since, and are none of them.
    others: usize,
    /// They may come again at any time until it is said that they have.
    is_told: bool,
}

impl Earlier {
    /// Takes the slot of the request `unique` out. Those of requests that were answered, and are never asked for again, are
    /// freed in the end.
    fn take(&mut self, unique: u64, ledger: &Ledger) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let found = self.slots.remove(&unique);
        self.others += usize::from(found.is_none());
        if self.others >= OTHERS && !self.is_told {
            self.free(ledger);
        }
        found
    }

    fn free(&mut self, ledger: &Ledger) {
        for (_, slot) in self.slots.drain() {
            ledger.request(slot)[UNIQUE].store(FREE, Ordering::Release);
        }
    }
}

/// A request under way; over when dropped.
#[derive(Debug)]
pub struct Noted<'a> {
    journal: &'a Journal,
    slot: usize,
}

/// A request that is served next.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    noted: Noted<'a>,
    before: Option<Before>,
    /// Two servers have ended by their own fault while they served it.
    pub(crate) is_poison: bool,
}

impl<'a> Entered<'a> {
    fn words(&self) -> &[AtomicU64] {
        self.noted.journal.words(self.noted.slot)
    }

    /// Takes back the handle that an earlier server gave out in answer to the request.
    pub(crate) fn take_handle(&self) -> Option<u64> {
        let word = &self.words()[FH];
        let fh = word.load(Ordering::Acquire);
        word.store(0, Ordering::Release);
        (fh != 0).then_some(fh)
    }

    /// Takes back one of the lookups that it gave out, and returns the inode.
    pub(crate) fn take_lookup(&self) -> Option<u64> {
        let noted = self.noted.journal.ledger.lookups(self.noted.slot);
        let count = &self.words()[COUNTED];
        loop {
            let last = count.load(Ordering::Acquire).checked_sub(1)?;
            // Another server's word: it may be any.
            let last = last.min(LOOKUPS as u64 - 1);
            count.store(last, Ordering::Release);
            let ino = noted[last as usize].load(Ordering::Acquire);
            if ino != 0 {
                return Some(ino);
            }
        }
    }

    /// From now on what this thread gives out is noted.
    pub(crate) fn serve(self) -> Noted<'a> {
        CURRENT.set(Some((self.noted.slot, self.before)));
        self.noted
    }
}

/// The note of the request that this thread serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note<'a> {
    journal: &'a Journal,
    slot: usize,
    before: Option<Before>,
}

impl Journal {
    /// That of a first server, or of one after another that has `crashed` or was killed.
    pub(crate) fn new(ledger: Arc<Ledger>, crashed: bool) -> Self {
        let mut slots = HashMap::new();
        for slot in 0..REQUESTS {
            let words = ledger.request(slot);
            match words[UNIQUE].load(Ordering::Relaxed) {
                FREE => {}
                TAKEN => words[UNIQUE].store(FREE, Ordering::Relaxed),
                unique => {
                    words[CRASHES].fetch_add(u64::from(crashed), Ordering::Relaxed);
                    slots.insert(unique, slot);
                }
            }
        }
        Self {
            ledger,
            has_earlier: AtomicBool::new(!slots.is_empty()),
            earlier: Mutex::new(Earlier {
                slots,
                others: 0,
                is_told: false,
            }),
            appending: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What servers that died have left may come again at any time, until [`Self::has_resumed`].
    pub(crate) fn is_told(&self) {
        self.earlier.lock().is_told = true;
    }

    /// All of it has come again that ever will.
    pub(crate) fn has_resumed(&self) {
        self.earlier.lock().free(&self.ledger);
    }

    fn words(&self, slot: usize) -> &[AtomicU64] {
        self.ledger.request(slot)
    }

    /// This thread serves the request `unique`; none while all slots are taken, and then it is served without.
    pub(crate) fn enter(&self, unique: u64, opcode: u32) -> Option<Entered<'_>> {
        let earlier = self.take_earlier(unique);
        let slot = earlier.or_else(|| self.take(unique, opcode))?;
        let journal = self;
        let mut entered = Entered {
            noted: Noted { journal, slot },
            before: None,
            is_poison: false,
        };
        if earlier.is_some() {
            let words = self.words(slot);
            let begun = words[BEGUN].load(Ordering::Acquire) == 1;
            let before = std::array::from_fn(|at| words[BEFORE + at].load(Ordering::Relaxed));
            entered.before = begun.then_some(before);
            entered.is_poison = words[CRASHES].load(Ordering::Relaxed) >= POISON;
        }
        Some(entered)
    }

    /// The slot of the request, if an earlier server has served it.
    fn take_earlier(&self, unique: u64) -> Option<usize> {
        if !self.has_earlier.load(Ordering::Acquire) {
            return None;
        }
        let mut earlier = self.earlier.lock();
        let found = earlier.take(unique, &self.ledger);
        if earlier.slots.is_empty() {
            self.has_earlier.store(false, Ordering::Release);
        }
        found
    }

    /// A slot for a new request.
    fn take(&self, unique: u64, opcode: u32) -> Option<usize> {
        let first = match LAST.get() {
            NONE => NEXT.fetch_add(1, Ordering::Relaxed) % REQUESTS,
            last => last,
        };
        let slot = (first..first + REQUESTS)
            .map(|at| at % REQUESTS)
            .find(|&at| {
                let word = &self.words(at)[UNIQUE];
                let order = Ordering::Relaxed;
                word.load(order) == FREE && word.compare_exchange(FREE, TAKEN, order, order).is_ok()
            })?;
        LAST.set(slot);
        let words = self.words(slot);
        for word in &words[BEGUN..=CRASHES] {
            word.store(0, Ordering::Relaxed);
        }
        words[OPCODE].store(u64::from(opcode), Ordering::Relaxed);
        words[UNIQUE].store(unique, Ordering::Release);
        Some(slot)
    }

    /// The note of the request that this thread serves, if it is noted.
    pub(crate) fn note(&self) -> Option<Note<'_>> {
        let (slot, before) = CURRENT.get()?;
        Some(Note {
            journal: self,
            slot,
            before,
        })
    }

    /// The kernel will hold one more lookup of `ino` by the answer. An answer has at most [`LOOKUPS`]: READDIRPLUS has as
    /// many as fit its buffer.
    pub(crate) fn counted(&self, ino: u64) {
        let Some(note) = self.note() else { return };
        let (count, lookups) = (&note.words()[COUNTED], self.ledger.lookups(note.slot));
        let at = count.load(Ordering::Relaxed);
        if let Some(word) = lookups.get(at as usize) {
            word.store(ino, Ordering::Release);
            count.store(at + 1, Ordering::Release);
        }
    }

    /// One of the lookups of `ino` is given back next.
    pub(crate) fn uncounted(&self, ino: u64) {
        let Some(note) = self.note() else { return };
        let (count, lookups) = (&note.words()[COUNTED], self.ledger.lookups(note.slot));
        let len = count.load(Ordering::Relaxed).min(LOOKUPS as u64);
        let is_it = |word: &AtomicU64| word.load(Ordering::Relaxed) == ino;
        // Most often the last one.
        if let Some(at) = lookups[..len as usize].iter().rposition(is_it) {
            lookups[at].store(0, Ordering::Release);
            if at as u64 + 1 == len {
                count.store(at as u64, Ordering::Release);
            }
        }
    }

    /// The answer gives out `fh`.
    pub(crate) fn opened(&self, fh: u64) {
        if let Some(note) = self.note() {
            note.words()[FH].store(fh, Ordering::Release);
        }
    }
}

impl<'a> Note<'a> {
    fn words(&self) -> &'a [AtomicU64] {
        self.journal.words(self.slot)
    }

    /// What an earlier server noted when it began this request; none if none has begun it.
    pub(crate) fn before(&self) -> Option<Before> {
        self.before
    }

    /// The request, which cannot be repeated, is begun next, and this is there now.
    pub(crate) fn begin(&self, before: Before) {
        let words = self.words();
        for (word, value) in words[BEFORE..].iter().zip(before) {
            word.store(value, Ordering::Relaxed);
        }
        words[BEGUN].store(1, Ordering::Release);
    }

    /// While this is held no other request appends to `ino`.
    pub(crate) fn append(&self, ino: u64) -> MutexGuard<'a, ()> {
        // Less than 64.
        self.journal.appending[(ino % APPENDING as u64) as usize].lock()
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        CURRENT.set(None);
        self.journal.words(self.slot)[UNIQUE].store(FREE, Ordering::Release);
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
