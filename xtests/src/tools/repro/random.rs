//! The seeded random mode: eight processes copy within two files, from mappings, and beside them
//! some append to files of their own ([`super::appender`]). The oracle: both files are cut into
//! slots of odd lengths, each slot belongs to one process, and only its owner writes it. So an
//! owner knows every byte of its slots at any time without communication, while neighbours write to
//! its pages too. Stores through a mapping are kept to pages with one owner: a mount with
//! FOPEN_DIRECT_IO is not coherent for mixed pages, by design. Nor does the kernel keep mappings up
//! to date with such a mount's asynchronous writes (the probe's R8, which this mode found once in
//! 300 s), so there is no io_uring there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use thrufs_sys::mapped_io::{self as mapping, Mapping};
use thrufs_sys::{range_io, uring};
use xtests::support::random::Random;

use super::appender;
use super::case::{PAGE, pattern};
use super::finding::{Finding, Stop, WorkerArgs, evict, open, say, wait_for_go};
use super::oracle::{self, difference};
use super::roles::{self, PROCESSES};

/// Slots of odd lengths fill the files up to here; after it come pages with one owner.
const SHARED_END: usize = 96 * PAGE;
const FILE_LEN: usize = SHARED_END + PROCESSES * OWN_LEN;
const OWN_LEN: usize = 4 * PAGE;

/// A range of one file that one process owns, with its expected content.
struct Slot {
    file: usize,
    start: usize,
    content: Vec<u8>,
    /// Whether its pages have no other owner.
    alone: bool,
}

fn slots_of(role: usize, seed: u64) -> Vec<Slot> {
    let mut slots = Vec::new();
    for file in 0..2 {
        let mut random = Random(seed ^ (file as u64 + 1));
        let (mut start, mut owner) = (0, random.below(PROCESSES));
        while start < SHARED_END {
            let end = (start + 500 + random.below(6 * PAGE)).min(SHARED_END);
            if owner == role {
                slots.push((file, start, end, false));
            }
            owner = (owner + 1 + random.below(PROCESSES - 1)) % PROCESSES;
            start = end;
        }
        let own = SHARED_END + role * OWN_LEN;
        slots.push((file, own, own + OWN_LEN, true));
    }
    let slot = |(file, start, end, alone)| Slot {
        file,
        start,
        content: (start..end).map(|offset| pattern(file, offset)).collect(),
        alone,
    };
    slots.into_iter().map(slot).collect()
}

struct Process {
    random: Random,
    slots: Vec<Slot>,
    files: [File; 2],
    maps: [Mapping; 2],
    /// read(2) and write(2) go through the page cache.
    cached: bool,
    operations: u64,
}

/// One process of the random mode.
pub(crate) fn work(paths: &[PathBuf; 2], args: &WorkerArgs) -> Result<Finding, Stop> {
    if args.role >= PROCESSES {
        return appender::work(&roles::appender_file(paths, args.role), args);
    }
    if args.role == 0 {
        for (index, path) in paths.iter().enumerate() {
            let content: Vec<u8> = (0..FILE_LEN).map(|offset| pattern(index, offset)).collect();
            std::fs::write(path, content).map_err(Stop::at("write the pattern"))?;
        }
    }
    let map =
        |file: &File| Mapping::of_file(file, FILE_LEN, true, true).map_err(Stop::refused("mmap"));
    let files = [open(&paths[0])?, open(&paths[1])?];
    let maps = [map(&files[0])?, map(&files[1])?];
    let mixed = args
        .seed
        .wrapping_mul(PROCESSES as u64)
        .wrapping_add(args.role as u64);
    let cached = oracle::is_cached(&files[0], &maps[0])?;
    let mut process = Process {
        random: Random(mixed),
        slots: slots_of(args.role, args.seed),
        files,
        maps,
        cached,
        operations: 0,
    };
    wait_for_go()?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut told = Instant::now();
    while Instant::now() < end {
        process.step().map_err(|stop| process.explain(stop, args))?;
        process.operations += 1;
        if told.elapsed() > Duration::from_millis(100) {
            say("progress");
            told = Instant::now();
        }
    }
    process
        .check_all()
        .map_err(|stop| process.explain(stop, args))?;
    Ok(Finding::Ok(format!(
        "{} operations in process 0",
        process.operations
    )))
}

impl Process {
    fn explain(&self, stop: Stop, args: &WorkerArgs) -> Stop {
        match stop {
            Stop::Finding(Finding::WrongData(text)) => Stop::wrong(format!(
                "process {}, operation {}, --seed {}: {text}",
                args.role, self.operations, args.seed
            )),
            other => other,
        }
    }

    fn step(&mut self) -> Result<(), Stop> {
        let target = self.random.below(self.slots.len());
        match self.random.below(20) {
            0..=9 => self.copy(target),
            10..=12 => self.write_new(target),
            13 => self.store(),
            14..=16 => self.check(target, false),
            17 => self.check(target, true),
            _ => self.push_pages(),
        }
    }

    /// Copies bytes between slots of its own, from the mapping.
    fn copy(&mut self, target: usize) -> Result<(), Stop> {
        let source = self.random.below(self.slots.len());
        let longest = self.slots[source]
            .content
            .len()
            .min(self.slots[target].content.len());
        let len = 1 + self.random.below(longest);
        let from = self
            .random
            .below(self.slots[source].content.len() - len + 1);
        let to = self
            .random
            .below(self.slots[target].content.len() - len + 1);
        if source == target && from.abs_diff(to) < len {
            return self.check(target, true);
        }
        let start = self.slots[source].start + from;
        let span = self.maps[self.slots[source].file]
            .span(start..start + len)
            .map_err(Stop::at("span"))?;
        let at = (self.slots[target].start + to) as u64;
        let file = &self.files[self.slots[target].file];
        if self.random.below(2) == 0 {
            span.forget_pages_within().map_err(Stop::at("madvise"))?;
        }
        let cut = start + self.random.below(len);
        let map = span.mapping;
        let pieces = [map.span(start..cut), map.span(cut..start + len)]
            .into_iter()
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(Stop::at("span"))?;
        let written = match self.random.below(4) {
            0 if self.cached => {
                uring::write(file, &span, at).map_err(Stop::at("io_uring write"))?
            }
            1 => mapping::pwritev2(file, &pieces, at, libc::RWF_DSYNC)
                .map_err(Stop::at("pwritev2"))?,
            _ => mapping::pwritev(file, &pieces, at).map_err(Stop::at("pwritev"))?,
        };
        let bytes = self.slots[source].content[from..from + written].to_vec();
        self.slots[target].content[to..to + written].copy_from_slice(&bytes);
        Ok(())
    }

    /// Writes fresh bytes from plain memory.
    fn write_new(&mut self, target: usize) -> Result<(), Stop> {
        let slot = &mut self.slots[target];
        let len = 1 + self.random.below(slot.content.len());
        let to = self.random.below(slot.content.len() - len + 1);
        let bytes: Vec<u8> = (0..len).map(|_| self.random.word() as u8).collect();
        let at = (slot.start + to) as u64;
        self.files[slot.file]
            .write_all_at(&bytes, at)
            .map_err(Stop::at("pwrite"))?;
        slot.content[to..to + len].copy_from_slice(&bytes);
        Ok(())
    }

    /// Stores through the mapping, in pages of its own.
    fn store(&mut self) -> Result<(), Stop> {
        let alone: Vec<usize> = (0..self.slots.len())
            .filter(|&index| self.slots[index].alone)
            .collect();
        let slot = &mut self.slots[alone[self.random.below(alone.len())]];
        let to = self.random.below(slot.content.len() - 64);
        let bytes: Vec<u8> = (0..64).map(|_| self.random.word() as u8).collect();
        let start = slot.start + to;
        let span = self.maps[slot.file]
            .span(start..start + 64)
            .map_err(Stop::at("span"))?;
        span.store(&bytes).map_err(Stop::at("store"))?;
        slot.content[to..to + 64].copy_from_slice(&bytes);
        Ok(())
    }

    /// Makes pages come and go.
    fn push_pages(&mut self) -> Result<(), Stop> {
        let index = self.random.below(2);
        let file = &self.files[index];
        let len = FILE_LEN as u64;
        match self.random.below(6) {
            0 => evict(file),
            1 => range_io::readahead(file, 0, FILE_LEN).map_err(Stop::at("readahead")),
            2 => range_io::sync_file_range(file, 0, len).map_err(Stop::at("sync_file_range")),
            3 => file.sync_data().map_err(Stop::at("fdatasync")),
            4 => match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, len) {
                // A mount without fallocate is tested nevertheless.
                Err(error) if error == rustix::io::Errno::OPNOTSUPP => Ok(()),
                other => other.map_err(Stop::at("fallocate")),
            },
            _ => {
                let span = self.maps[index]
                    .span(0..FILE_LEN)
                    .map_err(Stop::at("span"))?;
                span.forget_pages().map_err(Stop::at("madvise"))
            }
        }
    }

    fn check(&self, index: usize, through_mapping: bool) -> Result<(), Stop> {
        let slot = &self.slots[index];
        let end = slot.start + slot.content.len();
        let found = if through_mapping {
            let span = self.maps[slot.file]
                .span(slot.start..end)
                .map_err(Stop::at("span"))?;
            span.load().map_err(Stop::at("load"))?
        } else {
            let mut found = vec![0; slot.content.len()];
            self.files[slot.file]
                .read_exact_at(&mut found, slot.start as u64)
                .map_err(Stop::at("read"))?;
            found
        };
        match difference(&slot.content, &found) {
            Some(text) => Err(Stop::wrong(format!(
                "file {} from {}, by {}: {text}",
                slot.file,
                slot.start,
                if through_mapping {
                    "mapping"
                } else {
                    "read(2)"
                }
            ))),
            None => Ok(()),
        }
    }

    /// At the end: everything, as cached and from the server.
    fn check_all(&self) -> Result<(), Stop> {
        for round in 0..2 {
            for index in 0..self.slots.len() {
                self.check(index, round == 0)?;
                self.check(index, false)?;
            }
            for (file, map) in self.files.iter().zip(&self.maps) {
                let span = map.span(0..FILE_LEN).map_err(Stop::at("span"))?;
                span.forget_pages().map_err(Stop::at("madvise"))?;
                file.sync_all().map_err(Stop::at("fsync"))?;
                evict(file)?;
            }
        }
        Ok(())
    }
}
