//! Mapped files, and the programs that write from a mapping of the same file: what once
//! deadlocked, lost stores or showed stale bytes. After what xfstests' generic group tests.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use thrufs_sys::mapped_io::Mapping;
use thrufs_sys::mapping::SharedMapping;
use xtests::support::calls::{map_shared, open, open_append, refused};
use xtests::support::checks::{equal, holds, same_bytes};
use xtests::support::mount::ALLOW_MMAP;
use xtests::support::threads::beside;
use xtests::support::{Mount, Outcome, on_daemon, on_mount};

const PAGE: usize = 4096;
/// For the tests that race two threads.
const LASTING: Duration = Duration::from_millis(700);

fn pages(count: usize) -> Vec<u8> {
    (0..count * PAGE)
        .map(|at| (at / PAGE * 16 + at % 13 + 1) as u8)
        .collect()
}

fn prepared(m: &Mount, name: &str, count: usize) -> Result<(File, SharedMapping)> {
    std::fs::write(m.source(name), pages(count))?;
    let file = open(&m.path(name), 0)?;
    let mapping = map_shared(&file, count * PAGE)?;
    Ok((file, mapping))
}

/// pwrite(2) of a range of the mapping.
fn write(mapping: &SharedMapping, range: Range<usize>, to: &File, at: usize) -> Result<usize> {
    Ok(mapping.pwritev_to(to, std::slice::from_ref(&range), at as i64)?)
}

/// pread(2) into a range of the mapping.
fn read(mapping: &SharedMapping, range: Range<usize>, from: &File, at: usize) -> Result<usize> {
    Ok(mapping.preadv_from(from, std::slice::from_ref(&range), at as i64)?)
}

/// While one thread stores to a page of a file under direct I/O through a mapping, the kernel loses
/// what another writes to it by pwrite(2) (xfstests generic/344 and 346), whatever the server does.
#[test]
fn mmap_of_a_file_under_direct_io_is_shared_only_where_that_is_asked_for() -> Outcome {
    for cache in ["--cache=never", "--cache=metadata"] {
        on_daemon(&[cache], |m| {
            std::fs::write(m.source("f"), pages(1))?;
            let file = open(&m.path("f"), 0)?;
            let len = NonZeroUsize::new(PAGE).expect("not 0");
            refused(SharedMapping::new(&file, len), libc::ENODEV).context(cache)?;
            let private = Mapping::of_file(&file, PAGE, false, false)?;
            same_bytes(cache, private.span(0..PAGE)?.load()?, pages(1))
        })?;
        on_mount(&[cache, ALLOW_MMAP], |m| {
            let (_file, mapping) = prepared(m, "f", 1)?;
            mapping.write(0, b"stored")?;
            mapping.sync()?;
            same_bytes(cache, &std::fs::read(m.source("f"))?[..6], b"stored")
        })?;
    }
    Ok(())
}

#[test]
fn pwritev_from_a_mapping_of_the_pages_it_overwrites_completes() -> Outcome {
    // The program of the report: two mapped pages, written over their own end.
    on_mount(&[ALLOW_MMAP], |m| {
        let (file, mapping) = prepared(m, "f", 2)?;
        let expected = pages(2);
        let offset = 2 * PAGE - 12;
        let written = mapping.pwritev_to(&file, &[0..PAGE, PAGE..2 * PAGE], offset as i64)?;
        ensure!(written > 0 && written <= 2 * PAGE, "{written}");
        // The head of the source is older than the write, whatever the kernel did in between.
        let content = std::fs::read(m.source("f"))?;
        equal("length", content.len(), offset + written)?;
        same_bytes("before", &content[..offset], &expected[..offset])?;
        same_bytes("written", &content[offset..][..PAGE], &expected[..PAGE])
    })
}

#[test]
fn write_from_an_unfaulted_mapping_of_the_same_page_completes() -> Outcome {
    // As generic/248: the source and the target are one page that is not in memory.
    on_mount(&[ALLOW_MMAP], |m| {
        for (from, size, to) in [(0, 4, 4), (0, 64, 0), (100, 1000, 2000), (4000, 96, 10)] {
            let (file, mapping) = prepared(m, "f", 1)?;
            mapping.discard()?;
            m.drop_caches()?;
            let range = from..from + size;
            equal("written", write(&mapping, range.clone(), &file, to)?, size)?;
            let mut expected = pages(1);
            expected.copy_within(range, to);
            holds(m.source("f"), &expected).with_context(|| format!("{size}: {from} to {to}"))?;
            drop((file, mapping));
            std::fs::remove_file(m.path("f"))?;
        }
        Ok(())
    })
}

#[test]
fn truncate_after_a_store_in_the_last_page_keeps_the_kept_bytes() -> Outcome {
    // As generic/246: the partial last page is dirty through a mapping when the file shrinks.
    on_mount(&[ALLOW_MMAP], |m| {
        std::fs::write(m.source("f"), &pages(1)[..100])?;
        let file = open(&m.path("f"), 0)?;
        let mapping = map_shared(&file, PAGE)?;
        mapping.write(10, b"stored")?;
        file.set_len(50)?;
        file.write_all_at(b"grown", 200)?;
        mapping.sync()?;
        let mut expected = pages(1)[..50].to_vec();
        expected[10..16].copy_from_slice(b"stored");
        expected.resize(200, 0);
        expected.extend(b"grown");
        holds(m.path("f"), &expected)?;
        holds(m.source("f"), &expected)
    })
}

#[test]
fn direct_write_while_mapped_pages_are_read_ends_with_the_written_bytes() -> Outcome {
    // As generic/247: O_DIRECT writes against readers of a mapping of the same range.
    on_mount(&[ALLOW_MMAP], |m| {
        let (_file, mapping) = prepared(m, "f", 16)?;
        let direct = open(&m.path("f"), libc::O_DIRECT)?;
        let mut room = vec![0; 17 * PAGE];
        let start = room.as_ptr().align_offset(PAGE);
        let mut round = 0_u8;
        beside(
            || mapping.read(0..16 * PAGE).map(drop).map_err(Into::into),
            || {
                let begin = Instant::now();
                while begin.elapsed() < LASTING {
                    round = round.wrapping_add(1);
                    room.fill(round);
                    direct.write_all_at(&room[start..start + 16 * PAGE], 0)?;
                }
                Ok(())
            },
        )?;
        holds(m.source("f"), vec![round; 16 * PAGE])?;
        holds(m.path("f"), vec![round; 16 * PAGE])
    })
}

#[test]
fn write_from_a_mapping_with_each_kind_of_descriptor_copies_the_file() -> Outcome {
    // As generic/362 and 647: appending and overwriting, buffered and O_DIRECT, the source being
    // a mapping of the same file whose pages are not there and must fault in during the write.
    on_mount(&[ALLOW_MMAP], |m| {
        for (name, flags) in [("plain", 0), ("direct", libc::O_DIRECT)] {
            let (file, mapping) = prepared(m, name, 8)?;
            drop(file);
            mapping.discard()?;
            m.drop_caches()?;
            let file = open(&m.path(name), flags)?;
            let mut done = 0;
            while done < 4 * PAGE {
                let written = write(&mapping, done..4 * PAGE, &file, 4 * PAGE + done)?;
                ensure!(written > 0, "{name}: no progress at {done}");
                done += written;
            }
            let mut expected = pages(8);
            expected.copy_within(..4 * PAGE, 4 * PAGE);
            holds(m.source(name), &expected)?;
        }
        Ok(())
    })
}

#[test]
fn append_from_a_mapping_of_the_same_file_grows_it() -> Outcome {
    // As generic/362: O_APPEND together with a source that faults.
    on_mount(&[ALLOW_MMAP], |m| {
        let (_file, mapping) = prepared(m, "f", 2)?;
        let file = open_append(m.path("f"))?;
        for round in 0..3 {
            mapping.discard()?;
            let written = write(&mapping, 0..2 * PAGE, &file, 0)?;
            ensure!(written == 2 * PAGE, "round {round}: {written}");
        }
        holds(m.source("f"), pages(2).repeat(4))
    })
}

#[test]
fn write_from_two_ranges_of_another_mapped_file_is_whole() -> Outcome {
    // As generic/638: the first source is in memory, the second not, the target page partial.
    on_mount(&[ALLOW_MMAP], |m| {
        let (_source, mapping) = prepared(m, "from", 4)?;
        for offset in [1, 100, PAGE - 1, PAGE + 7] {
            let target = open(&m.path("to"), 0)?;
            target.set_len(0)?;
            target.write_all_at(&[9; 3 * PAGE], 0)?;
            mapping.discard()?;
            mapping.read(0..1)?;
            let ranges = [5..PAGE, 2 * PAGE + 3..3 * PAGE];
            let total: usize = ranges.iter().map(ExactSizeIterator::len).sum();
            let mut written = mapping.pwritev_to(&target, &ranges, offset as i64)?;
            if written < total {
                // A short write is allowed; the rest must then be possible.
                ensure!(written >= ranges[0].len(), "{written} at {offset}");
                let rest = ranges[1].start + written - ranges[0].len()..ranges[1].end;
                written += write(&mapping, rest, &target, offset + written)?;
            }
            ensure!(written == total, "{written} of {total} at {offset}");
            let source = pages(4);
            let mut expected = vec![9; 3 * PAGE];
            let bytes = [&source[ranges[0].clone()], &source[ranges[1].clone()]].concat();
            expected[offset..offset + total].copy_from_slice(&bytes);
            holds(m.source("to"), &expected)?;
        }
        Ok(())
    })
}

#[test]
fn read_into_a_mapping_of_the_same_file_copies_it() -> Outcome {
    // As generic/647 and 678: read(2) whose buffer is a mapping of the file that it reads.
    on_mount(&[ALLOW_MMAP], |m| {
        for (name, flags) in [("plain", 0), ("direct", libc::O_DIRECT)] {
            let (file, mapping) = prepared(m, name, 8)?;
            drop(file);
            let file = open(&m.path(name), flags)?;
            mapping.discard()?;
            let mut done = 0;
            while done < 4 * PAGE {
                let count = read(&mapping, 4 * PAGE + done..8 * PAGE, &file, done)?;
                ensure!(count > 0, "{name}: no progress at {done}");
                done += count;
            }
            mapping.sync()?;
            let mut expected = pages(8);
            expected.copy_within(..4 * PAGE, 4 * PAGE);
            same_bytes(name, mapping.read(0..8 * PAGE)?, &expected)?;
            holds(m.source(name), &expected)?;
        }
        Ok(())
    })
}

#[test]
fn read_of_a_hole_into_its_own_mapping_gives_zeros() -> Outcome {
    // As generic/678: buffers at odd places of a sparse file's mapping.
    on_mount(&[ALLOW_MMAP], |m| {
        let file = open(&m.path("f"), 0)?;
        file.set_len(8 * PAGE as u64)?;
        file.write_all_at(&pages(1), 0)?;
        let mapping = map_shared(&file, 8 * PAGE)?;
        for (to, from) in [(PAGE + 1, 0), (2 * PAGE - 3, 5), (4 * PAGE, 3 * PAGE)] {
            let range = to..to + 1000;
            equal("read", read(&mapping, range.clone(), &file, from)?, 1000)?;
            let expected = mapping.read(from..from + 1000)?;
            same_bytes(format!("{from} to {to}"), mapping.read(range)?, expected)?;
        }
        mapping.sync()?;
        holds(m.source("f"), mapping.read(0..8 * PAGE)?)
    })
}

#[test]
fn direct_write_of_a_long_mapped_buffer_at_the_end_extends_the_file() -> Outcome {
    // As generic/708: one large O_DIRECT write from a mapping that is partly not in memory.
    on_mount(&[ALLOW_MMAP], |m| {
        let (_source, mapping) = prepared(m, "from", 128)?;
        mapping.discard()?;
        m.drop_caches()?;
        mapping.read(0..PAGE)?;
        let target = open(&m.path("to"), libc::O_DIRECT)?;
        let mut done = 0;
        while done < 128 * PAGE {
            done += write(&mapping, done..128 * PAGE, &target, done)?;
        }
        holds(m.source("to"), pages(128))
    })
}

#[test]
fn write_and_read_with_faulting_buffers_against_discarding_make_progress() -> Outcome {
    // As generic/729: the pages of the buffer go again and again while the call runs.
    on_mount(&[ALLOW_MMAP], |m| {
        let (file, mapping) = prepared(m, "f", 32)?;
        let copy_up_and_down = || {
            let begin = Instant::now();
            while begin.elapsed() < LASTING {
                ensure!(write(&mapping, 0..16 * PAGE, &file, 16 * PAGE)? > 0);
                ensure!(read(&mapping, 16 * PAGE..32 * PAGE, &file, 0)? > 0);
            }
            Ok(())
        };
        beside(|| Ok(mapping.discard()?), copy_up_and_down)?;
        mapping.sync()?;
        let mut expected = pages(32);
        expected.copy_within(..16 * PAGE, 16 * PAGE);
        holds(m.source("f"), &expected)
    })
}

#[test]
fn write_from_the_mapping_of_the_other_file_in_both_directions_ends() -> Outcome {
    // ABBA: each writer holds a page of its file and needs one of the other's.
    on_mount(&[ALLOW_MMAP], |m| {
        let (a, map_a) = prepared(m, "a", 4)?;
        let (b, map_b) = prepared(m, "b", 4)?;
        let begin = Instant::now();
        let copy = |from: &SharedMapping, to: &File| -> Outcome {
            while begin.elapsed() < LASTING {
                from.discard()?;
                ensure!(write(from, 0..3 * PAGE, to, 100)? > 0);
            }
            Ok(())
        };
        std::thread::scope(|scope| -> Outcome {
            let first = scope.spawn(|| copy(&map_a, &b));
            copy(&map_b, &a)?;
            first.join().expect("no panic")
        })
    })
}

#[test]
fn store_through_a_mapping_is_on_source_after_msync() -> Outcome {
    on_mount(&[ALLOW_MMAP], |m| {
        let (file, mapping) = prepared(m, "f", 3)?;
        mapping.write(PAGE + 5, b"mapped")?;
        mapping.sync()?;
        ensure!(std::fs::read(m.source("f"))?[PAGE + 5..PAGE + 11] == *b"mapped");
        file.write_all_at(b"written", 2 * PAGE as u64)?;
        same_bytes("mapping", mapping.read(2 * PAGE..2 * PAGE + 7)?, b"written")?;
        drop(mapping);
        ensure!(std::fs::read(m.path("f"))?.len() == 3 * PAGE);
        Ok(())
    })
}
