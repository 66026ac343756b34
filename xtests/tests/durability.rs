//! `--durability=dsync` on a real mount: a WRITE is answered after a flush that began after it,
//! waiting WRITEs share one, and a failed flush is an error for every WRITE that it was for.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use serde_json::Value;
use xtests::support::mount::ALLOW_MMAP;
use xtests::support::{Mount, Outcome, on_daemon};

const BLOCK: usize = 4096;
const WRITERS: usize = 16;
/// Duration of a flush in these tests: much longer than sixteen WRITEs need to arrive.
const FLUSH: Duration = Duration::from_millis(200);

/// A mount with slow flushes, without client cache and with a thread for each writer.
fn on_slow(faults: &[&str], body: impl FnOnce(&Mount) -> Outcome) -> Outcome {
    let delay = format!("--fault=flush:delay={}", FLUSH.as_millis());
    let mut options = vec![
        "--durability=dsync",
        "--cache=never",
        "--thread-pool-size=20",
        &delay,
    ];
    options.extend(faults);
    on_daemon(&options, |m| body(m))
}

fn writes(m: &Mount) -> Result<Value> {
    Ok(m.status()?["writes"].clone())
}

fn count(writes: &Value, name: &str) -> Result<u64> {
    let found = writes[name].as_u64();
    found.with_context(|| format!("no {name} in {writes}"))
}

/// Block `at`, as writer `at` writes it.
fn block(at: usize) -> Vec<u8> {
    (0..BLOCK).map(|byte| (byte % 251 + at) as u8).collect()
}

/// A file that is long enough, so that no WRITE extends it (the kernel sends those one by one).
fn prepared(m: &Mount) -> Result<File> {
    std::fs::write(m.source("f"), vec![0; WRITERS * BLOCK])?;
    let mut options = File::options();
    Ok(options.read(true).write(true).open(m.path("f"))?)
}

/// Sixteen write(2) at the same time, to a block each; their results.
fn write_at_once(file: &File) -> Vec<std::io::Result<usize>> {
    let together = Barrier::new(WRITERS);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|at| {
                let together = &together;
                scope.spawn(move || {
                    let data = block(at);
                    together.wait();
                    file.write_at(&data, (at * BLOCK) as u64)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.expect("the threads do not panic"))
            .collect()
    })
}

#[test]
fn write_by_sixteen_at_once_shares_flushes_and_neighbours_share_a_call() -> Outcome {
    on_slow(&[], |m| {
        let file = prepared(m)?;
        let results = write_at_once(&file);
        for result in results {
            ensure!(result? == BLOCK);
        }
        let expected: Vec<u8> = (0..WRITERS).flat_map(block).collect();
        ensure!(std::fs::read(m.source("f"))? == expected, "SOURCE differs");
        let writes = writes(m)?;
        ensure!(count(&writes, "requests")? == WRITERS as u64, "{writes}");
        // One alone and one for all others, unless one of them came very late.
        let flushes = count(&writes, "flushes")?;
        ensure!((1..=4).contains(&flushes), "{writes}");
        ensure!(count(&writes, "joined")? >= 8, "{writes}");
        ensure!(count(&writes, "pwritev2_calls")? <= 8, "{writes}");
        Ok(())
    })
}

#[test]
fn write_without_joining_has_a_flush_each() -> Outcome {
    on_slow(&["--write-joining=never"], |m| {
        let file = prepared(m)?;
        for result in write_at_once(&file) {
            ensure!(result? == BLOCK);
        }
        let writes = writes(m)?;
        ensure!(count(&writes, "flushes")? == WRITERS as u64, "{writes}");
        ensure!(count(&writes, "joined")? == 0, "{writes}");
        Ok(())
    })
}

#[test]
fn flush_that_fails_is_an_error_for_every_write_that_it_was_for() -> Outcome {
    // The first flush serves the WRITE that came first, alone.
    on_slow(&["--fault=flush:nth=2:EIO"], |m| {
        let file = prepared(m)?;
        let results = write_at_once(&file);
        let failed = results.iter().filter_map(|result| result.as_ref().err());
        let errnos: Vec<_> = failed.map(std::io::Error::raw_os_error).collect();
        ensure!(
            errnos.iter().all(|errno| *errno == Some(libc::EIO)),
            "{errnos:?}"
        );
        let writes = writes(m)?;
        let flushes = count(&writes, "flushes")?;
        ensure!(
            (8..WRITERS).contains(&errnos.len()),
            "{} WRITEs failed; {flushes} flushes passed",
            errnos.len()
        );
        // The second flush serves all others.
        ensure!(file.write_at(&block(3), 0)? == BLOCK);
        Ok(())
    })
}

#[test]
fn write_alone_takes_one_call_and_one_flush_before_it_returns() -> Outcome {
    on_slow(&[], |m| {
        let file = prepared(m)?;
        for at in 0..3 {
            let began = Instant::now();
            ensure!(file.write_at(&block(at), (at * BLOCK) as u64)? == BLOCK);
            ensure!(began.elapsed() >= FLUSH, "returned before its flush");
        }
        let writes = writes(m)?;
        for name in ["requests", "pwritev2_calls", "flushes"] {
            ensure!(count(&writes, name)? == 3, "{name} in {writes}");
        }
        Ok(())
    })
}

#[test]
fn write_through_every_kind_of_handle_is_flushed() -> Outcome {
    let flags = [0, libc::O_APPEND, libc::O_DSYNC, libc::O_SYNC];
    on_slow(&["--allow-direct-io"], |m| {
        drop(prepared(m)?);
        for (at, flags) in flags.into_iter().enumerate() {
            let mut options = File::options();
            let file = options.write(true).custom_flags(flags).open(m.path("f"))?;
            ensure!(file.write_at(&block(at), 0)? == BLOCK);
            let writes = writes(m)?;
            let flushes = count(&writes, "flushes")?;
            ensure!(flushes == at as u64 + 1, "open flags {flags:#o}: {writes}");
        }
        Ok(())
    })
}

#[test]
fn msync_is_flushed() -> Outcome {
    let options = ["--durability=dsync", ALLOW_MMAP];
    on_daemon(&options, |m| {
        let file = prepared(m)?;
        let len = std::num::NonZeroUsize::new(WRITERS * BLOCK).context("not empty")?;
        let mapping = thrufs_sys::mapping::SharedMapping::new(&file, len)?;
        mapping.write(BLOCK, &block(1))?;
        mapping.sync()?;
        let writes = writes(m)?;
        ensure!(
            count(&writes, "requests")? == count(&writes, "flushes")?,
            "{writes}"
        );
        let expected = std::fs::read(m.source("f"))?;
        ensure!(expected[BLOCK..2 * BLOCK] == block(1), "SOURCE differs");
        Ok(())
    })
}

#[test]
fn fallocate_and_copy_that_cannot_be_made_durable_are_errors() -> Outcome {
    let options = ["--durability=dsync", "--fault=sync:EIO"];
    on_daemon(&options, |m| {
        let file = prepared(m)?;
        let length = (2 * WRITERS * BLOCK) as u64;
        let refused = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length);
        ensure!(refused == Err(Errno::IO), "{refused:?}");
        let (mut from, mut to) = (0, (4 * BLOCK) as u64);
        let copied =
            rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), BLOCK);
        ensure!(copied == Err(Errno::IO), "{copied:?}");
        Ok(())
    })
}
