//! Changes under SOURCE while a file is open through a mount with `--cache=auto`: they show within
//! the timeout, a reader that sees the new mtime reads the new bytes, and the mount's own writes
//! never count as such changes.
//!
//! The story of the first two tests: with FUSE_AUTO_INVAL_DATA the kernel dropped a file's pages when
//! GETATTR showed the mtime of an earlier WRITE, also the page that a WRITE under way had just
//! filled; a fault through a mapping fetched the older bytes, which then stayed
//! after write(2) had returned. An open(2) by another process did the same. The random reproducer
//! found it, in each run of five minutes.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::time::{ClockId, clock_gettime};
use thrufs_sys::mapping::SharedMapping;
use xtests::support::calls::{open_append, open_rdwr, open_wronly};
use xtests::support::wait::wait_until;
use xtests::support::{Mount, Outcome, on_daemon, on_mount};

const PAGE: usize = 4096;
const PAGES: usize = 4;
const AUTO: &str = "--cache=auto";
const SOON: Duration = Duration::from_secs(10);

/// A file of 'A's that is open and mapped through the mount, with all its pages in the cache.
fn warm(m: &Mount) -> Result<(File, SharedMapping)> {
    std::fs::write(m.source("f"), vec![b'A'; PAGES * PAGE])?;
    let file = open_rdwr(m.path("f"))?;
    let len = NonZeroUsize::new(PAGES * PAGE).expect("some pages");
    let mapping = SharedMapping::new(&file, len)?;
    ensure!(mapping.read(0..PAGES * PAGE)? == vec![b'A'; PAGES * PAGE]);
    Ok((file, mapping))
}

/// Changes one byte under SOURCE.
fn change(m: &Mount, at: usize, byte: u8) -> Outcome {
    let source = open_wronly(m.source("f"))?;
    Ok(source.write_all_at(&[byte], at as u64)?)
}

fn byte(file: &File, at: usize) -> Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64)?;
    Ok(byte[0])
}

/// Runs `meanwhile` during a write(2) to the first page that follows one to the last page.
fn check_write_under_way(meanwhile: fn(&Mount, &File) -> Outcome) -> Outcome {
    let slow = format!("--fault=write:range=0+{PAGE}:delay=1500");
    on_daemon(&[AUTO, &slow], |m| {
        let (file, mapping) = warm(m)?;
        // Sets another mtime on SOURCE, and lets the kernel's attributes expire.
        let last = (PAGES - 1) * PAGE;
        file.write_all_at(&[b'B'; PAGE], last as u64)?;
        std::thread::scope(|s| -> Outcome {
            let writer = s.spawn(|| file.write_all_at(&[b'C'; PAGE], 0));
            wait_until("write(2) to fill the page", SOON, || {
                Ok(mapping.read(0..1)? == [b'C'])
            })?;
            meanwhile(m, &file)?;
            let (page, all) = (mapping.read(0..PAGE)?, mapping.read(0..PAGES * PAGE)?);
            ensure!(!writer.is_finished(), "the write was not slow enough");
            writer.join().expect("write_all_at does not panic")?;
            ensure!(page == [b'C'; PAGE], "the bytes of before, while writing");
            ensure!(all[last..] == [b'B'; PAGE], "the first write is not there");
            Ok(())
        })?;
        ensure!(
            mapping.read(0..PAGE)? == [b'C'; PAGE],
            "the bytes of before stay"
        );
        ensure!(byte(&file, 0)? == b'C', "read(2) has the bytes of before");
        Ok(())
    })
}

#[test]
fn stat_while_a_write_is_under_way_does_not_bring_the_old_bytes_back() -> Outcome {
    check_write_under_way(|_, file| {
        file.metadata()?;
        Ok(())
    })
}

#[test]
fn open_while_a_write_is_under_way_does_not_bring_the_old_bytes_back() -> Outcome {
    check_write_under_way(|m, _| {
        File::open(m.path("f"))?;
        Ok(())
    })
}

#[test]
fn change_under_source_shows_in_an_open_file_without_stat() -> Outcome {
    on_mount(&[AUTO], |m| {
        let (file, mapping) = warm(m)?;
        change(m, 5, b'x')?;
        // The mapping first: only the daemon's own check can bring the change there.
        wait_until("the mapping to show the change", SOON, || {
            Ok(mapping.read(5..6)? == [b'x'])
        })?;
        change(m, PAGE, b'y')?;
        wait_until("read(2) to show the change", SOON, || {
            Ok(byte(&file, PAGE)? == b'y')
        })
    })
}

#[test]
fn stat_that_shows_a_change_under_source_is_followed_by_its_bytes() -> Outcome {
    on_mount(&[AUTO, "--attr-timeout=0.2"], |m| {
        let (file, mapping) = warm(m)?;
        for round in 0..20 {
            wait_for_tick()?;
            let before = file.metadata()?.modified()?;
            change(m, 0, round)?;
            wait_until("stat(2) to show the change", SOON, || {
                Ok(file.metadata()?.modified()? != before)
            })?;
            ensure!(byte(&file, 0)? == round, "round {round}: read(2)");
            ensure!(mapping.read(0..1)? == [round], "round {round}: the mapping");
        }
        Ok(())
    })
}

#[test]
fn change_under_source_between_two_writes_of_the_mount_shows() -> Outcome {
    on_mount(&[AUTO], |m| {
        let (file, mapping) = warm(m)?;
        for round in 0..5 {
            file.write_all_at(b"1", 2 * PAGE as u64)?;
            wait_for_tick()?;
            change(m, 7, round)?;
            wait_for_tick()?;
            file.write_all_at(b"2", 2 * PAGE as u64)?;
            wait_until("the change to show", SOON, || {
                Ok(mapping.read(7..8)? == [round] && byte(&file, 7)? == round)
            })?;
        }
        Ok(())
    })
}

/// Until a change gets a later time than all before: within one tick of the clock they may be equal.
fn wait_for_tick() -> Outcome {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    wait_until("the next tick", SOON, || {
        Ok(clock_gettime(ClockId::CLOCK_REALTIME_COARSE)? > now)
    })
}

#[test]
fn open_after_a_change_under_source_shows_it_at_once() -> Outcome {
    on_mount(&[AUTO], |m| {
        let (_file, _mapping) = warm(m)?;
        for round in 0..20 {
            wait_for_tick()?;
            change(m, 3, round)?;
            let seen = byte(&File::open(m.path("f"))?, 3)?;
            ensure!(seen == round, "round {round}: {seen}");
        }
        Ok(())
    })
}

#[test]
fn append_under_source_shows_in_a_file_that_the_mount_appends_to() -> Outcome {
    on_mount(&[AUTO], |m| {
        let (file, _mapping) = warm(m)?;
        let mut log = open_append(m.source("f"))?;
        std::io::Write::write_all(&mut log, b"theirs")?;
        wait_until("stat(2) to show the append", SOON, || {
            Ok(file.metadata()?.len() == (PAGES * PAGE + 6) as u64)
        })?;
        let mut tail = [0; 6];
        file.read_exact_at(&mut tail, (PAGES * PAGE) as u64)?;
        ensure!(tail == *b"theirs", "{tail:?}");
        Ok(())
    })
}

#[test]
fn read_after_writes_of_the_mount_is_served_from_the_cache() -> Outcome {
    on_daemon(&[AUTO], |m| {
        let (file, _mapping) = warm(m)?;
        let (reads, lookers) = (m.requests("READ")?, m.requests("GETATTR")?);
        for round in 0..50 {
            file.write_all_at(&[round; 100], 10)?;
            ensure!(byte(&file, 10)? == round);
            File::open(m.path("f"))?;
            ensure!(byte(&file, PAGE)? == b'A');
        }
        let reads = m.requests("READ")? - reads;
        ensure!(reads == 0, "{reads} READs of what was in the cache");
        let asked = m.requests("GETATTR")? - lookers;
        ensure!(asked <= 55, "{asked} GETATTRs for 50 writes and opens");
        Ok(())
    })
}
