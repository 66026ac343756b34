//! Cases in which one thread writes and another stores through a shared mapping, to different bytes
//! of one page. The two need no lock between them: on a local file system no byte is lost, whatever
//! the order. Each case counts the lost bytes of several files, since a single race can be won by chance.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

use thrufs_sys::mapped_io::Mapping;
use thrufs_sys::range_io;

use super::case::{PAGE, pattern};
use super::finding::{Finding, Stop, evict, say, wait_for_go};

/// Files that are appended to, one after the other.
const APPENDED: usize = 10;
/// Files that are written to.
const WRITTEN: usize = 2;
/// Bytes of one append.
const APPEND: usize = 16;
/// Bytes of one store, and of one write beside it.
const SLOT: usize = 8;
/// Between two stores, where nothing else slows them down.
const PAUSE: Duration = Duration::from_micros(20);
/// How often each slot of the page is written.
const PASSES: usize = 2;

/// Lost bytes of all written ones.
#[derive(Default)]
struct Lost {
    of: usize,
    files: usize,
    bytes: usize,
    written: usize,
    first: Option<String>,
}

impl Lost {
    /// Compares, from byte `start` on.
    fn count(&mut self, file: usize, start: usize, [expected, found]: [&[u8]; 2]) {
        let differs = |at: &usize| expected.get(*at) != found.get(*at);
        let all = start..expected.len().max(found.len());
        let wrong: Vec<usize> = all.filter(differs).collect();
        self.bytes += wrong.len();
        if let Some(&at) = wrong.first() {
            self.first.get_or_insert_with(|| {
                let [expected, found] = [expected, found].map(|bytes| match bytes.get(at) {
                    Some(byte) => format!("{byte:#04x}"),
                    None => "beyond the end".to_owned(),
                });
                format!("file {file}, byte {at} is {found}, must be {expected}")
            });
        }
    }

    fn finding(self, what: &str) -> Result<Finding, Stop> {
        let Self {
            of,
            files,
            bytes,
            written,
            first,
        } = self;
        match first {
            None => Ok(Finding::Ok(format!("{written} bytes {what}"))),
            Some(first) => Err(Stop::wrong(format!(
                "{bytes} of {written} bytes {what} are lost, in {files} of {of} files ({first})"
            ))),
        }
    }
}

fn fresh(path: &Path, content: &[u8]) -> Result<File, Stop> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.open(path).map_err(Stop::at("create"))?;
    file.write_all_at(content, 0).map_err(Stop::at("pwrite"))?;
    Ok(file)
}

/// Stores to the file's first slot until `done`, each time followed by `then`; returns the last
/// store. Sets `started` after the first one. The mapping is gone when it returns.
fn store(
    file: &File,
    [started, done]: [&AtomicBool; 2],
    then: impl Fn() -> Result<(), Stop>,
) -> Result<[u8; SLOT], Stop> {
    let map = Mapping::of_file(file, PAGE, true, true).map_err(Stop::refused("mmap"))?;
    let slot = map.span(0..SLOT).map_err(Stop::at("span"))?;
    let mut round = 0_u64;
    loop {
        round = round.wrapping_add(1);
        let bytes = round.to_le_bytes();
        slot.store(&bytes).map_err(Stop::at("store"))?;
        then()?;
        started.store(true, Ordering::Release);
        if done.load(Ordering::Acquire) {
            return Ok(bytes);
        }
    }
}

/// Runs `write` while a second thread stores; returns the last store.
fn beside(
    file: &File,
    then: impl Fn() -> Result<(), Stop> + Send,
    write: impl FnOnce() -> Result<(), Stop>,
) -> Result<[u8; SLOT], Stop> {
    let (started, done) = (AtomicBool::new(false), AtomicBool::new(false));
    scope(|threads| {
        let storer = threads.spawn(|| store(file, [&started, &done], then));
        while !started.load(Ordering::Acquire) && !storer.is_finished() {
            std::thread::yield_now();
        }
        let written = write();
        done.store(true, Ordering::Release);
        let last = joined(storer)?;
        written.map(|()| last)
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, Stop>>) -> Result<T, Stop> {
    let panicked = |_| Stop::error("the storing thread panicked");
    thread.join().map_err(panicked)?
}

/// The server's content: after fsync(2), past the page cache.
fn from_server(file: &File) -> Result<Vec<u8>, Stop> {
    file.sync_all().map_err(Stop::at("fsync"))?;
    evict(file)?;
    let mut found = vec![0; PAGE + 1];
    let read = file.read_at(&mut found, 0).map_err(Stop::at("read"))?;
    found.truncate(read);
    Ok(found)
}

/// 255 appends of 16 bytes to the page that the other thread stores to and writes back.
pub(crate) fn append(path: &Path) -> Result<Finding, Stop> {
    wait_for_go()?;
    let mut lost = Lost {
        of: APPENDED,
        ..Lost::default()
    };
    for number in 0..APPENDED {
        let mut expected: Vec<u8> = (0..PAGE).map(|at| pattern(0, at)).collect();
        let file = fresh(path, &expected[..APPEND])?;
        let write_back = || {
            range_io::sync_file_range(&file, 0, PAGE as u64)
                .map_err(Stop::refused("sync_file_range"))
        };
        let last = beside(&file, write_back, || {
            for at in (APPEND..PAGE).step_by(APPEND) {
                file.write_all_at(&expected[at..at + APPEND], at as u64)
                    .map_err(Stop::at("pwrite"))?;
            }
            Ok(())
        })?;
        expected[..SLOT].copy_from_slice(&last);
        let found = from_server(&file)?;
        let before = lost.bytes;
        lost.count(number, 0, [&expected, &found]);
        lost.files += usize::from(lost.bytes > before);
        lost.written += PAGE - APPEND;
        say("progress");
    }
    lost.finding("appended beside writeback")
}

/// pwrite(2)s to all slots of a page but the one that the other thread stores to.
pub(crate) fn write(path: &Path) -> Result<Finding, Stop> {
    wait_for_go()?;
    let mut lost = Lost {
        of: WRITTEN,
        ..Lost::default()
    };
    for number in 0..WRITTEN {
        let mut expected: Vec<u8> = (0..PAGE).map(|at| pattern(0, at)).collect();
        let file = fresh(path, &expected)?;
        let before = lost.bytes;
        let pause = || {
            // A store without a fault would never yield the CPU to the server and the writer.
            std::thread::sleep(PAUSE);
            Ok(())
        };
        let last = beside(&file, pause, || {
            for pass in 1..=PASSES {
                for at in (SLOT..PAGE).step_by(SLOT) {
                    let bytes = [pattern(pass, at); SLOT];
                    file.write_all_at(&bytes, at as u64)
                        .map_err(Stop::at("pwrite"))?;
                    expected[at..at + SLOT].copy_from_slice(&bytes);
                    if at.is_multiple_of(64 * SLOT) {
                        say("progress");
                    }
                }
                let mut found = vec![0; PAGE];
                file.read_exact_at(&mut found, 0)
                    .map_err(Stop::at("read"))?;
                lost.count(number, SLOT, [&expected, &found]);
                lost.written += PAGE - SLOT;
                say("progress");
            }
            Ok(())
        })?;
        expected[..SLOT].copy_from_slice(&last);
        let found = from_server(&file)?;
        lost.count(number, 0, [&expected, &found]);
        if lost.bytes > before {
            // With direct I/O a write takes a dozen times as long as through the cache, and one file is enough.
            lost.files += 1;
            lost.of = number + 1;
            break;
        }
    }
    lost.finding("written beside stores")
}
