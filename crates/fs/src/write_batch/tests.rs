//! WRITEs that meet: what each of them is answered, and in how many calls they are done. The first
//! one is held in the backing file system until all others wait.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::backing::HostBacking;

const LEN: usize = 100;
const DEADLINE: Duration = Duration::from_secs(20);

/// What the next call of its kind comes to.
#[derive(Debug, Default)]
struct Script {
    joined: Option<Result<usize>>,
    /// Calls with one WRITE at this offset.
    alone: Option<(u64, Result<usize>)>,
    /// Which flush, from 1.
    flush: Option<(usize, Errno)>,
    panic: bool,
}

/// A file, with a gate in front of the first call.
#[derive(Debug)]
struct Gated {
    file: File,
    open: Mutex<bool>,
    opened: Condvar,
    script: Mutex<Script>,
    at_the_gate: AtomicUsize,
    writes: AtomicUsize,
    joined: AtomicUsize,
    /// What each flush was asked for.
    datasyncs: Mutex<Vec<bool>>,
}

impl Gated {
    fn new(script: Script) -> Self {
        Self {
            file: tempfile::tempfile().unwrap(),
            open: Mutex::new(false),
            opened: Condvar::new(),
            script: Mutex::new(script),
            at_the_gate: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            datasyncs: Mutex::default(),
        }
    }

    fn pass_the_gate(&self) {
        let mut open = self.open.lock();
        while !*open {
            let late = self.opened.wait_for(&mut open, DEADLINE).timed_out();
            assert!(!late, "the others did not come to wait");
        }
    }

    fn open_the_gate(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }

    fn writer<'a>(&'a self, stats: &'a Stats, datasync: Option<bool>) -> Writer<'a> {
        Writer {
            backing: self,
            stats,
            fd: self.file.as_fd(),
            datasync,
        }
    }

    fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        let mut file = &self.file;
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        content
    }

    fn counts(&self) -> [usize; 3] {
        let [writes, joined] = [&self.writes, &self.joined].map(|n| n.load(Ordering::SeqCst));
        [writes, joined, self.datasyncs.lock().len()]
    }
}

impl Backing for Gated {
    fn write(&self, fd: BorrowedFd<'_>, data: &[u8], position: Position) -> Result<usize> {
        self.at_the_gate.fetch_add(1, Ordering::SeqCst);
        self.pass_the_gate();
        self.writes.fetch_add(1, Ordering::SeqCst);
        let fault = self.script.lock().alone;
        match (fault, position) {
            (Some((offset, Ok(len))), Position::At(at)) if at == offset => {
                HostBacking.write(fd, &data[..len], position)
            }
            (Some((offset, Err(error))), Position::At(at)) if at == offset => Err(error),
            _ => HostBacking.write(fd, data, position),
        }
    }

    fn write_joined(
        &self,
        fd: BorrowedFd<'_>,
        parts: &[IoSlice<'_>],
        offset: u64,
    ) -> Result<usize> {
        self.joined.fetch_add(1, Ordering::SeqCst);
        assert!(!self.script.lock().panic, "scripted");
        match self.script.lock().joined.take() {
            None => HostBacking.write_joined(fd, parts, offset),
            Some(Err(error)) => Err(error),
            Some(Ok(len)) => {
                let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
                HostBacking.write(fd, &all[..len], Position::At(offset))
            }
        }
    }

    fn flush(&self, fd: BorrowedFd<'_>, datasync: bool) -> Result<()> {
        let nth = {
            let mut datasyncs = self.datasyncs.lock();
            datasyncs.push(datasync);
            datasyncs.len()
        };
        match self.script.lock().flush {
            Some((failing, error)) if failing == nth => Err(error),
            _ => HostBacking.sync(fd, datasync),
        }
    }
}

fn wait_for_waiting(group: &WriteGroup, count: usize) {
    let began = Instant::now();
    while group.queue.waiting() < count {
        assert!(began.elapsed() < DEADLINE, "{count} WRITEs to wait");
        std::thread::yield_now();
    }
}

fn piece(data: &[u8], offset: u64) -> Piece<'_> {
    Piece {
        data,
        position: Position::At(offset),
        whole: false,
    }
}

/// Writes 100 bytes at 10000, and while that is held one WRITE for each of `offsets`, which come in
/// this order: 100 bytes of 1, 2, 3 and so on. Returns their results.
fn write_all(
    backing: &Gated,
    group: &WriteGroup,
    datasync: Option<bool>,
    offsets: &[(u64, bool)],
) -> (Result<usize>, Vec<Result<usize>>) {
    let stats = Stats::default();
    std::thread::scope(|scope| {
        let write = |data: u8, offset: u64, whole: bool| {
            let writer = backing.writer(&stats, datasync);
            scope.spawn(move || {
                let data = [data; LEN];
                let whole = Piece {
                    whole,
                    ..piece(&data, offset)
                };
                writer.write_in(group, whole)
            })
        };
        let first = write(0xff, 10_000, false);
        let began = Instant::now();
        // It leads when no other thread can.
        while let Some(lead) = group.queue.try_lead() {
            drop(lead);
            assert!(began.elapsed() < DEADLINE, "the first WRITE to lead");
            std::thread::yield_now();
        }
        let mut others = Vec::new();
        for (at, &(offset, whole)) in offsets.iter().enumerate() {
            others.push(write(at as u8 + 1, offset, whole));
            wait_for_waiting(group, at + 1);
        }
        backing.open_the_gate();
        let others = others.into_iter().map(|other| {
            // A leader that panics is caught at the top of its own request.
            other.join().unwrap_or(Err(Errno::ENOTRECOVERABLE))
        });
        let others = others.collect();
        (first.join().unwrap(), others)
    })
}

/// Neighbours from 0 on.
fn neighbours(count: u64) -> Vec<(u64, bool)> {
    (0..count).map(|at| (at * LEN as u64, false)).collect()
}

/// 100 bytes of each number.
fn stripes(numbers: &[u8]) -> Vec<u8> {
    numbers.iter().flat_map(|number| [*number; LEN]).collect()
}

#[test]
fn write_by_fifteen_neighbours_that_wait_is_one_call_and_one_flush() {
    let backing = Gated::new(Script::default());
    let group = WriteGroup::cached();
    let mut offsets = neighbours(15);
    offsets.reverse();
    let (first, others) = write_all(&backing, &group, Some(true), &offsets);
    assert_eq!(first, Ok(LEN));
    assert_eq!(others, [Ok(LEN); 15]);
    // The first alone: a write with its flush. The others: one joined write, one flush.
    assert_eq!(backing.counts(), [1, 1, 2]);
    let numbers: Vec<u8> = (1..=15).rev().collect();
    assert_eq!(backing.content()[..15 * LEN], stripes(&numbers));
    assert_eq!(backing.content()[10_000..], [0xff; LEN]);
}

#[test]
fn write_by_others_that_wait_without_durability_is_one_call_and_no_flush() {
    let backing = Gated::new(Script::default());
    let group = WriteGroup::cached();
    let (_, others) = write_all(&backing, &group, None, &neighbours(4));
    assert_eq!(others, [Ok(LEN); 4]);
    assert_eq!(backing.counts(), [1, 1, 0]);
}

#[test]
fn write_to_places_apart_shares_the_flush_alone() {
    let backing = Gated::new(Script::default());
    let group = WriteGroup::cached();
    let offsets = [(0, false), (500, false), (300, false)];
    let (_, others) = write_all(&backing, &group, Some(true), &offsets);
    assert_eq!(others, [Ok(LEN); 3]);
    assert_eq!(backing.counts(), [4, 0, 2]);
}

#[test]
fn write_to_one_place_leaves_what_came_last() {
    let backing = Gated::new(Script::default());
    let group = WriteGroup::cached();
    let offsets = [(0, false), (50, false), (0, false), (100, false)];
    let (_, others) = write_all(&backing, &group, Some(true), &offsets);
    assert_eq!(others, [Ok(LEN); 4]);
    assert_eq!(backing.content()[..2 * LEN], stripes(&[3, 4]));
}

#[test]
fn write_joined_that_is_short_gives_each_its_own_count() {
    let backing = Gated::new(Script {
        joined: Some(Ok(2 * LEN + 30)),
        alone: Some((4 * LEN as u64, Err(Errno::ENOSPC))),
        ..Script::default()
    });
    let group = WriteGroup::cached();
    let (_, others) = write_all(&backing, &group, Some(true), &neighbours(5));
    // Two whole, one cut, one that succeeds when tried alone, one that does not.
    let expected = [Ok(LEN), Ok(LEN), Ok(30), Ok(LEN), Err(Errno::ENOSPC)];
    assert_eq!(others, expected);
    let content = backing.content();
    assert_eq!(content[..2 * LEN + 30], stripes(&[1, 2, 3])[..2 * LEN + 30]);
    assert_eq!(content[2 * LEN + 30..3 * LEN], [0; LEN - 30]);
    assert_eq!(content[3 * LEN..4 * LEN], [4; LEN]);
    assert_eq!(backing.counts(), [3, 1, 2]);
}

#[test]
fn write_joined_that_is_refused_is_tried_one_by_one() {
    let backing = Gated::new(Script {
        joined: Some(Err(Errno::EFBIG)),
        alone: Some((LEN as u64, Err(Errno::EFBIG))),
        ..Script::default()
    });
    let group = WriteGroup::cached();
    let (_, others) = write_all(&backing, &group, Some(true), &neighbours(3));
    assert_eq!(others, [Ok(LEN), Err(Errno::EFBIG), Ok(LEN)]);
    assert_eq!(backing.content()[..LEN], [1; LEN]);
    assert_eq!(backing.content()[2 * LEN..3 * LEN], [3; LEN]);
}

#[test]
fn write_back_that_is_cut_short_goes_on_until_it_has_its_error() {
    let cut = LEN as u64 + 40;
    let backing = Gated::new(Script {
        joined: Some(Ok(cut as usize)),
        alone: Some((cut, Err(Errno::EDQUOT))),
        ..Script::default()
    });
    let group = WriteGroup::cached();
    let offsets = [(0, true), (LEN as u64, true), (2 * LEN as u64, false)];
    let (_, others) = write_all(&backing, &group, Some(true), &offsets);
    assert_eq!(others, [Ok(LEN), Err(Errno::EDQUOT), Ok(LEN)]);
}

#[test]
fn flush_that_fails_fails_all_that_it_was_for_and_no_other() {
    let backing = Gated::new(Script {
        flush: Some((2, Errno::EIO)),
        alone: Some((900, Err(Errno::ENOSPC))),
        ..Script::default()
    });
    let group = WriteGroup::cached();
    let mut offsets = neighbours(3);
    offsets.push((900, false));
    let (first, others) = write_all(&backing, &group, Some(true), &offsets);
    assert_eq!(first, Ok(LEN), "flushed before");
    let failed = Err(Errno::EIO);
    let expected = [failed, failed, failed, Err(Errno::ENOSPC)];
    assert_eq!(others, expected, "each its own error");
    let stats = Stats::default();
    let writer = backing.writer(&stats, Some(true));
    assert_eq!(writer.write_in(&group, piece(b"later", 0)), Ok(5));
}

/// A group for `backing`'s file whose durable WRITEs go apart when they meet.
fn apart(backing: &Gated) -> WriteGroup {
    let links = File::open("/proc/self/fd").unwrap();
    let file = backing.file.as_fd();
    let group = WriteGroup::durable(file, &Arc::new(links.into()), false).unwrap();
    group.strategy.as_ref().unwrap().force_parallel();
    group
}

#[test]
fn write_by_four_that_meet_apart_is_a_call_and_a_flush_each_at_the_same_time() {
    let backing = Gated::new(Script::default());
    let (group, stats) = (apart(&backing), Stats::default());
    std::thread::scope(|scope| {
        for at in 0..4_u8 {
            let writer = backing.writer(&stats, Some(true));
            let group = &group;
            scope.spawn(move || {
                let data = [at + 1; LEN];
                let written = writer.write_in(group, piece(&data, u64::from(at) * LEN as u64));
                assert_eq!(written, Ok(LEN));
            });
        }
        let began = Instant::now();
        while backing.at_the_gate.load(Ordering::SeqCst) < 4 {
            assert!(began.elapsed() < DEADLINE, "four WRITEs under way");
            std::thread::yield_now();
        }
        backing.open_the_gate();
    });
    assert_eq!(backing.counts(), [4, 0, 4]);
    assert_eq!(backing.content(), stripes(&[1, 2, 3, 4]));
}

#[test]
fn write_apart_that_fails_is_its_own_error_and_no_other() {
    let backing = Gated::new(Script {
        alone: Some((LEN as u64, Err(Errno::EIO))),
        ..Script::default()
    });
    backing.open_the_gate();
    let (group, stats) = (apart(&backing), Stats::default());
    let _concurrent = group.strategy.as_ref().unwrap().enter();
    let writer = backing.writer(&stats, Some(true));
    let write = |offset: usize| writer.write_in(&group, piece(&[7; LEN], offset as u64));
    let results = [0, LEN, 2 * LEN].map(write);
    assert_eq!(results, [Ok(LEN), Err(Errno::EIO), Ok(LEN)]);
}

#[test]
fn flush_for_one_that_syncs_metadata_syncs_it_for_all() {
    let backing = Gated::new(Script::default());
    backing.open_the_gate();
    let stats = Stats::default();
    let writer = backing.writer(&stats, Some(true));
    let jobs = [true, false].map(|datasync| Job::new(&piece(&[1; LEN], 0), datasync));
    writer.write_batch(&[&jobs[0], &jobs[0]]);
    writer.write_batch(&[&jobs[0], &jobs[1]]);
    assert_eq!(*backing.datasyncs.lock(), [true, false]);
}

#[test]
fn leader_that_panics_fails_its_followers_and_not_the_group() {
    let backing = Gated::new(Script {
        panic: true,
        ..Script::default()
    });
    let group = WriteGroup::cached();
    let (first, others) = write_all(&backing, &group, Some(true), &neighbours(4));
    assert_eq!(first, Ok(LEN));
    let lost = Err(Errno::EIO);
    assert_eq!(others, [Err(Errno::ENOTRECOVERABLE), lost, lost, lost]);
    let stats = Stats::default();
    let writer = backing.writer(&stats, Some(true));
    assert_eq!(writer.write_in(&group, piece(b"later", 0)), Ok(5));
}

#[test]
fn write_by_sixteen_threads_for_a_while_leaves_what_each_wrote() {
    const ROUNDS: usize = 200;
    let backing = Gated::new(Script::default());
    backing.open_the_gate();
    let (group, stats) = (WriteGroup::cached(), Stats::default());
    std::thread::scope(|scope| {
        for thread in 0..16_usize {
            let (backing, group, stats) = (&backing, &group, &stats);
            scope.spawn(move || {
                let writer = backing.writer(stats, Some(true));
                for round in 0..ROUNDS {
                    let data = [(thread * 16 + round % 16) as u8; LEN];
                    let offset = ((round * 16 + thread) * LEN) as u64;
                    assert_eq!(writer.write_in(group, piece(&data, offset)), Ok(LEN));
                    let mut back = [0; LEN];
                    backing.file.read_exact_at(&mut back, offset).unwrap();
                    assert_eq!(back, data, "answered before it was written");
                }
            });
        }
    });
    let numbers = (0..ROUNDS).flat_map(|round| (0..16).map(move |t| (t * 16 + round % 16) as u8));
    assert_eq!(backing.content(), stripes(&numbers.collect::<Vec<_>>()));
}
