//! The vocabulary of the write rules: what is asked (`Request`, `Limits`, `WriteRule`) and what
//! goes out (`WriteRequest`, with the `Step`s before it and what is `Held` during it).
//!
//! Requests and limits are checked where they are made, so that planning cannot overflow and needs
//! no error of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::Serialize;

use crate::cache::{Folio, PAGE_SIZE};

/// How a kernel cuts one write(2) into WRITE requests, and what it holds while they are out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum WriteRule {
    /// One page per WRITE: today's kernel when the server refuses FUSE_BIG_WRITES.
    #[serde(rename = "one-page")]
    OnePage,
    /// All pages stay locked until the reply, user memory is faulted in meanwhile (2.6.26 to 5.12).
    #[serde(rename = "hold-all")]
    HoldAll,
    /// Read the partial pages first, then nothing need stay locked (V. Goyal, October 2020).
    A,
    /// A byte range in flight blocks readers, no folio lock outlives its copy.
    #[serde(rename = "B'")]
    BPrime,
    /// The partial tail stays locked; if head and tail are both partial, read the head first
    /// (M. Szeredi, October 2020).
    C,
    /// A partial page that is not uptodate ends the request and stays locked (mainline since 5.13).
    D,
    /// Partial head and partial tail stay locked in one WRITE; never fault in while a folio is
    /// locked.
    E,
}

impl WriteRule {
    /// Every rule, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::HoldAll,
        Self::OnePage,
        Self::A,
        Self::BPrime,
        Self::C,
        Self::D,
        Self::E,
    ];

    /// The rule's name as in the table and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnePage => "one-page",
            Self::HoldAll => "hold-all",
            Self::A => "A",
            Self::BPrime => "B'",
            Self::C => "C",
            Self::D => "D",
            Self::E => "E",
        }
    }
}

impl fmt::Display for WriteRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no write rule's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no write rule `{0}`: known are hold-all, one-page, A, B', C, D, E")]
pub struct UnknownRule(String);

impl FromStr for WriteRule {
    type Err = UnknownRule;

    fn from_str(name: &str) -> Result<Self, UnknownRule> {
        let found = Self::ALL.into_iter().find(|rule| rule.name() == name);
        found.ok_or_else(|| UnknownRule(name.to_owned()))
    }
}

/// What INIT negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    max_write: u32,
    max_pages: u16,
}

/// A limit or a request that no kernel would accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// INIT raises anything smaller to one page.
    #[error("max_write {0} is below {PAGE_SIZE}: the kernel never uses less than a page")]
    MaxWrite(u32),
    /// A request without pages.
    #[error("max_pages 0: a WRITE needs at least one page")]
    MaxPages,
    /// The write would end after the largest file offset.
    #[error(
        "write of {len} bytes at {pos} ends after the largest file offset 2^63 - 1: lower either"
    )]
    TooFar {
        /// First byte.
        pos: u64,
        /// Bytes.
        len: u64,
    },
}

impl Limits {
    /// Limits as negotiated.
    ///
    /// # Errors
    /// When `max_write` is below a page or `max_pages` is 0.
    pub fn new(max_write: u32, max_pages: u16) -> Result<Self, RequestError> {
        if u64::from(max_write) < PAGE_SIZE {
            return Err(RequestError::MaxWrite(max_write));
        }
        if max_pages == 0 {
            return Err(RequestError::MaxPages);
        }
        Ok(Self {
            max_write,
            max_pages,
        })
    }

    /// Largest WRITE in bytes.
    pub fn max_write(&self) -> u64 {
        self.max_write.into()
    }

    /// Most pages that one WRITE may touch.
    pub fn max_pages(&self) -> u64 {
        self.max_pages.into()
    }
}

impl Default for Limits {
    /// 1 MiB and 256 pages, which the table is measured with.
    fn default() -> Self {
        Self {
            max_write: 1 << 20,
            max_pages: 256,
        }
    }
}

/// The writer's buffer: where it starts within its first page, and which of its pages are not
/// mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Offset of the first byte within its page. Decides whether an absent page makes a copy fail
    /// (at the start of a destination page) or come short (within one).
    pub offset_in_page: u16,
    /// Pages of the buffer, counted from its first, that an atomic copy would find unmapped.
    pub absent: BTreeSet<u64>,
}

impl Source {
    /// How many of `want` bytes from byte `at` of the buffer an atomic copy gets.
    pub(crate) fn copy(&self, at: u64, want: u64) -> u64 {
        let from = u64::from(self.offset_in_page) + at;
        let pages = from / PAGE_SIZE..=(from + want - 1) / PAGE_SIZE;
        match self.absent.range(pages).next() {
            Some(page) => (page * PAGE_SIZE).saturating_sub(from),
            None => want,
        }
    }

    /// Maps the pages that hold the bytes.
    pub(crate) fn fault_in(&mut self, at: u64, bytes: u64) {
        let from = u64::from(self.offset_in_page) + at;
        let pages = from / PAGE_SIZE..=(from + bytes - 1) / PAGE_SIZE;
        self.absent.retain(|page| !pages.contains(page));
    }
}

/// One write(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pos: u64,
    len: u64,
    source: Source,
}

impl Request {
    /// A write of `len` bytes at `pos` from a buffer that is wholly mapped.
    ///
    /// # Errors
    /// When it would end after the largest file offset.
    pub fn new(pos: u64, len: u64) -> Result<Self, RequestError> {
        let end = pos
            .checked_add(len)
            .filter(|end| i64::try_from(*end).is_ok());
        match end {
            Some(_) => Ok(Self {
                pos,
                len,
                source: Source::default(),
            }),
            None => Err(RequestError::TooFar { pos, len }),
        }
    }

    /// The same write from the given buffer.
    #[must_use]
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// First byte written.
    pub fn pos(&self) -> u64 {
        self.pos
    }

    /// Bytes written.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The writer's buffer.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

/// What the writer keeps others from while it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Folios whose lock the writer holds, ascending.
    pub locked: Vec<Folio>,
    /// Bytes that readers must wait for without a folio lock (rule B').
    pub in_flight: Option<Range<u64>>,
}

impl Held {
    /// Whether a page fault in this state could wait for the writer itself.
    pub fn is_empty(&self) -> bool {
        self.locked.is_empty() && self.in_flight.is_none()
    }
}

/// What happens before a WRITE goes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// A READ of a whole folio, answered before the writer goes on.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
        /// What is held meanwhile, the folio itself included.
        held: Held,
    },
    /// User memory is faulted in: may itself need a READ and any folio's lock.
    FaultIn {
        /// First byte, counted from the start of the buffer.
        at: u64,
        /// Bytes.
        bytes: u64,
        /// What is held meanwhile. Anything but nothing is a deadlock in waiting.
        held: Held,
    },
}

/// One WRITE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WriteRequest {
    /// What happened since the WRITE before this one was answered, in order.
    pub before: Vec<Step>,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// What stays held from sending until the reply.
    pub held: Held,
}

impl WriteRequest {
    /// READs sent before this WRITE.
    pub fn reads(&self) -> usize {
        self.before
            .iter()
            .filter(|step| matches!(step, Step::Read { .. }))
            .count()
    }
}
