//! The state of M1: pages, writers, the reader, and the requests at the server.
//!
//! Content is one bit a page: whether the bytes of the write are in it. `uptodate && !new` after
//! the write has returned is what no reader may see.

use std::fmt;

pub(super) const WRITERS: [&str; 2] = ["W1", "W2"];
/// The reader's number beside the two writers'.
pub(super) const READER: usize = 2;

#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) locked: Option<usize>,
    pub(super) uptodate: bool,
    pub(super) new: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum At {
    /// About to lock the next page.
    Fill,
    /// Holds its lock, about to copy.
    Copy,
    Fault,
    Send,
    Wait,
    Done,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Fetch {
    Look,
    Reply,
    RangeInFlight,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Writer {
    /// False for a second writer that is not there.
    pub(super) writes: bool,
    /// File whose page 0 is the source of the second page.
    source: usize,
    pub(super) mapped: bool,
    pub(super) at: At,
    pub(super) fetch: Fetch,
    /// First page of the request being filled, and the next one to fill.
    pub(super) first: usize,
    pub(super) next: usize,
    /// Whether the folio that was copied into still has the bytes; the WRITE carries what it has.
    pub(super) filled: [bool; 2],
    /// Pages that readers must wait for (rule B').
    pub(super) range: [bool; 2],
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Stage {
    Queued,
    /// Carried out, and the handler is about to notify the kernel of this page.
    Notify(usize),
    /// About to be answered.
    Done,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Op {
    /// Pages from one up to another of the writer's file.
    Write { who: usize, pages: (usize, usize) },
    /// What the server read, once a worker has taken the request.
    Read {
        who: usize,
        page: (usize, usize),
        seen: bool,
    },
    /// About file A.
    Getattr,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) op: Op,
    pub(super) stage: Stage,
}

impl Op {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Write { .. } => "WRITE",
            Self::Read { .. } => "READ",
            Self::Getattr => "GETATTR",
        }
    }

    /// The file that it is about.
    pub(super) fn file(self) -> usize {
        match self {
            Self::Write { who, .. } => who,
            Self::Read { page, .. } => page.0,
            Self::Getattr => 0,
        }
    }

    /// The page that its handler notifies of after `last`: both pages of the file, one after the other. Not the
    /// page of a READ, which is locked until the reply.
    fn notifies_after(self, last: Option<usize>) -> Option<usize> {
        let next = last.map_or(0, |last| last + 1);
        let own = match self {
            Self::Read { page, .. } => Some(page.1),
            Self::Write { .. } | Self::Getattr => None,
        };
        (next..2).find(|page| Some(*page) != own)
    }
}

/// A notification.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum What {
    /// NOTIFY_INVAL_INODE, which removes the page.
    Inval,
    /// NOTIFY_STORE, of what the server's file has.
    Store,
}

impl What {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inval => "NOTIFY_INVAL_INODE",
            Self::Store => "NOTIFY_STORE",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct State {
    pub(super) pages: [[Page; 2]; 2],
    /// Whether the server's file has the bytes of the write.
    server: [[bool; 2]; 2],
    /// Whether the writes cover each page wholly.
    pub(super) whole: [bool; 2],
    pub(super) writers: [Writer; 2],
    pub(super) reader: Option<Fetch>,
    reads: usize,
    pub(super) requests: Vec<Request>,
    /// Next page that N invalidates.
    pub(super) notifying: Option<usize>,
    /// Whether S has still to send a GETATTR.
    pub(super) stats: bool,
    /// What the handlers send.
    pub(super) what: What,
    /// Whether one has.
    pub(super) notified: bool,
}

impl State {
    pub(super) fn new(own: bool, whole: [bool; 2], reads: usize) -> Self {
        let writer = |who: usize| Writer {
            writes: who == 0 || !own,
            source: if own { who } else { 1 - who },
            mapped: false,
            at: if who == 1 && own { At::Done } else { At::Fill },
            fetch: Fetch::Look,
            first: 0,
            next: 0,
            filled: [false; 2],
            range: [false; 2],
        };
        Self {
            pages: Default::default(),
            server: Default::default(),
            whole,
            writers: [writer(0), writer(1)],
            reader: Some(Fetch::Look),
            reads,
            requests: Vec::new(),
            notifying: None,
            stats: false,
            what: What::Inval,
            notified: false,
        }
    }

    /// Name, file, page and progress of what the thread fetches.
    pub(super) fn fetching(&self, who: usize) -> (&'static str, usize, usize, Fetch) {
        match self.reader {
            Some(fetch) if who == READER => ("R", 0, self.reads, fetch),
            _ => (
                WRITERS[who],
                self.writers[who].source,
                0,
                self.writers[who].fetch,
            ),
        }
    }

    pub(super) fn set_fetch(&mut self, who: usize, fetch: Fetch) {
        if who == READER {
            self.reader = Some(fetch);
        } else {
            self.writers[who].fetch = fetch;
        }
    }

    pub(super) fn fetched(&mut self, who: usize) {
        if who == READER {
            self.reader = None;
        } else {
            self.writers[who].mapped = true;
            self.writers[who].at = At::Fill;
        }
    }

    /// A worker takes the request and carries it out.
    pub(super) fn take(&mut self, index: usize, notifies: bool) -> String {
        self.notified |= notifies;
        let request = &mut self.requests[index];
        let first = request.op.notifies_after(None).filter(|_| notifies);
        request.stage = first.map_or(Stage::Done, Stage::Notify);
        match &mut request.op {
            Op::Write { who, pages } => {
                for page in pages.0..pages.1 {
                    self.server[*who][page] |= self.writers[*who].filled[page];
                }
                format!("worker applies the WRITE of {}", WRITERS[*who])
            }
            Op::Read {
                page: (file, page),
                seen,
                ..
            } => {
                *seen = self.server[*file][*page];
                format!("worker reads {} from its file", page_name(*file, *page))
            }
            Op::Getattr => "worker takes the GETATTR".to_owned(),
        }
    }

    /// The handler's notification of this page is over.
    pub(super) fn notified(&mut self, index: usize, page: usize) {
        let request = &mut self.requests[index];
        let next = request.op.notifies_after(Some(page));
        request.stage = next.map_or(Stage::Done, Stage::Notify);
    }

    /// The reply arrives: the requester goes on.
    pub(super) fn reply(&mut self, index: usize, marks_uptodate: bool) -> String {
        match self.requests.remove(index).op {
            Op::Read {
                who,
                page: (file, number),
                seen,
            } => {
                self.fill(file, number, seen);
                self.pages[file][number].locked = None;
                let bytes = if seen { "new" } else { "old" };
                self.set_fetch(who, Fetch::Look);
                let name = page_name(file, number);
                format!("READ reply: {name} uptodate with the {bytes} bytes, unlocked")
            }
            Op::Write {
                who,
                pages: (from, to),
            } => {
                for number in from..to {
                    let page = &mut self.pages[who][number];
                    if page.locked == Some(who) {
                        page.locked = None;
                        page.uptodate |= marks_uptodate && self.whole[number];
                    }
                }
                let writer = &mut self.writers[who];
                writer.range = [false; 2];
                writer.first = writer.next;
                writer.at = if writer.next == 2 { At::Done } else { At::Fill };
                format!("WRITE reply: {} unlocks what it holds", WRITERS[who])
            }
            Op::Getattr => "GETATTR reply".to_owned(),
        }
    }

    /// The page gets the server's bytes: those of the write, or the old ones.
    pub(super) fn fill(&mut self, file: usize, number: usize, new: bool) {
        let page = &mut self.pages[file][number];
        let overwritten = page.new && !new;
        self.writers[file].filled[number] &= !overwritten;
        page.new = new;
        page.uptodate = true;
    }

    /// What a notification of the server does to a page that is not locked.
    pub(super) fn notify(&mut self, what: What, file: usize, number: usize) {
        match what {
            What::Inval => self.remove(file, number),
            What::Store => self.fill(file, number, self.server[file][number]),
        }
    }

    /// Whether the writer has locked a page of its file.
    pub(super) fn holds(&self, who: usize) -> bool {
        self.pages[who].iter().any(|page| page.locked == Some(who))
    }

    /// Whether the server has everything that the writer wrote.
    pub(super) fn arrived(&self, who: usize) -> bool {
        self.server[who] == [true; 2]
    }

    /// Which thread waits for what: the end of a deadlock's trace.
    pub(super) fn waiting(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for who in [0, 1, READER] {
            let (name, file, page, fetch) = self.fetching(who);
            let faults = who == READER || self.writers[who].at == At::Fault;
            if who == READER && self.reader.is_none() {
                continue;
            }
            let called = page_name(file, page);
            match self.writers.get(who).map(|writer| writer.at) {
                Some(At::Fill) => {
                    let next = self.writers[who].next;
                    waiting.push(format!(
                        "{name} waits for the lock of {}",
                        page_name(who, next)
                    ));
                }
                Some(At::Wait) => waiting.push(format!("{name} waits for its WRITE's reply")),
                _ if faults && fetch == Fetch::Look => {
                    waiting.push(format!("{name} waits for the lock of {called}"));
                }
                _ if faults && fetch == Fetch::RangeInFlight => {
                    let owner = WRITERS[file];
                    waiting.push(format!(
                        "{name} waits for {owner}'s range in flight at {called}"
                    ));
                }
                _ => {}
            }
        }
        for Request { op, stage } in &self.requests {
            if let Stage::Notify(page) = stage {
                let (handler, what) = (op.name(), self.what.name());
                let called = page_name(op.file(), *page);
                waiting.push(format!("the {handler} handler's {what} waits for {called}"));
            }
        }
        waiting
    }

    /// The page leaves the cache and all page tables.
    fn remove(&mut self, file: usize, number: usize) {
        self.pages[file][number] = Page::default();
        for writer in &mut self.writers {
            writer.mapped &= (writer.source, 0) != (file, number);
        }
    }
}

pub(super) fn page_name(file: usize, page: usize) -> String {
    format!("{}{page}", if file == 0 { 'A' } else { 'B' })
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (file, pages) in self.pages.iter().enumerate() {
            if !self.writers[file].writes {
                continue;
            }
            for (number, page) in pages.iter().enumerate() {
                let lock = page
                    .locked
                    .map_or("-", |who| if who == READER { "R" } else { WRITERS[who] });
                let content = match (page.uptodate, page.new) {
                    (true, true) => "new",
                    (true, false) => "old",
                    (false, true) => "part",
                    (false, false) => "none",
                };
                write!(f, "{}:{lock}/{content} ", page_name(file, number))?;
            }
        }
        write!(f, "(lock/content)")
    }
}
