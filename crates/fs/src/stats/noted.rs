//! What a thread did for the operation that it serves, noted where no [`super::Stats`] is known.

use std::cell::Cell;

thread_local! {
    /// pwritev2(2) calls that this thread made and that no [`Stats`] has counted yet.
    static PWRITEV2: Cell<u64> = const { Cell::new(0) };
    /// The same of flushes for WRITEs.
    static FLUSHES: Cell<u64> = const { Cell::new(0) };
}

/// Notes one pwritev2(2): by who makes the call and knows no [`Stats`]. It is counted when the
/// operation that this thread serves ends.
pub(crate) fn note_pwritev2() {
    PWRITEV2.set(PWRITEV2.get() + 1);
}

/// Notes one call that makes WRITEs durable, counted likewise.
pub(crate) fn note_flush() {
    FLUSHES.set(FLUSHES.get() + 1);
}

/// Takes over what this thread has noted: pwritev2(2) calls and flushes.
pub(super) fn take() -> (u64, u64) {
    (PWRITEV2.take(), FLUSHES.take())
}
