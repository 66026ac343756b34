//! The guest under load: threads that keep so many requests under way, and what each of them took.
//!
//! Invariant: every answer is checked for its length and its errno, so that no figure is one of errors.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{EntryOut, OpenIn, OpenOut};
use vhost::VhostBackend;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;
use xtests::support::guest::{Guest, Options};
use xtests::support::random::Random;
use zerocopy::IntoBytes;

use super::cell::{Cell, FILE, FILE_SIZE, NAMES, Work, name};
use super::lane::{Lane, Mailbox, View};
use super::slot::{Files, Slot};

/// Entries of a queue, as in QEMU.
const QUEUE_SIZE: u16 = 1024;
/// For what is under way when the time is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Client {
    /// Kept, since the device ends with its connection.
    _guest: Guest,
    memory: GuestMemoryMmap,
    lanes: Vec<Lane>,
    files: Files,
    unique: AtomicU64,
}

/// What a run did.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Nanoseconds of each operation, ascending.
    pub(super) latencies: Vec<u32>,
    pub(super) seconds: f64,
}

impl Client {
    /// Connects with so many request queues, and opens what the work needs.
    pub(super) fn connect(socket: &Path, queues: usize) -> Result<Self> {
        let options = Options {
            queues,
            size: QUEUE_SIZE,
            event_index: true,
        };
        let mut guest = Guest::connect(socket, options)?;
        let mut requests = vec![0_u16; queues];
        guest.init()?;
        requests[0] += 1;
        let mut nodeids = Vec::new();
        for index in 0..NAMES {
            nodeids.push(lookup(&mut guest, &name(index))?);
            requests[0] += 1;
        }
        let nodeid = lookup(&mut guest, FILE)?;
        let arg = OpenIn {
            flags: libc::O_RDWR.cast_unsigned(),
            ..OpenIn::default()
        };
        let opened = guest.call(1, Opcode::Open, nodeid, &[arg.as_bytes()], 16)?;
        requests[0] += 2;
        let files = Files {
            nodeid,
            fh: opened.value::<OpenOut>()?.fh,
            nodeids,
        };
        let mut lanes = Vec::new();
        for (index, sent) in requests.into_iter().enumerate() {
            // Its own, which blocks.
            let call = EventFd::new(libc::EFD_CLOEXEC)?;
            guest.frontend().set_vring_call(index + 1, &call)?;
            let driver = &guest.drivers[index + 1];
            lanes.push(Lane::new(driver, call, sent, QUEUE_SIZE)?);
        }
        Ok(Self {
            memory: guest.memory().clone(),
            _guest: guest,
            lanes,
            files,
            unique: AtomicU64::new(1 << 32),
        })
    }

    /// Does the cell's work for `time`; `pin` is called by each of the threads first.
    pub(super) fn run(
        &self,
        cell: &Cell,
        time: Duration,
        pin: impl Fn() -> Result<()> + Sync,
    ) -> Result<Done> {
        let jobs: Vec<Mailbox> = (0..cell.jobs).map(|_| Mailbox::default()).collect();
        let start = Instant::now();
        let end = start + time;
        let work = |job: usize| {
            pin()?;
            let _first = jobs[job].thread.set(std::thread::current());
            self.work(cell, &jobs, job, end)
        };
        let latencies = std::thread::scope(|scope| -> Result<Vec<u32>> {
            let work = &work;
            let threads: Vec<_> = (0..cell.jobs)
                .map(|job| scope.spawn(move || work(job)))
                .collect();
            while !threads.iter().all(|thread| thread.is_finished()) {
                if Instant::now() > end + PATIENCE {
                    self.lanes.iter().for_each(|lane| lane.fail(&jobs));
                }
                let left = end.saturating_duration_since(Instant::now());
                // A thread that has ended is joined a moment later.
                std::thread::sleep(left.max(Duration::from_millis(1)));
            }
            let mut all = Vec::new();
            for thread in threads {
                let done = thread
                    .join()
                    .ok()
                    .context("a thread of the guest panicked")?;
                all.extend(done?);
            }
            Ok(all)
        });
        let mut done = Done {
            seconds: start.elapsed().as_secs_f64(),
            latencies: latencies?,
        };
        ensure!(!done.latencies.is_empty(), "no request was answered");
        done.latencies.sort_unstable();
        Ok(done)
    }

    fn work(&self, cell: &Cell, jobs: &[Mailbox], job: usize, end: Instant) -> Result<Vec<u32>> {
        let lane = &self.lanes[job % self.lanes.len()];
        let view = lane.view(&self.memory)?;
        let first = job * cell.depth;
        let mut slots = Vec::new();
        for at in 0..cell.depth {
            slots.push(Slot::new(&self.memory, first + at, cell.work)?);
        }
        let mut offsets = Offsets::new(cell, job);
        let mut latencies = Vec::with_capacity(1 << 16);
        for slot in &mut slots {
            slot.begin(offsets.next());
            self.submit(lane, &view, slot)?;
        }
        let mut under_way = slots.len();
        while under_way > 0 {
            let mut done = lane.wait(&view, jobs, job, cell.depth)?;
            let now = Instant::now();
            while done != 0 {
                let slot = &mut slots[done.trailing_zeros() as usize];
                done &= done - 1;
                let is_over = slot.advance()?;
                if is_over {
                    let took = now.saturating_duration_since(slot.began).as_nanos();
                    latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
                    if now >= end {
                        under_way -= 1;
                        continue;
                    }
                    slot.begin(offsets.next());
                }
                self.submit(lane, &view, slot)?;
            }
        }
        Ok(latencies)
    }

    fn submit(&self, lane: &Lane, view: &View<'_>, slot: &mut Slot<'_>) -> Result<()> {
        let unique = self.unique.fetch_add(2, Ordering::Relaxed);
        let count = slot.write(&self.files, unique)?;
        lane.offer(view, slot.number, slot.table_address(), count)
    }

    /// Writes and reads through the device, and compares with the file at `path`.
    ///
    /// # Errors
    /// The bytes are not the same.
    pub(super) fn check_data(&self, path: &Path) -> Result<()> {
        for size in [4 << 10, 64 << 10, 1 << 20] {
            let offset = 3 * size as u64;
            for write in [true, false] {
                let work = Work::Data {
                    write,
                    random: false,
                    size,
                };
                let jobs = [Mailbox::default()];
                let lane = &self.lanes[0];
                let view = lane.view(&self.memory)?;
                let mut slot = Slot::new(&self.memory, 0, work)?;
                let pattern: Vec<u8> = (0..size)
                    .map(|at| (at / 7 % 251) as u8 ^ size as u8)
                    .collect();
                match write {
                    true => slot.fill(&pattern)?,
                    false => slot.fill(&vec![0; size])?,
                }
                slot.begin(offset);
                self.submit(lane, &view, &mut slot)?;
                lane.wait(&view, &jobs, 0, 1)?;
                slot.advance()?;
                let mut there = vec![0; size];
                let file = std::fs::File::open(path)?;
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut there, offset)?;
                ensure!(there == pattern, "a WRITE of {size} bytes wrote others");
                ensure!(
                    slot.data()? == pattern,
                    "a READ of {size} bytes read others"
                );
            }
        }
        Ok(())
    }
}

fn lookup(guest: &mut Guest, name: &str) -> Result<u64> {
    let name = format!("{name}\0");
    let answer = guest.call(1, Opcode::Lookup, 1, &[name.as_bytes()], 128)?;
    Ok(answer.value::<EntryOut>()?.nodeid)
}

/// Where the next operation is: an offset in bytes, or any number for one without.
struct Offsets {
    random: Option<Random>,
    size: u64,
    first: u64,
    count: u64,
    next: u64,
}

impl Offsets {
    fn new(cell: &Cell, job: usize) -> Self {
        let size = cell.size().max(1) as u64;
        let blocks = FILE_SIZE / size;
        let is_random = !matches!(cell.work, Work::Data { random: false, .. });
        let (first, count) = match is_random {
            true => (0, blocks),
            false => {
                let each = blocks / cell.jobs as u64;
                (each * job as u64, each)
            }
        };
        Self {
            random: is_random.then_some(Random(job as u64 + 1)),
            size,
            first,
            count,
            next: 0,
        }
    }

    fn next(&mut self) -> u64 {
        let block = match &mut self.random {
            Some(random) => random.word() % self.count,
            None => {
                self.next += 1;
                self.next % self.count
            }
        };
        (self.first + block) * self.size
    }
}
