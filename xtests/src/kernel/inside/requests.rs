//! How many WRITEs a write(2) becomes, as the kernel itself tells it (the event fuse:fuse_request_send),
//! compared with what the rules say. So the transport does not matter, and no server has to count.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::mount::{MsFlags, mount};
use thrufs_rules::{Limits, WriteRule};
use xtests::support::missing;

use crate::probe::write_rule;

const TRACING: &str = "/sys/kernel/tracing";
/// What a WRITE has beside its data: the header and `struct fuse_write_in`.
const WRITE_OVERHEAD: u64 = 40 + 40;
const READ: u32 = 15;
const WRITE: u32 = 16;

/// The kernel's events of a kind, while it lives.
pub(super) struct Trace {
    event: PathBuf,
}

impl Trace {
    /// `event` is `system/name`.
    pub(super) fn start(event: &str, since: &str) -> anyhow::Result<Self> {
        let name = event.replace('/', ":");
        let event = Path::new(TRACING).join("events").join(event).join("enable");
        if !event.exists() {
            let flags = MsFlags::empty();
            mount(
                Some("tracefs"),
                TRACING,
                Some("tracefs"),
                flags,
                None::<&str>,
            )
            .map_err(|errno| missing(format!("tracefs: {errno}")))?;
        }
        if !event.exists() {
            return Err(missing(format!(
                "the event {name}, which Linux has since {since}"
            )));
        }
        std::fs::write(&event, "1").with_context(|| event.display().to_string())?;
        Ok(Self { event })
    }

    pub(super) fn clear(&self) -> std::io::Result<()> {
        std::fs::write(Path::new(TRACING).join("trace"), "")
    }

    /// What `parse` makes of the lines since.
    pub(super) fn events<T>(&self, parse: impl Fn(&str) -> Option<T>) -> anyhow::Result<Vec<T>> {
        let text = std::fs::read_to_string(Path::new(TRACING).join("trace"))?;
        Ok(text.lines().filter_map(parse).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.event, "0") {
            eprintln!("{}: {error}", self.event.display());
        }
    }
}

/// `... fuse_request_send: connection 1 req 2 opcode 16 (FUSE_WRITE) len 180`
fn parse(line: &str) -> Option<(u32, u64)> {
    let (_, rest) = line.split_once("fuse_request_send: ")?;
    let after = |word: &str| {
        let (_, rest) = rest.split_once(word)?;
        rest.split_whitespace().next()
    };
    Some((
        after("opcode ")?.parse().ok()?,
        after(" len ")?.parse().ok()?,
    ))
}

/// Passes if every shape takes no more WRITEs than rule E sends, and no READ.
pub(super) fn check(dir: &Path, limits: &Limits) -> anyhow::Result<String> {
    let trace = Trace::start("fuse/fuse_request_send", "6.11")?;
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
    trace: &Trace,
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
    // Opcode and length of each.
    let requests: Vec<(u32, u64)> = trace.events(parse)?;
    ensure!(written == len, "write of {len} at {offset} wrote {written}");
    let sizes = requests.iter().filter(|(opcode, _)| *opcode == WRITE);
    let sizes: Vec<u64> = sizes
        .map(|(_, len)| len.saturating_sub(WRITE_OVERHEAD))
        .collect();
    ensure!(!sizes.is_empty(), "no WRITE was seen for {len} at {offset}");
    let reads = requests
        .iter()
        .filter(|(opcode, _)| *opcode == READ)
        .count();
    drop(file);
    std::fs::remove_file(&path)?;
    Ok((sizes, reads))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn parse_of_a_trace_line_gives_opcode_and_length() {
        let line = "  xtests-31  [000] .....  1.5: fuse_request_send: connection 27 req 8 opcode 16 \
                    (FUSE_WRITE) len 65616 ";
        assert_eq!(parse(line), Some((16, 65616)));
        assert_eq!(parse("# tracer: nop"), None);
    }
}
