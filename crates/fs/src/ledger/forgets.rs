//! How far the FORGETs of each message are counted: they come once, so the next server goes on where this one died.
//!
//! Invariant: one is counted by one thread at a time, and what it changes is noted before: a server that dies in the
//! middle leaves to the next what there is to do.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{BUFFERS, COUNT_OR_FH, FORGET, FORGETS, ForgetPlace, Ledger};

/// The words for each buffer of messages: `unique` of the message, how many of its FORGETs are counted, and for the one
/// that is just being counted its descriptor, plus one, what is left of its lookups, and its number in the message.
pub(super) const MESSAGE: usize = 0;
pub(super) const COUNTED: usize = 1;
const UNDER_WAY: usize = 2;
const LEFT: usize = 3;
const NUMBER: usize = 4;

impl Ledger {
    /// How many of the FORGETs are counted in the message `unique`, which is in this buffer.
    pub fn forgets_counted(&self, buffer: usize, unique: u64) -> u64 {
        match self.forgets(buffer) {
            Some(words) if words[MESSAGE].load(Ordering::Acquire) == unique => {
                words[COUNTED].load(Ordering::Acquire)
            }
            _another => 0,
        }
    }

    /// The inode that descriptor `number` holds has `left` lookups after the FORGET at `place`. To be called while
    /// nothing else counts: a server that dies in here leaves to the next what there is to do.
    pub(crate) fn forget(&self, number: i32, left: u64, place: Option<ForgetPlace>) {
        let Some((words, place)) =
            place.and_then(|place| Some((self.forgets(place.buffer)?, place)))
        else {
            return self.set_left(number, left);
        };
        if words[MESSAGE].load(Ordering::Relaxed) != place.unique {
            // In this order: a message without a count has none that is counted.
            words[MESSAGE].store(0, Ordering::Release);
            words[COUNTED].store(0, Ordering::Release);
            words[MESSAGE].store(place.unique, Ordering::Release);
        }
        words[LEFT].store(left, Ordering::Release);
        words[NUMBER].store(place.number, Ordering::Release);
        let under_way = u64::from(number.cast_unsigned()) + 1;
        words[UNDER_WAY].store(under_way, Ordering::Release);
        self.set_left(number, left);
        words[COUNTED].store(place.number, Ordering::Release);
        words[UNDER_WAY].store(0, Ordering::Release);
    }

    /// Does what servers that died have left to do of their FORGETs.
    pub(crate) fn finish_forgets(&self) {
        for words in (0..BUFFERS).filter_map(|buffer| self.forgets(buffer)) {
            let under_way = words[UNDER_WAY].load(Ordering::Acquire);
            let number = under_way.checked_sub(1).map(i32::try_from);
            if let Some(Ok(number)) = number {
                self.set_left(number, words[LEFT].load(Ordering::Acquire));
                let counted = words[NUMBER].load(Ordering::Acquire);
                words[COUNTED].store(counted, Ordering::Release);
            }
            words[UNDER_WAY].store(0, Ordering::Release);
        }
    }

    fn set_left(&self, number: i32, left: u64) {
        match (left, self.entry(number)) {
            (0, _) => self.clear(number),
            (left, Some(words)) => words[COUNT_OR_FH].store(left, Ordering::Release),
            (_, None) => {}
        }
    }

    pub(super) fn forgets(&self, buffer: usize) -> Option<&[AtomicU64]> {
        let start = FORGETS + FORGET * buffer;
        (buffer < BUFFERS).then(|| &self.words.words()[start..start + FORGET])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::super::tests::entries;
    use super::*;

    #[test]
    fn finish_forgets_does_what_a_death_has_left() {
        let ledger = Ledger::for_tests(8);
        let place = |number| {
            Some(ForgetPlace {
                buffer: 0,
                unique: 8,
                number,
            })
        };
        assert!(ledger.set(3, entries()[0]) && ledger.set(4, entries()[0]));
        ledger.forget(3, 2, place(1));
        assert_eq!(
            (ledger.forgets_counted(0, 8), ledger.forgets_counted(0, 10)),
            (1, 0)
        );
        // A death before the count, and what is noted of it.
        let words = ledger.forgets(0).unwrap();
        ledger.set_left(3, 5);
        words[COUNTED].store(0, Ordering::Relaxed);
        words[UNDER_WAY].store(4, Ordering::Relaxed);
        ledger.finish_forgets();
        assert_eq!(ledger.forgets_counted(0, 8), 1);
        ledger.forget(4, 0, place(2));
        let left = ledger.entries().unwrap();
        let Entry::Inode { nlookup, .. } = left[0].1 else {
            panic!("{left:?}");
        };
        assert_eq!((left.len(), nlookup), (1, 2));
        ledger.finish_forgets();
        assert_eq!(ledger.entries().unwrap(), left);
    }
}
