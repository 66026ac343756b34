//! M1: what may a writer hold while it faults in user memory, and while its WRITE is out?
//!
//! Source: Q. Cai, L. Torvalds, V. Goyal, M. Szeredi, 15 to 21 October 2020 ("Possible deadlock in
//! fuse write path"); ea9b9907b82a (2.6.26, the bug), 4f06dd92b5d0 (5.13, rule D). W1 writes both
//! pages of file A, W2 both of B. The source of the first page is always mapped; that of the second
//! is page 0 of the own file (self) or of the other (ABBA), and not mapped. R reads a page of A, S
//! asks for its attributes. N is a notification.
//!
//! Verdict: hold-all deadlocks with itself and with another writer. "Just always unlock the pages"
//! (the thread, 16 October) lets a reader fill a page that is half written with the old bytes, and
//! the cache stays stale. Locking all again before sending (15 October) fails too, and the WRITE
//! may carry the old bytes. one-page, D, E and B' pass; E needs "send on a failed copy", and so
//! does B', whose range in flight blocks its own fault as a lock would.
//!
//! With notifications: from the WRITE handler they deadlock with D and E, which hold a partial
//! page, not with B'. From the READ handler, about another page, they deadlock with E alone, which
//! waits for the tail with the head locked; E passes if it does not wait there (FGP_NOWAIT: busy or
//! no memory, send what there is). Two READ handlers, each about the other's page, deadlock with
//! each other under any rule and without any writer. From the GETATTR handler all pass, since no folio is locked for
//! it. NOTIFY_STORE waits as NOTIFY_INVAL_INODE does. A notification at any other time is harmless
//! to liveness, but removes an uptodate page whose WRITE is still out, and a reader brings the old
//! bytes back for good: so with D and E, and with B' unless it records every page when it copies.
//! The variants about handlers therefore ask for progress only.
//!
//! Engine: stateright. Folio locks and requests are the only communication.

use super::model::Model;
use crate::explore::{Moves, Protocol};

mod server;
mod setup;
mod state;
mod variants;

use server::notify;
use setup::{Asks, Handler, Notify, Rule, Source, WritePath};
use state::{At, Fetch, Op, READER, Request, Stage, State, WRITERS, What, page_name};

pub(super) const MODEL: Model = variants::MODEL;

impl Protocol for WritePath {
    type State = State;

    fn init(&self) -> Vec<State> {
        let shapes = [[false, false], [true, false], [true, true]];
        let mut states = Vec::new();
        for own in [true, false] {
            if self.source == if own { Source::Other } else { Source::Own } {
                continue;
            }
            for whole in shapes {
                for page in 0..2 {
                    self.start(&State::new(own, whole, page), &mut states);
                }
            }
        }
        states
    }

    fn moves(&self, state: &State, moves: &mut Moves<State>) {
        for who in 0..2 {
            self.writer(who, state, moves);
        }
        if state.reader.is_some() {
            self.fetch(READER, state, moves);
        }
        self.server(state, moves);
        if let Some(page) = state.notifying {
            notify(("N", What::Inval), (0, page), state, moves, |to| {
                to.notifying = (page == 0).then_some(1);
            });
        }
        if state.stats {
            let mut to = state.clone();
            to.stats = false;
            to.requests.push(Request {
                op: Op::Getattr,
                stage: Stage::Queued,
            });
            moves.add("S", "stat(2): sends GETATTR", to);
        }
    }

    fn violated(&self, state: &State) -> Option<&'static str> {
        let held = |who: usize| state.holds(who);
        let safe = matches!(
            self.rule,
            Rule::OnePage | Rule::D | Rule::E | Rule::ENowait | Rule::B
        );
        let faulting = |who: &usize| state.writers[*who].at == At::Fault;
        let unlocked = |who: &usize| state.writers[*who].fetch == Fetch::Look;
        if safe && (0..2).filter(faulting).filter(unlocked).any(held) {
            return Some("user memory is faulted in while a folio is locked");
        }
        if self.asks == Asks::Progress {
            return None;
        }
        let done = |who: usize| state.writers[who].at == At::Done && state.writers[who].writes;
        let stale = |who: usize| {
            state.pages[who]
                .iter()
                .any(|page| page.uptodate && !page.new)
        };
        if (0..2).any(|who| done(who) && !state.arrived(who)) {
            return Some(
                "write(2) has returned, and the server does not have its bytes: lost write",
            );
        }
        let shown = (0..2).any(|who| done(who) && stale(who));
        shown.then_some("write(2) has returned, and an uptodate page shows what was before it")
    }

    fn waiting(&self, state: &State) -> Vec<String> {
        state.waiting()
    }

    fn finished(&self, state: &State) -> bool {
        let written = state.writers.iter().all(|writer| writer.at == At::Done);
        let read = state.reader.is_none() && state.requests.is_empty();
        written && read && state.notifying.is_none() && !state.stats
    }

    fn reached(&self, state: &State) -> Option<bool> {
        Some(self.finished(state))
    }
}

impl WritePath {
    /// The layout with each notification that may be sent.
    fn start(&self, layout: &State, states: &mut Vec<State>) {
        let (handler, all) = match self.notify {
            Notify::InHandler(handler, all) => (Some(handler), all),
            Notify::Never | Notify::AnyTime => (None, &[What::Inval][..]),
        };
        for what in all {
            let mut state = layout.clone();
            state.notifying = (self.notify == Notify::AnyTime).then_some(0);
            state.stats = handler == Some(Handler::Getattr);
            state.what = *what;
            states.push(state);
        }
    }

    fn writer(&self, who: usize, state: &State, moves: &mut Moves<State>) {
        let writer = &state.writers[who];
        let (name, page) = (WRITERS[who], writer.next);
        let unmapped = page == 1 && !writer.mapped;
        let mut to = state.clone();
        if self.rule == Rule::ENowait && writer.at == At::Fill && state.holds(who) {
            // Whether the folio is busy, or memory is not available without waiting.
            to.writers[who].at = At::Send;
            let name_of = page_name(who, page);
            moves.add(
                name,
                format!("no {name_of} without waiting, sends what is filled"),
                to,
            );
            to = state.clone();
        }
        match writer.at {
            At::Fill if self.rule == Rule::HoldAll && unmapped => {
                to.writers[who].at = At::Fault;
                moves.add(name, "iov_iter_fault_in_readable, earlier pages locked", to);
            }
            At::Fill if state.pages[who][page].locked.is_none() => {
                to.pages[who][page].locked = Some(who);
                to.writers[who].at = At::Copy;
                moves.add(name, format!("locks {}", page_name(who, page)), to);
            }
            At::Copy if unmapped => {
                to.pages[who][page].locked = None;
                let sends = self.failed_copy_sends(who, &to);
                to.writers[who].at = if sends { At::Send } else { At::Fault };
                let then = if sends {
                    "sends what is filled"
                } else {
                    "faults in"
                };
                let name_of = page_name(who, page);
                moves.add(name, format!("copy fails, unlocks {name_of}, {then}"), to);
            }
            At::Copy => {
                self.copied(who, &mut to);
                moves.add(name, format!("copies into {}", page_name(who, page)), to);
            }
            At::Fault => self.fetch(who, state, moves),
            At::Send => self.send(who, state, moves),
            At::Fill | At::Wait | At::Done => {}
        }
    }

    /// fuse_send_write_pages().
    fn send(&self, who: usize, state: &State, moves: &mut Moves<State>) {
        let (from, page) = (state.writers[who].first, state.writers[who].next);
        let mut to = state.clone();
        if self.rule == Rule::Relock {
            let pages = &mut to.pages[who][from..page];
            if pages.iter().any(|page| page.locked.is_some()) {
                return;
            }
            pages.iter_mut().for_each(|page| page.locked = Some(who));
        }
        to.requests.push(Request {
            op: Op::Write {
                who,
                pages: (from, page),
            },
            stage: Stage::Queued,
        });
        if self.keeps_range() {
            (from..page).for_each(|page| to.writers[who].range[page] = true);
        }
        to.writers[who].at = At::Wait;
        moves.add(
            WRITERS[who],
            format!("sends WRITE of pages {from}..{page}"),
            to,
        );
    }

    fn keeps_range(&self) -> bool {
        matches!(self.rule, Rule::B | Rule::BFaultInFlight | Rule::BRecordAll)
    }

    fn failed_copy_sends(&self, who: usize, state: &State) -> bool {
        match self.rule {
            Rule::E | Rule::ENowait => state.holds(who),
            Rule::B | Rule::BRecordAll => state.writers[who].range.contains(&true),
            Rule::HoldAll | Rule::AlwaysUnlock | Rule::Relock | Rule::OnePage => false,
            Rule::D | Rule::EFaultLocked | Rule::BFaultInFlight => false,
        }
    }

    /// What stays locked and recorded after the copy, and whether the request ends.
    fn copied(&self, who: usize, to: &mut State) {
        let number = to.writers[who].next;
        let page = &mut to.pages[who][number];
        page.new = true;
        to.writers[who].filled[number] = true;
        page.uptodate |= to.whole[number] && !self.marks_on_reply();
        let uptodate = page.uptodate;
        let (locks, ends) = match self.rule {
            Rule::HoldAll => (true, false),
            Rule::AlwaysUnlock | Rule::Relock => (false, false),
            Rule::OnePage => (!uptodate, true),
            Rule::D => (!uptodate, !uptodate),
            Rule::E | Rule::ENowait | Rule::EFaultLocked => (!uptodate, false),
            Rule::B | Rule::BFaultInFlight | Rule::BRecordAll => {
                to.writers[who].range[number] |= !uptodate || self.rule == Rule::BRecordAll;
                (false, false)
            }
        };
        if !locks {
            page.locked = None;
        }
        to.writers[who].next += 1;
        to.writers[who].at = if ends || number == 1 {
            At::Send
        } else {
            At::Fill
        };
    }

    /// A page fault of a writer, or the reader's read: take the page, READ it if it is not uptodate.
    fn fetch(&self, who: usize, state: &State, moves: &mut Moves<State>) {
        let (name, file, number, fetch) = state.fetching(who);
        let page = &state.pages[file][number];
        let in_flight = state.writers[file].range[number];
        let called = page_name(file, number);
        let mut to = state.clone();
        match fetch {
            Fetch::Look if page.uptodate && (who == READER || page.locked.is_none()) => {
                to.fetched(who);
                let does = if who == READER { "reads" } else { "maps" };
                moves.add(name, format!("{does} {called}, which is uptodate"), to);
            }
            Fetch::Look if page.locked.is_some() => {}
            Fetch::Look if self.keeps_range() && in_flight => {
                to.set_fetch(who, Fetch::RangeInFlight);
                moves.add(
                    name,
                    format!("read_folio {called}: range in flight, waits"),
                    to,
                );
            }
            Fetch::Look => {
                to.pages[file][number].locked = Some(who);
                to.requests.push(Request {
                    op: Op::Read {
                        who,
                        page: (file, number),
                        seen: false,
                    },
                    stage: Stage::Queued,
                });
                to.set_fetch(who, Fetch::Reply);
                moves.add(name, format!("locks {called}, sends READ"), to);
            }
            Fetch::RangeInFlight if !in_flight => {
                to.set_fetch(who, Fetch::Look);
                moves.add(name, "range is over: AOP_TRUNCATED_PAGE, looks again", to);
            }
            Fetch::RangeInFlight | Fetch::Reply => {}
        }
    }
}
