//! The variants of M1: which rule, whose pages are the source, and when the server notifies.

use super::setup::{Asks, Handler, Notify, Rule, Source, WritePath};
use super::state::What;
use crate::explore::{Exploration, explore};
use crate::models::model::{Model, fails, passes};

const INVAL: &[What] = &[What::Inval];
const STORE: &[What] = &[What::Store];
const EITHER: &[What] = &[What::Inval, What::Store];
const INVAL_IN_WRITE: &str = "the WRITE handler sends NOTIFY_INVAL_INODE";
const STORE_IN_WRITE: &str = "the WRITE handler sends NOTIFY_STORE";
const ANY_TIME: &str = "another thread of the server notifies, once";
const IN_READ: &str =
    "a READ handler sends NOTIFY_INVAL_INODE or _STORE for the other page; is there progress?";
const IN_GETATTR: &str =
    "the GETATTR handler sends NOTIFY_INVAL_INODE or _STORE; is there progress?";

pub(super) const MODEL: Model = Model {
    id: "M1",
    title: "the write path: locks held across fault and WRITE",
    source: "thread of October 2020; ea9b9907b82a (2.6.26), 4f06dd92b5d0 (5.13)",
    bounds: "2 files x 2 pages, 2 writers, 1 reader, 2 server workers; partial and whole pages, cold; with \
             notifications 1 writer, 1 READ of a page, 1 GETATTR",
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
        fails("D-notify-in-handler", INVAL_IN_WRITE, || {
            progress(Rule::D, Handler::Write, INVAL)
        }),
        fails("D-store-in-handler", STORE_IN_WRITE, || {
            progress(Rule::D, Handler::Write, STORE)
        }),
        fails("E-notify-in-handler", INVAL_IN_WRITE, || {
            progress(Rule::E, Handler::Write, INVAL)
        }),
        fails(
            "E-nowait-notify-in-handler",
            "the same, which FGP_NOWAIT does not mend",
            || progress(Rule::ENowait, Handler::Write, INVAL),
        ),
        fails(
            "E-notify-in-read",
            "a READ handler sends NOTIFY_INVAL_INODE for the other page",
            || progress(Rule::E, Handler::Read, INVAL),
        ),
        fails(
            "E-store-in-read",
            "a READ handler sends NOTIFY_STORE for the other page",
            || progress(Rule::E, Handler::Read, STORE),
        ),
        fails(
            "D-notify-in-each-read",
            "two READ handlers, each about the other's page",
            || progress(Rule::D, Handler::EachRead, INVAL),
        ),
        fails("D-notify-any-time", ANY_TIME, || {
            run(Rule::D, Source::Own, Notify::AnyTime)
        }),
        fails("E-notify-any-time", ANY_TIME, || {
            run(Rule::E, Source::Own, Notify::AnyTime)
        }),
        fails("B'-notify-any-time", ANY_TIME, || {
            run(Rule::B, Source::Own, Notify::AnyTime)
        }),
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
        passes(
            "E-nowait",
            "E with FGP_NOWAIT for further folios under a locked head",
            || both(Rule::ENowait),
        ),
        passes("B'", "a range in flight instead of locks", || both(Rule::B)),
        passes("B'-notify-in-handler", INVAL_IN_WRITE, || {
            run(
                Rule::B,
                Source::Own,
                Notify::InHandler(Handler::Write, INVAL),
            )
        }),
        passes("B'-store-in-handler", STORE_IN_WRITE, || {
            progress(Rule::B, Handler::Write, STORE)
        }),
        passes("D-notify-in-read", IN_READ, || {
            progress(Rule::D, Handler::Read, EITHER)
        }),
        passes("E-nowait-notify-in-read", IN_READ, || {
            progress(Rule::ENowait, Handler::Read, EITHER)
        }),
        passes("B'-notify-in-read", IN_READ, || {
            progress(Rule::B, Handler::Read, EITHER)
        }),
        passes("D-notify-in-getattr", IN_GETATTR, || {
            progress(Rule::D, Handler::Getattr, EITHER)
        }),
        passes("E-notify-in-getattr", IN_GETATTR, || {
            progress(Rule::E, Handler::Getattr, EITHER)
        }),
        passes("E-nowait-notify-in-getattr", IN_GETATTR, || {
            progress(Rule::ENowait, Handler::Getattr, EITHER)
        }),
        passes("B'-notify-in-getattr", IN_GETATTR, || {
            progress(Rule::B, Handler::Getattr, EITHER)
        }),
        passes(
            "B'-record-all-notify-any-time",
            "B' that records whole pages at the copy too",
            || run(Rule::BRecordAll, Source::Own, Notify::AnyTime),
        ),
    ],
};

fn run(rule: Rule, source: Source, notify: Notify) -> Exploration {
    explore(WritePath {
        rule,
        source,
        notify,
        asks: Asks::All,
    })
}

fn both(rule: Rule) -> Exploration {
    run(rule, Source::Either, Notify::Never)
}

/// Notifications from a handler; is there progress?
fn progress(rule: Rule, handler: Handler, what: &'static [What]) -> Exploration {
    explore(WritePath {
        rule,
        source: Source::Own,
        notify: Notify::InHandler(handler, what),
        asks: Asks::Progress,
    })
}
