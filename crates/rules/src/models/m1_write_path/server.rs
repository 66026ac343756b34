//! The server of M1: two workers, and the notifications that a handler sends. Invariant: a notification waits
//! for the folio lock as a thread of the kernel would, with its request unanswered.

use super::setup::{Handler, Notify, WritePath};
use super::state::{Op, Request, Stage, State, What, page_name};
use crate::explore::Moves;

impl WritePath {
    /// Whether the handler of this request notifies: it does, it does not, or it may do either.
    fn notifies(&self, op: Op, state: &State) -> &'static [bool] {
        let Notify::InHandler(handler, _) = self.notify else {
            return &[false];
        };
        match (op, handler) {
            (Op::Write { .. }, Handler::Write)
            | (Op::Read { .. }, Handler::EachRead)
            | (Op::Getattr, Handler::Getattr) => &[true],
            (Op::Read { .. }, Handler::Read) if !state.notified => &[true, false],
            (Op::Write { .. } | Op::Read { .. } | Op::Getattr, _) => &[false],
        }
    }

    /// Two workers; each takes the oldest waiting request.
    pub(super) fn server(&self, state: &State, moves: &mut Moves<State>) {
        let is_queued = |request: &Request| request.stage == Stage::Queued;
        let oldest = state.requests.iter().position(is_queued);
        let taken = state.requests.iter().filter(|request| !is_queued(request));
        if let Some(index) = oldest.filter(|_| taken.count() < 2) {
            for notifies in self.notifies(state.requests[index].op, state) {
                let mut to = state.clone();
                let does = to.take(index, *notifies);
                moves.add("server", does, to);
            }
        }
        for (index, Request { op, stage }) in state.requests.iter().enumerate() {
            match *stage {
                Stage::Notify(page) => {
                    let sent = ("server", state.what);
                    notify(sent, (op.file(), page), state, moves, |to| {
                        to.notified(index, page);
                    });
                }
                Stage::Done => {
                    let mut to = state.clone();
                    let does = to.reply(index, self.marks_on_reply());
                    moves.add("server", does, to);
                }
                Stage::Queued => {}
            }
        }
    }
}

/// invalidate_inode_pages2_range() or fuse_notify_store(), one page: waits for the lock, removes or fills it.
pub(super) fn notify(
    (thread, what): (&'static str, What),
    (file, page): (usize, usize),
    state: &State,
    moves: &mut Moves<State>,
    then: impl Fn(&mut State),
) {
    if state.pages[file][page].locked.is_none() {
        let mut to = state.clone();
        to.notify(what, file, page);
        then(&mut to);
        let does = match what {
            What::Inval => "removes",
            What::Store => "fills",
        };
        let called = page_name(file, page);
        moves.add(thread, format!("{} {does} {called}", what.name()), to);
    }
}
