//! The variants of M1: which rule, whose pages are the source, and when the server notifies.

use super::{Notify, Rule, Source, both, run};
use crate::explore::Exploration;
use crate::models::{Model, Variant, Verdict};

pub(in crate::models) const MODEL: Model = Model {
    id: "M1",
    title: "the write path: locks held across fault and WRITE",
    source: "thread of October 2020; ea9b9907b82a (2.6.26), 4f06dd92b5d0 (5.13)",
    bounds: "2 files x 2 pages, 2 writers, 1 reader, 2 server workers; partial and whole pages, cold",
    variants: &[
        fails("hold-all-self", "W1 writes A from a mapping of A", || {
            run(Rule::HoldAll, Source::Own, Notify::Never)
        }),
        fails(
            "hold-all-abba",
            "W1 writes A from B, W2 writes B from A",
            || run(Rule::HoldAll, Source::Other, Notify::Never),
        ),
        fails(
            "always-unlock",
            "every page is unlocked as soon as it is copied",
            || both(Rule::AlwaysUnlock),
        ),
        fails(
            "relock",
            "unlocked after each copy, all locked again before sending (15 October 2020)",
            || both(Rule::Relock),
        ),
        fails(
            "E-fault-locked",
            "E that faults in on a failed copy, the head still locked",
            || both(Rule::EFaultLocked),
        ),
        fails(
            "B'-fault-in-flight",
            "B' that faults in with its own range in flight",
            || both(Rule::BFaultInFlight),
        ),
        fails(
            "D-notify-in-handler",
            "the WRITE handler sends NOTIFY_INVAL_INODE",
            || run(Rule::D, Source::Own, Notify::InHandler),
        ),
        fails(
            "E-notify-in-handler",
            "the WRITE handler sends NOTIFY_INVAL_INODE",
            || run(Rule::E, Source::Own, Notify::InHandler),
        ),
        fails(
            "D-notify-any-time",
            "another thread of the server notifies, once",
            || run(Rule::D, Source::Own, Notify::AnyTime),
        ),
        fails(
            "E-notify-any-time",
            "another thread of the server notifies, once",
            || run(Rule::E, Source::Own, Notify::AnyTime),
        ),
        fails(
            "B'-notify-any-time",
            "another thread of the server notifies, once",
            || run(Rule::B, Source::Own, Notify::AnyTime),
        ),
        passes("one-page", "one page per WRITE", || both(Rule::OnePage)),
        passes(
            "D",
            "a partial page ends the request and stays locked",
            || both(Rule::D),
        ),
        passes(
            "E",
            "partial head and tail locked, a failed copy sends",
            || both(Rule::E),
        ),
        passes("B'", "a range in flight instead of locks", || both(Rule::B)),
        passes(
            "B'-notify-in-handler",
            "the WRITE handler sends NOTIFY_INVAL_INODE",
            || run(Rule::B, Source::Own, Notify::InHandler),
        ),
        passes(
            "B'-record-all-notify-any-time",
            "B' that records whole pages at the copy too",
            || run(Rule::BRecordAll, Source::Own, Notify::AnyTime),
        ),
    ],
};

const fn fails(name: &'static str, what: &'static str, run: fn() -> Exploration) -> Variant {
    Variant {
        name,
        expected: Verdict::Fails,
        what,
        run,
    }
}

const fn passes(name: &'static str, what: &'static str, run: fn() -> Exploration) -> Variant {
    Variant {
        name,
        expected: Verdict::Passes,
        what,
        run,
    }
}
