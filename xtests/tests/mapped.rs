//! Mapped files, and the programs that write from a mapping of the same file: what once
//! deadlocked, lost stores or showed stale bytes. After what xfstests' generic group tests.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use thrufs_sys::mapped_io::Mapping;
use thrufs_sys::mapping::SharedMapping;
use xtests::support::calls::{map_shared, open, open_append};
use xtests::support::mount::ALLOW_MMAP;
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

/// While one thread stores to a page of a file under direct I/O through a mapping, the kernel loses
/// what another writes to it by pwrite(2) (xfstests generic/344 and 346), whatever the server does.
#[test]
fn mmap_of_a_file_under_direct_io_is_shared_only_where_that_is_asked_for() -> Outcome {
    for cache in ["--cache=never", "--cache=metadata"] {
        on_daemon(&[cache], |m| {
            std::fs::write(m.source("f"), pages(1))?;
            let file = open(&m.path("f"), 0)?;
            let len = NonZeroUsize::new(PAGE).expect("not 0");
            let shared = SharedMapping::new(&file, len).err();
            ensure!(
                shared.and_then(|error| error.raw_os_error()) == Some(libc::ENODEV),
                "{cache}: mapped shared"
            );
            let private = Mapping::of_file(&file, PAGE, false, false)?;
            let seen = private.span(0..PAGE)?.load()?;
            ensure!(seen == pages(1), "{cache}: mapped privately");
            Ok(())
        })?;
        on_mount(&[cache, ALLOW_MMAP], |m| {
            let (_file, mapping) = prepared(m, "f", 1)?;
            mapping.write(0, b"stored")?;
            mapping.sync()?;
            ensure!(
                std::fs::read(m.source("f"))?.starts_with(b"stored"),
                "{cache}"
            );
            Ok(())
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
        ensure!(content.len() == offset + written);
        ensure!(
            content[..offset] == expected[..offset],
            "bytes before the write changed"
        );
        ensure!(
            content[offset..offset + PAGE] == expected[..PAGE],
            "other bytes than the source's"
        );
        Ok(())
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
            ensure!(mapping.pwritev_to(&file, std::slice::from_ref(&range), to)? == size);
            let mut expected = pages(1);
            expected.copy_within(range, to as usize);
            ensure!(
                std::fs::read(m.source("f"))? == expected,
                "{size} bytes from {from} to {to}"
            );
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
        ensure!(std::fs::read(m.path("f"))? == expected, "through the mount");
        ensure!(std::fs::read(m.source("f"))? == expected, "on SOURCE");
        Ok(())
    })
}

#[test]
fn direct_write_while_mapped_pages_are_read_ends_with_the_written_bytes() -> Outcome {
    // As generic/247: O_DIRECT writes against readers of a mapping of the same range.
    on_mount(&[ALLOW_MMAP], |m| {
        let (_file, mapping) = prepared(m, "f", 16)?;
        let stop = AtomicBool::new(false);
        let mut round = 0_u8;
        std::thread::scope(|scope| -> Outcome {
            let reader = scope.spawn(|| -> Outcome {
                while !stop.load(Ordering::Relaxed) {
                    mapping.read(0..16 * PAGE)?;
                }
                Ok(())
            });
            let direct = open(&m.path("f"), libc::O_DIRECT)?;
            let mut room = vec![0; 17 * PAGE];
            let start = room.as_ptr().align_offset(PAGE);
            let begin = Instant::now();
            while begin.elapsed() < LASTING {
                round = round.wrapping_add(1);
                room.fill(round);
                direct.write_all_at(&room[start..start + 16 * PAGE], 0)?;
            }
            stop.store(true, Ordering::Relaxed);
            reader.join().expect("no panic")
        })?;
        ensure!(
            std::fs::read(m.source("f"))? == vec![round; 16 * PAGE],
            "on SOURCE"
        );
        ensure!(
            std::fs::read(m.path("f"))? == vec![round; 16 * PAGE],
            "through the mount"
        );
        Ok(())
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
                let range = done..4 * PAGE;
                let to = (4 * PAGE + done) as i64;
                let written = mapping.pwritev_to(&file, std::slice::from_ref(&range), to)?;
                ensure!(written > 0, "{name}: no progress at {done}");
                done += written;
            }
            let mut expected = pages(8);
            expected.copy_within(..4 * PAGE, 4 * PAGE);
            ensure!(
                std::fs::read(m.source(name))? == expected,
                "{name}: other bytes"
            );
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
            let written = mapping.pwritev_to(&file, std::slice::from_ref(&(0..2 * PAGE)), 0)?;
            ensure!(written == 2 * PAGE, "round {round}: {written}");
        }
        ensure!(
            std::fs::read(m.source("f"))? == pages(2).repeat(4),
            "other bytes"
        );
        Ok(())
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
                let at = (offset + written) as i64;
                written += mapping.pwritev_to(&target, std::slice::from_ref(&rest), at)?;
            }
            ensure!(written == total, "{written} of {total} at {offset}");
            let source = pages(4);
            let mut expected = vec![9; 3 * PAGE];
            let bytes = [&source[ranges[0].clone()], &source[ranges[1].clone()]].concat();
            expected[offset..offset + total].copy_from_slice(&bytes);
            ensure!(std::fs::read(m.source("to"))? == expected, "at {offset}");
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
                let range = 4 * PAGE + done..8 * PAGE;
                let read = mapping.preadv_from(&file, std::slice::from_ref(&range), done as i64)?;
                ensure!(read > 0, "{name}: no progress at {done}");
                done += read;
            }
            mapping.sync()?;
            let mut expected = pages(8);
            expected.copy_within(..4 * PAGE, 4 * PAGE);
            ensure!(
                mapping.read(0..8 * PAGE)? == expected,
                "{name}: in the mapping"
            );
            ensure!(
                std::fs::read(m.source(name))? == expected,
                "{name}: on SOURCE"
            );
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
            ensure!(mapping.preadv_from(&file, std::slice::from_ref(&range), from as i64)? == 1000);
            ensure!(
                mapping.read(range)? == mapping.read(from..from + 1000)?,
                "{from} to {to}"
            );
        }
        mapping.sync()?;
        ensure!(std::fs::read(m.source("f"))? == mapping.read(0..8 * PAGE)?);
        Ok(())
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
            let range = done..128 * PAGE;
            done += mapping.pwritev_to(&target, std::slice::from_ref(&range), done as i64)?;
        }
        ensure!(std::fs::read(m.source("to"))? == pages(128));
        Ok(())
    })
}

#[test]
fn write_and_read_with_faulting_buffers_against_discarding_make_progress() -> Outcome {
    // As generic/729: the pages of the buffer go again and again while the call runs.
    on_mount(&[ALLOW_MMAP], |m| {
        let (file, mapping) = prepared(m, "f", 32)?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Outcome {
            let discarder = scope.spawn(|| -> Outcome {
                while !stop.load(Ordering::Relaxed) {
                    mapping.discard()?;
                }
                Ok(())
            });
            let begin = Instant::now();
            let worker = || -> Outcome {
                while begin.elapsed() < LASTING {
                    let low = 0..16 * PAGE;
                    let high = 16 * PAGE as i64;
                    ensure!(mapping.pwritev_to(&file, std::slice::from_ref(&low), high)? > 0);
                    let upper = 16 * PAGE..32 * PAGE;
                    ensure!(mapping.preadv_from(&file, std::slice::from_ref(&upper), 0)? > 0);
                }
                Ok(())
            };
            let done = worker();
            stop.store(true, Ordering::Relaxed);
            discarder.join().expect("no panic")?;
            done
        })?;
        mapping.sync()?;
        let mut expected = pages(32);
        expected.copy_within(..16 * PAGE, 16 * PAGE);
        ensure!(
            std::fs::read(m.source("f"))? == expected,
            "other bytes on SOURCE"
        );
        Ok(())
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
                let range = 0..3 * PAGE;
                ensure!(from.pwritev_to(to, std::slice::from_ref(&range), 100)? > 0);
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
        ensure!(
            mapping.read(2 * PAGE..2 * PAGE + 7)? == b"written",
            "the mapping is stale"
        );
        drop(mapping);
        ensure!(std::fs::read(m.path("f"))?.len() == 3 * PAGE);
        Ok(())
    })
}
