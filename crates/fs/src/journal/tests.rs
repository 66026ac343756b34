//! A journal in one process: a server that dies is one whose requests are forgotten.

use super::*;

fn ledger() -> Arc<Ledger> {
    Arc::new(Ledger::for_tests(16))
}

#[test]
fn enter_after_a_death_gives_what_was_noted_once() {
    let ledger = ledger();
    let journal = Journal::new(Arc::clone(&ledger), false);
    let noted = journal.enter(8, 10).unwrap().serve();
    assert_eq!(journal.note().unwrap().before(), None);
    journal.note().unwrap().begin([1, 2, 3, 4]);
    journal.counted(77);
    journal.opened(5);
    // The thread dies.
    std::mem::forget(noted);
    let next = Journal::new(Arc::clone(&ledger), false);
    let other = next.enter(10, 10).unwrap();
    assert_eq!((other.take_handle(), other.take_lookup()), (None, None));
    assert!(!other.is_poison);
    drop(other.serve());
    let again = next.enter(8, 10).unwrap();
    assert_eq!((again.take_handle(), again.take_handle()), (Some(5), None));
    assert_eq!((again.take_lookup(), again.take_lookup()), (Some(77), None));
    let noted = again.serve();
    assert_eq!(next.note().unwrap().before(), Some([1, 2, 3, 4]));
    drop(noted);
    assert!(next.note().is_none());
    let answered = next.enter(8, 10).unwrap();
    assert_eq!(
        (answered.take_handle(), answered.take_lookup()),
        (None, None)
    );
}

#[test]
fn enter_of_what_was_under_way_in_two_crashes_is_poison_and_killed_servers_do_not_count() {
    let ledger = ledger();
    let mut crashes = 0;
    for crashed in [false, false, true, false, true] {
        crashes += u64::from(crashed);
        let journal = Journal::new(Arc::clone(&ledger), crashed);
        let entered = journal.enter(8, 10).unwrap();
        assert_eq!(entered.is_poison, crashes == POISON);
        std::mem::forget(entered.serve());
        CURRENT.set(None);
    }
}

#[test]
fn enter_of_more_than_there_are_slots_is_none_and_leaves_those_of_the_dead() {
    let ledger = ledger();
    let journal = Journal::new(Arc::clone(&ledger), false);
    let all: Vec<_> = (1..=REQUESTS as u64)
        .map(|unique| journal.enter(2 * unique, 10).unwrap())
        .collect();
    assert!(journal.enter(1 << 40, 10).is_none());
    std::mem::forget(all);
    let next = Journal::new(ledger, false);
    assert!(next.enter(1 << 40, 10).is_none());
    let earlier = next.enter(2, 10).unwrap();
    // The slots are all taken, and one of them is its own.
    assert!(earlier.take_lookup().is_none() && next.enter(2, 10).is_none());
}

/// Each death left some, and in the end requests were served without a note.
#[test]
fn enter_of_many_others_frees_what_is_never_asked_for() {
    let ledger = ledger();
    let journal = Journal::new(Arc::clone(&ledger), false);
    std::mem::forget(journal.enter(8, 10).unwrap().serve());
    let left = || {
        let slots = (0..REQUESTS).map(|slot| ledger.request(slot)[UNIQUE].load(Ordering::Relaxed));
        slots.filter(|unique| *unique == 8).count()
    };
    let next = Journal::new(Arc::clone(&ledger), false);
    for unique in 1..OTHERS as u64 {
        drop(next.enter(8 + 2 * unique, 10).unwrap().serve());
    }
    assert_eq!(left(), 1);
    drop(next.enter(2, 10).unwrap().serve());
    assert_eq!(left(), 0);
}

/// The queues of a device bring what was under way when they come to it.
#[test]
fn enter_of_many_others_frees_nothing_where_it_is_told() {
    let ledger = ledger();
    let journal = Journal::new(Arc::clone(&ledger), false);
    std::mem::forget(journal.enter(8, 10).unwrap().serve());
    let next = Journal::new(Arc::clone(&ledger), false);
    next.is_told();
    for unique in 1..2 * OTHERS as u64 {
        drop(next.enter(8 + 2 * unique, 10).unwrap().serve());
    }
    let is_kept = |slot| ledger.request(slot)[UNIQUE].load(Ordering::Relaxed) == 8;
    assert!((0..REQUESTS).any(is_kept));
    let taken = || ledger.request(LAST.get())[UNIQUE].load(Ordering::Relaxed);
    next.has_resumed();
    assert_eq!(taken(), FREE);
    let slots = (0..REQUESTS).map(|slot| ledger.request(slot)[UNIQUE].load(Ordering::Relaxed));
    assert_eq!(slots.filter(|unique| *unique != FREE).count(), 0);
}

/// READDIRPLUS: those that did not fit are given back, and the others when it comes again, each once.
#[test]
fn take_lookup_after_a_death_has_those_that_were_counted_and_not_given_back() {
    let ledger = ledger();
    let journal = Journal::new(Arc::clone(&ledger), false);
    let noted = journal.enter(8, 44).unwrap().serve();
    (1..=5).for_each(|ino| journal.counted(ino));
    [3, 5, 9].iter().for_each(|ino| journal.uncounted(*ino));
    journal.counted(4);
    std::mem::forget(noted);
    CURRENT.set(None);
    let next = Journal::new(Arc::clone(&ledger), false);
    let again = next.enter(8, 44).unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| again.take_lookup()).collect();
    taken.sort_unstable();
    assert_eq!(taken, [1, 2, 4, 4]);
    // Beyond all that there is room for.
    let noted = again.serve();
    (0..2 * LOOKUPS as u64).for_each(|ino| next.counted(1 + ino));
    std::mem::forget(noted);
    let words = ledger.request(LAST.get());
    assert_eq!(words[COUNTED].load(Ordering::Relaxed), LOOKUPS as u64);
    for count in [u64::MAX, LOOKUPS as u64] {
        words[COUNTED].store(count, Ordering::Relaxed);
        let next = Journal::new(Arc::clone(&ledger), false);
        let again = next.enter(8, 44).unwrap();
        let taken = std::iter::from_fn(|| again.take_lookup()).count();
        assert_eq!(taken, LOOKUPS);
        std::mem::forget(again);
    }
}
