//! A load of all kinds of requests by several callers, each of which checks what it gets and leaves nothing: for what no
//! caller may notice.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{CWD, FlockOperation, RenameFlags, XattrFlags};

use super::calls::open_append;
use super::checks::{equal, holds};
use super::skip::Outcome;
use super::threads::in_threads;

/// How far the callers are.
#[derive(Debug, Default)]
pub struct Load {
    rounds: AtomicU64,
    has_failed: AtomicBool,
}

impl Load {
    /// Waits until so many more rounds are done: as much as was done, not as long as it took.
    pub fn wait_for(&self, rounds: u64) -> Outcome {
        let until = self.rounds.load(Ordering::Relaxed) + rounds;
        while self.rounds.load(Ordering::Relaxed) < until {
            ensure!(!self.has_failed.load(Ordering::Relaxed), "a worker failed");
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// Has so many `workers` do rounds in `dir`, which needs extended attributes, for as long as `act` takes. Returns how
/// many rounds were checked.
pub fn under_load(
    dir: &Path,
    workers: usize,
    act: impl FnOnce(&Load) -> Outcome + Send,
) -> Result<u64> {
    let load = Load::default();
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| act(&load));
        let worked = in_threads(workers, |index| {
            let dir = dir.join(format!("worker-{index}"));
            std::fs::create_dir(&dir)?;
            let mut round = 0;
            while !acting.is_finished() {
                let done = work(&dir, round);
                done.inspect_err(|_| load.has_failed.store(true, Ordering::Relaxed))?;
                load.rounds.fetch_add(1, Ordering::Relaxed);
                round += 1;
            }
            std::fs::remove_dir(&dir)?;
            Ok(())
        });
        let acted = acting
            .join()
            .map_err(|_| anyhow!("what was done panicked"))?;
        worked.and(acted)
    })?;
    Ok(load.rounds.into_inner())
}

/// A new file.
pub fn create_exclusively(path: &Path) -> std::io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
}

/// Exchanges two names.
pub fn exchange(a: &Path, b: &Path) -> Outcome {
    Ok(rustix::fs::renameat_with(
        CWD,
        a,
        CWD,
        b,
        RenameFlags::EXCHANGE,
    )?)
}

/// One round, which leaves nothing.
fn work(dir: &Path, round: u64) -> Outcome {
    let at = |name: &str| dir.join(format!("{name}-{round}"));
    let (a, b, c, d) = (at("a"), at("b"), at("c"), at("d"));
    let mut made = create_exclusively(&a).context("create")?;
    made.write_all(format!("head of {round};").as_bytes())
        .context("write")?;
    let mut wanted = format!("head of {round};");
    let mut appender = open_append(&a).context("open to append")?;
    for part in 0..4 {
        let line = format!("line {part} of {round}\n");
        appender.write_all(line.as_bytes()).context("append")?;
        wanted.push_str(&line);
    }
    made.write_all_at(b"HEAD", 0).context("pwrite")?;
    wanted.replace_range(..4, "HEAD");
    holds(&a, &wanted).context("after the appends")?;
    rustix::fs::setxattr(&a, "user.a", b"value", XattrFlags::CREATE).context("setxattr")?;
    std::fs::rename(&a, &b).context("rename")?;
    std::fs::write(&c, "other").context("write c")?;
    exchange(&b, &c).context("exchange")?;
    holds(&b, "other").context("after the exchange")?;
    holds(&c, &wanted).context("after the exchange")?;
    std::fs::hard_link(&c, &d).context("link")?;
    equal("links", made.metadata()?.nlink(), 2)?;
    rustix::fs::removexattr(&d, "user.a").context("removexattr")?;
    rustix::fs::flock(&made, FlockOperation::LockExclusive).context("flock")?;
    std::fs::remove_file(&c).context("unlink")?;
    std::fs::remove_file(&d).context("unlink")?;
    made.write_all_at(b"unlinked", 0)
        .context("write to what is unlinked")?;
    let mut content = [0; 8];
    made.read_exact_at(&mut content, 0)
        .context("read what is unlinked")?;
    equal("content", &content, b"unlinked")?;
    made.set_len(3).context("truncate")?;
    equal("size", made.metadata()?.len(), 3)?;
    std::fs::create_dir(&a).context("mkdir")?;
    std::os::unix::fs::symlink("target", a.join("link")).context("symlink")?;
    equal("entries", std::fs::read_dir(&a)?.count(), 1)?;
    std::fs::rename(a.join("link"), at("link")).context("rename out")?;
    std::fs::remove_dir(&a).context("rmdir")?;
    std::fs::remove_file(at("link")).context("unlink")?;
    std::fs::remove_file(&b).context("unlink")
}
