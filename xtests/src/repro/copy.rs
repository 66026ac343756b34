//! Executes the copies that [`super::case`] lists, and knows what both files must then hold: the
//! pattern, with the target replaced by the source's bytes. Content is read through read(2),
//! through the mapping, and again after eviction, as each of the three can be wrong alone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags};
use thrufs_sys::mapped_io::{Mapping, Span};
use thrufs_sys::range_io;

use super::case::{Copy, FILE_LEN, Other, PAGE, Pages, pattern};
use super::worker::{Finding, Stop, say, wait_for_go};
use super::{appender, oracle, transfer};

/// How long two processes work against each other.
const RACE: Duration = Duration::from_millis(400);

/// Says what the path is; it must exist.
pub(crate) fn is_file(path: &Path) -> Result<Finding, Stop> {
    wait_for_go()?;
    let found = match fs::metadata(path) {
        Ok(found) if found.is_dir() => "directory",
        Ok(_) => "file",
        Err(error) => return Err(Stop::Io("stat", error)),
    };
    Ok(Finding::Ok(found.into()))
}

/// Looks at the place before anything else does: the watcher itself never touches the mount.
pub(crate) fn preflight(files: &[PathBuf; 2], overwrite: bool) -> Result<Finding, Stop> {
    wait_for_go()?;
    let parent = files[0].parent().unwrap_or(Path::new("/"));
    if let Ok(found) = fs::metadata(&files[0]) {
        if !found.is_file() || (found.len() > 0 && !overwrite) {
            return Err(Stop::Finding(Finding::Error(format!(
                "{} is not an empty regular file; choose another or give --overwrite",
                files[0].display()
            ))));
        }
    } else if parent
        .file_name()
        .is_some_and(|name| name == super::SUBDIRECTORY)
    {
        fs::create_dir_all(parent).map_err(Stop::at("create a directory"))?;
    }
    for file in files {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(file)
            .map_err(Stop::at("create a file"))?;
    }
    let parent = parent
        .canonicalize()
        .map_err(Stop::at("resolve the path"))?;
    use std::os::unix::fs::MetadataExt;
    let dev = fs::metadata(&parent).map_err(Stop::at("stat"))?.dev();
    // Decides only which defects of the kernel are known here; where it cannot be told, none is.
    let cached = fills_page_cache(&files[1]).unwrap_or(false);
    Ok(Finding::Ok(format!("{dev} {cached}")))
}

/// Whether read(2) of this file, whose length is changed, leaves its pages in the page cache.
fn fills_page_cache(path: &Path) -> Result<bool, Stop> {
    let mut options = File::options();
    let file = options.read(true).write(true).open(path);
    let file = file.map_err(Stop::at("open"))?;
    file.set_len(FILE_LEN as u64)
        .map_err(Stop::at("truncate"))?;
    // Private: a mount with direct I/O may refuse shared ones.
    let map = Mapping::of_file(&file, FILE_LEN, false, false).map_err(Stop::at("mmap"))?;
    oracle::is_cached(&file, &map)
}

/// Removes what the cases made.
pub(crate) fn cleanup(files: &[PathBuf; 2]) -> Result<Finding, Stop> {
    wait_for_go()?;
    if let Some(parent) = files[0].parent()
        && parent
            .file_name()
            .is_some_and(|name| name == super::SUBDIRECTORY)
    {
        fs::remove_dir_all(parent).map_err(Stop::at("remove the test directory"))?;
        return Ok(Finding::Ok(String::new()));
    }
    for file in appender::files(files) {
        match fs::remove_file(file) {
            // Only the random mode makes them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            other => other.map_err(Stop::at("remove an appender's file"))?,
        }
    }
    fs::remove_file(&files[1]).map_err(Stop::at("remove the second file"))?;
    Ok(Finding::Ok(String::new()))
}

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
    let place = Place::open(files, plan, usize::from(reverse))?;
    wait_for_go()?;
    if plan.other == Other::Nothing {
        place.prepare()?;
        place.copy()?;
    } else {
        let end = Instant::now() + RACE;
        while Instant::now() < end {
            place.prepare()?;
            match place.copy() {
                // A source that was truncated away: what the kernel must then say.
                Err(Stop::Io(_, error))
                    if plan.other == Other::Truncate
                        && error.raw_os_error() == Some(libc::EFAULT) => {}
                other => other?,
            }
            say("progress");
        }
    }
    place.check()
}

/// The files, mappings and plan of one copying process.
pub(crate) struct Place<'a> {
    pub(crate) plan: &'a Copy,
    /// Index of the file that is written.
    target: usize,
    source: usize,
    pub(crate) target_file: File,
    pub(crate) source_file: File,
    pub(crate) source_map: Mapping,
}

impl<'a> Place<'a> {
    fn open(files: &[PathBuf; 2], plan: &'a Copy, target: usize) -> Result<Self, Stop> {
        let source = if plan.source_is_other_file {
            1 - target
        } else {
            target
        };
        let open = |index: usize| {
            File::options()
                .read(true)
                .write(true)
                .open(&files[index])
                .map_err(Stop::at("open"))
        };
        let (target_file, source_file) = (open(target)?, open(source)?);
        let source_map =
            Mapping::of_file(&source_file, FILE_LEN, true, true).map_err(Stop::refused("mmap"))?;
        Ok(Self {
            plan,
            target,
            source,
            target_file,
            source_file,
            source_map,
        })
    }

    pub(crate) fn spans(&self) -> Result<Vec<Span<'_>>, Stop> {
        let spans = self.plan.source.iter();
        spans
            .map(|&(offset, len)| self.source_map.span(offset..offset + len))
            .collect::<io::Result<_>>()
            .map_err(Stop::at("span"))
    }

    /// Brings the source's pages into the state that the plan asks for.
    fn prepare(&self) -> Result<(), Stop> {
        let all = self
            .source_map
            .span(0..FILE_LEN)
            .map_err(Stop::at("span"))?;
        if self.plan.pages == Pages::Present {
            for span in self.spans()? {
                span.load().map_err(Stop::at("load"))?;
            }
            return Ok(());
        }
        all.forget_pages().map_err(Stop::at("madvise"))?;
        match self.plan.pages {
            Pages::Present | Pages::NotMapped => Ok(()),
            Pages::NotCached => self.evict(),
            Pages::DropCaches => fs::write("/proc/sys/vm/drop_caches", "1").map_err(|error| {
                Stop::Finding(Finding::Lacks(format!("drop_caches needs root: {error}")))
            }),
        }
    }

    fn evict(&self) -> Result<(), Stop> {
        for file in [&self.source_file, &self.target_file] {
            rustix::fs::fadvise(file, 0, None, Advice::DontNeed)
                .map_err(|error| Stop::Io("fadvise", error.into()))?;
        }
        Ok(())
    }

    fn copy(&self) -> Result<(), Stop> {
        transfer::run(self)
    }

    fn length(&self) -> usize {
        self.plan.source.iter().map(|(_, len)| len).sum()
    }

    fn expected(&self) -> Vec<u8> {
        let mut content: Vec<u8> = (0..FILE_LEN).map(|at| pattern(self.target, at)).collect();
        let source = self
            .plan
            .source
            .iter()
            .flat_map(|&(offset, len)| offset..offset + len);
        for (index, offset) in source.enumerate() {
            content[self.plan.target + index] = pattern(self.source, offset);
        }
        content
    }

    fn check(&self) -> Result<Finding, Stop> {
        let expected = self.expected();
        // The other process may still be cutting: what is left has to be right, and who was last to
        // cut or to write decides which bytes are zero. Only what is never cut can be mapped.
        let cut = self.plan.other == Other::Truncate;
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
            let read = read_to_end_at(&self.target_file, &mut found).map_err(Stop::at("read"))?;
            if let Some(text) = compare(&found[..read]) {
                return Err(Stop::wrong(format!("read(2) {view}: {text}")));
            }
            let map = Mapping::of_file(&self.target_file, mapped, true, false)
                .map_err(Stop::refused("mmap"))?;
            let all = map.span(0..mapped).map_err(Stop::at("span"))?;
            let found = all.load().map_err(Stop::at("load"))?;
            if let Some(text) = compare(&found) {
                return Err(Stop::wrong(format!("mapping {view}: {text}")));
            }
            all.forget_pages().map_err(Stop::at("madvise"))?;
            self.target_file.sync_all().map_err(Stop::at("fsync"))?;
            self.evict()?;
        }
        Ok(Finding::Ok(format!(
            "{} bytes to {}",
            self.length(),
            self.plan.target
        )))
    }
}

/// Reads what the file has, up to the buffer's length.
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

/// The second process: does to the target what the plan says until the time is over.
fn disturb(path: &Path, plan: &Copy) -> Result<Finding, Stop> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(Stop::at("open"))?;
    let map = Mapping::of_file(&file, FILE_LEN, true, true).map_err(Stop::refused("mmap"))?;
    // The last page: neither source nor target of any plan that is disturbed.
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
                    .map_err(|error| Stop::refused("fallocate")(error.into()))?;
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
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(Stop::at("open"))?;
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
            Err(Stop::refused("copy_file_range")(error.into()))
        }
    }
}

/// The first difference in words, or None.
pub(crate) fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected.len() != found.len() {
        return Some(format!(
            "{} bytes where {} are expected",
            found.len(),
            expected.len()
        ));
    }
    let at = expected
        .iter()
        .zip(found)
        .position(|(wanted, got)| wanted != got)?;
    let wrong = expected
        .iter()
        .zip(found)
        .filter(|(wanted, got)| wanted != got)
        .count();
    Some(format!(
        "byte {at} is {:#04x}, must be {:#04x} ({wrong} bytes differ)",
        found[at], expected[at]
    ))
}
