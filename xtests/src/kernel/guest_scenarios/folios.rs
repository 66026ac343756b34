//! How many folios a write(2) adds to the page cache, counted by the kernel's own event
//! filemap:mm_filemap_add_to_page_cache.
//!
//! Invariant: only folios of the written file are counted. The daemon's files are in a tmpfs, for
//! which this event does not fire.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::ensure;
use xtests::support::kernel_trace::KernelTrace;
use xtests::support::missing;

const PAGE: u64 = 4096;
/// Longer than any write.
const FILE_LEN: usize = 4 << 20;
/// Offset and length.
const WRITES: [(u64, usize); 5] = [
    (0, 65536),
    (100, 65536),
    (0, 1 << 20),
    (1, 1 << 20),
    (4000, 4000),
];

/// Passes if writes of many pages take fewer folios than pages, and cover no page twice.
pub(super) fn check(dir: &Path) -> anyhow::Result<String> {
    if !Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return Err(missing(
            "transparent huge pages, without which no file has large folios",
        ));
    }
    let trace = KernelTrace::start("filemap/mm_filemap_add_to_page_cache", "3.13")?;
    let mut counts = Vec::new();
    let mut small = false;
    for (index, (offset, len)) in WRITES.into_iter().enumerate() {
        let orders = one(&trace, &dir.join(format!("folios-{index}")), offset, len)?;
        let added: u64 = orders.iter().map(|order| 1 << order).sum();
        let end = offset + len as u64;
        let touched = end.div_ceil(PAGE) - offset / PAGE;
        ensure!(
            added == touched,
            "{len}@{offset} touches {touched} pages and added {added}"
        );
        small |= touched > 2 && orders.len() as u64 == touched;
        counts.push(format!("{len}@{offset} {}", orders.len()));
    }
    let said = format!("folios per write: {}", counts.join(", "));
    ensure!(!small, "{said}");
    Ok(said)
}

/// The orders of the folios that one write(2) adds to a file that is not cached.
fn one(trace: &KernelTrace, path: &Path, offset: u64, len: usize) -> anyhow::Result<Vec<u32>> {
    std::fs::write(path, vec![b'A'; FILE_LEN])?;
    let file = File::options().read(true).write(true).open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let ino = file.metadata()?.ino();
    trace.clear()?;
    let written = file.write_at(&vec![b'B'; len], offset)?;
    let orders = trace.events(|line| parse(line, ino))?;
    ensure!(written == len, "write of {len} at {offset} wrote {written}");
    drop(file);
    std::fs::remove_file(path)?;
    Ok(orders)
}

/// `... mm_filemap_add_to_page_cache: dev 0:32 ino 2a pfn=0x1f00 ofs=65536 order=4`
fn parse(line: &str, ino: u64) -> Option<u32> {
    let (_, rest) = line.split_once("mm_filemap_add_to_page_cache: ")?;
    let (_, after) = rest.split_once(" ino ")?;
    let (number, _) = after.split_once(' ')?;
    if u64::from_str_radix(number, 16).ok()? != ino {
        return None;
    }
    rest.split_once("order=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn parse_of_a_trace_line_gives_the_order_of_this_file() {
        let line = "  xtests-31 [000] ..... 1.5: mm_filemap_add_to_page_cache: dev 0:32 ino 2a \
                    pfn=0x1f00 ofs=65536 order=4";
        assert_eq!(parse(line, 42), Some(4));
        assert_eq!(parse(line, 43), None);
        assert_eq!(parse("# tracer: nop", 42), None);
    }
}
