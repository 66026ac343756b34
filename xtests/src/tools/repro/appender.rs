//! The random mode's appenders: a process whose first thread appends to a file of its own, while a
//! second one stores through a mapping to existing bytes and causes writeback in every way there
//! is. The oracle: the first [`OWN`] bytes of each page belong to the second thread once their
//! append has returned, all others to the first, so that both know every byte. On a mount with
//! FOPEN_DIRECT_IO, which is not coherent for mixed pages by design, the second thread is left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use thrufs_sys::mapped_io::Mapping;
use thrufs_sys::range_io;
use xtests::support::random::Random;

use super::case::{FILE_LEN, PAGE};
use super::finding::{Finding, Stop, WorkerArgs, evict, open, say, wait_for_go};
use super::oracle::{self, difference};

/// Bytes of each page that the storing thread owns.
const OWN: usize = 8;
/// A file is complete at this length, or a little more.
const LONG: usize = 16 * PAGE;
const LONGEST_APPEND: usize = 2 * PAGE;
/// The magic number of statfs(2) for FUSE and virtiofs.
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

pub(crate) fn work(path: &Path, args: &WorkerArgs) -> Result<Finding, Stop> {
    let appender = Appender::open(path)?;
    let mut random = Random((args.seed ^ 0xa99e_4de7).wrapping_add(args.role as u64));
    wait_for_go()?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut rounds = 0_u64;
    while Instant::now() < end {
        appender
            .round(&mut random, end)
            .map_err(|stop| match stop {
                Stop::Finding(Finding::WrongData(text)) => Stop::wrong(format!(
                    "process {} (appender), round {rounds}, --seed {}: {text}",
                    args.role, args.seed
                )),
                other => other,
            })?;
        rounds += 1;
        say("progress");
    }
    Ok(Finding::Ok(format!("{rounds} files appended to")))
}

struct Appender<'a> {
    path: &'a Path,
    file: File,
    /// The same file, with O_APPEND.
    append: File,
    /// read(2) and write(2) go through the page cache.
    cached: bool,
}

/// What the two threads of a round share.
#[derive(Default)]
struct Shared {
    /// Bytes whose append has returned.
    returned: AtomicUsize,
    /// No more appends follow.
    done: AtomicBool,
}

impl<'a> Appender<'a> {
    fn open(path: &'a Path) -> Result<Self, Stop> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(path).map_err(Stop::at("create"))?;
        file.set_len(FILE_LEN as u64)
            .map_err(Stop::at("truncate"))?;
        // Private: a mount with direct I/O may refuse shared ones.
        let map = Mapping::of_file(&file, FILE_LEN, false, false).map_err(Stop::at("mmap"))?;
        let cached = oracle::is_cached(&file, &map)?;
        let append = File::options().append(true).open(path);
        let append = append.map_err(Stop::at("open"))?;
        Ok(Self {
            path,
            file,
            append,
            cached,
        })
    }

    /// One file from nothing to [`LONG`] or to the `end` of the time, and its content then.
    fn round(&self, random: &mut Random, end: Instant) -> Result<(), Stop> {
        self.file.set_len(0).map_err(Stop::at("truncate"))?;
        let shared = Shared::default();
        let other = Random(random.word());
        let (mut content, stored) = scope(|threads| {
            let storer = self
                .cached
                .then(|| threads.spawn(|| self.store(other, &shared)));
            let appended = self.fill(random, &shared, end);
            shared.done.store(true, Ordering::Release);
            let panicked = |_| Stop::error("the storing thread panicked");
            let stored = match storer {
                Some(storer) => storer.join().map_err(panicked)??,
                None => BTreeMap::new(),
            };
            Ok((appended?, stored))
        })?;
        for (start, bytes) in stored {
            content[start..start + OWN].copy_from_slice(&bytes);
        }
        self.check(&content)
    }

    /// Appends until the file is long; returns its content.
    fn fill(&self, random: &mut Random, shared: &Shared, end: Instant) -> Result<Vec<u8>, Stop> {
        let mut content = Vec::new();
        while content.len() < LONG && Instant::now() < end {
            // Mostly small, so that many appends go to one page.
            let longest = if random.below(4) == 0 {
                LONGEST_APPEND
            } else {
                64
            };
            let len = 1 + random.below(longest);
            // Never 0, which is what a lost byte is.
            let bytes: Vec<u8> = (0..len).map(|_| random.word() as u8 | 1).collect();
            if random.below(2) == 0 {
                (&self.append)
                    .write_all(&bytes)
                    .map_err(Stop::at("write"))?;
            } else {
                self.file
                    .write_all_at(&bytes, content.len() as u64)
                    .map_err(Stop::at("pwrite"))?;
            }
            content.extend(bytes);
            shared.returned.store(content.len(), Ordering::Release);
        }
        Ok(content)
    }

    /// Stores to existing pages, mostly to the last one; returns the last store to each, by its offset.
    fn store(
        &self,
        mut random: Random,
        shared: &Shared,
    ) -> Result<BTreeMap<usize, [u8; OWN]>, Stop> {
        let len = LONG + LONGEST_APPEND;
        let map = Mapping::of_file(&self.file, len, true, true).map_err(Stop::refused("mmap"))?;
        let mut stored = BTreeMap::new();
        while !shared.done.load(Ordering::Acquire) {
            let returned = shared.returned.load(Ordering::Acquire);
            let Some(last) = returned.checked_sub(OWN).map(|start| start / PAGE) else {
                std::thread::yield_now();
                continue;
            };
            let back = if random.below(4) == 0 {
                random.below(last + 1)
            } else {
                0
            };
            let start = (last - back) * PAGE;
            let bytes = (random.word() | 0x0101_0101_0101_0101).to_le_bytes();
            let span = map.span(start..start + OWN).map_err(Stop::at("span"))?;
            span.store(&bytes).map_err(Stop::at("store"))?;
            stored.insert(start, bytes);
            self.write_back(&mut random)?;
        }
        Ok(stored)
    }

    /// The ways to cause writeback of a file's dirty pages.
    fn write_back(&self, random: &mut Random) -> Result<(), Stop> {
        match random.below(6) {
            0 | 1 => range_io::sync_file_range(&self.file, 0, 0)
                .map_err(Stop::refused("sync_file_range")),
            // On any other file system this would write back all of the machine's data there.
            2 if is_fuse(&self.file)? => rustix::fs::syncfs(&self.file).map_err(Stop::at("syncfs")),
            2 | 3 => open(self.path).map(drop),
            4 => self.file.sync_data().map_err(Stop::at("fdatasync")),
            _ => Ok(()),
        }
    }

    /// By read(2), through a mapping, and from the server.
    fn check(&self, content: &[u8]) -> Result<(), Stop> {
        let read = |view| {
            let mut found = vec![0; content.len() + 1];
            let read = self.file.read_at(&mut found, 0).map_err(Stop::at("read"))?;
            wrong(view, content, &found[..read])
        };
        read("read(2)")?;
        if self.cached && !content.is_empty() {
            let map = Mapping::of_file(&self.file, content.len(), true, false);
            let map = map.map_err(Stop::refused("mmap"))?;
            let all = map.span(0..content.len()).map_err(Stop::at("span"))?;
            wrong("mapping", content, &all.load().map_err(Stop::at("load"))?)?;
        }
        self.file.sync_all().map_err(Stop::at("fsync"))?;
        evict(&self.file)?;
        read("read(2) after eviction")
    }
}

fn wrong(view: &str, content: &[u8], found: &[u8]) -> Result<(), Stop> {
    match difference(content, found) {
        Some(text) => Err(Stop::wrong(format!("{view}: {text}"))),
        None => Ok(()),
    }
}

fn is_fuse(file: &File) -> Result<bool, Stop> {
    let found = rustix::fs::fstatfs(file).map_err(Stop::at("fstatfs"))?;
    Ok(found.f_type == FUSE_SUPER_MAGIC)
}
