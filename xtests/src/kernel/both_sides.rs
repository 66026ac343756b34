//! Files of the host's that the guest reads, and files of the guest's that the host reads: each side names
//! their sums, by md5sum(1), and the host compares.
//!
//! Invariant: the guest reads what it has written from the device and not from its cache.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use thrufs_sys::mapped_io::Mapping;
use xtests::support::command::succeed;
use xtests::support::random::Random;

/// The case's name in tables.
pub(super) const NAME: &str = "virtiofs/both-sides";
/// Written by the host before the guest boots.
const FROM_HOST: &str = "from-host";
/// Larger than several requests, and no whole number of pages.
const LEN: usize = (4 << 20) + 123;
const PAGE: usize = 4096;
/// What the guest has made and removed again.
const GONE: &str = "gone";
/// What the guest leaves, with its sums.
const LEFT: [&str; 6] = [
    FROM_HOST,
    "written",
    "directory/renamed",
    "linked",
    "symlink",
    "mapped",
];

/// On the host: the file that the guest will read.
pub(super) fn prepare(shared: &Path) -> anyhow::Result<()> {
    let path = shared.join(FROM_HOST);
    std::fs::write(&path, noise(1)).with_context(|| path.display().to_string())
}

/// On the host: what the guest has said of its files must be true of them here.
pub(super) fn compare(shared: &Path, said: &str) -> anyhow::Result<()> {
    let here = sums(shared)?;
    ensure!(
        said == here,
        "the guest says {said}, and the host sees {here}"
    );
    ensure!(
        !shared.join(GONE).exists(),
        "what the guest has removed is there"
    );
    Ok(())
}

/// In the guest: some work, and the sums.
pub(super) fn work(dir: &Path) -> anyhow::Result<String> {
    let content = noise(2);
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    // In odd pieces, the last one first.
    let file = options.open(dir.join("written"))?;
    for (at, piece) in content.chunks(70_001).enumerate().rev() {
        file.write_all_at(piece, at as u64 * 70_001)?;
    }
    std::fs::create_dir(dir.join("directory"))?;
    let mut file = options.open(dir.join(GONE))?;
    file.write_all(&content)?;
    file.set_len(LEN as u64 / 2)?;
    std::fs::rename(dir.join(GONE), dir.join("directory/renamed"))?;
    std::fs::hard_link(dir.join("directory/renamed"), dir.join("linked"))?;
    symlink("directory/renamed", dir.join("symlink"))?;
    map(&options.open(dir.join("mapped"))?, &content)?;
    std::fs::create_dir(dir.join(GONE))?;
    std::fs::remove_dir(dir.join(GONE))?;
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")?;
    let seen = std::fs::read(dir.join("written"))?;
    ensure!(seen == content, "what is read is not what was written");
    sums(dir)
}

/// Stores to a file's pages, each second one.
fn map(file: &File, content: &[u8]) -> anyhow::Result<()> {
    let len = 64 * PAGE;
    file.set_len(len as u64)?;
    let mapping = Mapping::of_file(file, len, true, true)?;
    for start in (0..len).step_by(2 * PAGE) {
        mapping
            .span(start..start + PAGE)?
            .store(&content[start..start + PAGE])?;
    }
    drop(mapping);
    file.sync_all()?;
    Ok(())
}

fn sums(dir: &Path) -> anyhow::Result<String> {
    let mut md5sum = Command::new("md5sum");
    let lines = succeed(md5sum.args(LEFT).current_dir(dir))?;
    Ok(lines.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Bytes that no other content has by chance.
fn noise(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let words = std::iter::repeat_with(|| random.word().to_le_bytes());
    words.flatten().take(LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_of_a_file_that_the_guest_saw_otherwise_fails() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        for name in &LEFT[1..] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let said = sums(dir.path()).unwrap();
        compare(dir.path(), &said).unwrap();
        std::fs::write(dir.path().join("linked"), "other").unwrap();
        let error = compare(dir.path(), &said).unwrap_err().to_string();
        assert!(error.contains("the host sees"), "{error}");
    }
}
