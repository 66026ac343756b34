//! Executes the copies that [`super::case`] lists, and compares both files with what they must then
//! hold: the pattern, with the target replaced by the source's bytes. Content is read through
//! read(2), through the mapping, and again after eviction, as each of the three can be wrong alone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use thrufs_sys::mapped_io::Mapping;
use thrufs_sys::range_io;

use super::case::{Copy, FILE_LEN, Other, PAGE, pattern};
use super::copy_files::CopyFiles;
use super::finding::{Finding, Stop, open, say, wait_for_go};
use super::oracle::{self, difference};
use super::transfer;

/// How long two processes work against each other.
const RACE: Duration = Duration::from_millis(400);

/// Runs one role of a copying case.
pub(crate) fn work(files: &[PathBuf; 2], plan: &Copy, role: usize) -> Result<Finding, Stop> {
    if role == 0 {
        for (index, path) in files.iter().enumerate() {
            let content: Vec<u8> = (0..FILE_LEN).map(|offset| pattern(index, offset)).collect();
            fs::write(path, content).map_err(Stop::at("write the pattern"))?;
        }
    }
    let reverse = role == 1 && plan.other == Other::Reverse;
    if role == 1 && !reverse {
        return disturb(&files[0], plan);
    }
    let own = CopyFiles::open(files, plan, usize::from(reverse))?;
    wait_for_go()?;
    if plan.other == Other::Nothing {
        own.prepare()?;
        transfer::run(&own)?;
    } else {
        let end = Instant::now() + RACE;
        while Instant::now() < end {
            own.prepare()?;
            match transfer::run(&own) {
                // A source that was truncated away, where the kernel must fail like this.
                Err(Stop::Io(_, error))
                    if plan.other == Other::Truncate
                        && error.raw_os_error() == Some(libc::EFAULT) => {}
                other => other?,
            }
            say("progress");
        }
    }
    check(&own)
}

/// Compares the target with what it must hold.
fn check(files: &CopyFiles<'_>) -> Result<Finding, Stop> {
    let expected = files.expected();
    // The other process may still be truncating: the remaining bytes must be right, and the last
    // truncate or write decides which are zero. Only what is never truncated can be mapped.
    let cut = files.plan.other == Other::Truncate;
    let mapped = if cut { 2 * PAGE } else { expected.len() };
    let compare = |found: &[u8]| {
        if cut {
            let length = found.len().clamp(2 * PAGE, expected.len());
            oracle::difference_or_zero(&expected[..length], found)
        } else {
            difference(&expected[..found.len().max(mapped)], found)
        }
    };
    for view in ["in the page cache", "after eviction"] {
        let mut found = vec![0; expected.len()];
        let read = read_to_end_at(&files.target_file, &mut found).map_err(Stop::at("read"))?;
        if let Some(text) = compare(&found[..read]) {
            return Err(Stop::wrong(format!("read(2) {view}: {text}")));
        }
        let map = Mapping::of_file(&files.target_file, mapped, true, false)
            .map_err(Stop::refused("mmap"))?;
        let all = map.span(0..mapped).map_err(Stop::at("span"))?;
        let found = all.load().map_err(Stop::at("load"))?;
        if let Some(text) = compare(&found) {
            return Err(Stop::wrong(format!("mapping {view}: {text}")));
        }
        all.forget_pages().map_err(Stop::at("madvise"))?;
        files.target_file.sync_all().map_err(Stop::at("fsync"))?;
        files.evict()?;
    }
    Ok(Finding::Ok(format!(
        "{} bytes to {}",
        files.length(),
        files.plan.target
    )))
}

/// Reads up to the end of the file or of the buffer.
fn read_to_end_at(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// The second process: disturbs the target as the plan says until the time is over.
fn disturb(path: &Path, plan: &Copy) -> Result<Finding, Stop> {
    let file = open(path)?;
    let map = Mapping::of_file(&file, FILE_LEN, true, true).map_err(Stop::refused("mmap"))?;
    // The last page: no plan with a disturbance reads or writes it.
    let last = map.span(FILE_LEN - 8..FILE_LEN).map_err(Stop::at("span"))?;
    let tail: Vec<u8> = (FILE_LEN - 8..FILE_LEN).map(|at| pattern(0, at)).collect();
    // Beside the target, in a page that it shares; a mount that bypasses the page cache is not
    // coherent for such a page, by design, and gets a store in a page of its own.
    let near = if oracle::is_cached(&file, &map)? {
        3 * PAGE + 1000
    } else {
        FILE_LEN - 2 * PAGE
    };
    let near = map.span(near..near + 8).map_err(Stop::at("span"))?;
    let near_bytes: Vec<u8> = (near.range.clone()).map(|at| pattern(0, at)).collect();
    wait_for_go()?;
    let end = Instant::now() + RACE;
    let mut rounds = 0;
    while Instant::now() < end {
        match plan.other {
            Other::Nothing | Other::Reverse => break,
            Other::Read => {
                let mut found = vec![0; FILE_LEN];
                file.read_exact_at(&mut found, 0)
                    .map_err(Stop::at("read"))?;
                oracle::ensure_source_or_pattern(plan, &found)?;
            }
            Other::Truncate => {
                file.set_len(2 * PAGE as u64)
                    .map_err(Stop::at("truncate"))?;
                file.set_len(FILE_LEN as u64)
                    .map_err(Stop::at("truncate"))?;
            }
            Other::Fallocate => {
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE_LEN as u64)
                    .map_err(Stop::refused("fallocate"))?;
            }
            Other::Readahead => {
                range_io::readahead(&file, 0, FILE_LEN).map_err(Stop::refused("readahead"))?;
            }
            Other::Msync => {
                near.store(&near_bytes).map_err(Stop::at("store"))?;
                let page = map.span(0..FILE_LEN).map_err(Stop::at("span"))?;
                page.sync().map_err(Stop::at("msync"))?;
            }
            Other::SyncFileRange => {
                near.store(&near_bytes).map_err(Stop::at("store"))?;
                last.store(&tail).map_err(Stop::at("store"))?;
                range_io::sync_file_range(&file, 0, FILE_LEN as u64)
                    .map_err(Stop::refused("sync_file_range"))?;
            }
        }
        rounds += 1;
        say("progress");
    }
    Ok(Finding::Ok(format!("{rounds} rounds")))
}

/// copy_file_range onto itself, shifted: the kernel must refuse, or do it, but come back.
pub(crate) fn overlap(path: &Path) -> Result<Finding, Stop> {
    let content: Vec<u8> = (0..FILE_LEN).map(|offset| pattern(0, offset)).collect();
    fs::write(path, content).map_err(Stop::at("write the pattern"))?;
    let file = open(path)?;
    wait_for_go()?;
    let (mut from, mut to) = (2 * PAGE as u64, 3 * PAGE as u64 + 100);
    let result =
        rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 4 * PAGE);
    let mut found = vec![0; FILE_LEN];
    file.read_exact_at(&mut found, 0)
        .map_err(Stop::at("read"))?;
    match result {
        Ok(copied) => {
            oracle::ensure_shifted(&found, 2 * PAGE, 3 * PAGE + 100, copied)?;
            Ok(Finding::Ok(format!("copied {copied}")))
        }
        Err(error) => {
            oracle::ensure_shifted(&found, 2 * PAGE, 3 * PAGE + 100, 0)?;
            if error == rustix::io::Errno::INVAL {
                return Ok(Finding::Ok("EINVAL".into()));
            }
            Err(Stop::refused("copy_file_range")(error))
        }
    }
}
