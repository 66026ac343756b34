//! `plan`: which WRITEs one write(2) becomes under each rule.
//!
//! The loop is `fuse_fill_write_pages` (fs/fuse/file.c): take a folio, copy without faulting, fill
//! the request, send it when it must end. Each rule is what it does at four points, one function
//! each: before the copy, after it, when it fails, and at the end of a folio. Invariant: the WRITEs
//! cover the write once and in order. Closed formulas for the counts would be shorter, but could
//! not say what is locked, nor follow a cache from one write to the next.

use crate::cache::{CacheState, Folio, FolioState, PAGE_SIZE};
use crate::write::{Held, Limits, Request, Source, Step, WriteRequest, WriteRule};

/// The WRITEs that `request` becomes, in order, with what happens before and is held during each.
///
/// ```
/// use thrufs_rules::{CacheState, Limits, Request, WriteRule, plan};
/// let request = Request::new(100, 65536)?;
/// let sent = plan(WriteRule::D, &request, &CacheState::cold(1 << 20), &Limits::default());
/// let shapes: Vec<_> = sent.iter().map(|write| (write.offset, write.size)).collect();
/// assert_eq!(shapes, [(100, 3996), (4096, 61540)]);
/// # Ok::<(), thrufs_rules::RequestError>(())
/// ```
pub fn plan(
    rule: WriteRule,
    request: &Request,
    cache: &CacheState,
    limits: &Limits,
) -> Vec<WriteRequest> {
    apply(rule, request, &mut cache.clone(), limits)
}

/// The same as `(offset, size)` pairs: what a server that counts WRITEs must see.
pub fn expected_writes(
    rule: WriteRule,
    request: &Request,
    cache: &CacheState,
    limits: &Limits,
) -> Vec<(u64, u64)> {
    plan(rule, request, cache, limits)
        .iter()
        .map(|sent| (sent.offset, sent.size))
        .collect()
}

/// `plan`, leaving in `cache` what the cache and the file size are after the write has succeeded,
/// for sequences of writes.
pub fn apply(
    rule: WriteRule,
    request: &Request,
    cache: &mut CacheState,
    limits: &Limits,
) -> Vec<WriteRequest> {
    let read_head = rule == WriteRule::C && both_ends_partial(request, cache, limits);
    let mut writer = Writer {
        rule,
        limits,
        start: request.pos(),
        end: request.pos() + request.len(),
        pos: request.pos(),
        source: request.source().clone(),
        read_head,
        cache,
        filling: Filling::default(),
        sent: Vec::new(),
    };
    while writer.pos < writer.end {
        writer.fill_one_folio();
    }
    writer.send();
    writer.sent
}

/// Rule C reads the head only if the write has a partial tail as well. It decides by the whole
/// write: when the head is filled, it is not known yet whether the tail goes out with it.
fn both_ends_partial(request: &Request, cache: &CacheState, limits: &Limits) -> bool {
    if request.is_empty() {
        return false;
    }
    let end = request.pos() + request.len();
    let reach = request.len().min(limits.max_write());
    let head = cache.folio_for_write(request.pos() / PAGE_SIZE, reach);
    let tail = cache.folio_at((end - 1) / PAGE_SIZE);
    let partial = |folio: &Folio| {
        !folio.state.is_uptodate() && (request.pos() > folio.start() || end < folio.end())
    };
    end > head.end() && partial(&head) && partial(&tail)
}

/// The request being filled.
#[derive(Default)]
struct Filling {
    before: Vec<Step>,
    bytes: u64,
    pages: u64,
    locked: Vec<Folio>,
    /// A page that is not uptodate was copied into and unlocked: readers must be kept off (rule B').
    partial_unlocked: bool,
}

struct Writer<'a> {
    rule: WriteRule,
    limits: &'a Limits,
    start: u64,
    end: u64,
    pos: u64,
    source: Source,
    read_head: bool,
    cache: &'a mut CacheState,
    filling: Filling,
    sent: Vec<WriteRequest>,
}

impl Writer<'_> {
    /// One turn of the loop in `fuse_fill_write_pages`.
    fn fill_one_folio(&mut self) {
        let room = self.limits.max_write() - self.filling.bytes;
        let folio = self
            .cache
            .folio_for_write(self.pos / PAGE_SIZE, room.min(self.end - self.pos));
        if self.must_not_wait_for(&folio) {
            return self.send();
        }
        let bytes = self.bytes_for(&folio, room);
        if self.rule == WriteRule::HoldAll {
            // iov_iter_fault_in_readable() stood inside the loop, whatever was locked by then.
            self.fault_in(bytes);
        }
        let folio = self.read_if_asked(folio, bytes);
        match self.source.copy(self.pos - self.start, bytes) {
            0 => self.after_failed_copy(bytes),
            copied => self.after_copy(folio, copied),
        }
    }

    /// Rule E: a folio that is dirty and not uptodate may wait for writeback, and writeback for the
    /// head we hold: the one cycle that ascending order does not exclude. So it goes as in D.
    fn must_not_wait_for(&self, folio: &Folio) -> bool {
        self.rule == WriteRule::E
            && folio.state == FolioState::DirtyPartial
            && !self.filling.locked.is_empty()
    }

    /// How much of the folio this request can take.
    fn bytes_for(&self, folio: &Folio, room: u64) -> u64 {
        let page_start = self.pos - self.pos % PAGE_SIZE;
        let pages = match self.rule {
            WriteRule::OnePage => 1,
            _ => self.limits.max_pages() - self.filling.pages,
        };
        let by_pages = page_start + pages * PAGE_SIZE - self.pos;
        (folio.end() - self.pos)
            .min(self.end - self.pos)
            .min(room)
            .min(by_pages)
    }

    /// Rules A and C: READ a folio that would stay partial; beyond EOF it is zeroed instead.
    fn read_if_asked(&mut self, mut folio: Folio, bytes: u64) -> Folio {
        let partial = bytes < folio.end() - folio.start() && !folio.state.is_uptodate();
        let asked = match self.rule {
            WriteRule::A => partial,
            WriteRule::C => partial && self.read_head && self.pos == self.start,
            _ => false,
        };
        if !asked {
            return folio;
        }
        if folio.start() < self.cache.file_size {
            let mut held = self.held();
            held.locked.push(folio);
            let size = folio.end() - folio.start();
            self.filling.before.push(Step::Read {
                offset: folio.start(),
                size,
                held,
            });
        }
        folio.state = folio.state.completed();
        self.cache.update(folio);
        folio
    }

    /// Nothing could be copied: fault in, but never while holding what the fault may wait for.
    fn after_failed_copy(&mut self, bytes: u64) {
        if self.filling.locked.is_empty() && !self.filling.partial_unlocked {
            self.fault_in(bytes);
        } else {
            self.send();
        }
    }

    fn fault_in(&mut self, bytes: u64) {
        let at = self.pos - self.start;
        if self.source.copy(at, bytes) < bytes {
            let held = self.held();
            self.filling.before.push(Step::FaultIn { at, bytes, held });
            self.source.fault_in(at, bytes);
        }
    }

    fn after_copy(&mut self, mut folio: Folio, copied: u64) {
        let before = folio.state;
        let whole = copied == folio.end() - folio.start();
        folio.state = if whole {
            before.completed()
        } else {
            before.touched()
        };
        self.cache.update(folio);
        let first = self.pos / PAGE_SIZE;
        self.pos += copied;
        self.filling.bytes += copied;
        self.filling.pages += (self.pos - 1) / PAGE_SIZE - first + 1;
        self.keep(folio);
        let full = self.filling.bytes == self.limits.max_write()
            || self.filling.pages == self.limits.max_pages();
        // A copy that ends inside a folio ends the request: it came short, or the write is over.
        if full || self.pos != folio.end() || self.ends_request(&folio) {
            self.send();
        }
    }

    /// Which lock, if any, outlives the copy. Under A that is only a page whose copy came short.
    fn keep(&mut self, folio: Folio) {
        let uptodate = folio.state.is_uptodate();
        match self.rule {
            WriteRule::HoldAll => self.filling.locked.push(folio),
            WriteRule::BPrime => self.filling.partial_unlocked |= !uptodate,
            WriteRule::OnePage | WriteRule::A | WriteRule::C | WriteRule::D | WriteRule::E => {
                if !uptodate {
                    self.filling.locked.push(folio);
                }
            }
        }
    }

    /// Whether the request ends at the end of this folio although there is room for more.
    fn ends_request(&self, folio: &Folio) -> bool {
        match self.rule {
            WriteRule::OnePage => true,
            WriteRule::D => !folio.state.is_uptodate(),
            // As a head it is not held while others are waited for: see `must_not_wait_for`.
            WriteRule::E => folio.state == FolioState::DirtyPartial,
            WriteRule::HoldAll | WriteRule::A | WriteRule::BPrime | WriteRule::C => false,
        }
    }

    fn held(&self) -> Held {
        let begin = self.pos - self.filling.bytes;
        let in_flight = self.filling.partial_unlocked.then_some(begin..self.pos);
        Held {
            locked: self.filling.locked.clone(),
            in_flight,
        }
    }

    fn send(&mut self) {
        if self.filling.bytes == 0 {
            return;
        }
        let mut held = self.held();
        let offset = self.pos - self.filling.bytes;
        if self.rule == WriteRule::BPrime {
            held.in_flight = Some(offset..self.pos);
        }
        let Filling { before, bytes, .. } = std::mem::take(&mut self.filling);
        self.cache.file_size = self.cache.file_size.max(self.pos);
        self.sent.push(WriteRequest {
            before,
            offset,
            size: bytes,
            held,
        });
    }
}
