//! How many WRITEs a write(2) becomes, counted by the kernel's own event fuse:fuse_request_send and
//! compared with the rules. So the transport does not matter, and no server has to count.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::ensure;
use thrufs_rules::{Limits, WriteRule};
use xtests::support::request_trace::RequestTrace;

use crate::tools::probe::write_rule;

/// Bytes of a WRITE beside its data: the header and `struct fuse_write_in`.
const WRITE_OVERHEAD: u64 = 40 + 40;

/// Passes if every shape takes no more WRITEs than rule E sends, and no READ.
pub(super) fn check(dir: &Path, limits: &Limits) -> anyhow::Result<String> {
    let trace = RequestTrace::start()?;
    let mut candidates = WriteRule::ALL.to_vec();
    let mut counts = Vec::new();
    for (index, shape) in write_rule::shapes().enumerate() {
        let (sizes, reads) = one(&trace, dir, index, shape)?;
        counts.push(sizes.len().to_string());
        let mut left = Vec::new();
        for rule in candidates {
            let (writes, expected_reads) = write_rule::expected(rule, shape, limits)?;
            let expected: Vec<u64> = writes.iter().map(|(_, size)| *size).collect();
            if expected == sizes && expected_reads == reads {
                left.push(rule);
            }
        }
        candidates = left;
    }
    let names: Vec<&str> = candidates.iter().map(|rule| rule.name()).collect();
    let said = format!(
        "{}; WRITEs per shape {}",
        names.join(" or "),
        counts.join(" ")
    );
    ensure!(names.contains(&"E"), "{said}");
    Ok(said)
}

/// The sizes of the WRITEs of one write(2) to a file that is not cached, and the number of READs.
fn one(
    trace: &RequestTrace,
    dir: &Path,
    index: usize,
    (offset, len): (usize, usize),
) -> anyhow::Result<(Vec<u64>, usize)> {
    let path = dir.join(format!("shape-{index}"));
    std::fs::write(&path, vec![b'A'; write_rule::FILE_LEN])?;
    let file: File = File::options().read(true).write(true).open(&path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    trace.clear()?;
    let written = file.write_at(&vec![b'B'; len], offset as u64)?;
    let requests = trace.requests()?;
    ensure!(written == len, "write of {len} at {offset} wrote {written}");
    let sizes = requests
        .iter()
        .filter(|request| request.opcode == RequestTrace::WRITE);
    let sizes: Vec<u64> = sizes
        .map(|request| request.len.saturating_sub(WRITE_OVERHEAD))
        .collect();
    ensure!(!sizes.is_empty(), "no WRITE was seen for {len} at {offset}");
    let reads = requests
        .iter()
        .filter(|request| request.opcode == RequestTrace::READ)
        .count();
    drop(file);
    std::fs::remove_file(&path)?;
    Ok((sizes, reads))
}
