//! The program of the first report of the deadlock, call by call: on a kernel that keeps every page
//! of a write locked, the last call faults in a page that it has locked itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use thrufs_sys::mapped_io::{Mapping, pwritev};

use super::finding::{Finding, Stop, wait_for_go};

const TEXT: &[u8] = b"Hello World";
const OFFSET: u64 = 4096 + 4096 - 12;

/// Runs the program on `path` and checks what it wrote.
pub(crate) fn work(path: &Path) -> Result<Finding, Stop> {
    File::create(path).map_err(Stop::at("create"))?;
    wait_for_go()?;
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .truncate(true)
        .open(path)
        .map_err(Stop::at("open"))?;
    let map = Mapping::of_file(&file, 2 * 4096, true, true).map_err(Stop::refused("mmap"))?;
    file.write_at(TEXT, 0).map_err(Stop::at("pwrite"))?;
    file.write_at(TEXT, 4096).map_err(Stop::at("pwrite"))?;
    let length = TEXT.len() + 1;
    let first = map.span(0..length).map_err(Stop::at("span"))?;
    let second = map.span(4096..4096 + length).map_err(Stop::at("span"))?;
    let written = pwritev(&file, &[first, second], OFFSET).map_err(Stop::at("pwritev"))?;
    drop(map);
    check(&file, path, written)
}

fn check(file: &File, path: &Path, written: usize) -> Result<Finding, Stop> {
    let mut expected = vec![0; OFFSET as usize];
    expected[..TEXT.len()].copy_from_slice(TEXT);
    expected[4096..4096 + TEXT.len()].copy_from_slice(TEXT);
    let twice = [TEXT, b"\0", TEXT, b"\0"].concat();
    expected.extend_from_slice(&twice[..written.min(twice.len())]);
    let advice = rustix::fs::Advice::DontNeed;
    for view in ["in the page cache", "after eviction and reopening"] {
        let found = std::fs::read(path).map_err(Stop::at("read"))?;
        if let Some(text) = super::oracle::difference(&expected, &found) {
            return Err(Stop::wrong(format!("{view}: {text}")));
        }
        file.sync_all().map_err(Stop::at("fsync"))?;
        rustix::fs::fadvise(file, 0, None, advice).map_err(Stop::at("fadvise"))?;
    }
    Ok(Finding::Ok(format!("write() returned={written}")))
}
