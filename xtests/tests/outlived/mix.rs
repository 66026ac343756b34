//! All kinds of requests by several callers, in which the server is killed at any moment.

use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{FlockOperation, XattrFlags};
use xtests::support::asked::{ROUNDS, number};
use xtests::support::calls::open_append;
use xtests::support::checks::{equal, holds};
use xtests::support::random::Random;
use xtests::support::threads::in_threads;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, case};

use super::{SOON, create_exclusively, deaths, exchange, kill_server, limit, mounted};

/// Callers.
const WORKERS: usize = 8;
/// Deaths that a mount is to outlive, unless another number is asked for.
const DEATHS: u64 = 50;

#[test]
fn server_killed_at_any_moment_is_noticed_by_no_caller() -> Outcome {
    case(|| {
        survive(&["--sandbox=namespace", "--cache=auto"])?;
        survive(&["--sandbox=none", "--cache=never"])
    })
}

/// The mix on a mount with these options.
pub(super) fn survive(options: &[&str]) -> Outcome {
    let wanted = number(ROUNDS, DEATHS)?;
    let m = mounted(Backing::Ext4(256), &[&["--xattr"], options].concat())?;
    let m = m.allow(limit(wanted));
    let free = || -> Result<u64> { Ok(rustix::fs::statvfs(m.source(""))?.f_ffree) };
    let before = free()?;
    let checks = mix(&m, wanted).with_context(|| format!("{options:?}\n{}", m.log()))?;
    eprintln!("{options:?}: {} deaths, {checks} rounds", deaths(&m)?);
    check_next_to_nothing_is_left(&m, wanted)?;
    // What holds a file that was removed: a descriptor, or the kernel by a backing id.
    wait_until("what was removed to be gone", SOON, || {
        Ok(free()? + wanted / 20 >= before)
    })?;
    m.unmount()
}

/// A death between two stores leaves a lookup of one inode, which is held until the unmount.
fn check_next_to_nothing_is_left(m: &Mount, deaths: u64) -> Outcome {
    wait_until("next to all to be forgotten", SOON, || {
        m.drop_caches()?;
        let status = m.status()?;
        let inodes = status["inodes"].as_u64().context("no inodes")?;
        Ok(status["handles"] == 0 && inodes <= 1 + deaths / 20)
    })?;
    let inodes = &m.status()?["inodes"];
    eprintln!("afterwards {inodes} inodes, the root included");
    Ok(())
}

/// Returns how many rounds were checked.
fn mix(m: &Mount, wanted: u64) -> Result<u64> {
    let (rounds, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| -> Outcome {
            let mut random = Random(1);
            for _death in 0..wanted {
                // As much as was done, not as long as it took.
                let until = rounds.load(Ordering::Relaxed) + 1 + random.below(12) as u64;
                while rounds.load(Ordering::Relaxed) < until {
                    ensure!(!is_over.load(Ordering::Relaxed), "a worker failed");
                    std::thread::yield_now();
                }
                kill_server(m)?;
            }
            Ok(())
        });
        let worked = in_threads(WORKERS, |index| {
            let dir = m.path(&format!("worker-{index}"));
            std::fs::create_dir(&dir)?;
            let mut round = 0;
            while !killer.is_finished() {
                work(&dir, round).inspect_err(|_| is_over.store(true, Ordering::Relaxed))?;
                rounds.fetch_add(1, Ordering::Relaxed);
                round += 1;
            }
            std::fs::remove_dir(&dir)?;
            Ok(())
        });
        let killed = killer.join().map_err(|_| anyhow!("the killer panicked"))?;
        worked.and(killed)
    })?;
    Ok(rounds.into_inner())
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
