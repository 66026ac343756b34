//! The settings of a variant of M1: the rule, whose pages the writers copy from, when the server
//! notifies, and what must hold.
//!
//! A leaf: the threads of the kernel, the server and the list of variants all start from it.

use super::state::What;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    HoldAll,
    AlwaysUnlock,
    /// Unlocks after each copy, locks all again before sending.
    Relock,
    OnePage,
    D,
    E,
    EFaultLocked,
    /// E that does not wait for a folio or for memory while the head is locked.
    ENowait,
    /// Records partial pages as they are copied, the whole request when it is sent.
    B,
    BFaultInFlight,
    /// Records every page as it is copied.
    BRecordAll,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// One writer, from its own file.
    Own,
    /// Two writers, each from the other's file.
    Other,
    Either,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Notify {
    Never,
    /// The worker that serves such a request notifies the kernel before it replies.
    InHandler(Handler, &'static [What]),
    /// A thread that serves no request invalidates file A once.
    AnyTime,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Handler {
    /// The handler of one READ.
    Read,
    EachRead,
    Write,
    Getattr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// Progress, and no old bytes are shown after write(2) has returned.
    All,
    /// Progress: a notification can bring back old bytes under every rule but one, which `*-notify-any-time` shows.
    Progress,
}

pub(super) struct WritePath {
    pub(super) rule: Rule,
    pub(super) source: Source,
    pub(super) notify: Notify,
    pub(super) asks: Asks,
}

impl WritePath {
    /// Before 5.13 a whole page became uptodate with the reply.
    pub(super) fn marks_on_reply(&self) -> bool {
        matches!(self.rule, Rule::HoldAll | Rule::Relock)
    }
}
