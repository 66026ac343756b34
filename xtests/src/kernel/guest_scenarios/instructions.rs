//! The cost of a write(2) in instructions: of the program, the kernel and the daemon together.
//!
//! The machine's clock counts instructions ([`thrufs_lab::Machine::counted`]), so a duration is a
//! number of instructions, the same on a busy host as on an idle one. Invariant: nothing in here
//! sleeps, since idle time would count as well.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

/// Samples for a median; ticks of the kernel's clock fall into a few of them.
const TIMES: usize = 41;
/// Longer than any write.
const FILE_LEN: usize = 4 << 20;
/// Records that an appender adds to a new file.
const RECORDS: usize = 8;

/// One line of JSON: pairs of a write and the instructions per write(2).
pub(super) fn measure(dir: &Path) -> anyhow::Result<String> {
    let mut rows = vec![
        ("65536 @0".to_owned(), cold(dir, 0, 65536)?),
        ("65536 @100".to_owned(), cold(dir, 100, 65536)?),
        ("4000 @4000".to_owned(), cold(dir, 4000, 4000)?),
    ];
    rows.push((
        format!("append of 4000, {RECORDS} times"),
        append(dir, 4000)?,
    ));
    let empty = median(|| {
        let begin = Instant::now();
        Ok(begin.elapsed().as_nanos())
    })?;
    rows.iter_mut().for_each(|(_, count)| *count -= empty);
    serde_json::to_string(&rows).context("writing the counts down")
}

/// A write to a longer file that is not cached.
fn cold(dir: &Path, offset: u64, len: usize) -> anyhow::Result<u128> {
    let path = dir.join("cold");
    std::fs::write(&path, vec![b'A'; FILE_LEN])?;
    let file = File::options().read(true).write(true).open(&path)?;
    file.sync_all()?;
    let data = vec![b'B'; len];
    median(|| {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        let begin = Instant::now();
        file.write_all_at(&data, offset)?;
        Ok(begin.elapsed().as_nanos())
    })
}

/// Records at the end of a new file.
fn append(dir: &Path, len: usize) -> anyhow::Result<u128> {
    let data = vec![b'B'; len];
    median(|| {
        let path = dir.join("appended");
        let file = File::create(&path)?;
        let begin = Instant::now();
        for record in 0..RECORDS {
            file.write_all_at(&data, (record * len) as u64)?;
        }
        let took = begin.elapsed().as_nanos();
        drop(file);
        std::fs::remove_file(&path)?;
        Ok(took / RECORDS as u128)
    })
}

fn median(mut once: impl FnMut() -> anyhow::Result<u128>) -> anyhow::Result<u128> {
    let counts: anyhow::Result<Vec<u128>> = (0..TIMES).map(|_| once()).collect();
    let mut counts = counts?;
    counts.sort_unstable();
    Ok(counts[TIMES / 2])
}
