//! READ, WRITE, LSEEK, FALLOCATE and COPY_FILE_RANGE: what goes in comes out, natively too.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Context, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use thrufs_rules::table::SHAPES;
use xtests::support::calls::{chmod, open, open_append, open_rdwr, open_wronly, refused};
use xtests::support::checks::{equal, holds, same_bytes};
use xtests::support::mount::NEVER;
use xtests::support::threads::in_threads;
use xtests::support::{Backing, Mount, Outcome, User, case, missing, on_backing, on_mount};

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| ((at * 131 + seed * 17 + at / 4096) % 251) as u8)
        .collect()
}

#[test]
fn write_of_every_shape_is_in_the_backing_file() -> Outcome {
    on_mount(&[], |m| {
        let shapes = SHAPES.map(|shape| (shape.pos, shape.len as usize));
        let shapes = shapes.into_iter().chain([(0, 1), (4095, 2)]);
        for (index, (offset, len)) in shapes.enumerate() {
            let name = format!("w{index}");
            let data = pattern(len, index);
            let file = File::create_new(m.path(&name))?;
            file.write_all_at(&data, offset)?;
            // Before close and without fsync: write-through.
            let expected = [&vec![0; offset as usize], &data[..]].concat();
            holds(m.source(&name), &expected).with_context(|| format!("{len}@{offset}"))?;
            let mut back = vec![0; len];
            file.read_exact_at(&mut back, offset)?;
            same_bytes(format!("{len}@{offset}"), &back, &data)?;
        }
        Ok(())
    })
}

/// A READ is as large as the kernel reads ahead, which was 128 KiB for 1 MiB.
#[test]
fn read_with_more_read_ahead_takes_fewer_requests() -> Outcome {
    const SIZE: usize = 1 << 20;
    case(|| {
        let mut requests = Vec::new();
        for option in ["--read-ahead=128K", "--read-ahead=1M"] {
            let m = Mount::new(Backing::Here, &["--cache=auto", NEVER, option])?;
            m.require_mount()?;
            let content = pattern(8 * SIZE, 3);
            std::fs::write(m.source("f"), &content)?;
            let file = File::open(m.path("f"))?;
            let mut bytes = vec![0; SIZE];
            file.read_exact_at(&mut bytes, 4 * SIZE as u64)?;
            same_bytes(option, &bytes, &content[4 * SIZE..5 * SIZE])?;
            requests.push(m.requests("READ")?);
            drop(file);
            m.unmount()?;
        }
        ensure!(requests[0] >= 8 && requests[1] <= 2, "{requests:?} READs");
        Ok(())
    })
}

#[test]
fn write_with_append_lands_at_the_end_of_a_file_grown_on_source() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("log"), "one\n")?;
        let mut file = open_append(m.path("log"))?;
        file.write_all(b"two\n")?;
        let host = open_append(m.source("log"))?;
        (&host).write_all(b"host\n")?;
        file.write_all(b"three\n")?;
        holds(m.source("log"), b"one\ntwo\nhost\nthree\n")
    })
}

#[test]
fn write_by_many_appenders_loses_no_record() -> Outcome {
    on_mount(&[], |m| {
        File::create(m.path("log"))?;
        in_threads(8, |id| {
            let mut file = open_append(m.path("log"))?;
            (0..100).try_for_each(|_| Ok(file.write_all(&[id as u8; 100])?))
        })?;
        let log = std::fs::read(m.source("log"))?;
        ensure!(log.len() == 80_000, "{} bytes", log.len());
        for record in log.chunks(100) {
            ensure!(record.iter().all(|b| *b == record[0]), "a torn record");
        }
        for id in 0..8u8 {
            let count = log.chunks(100).filter(|record| record[0] == id).count();
            ensure!(count == 100, "{count} records of writer {id}");
        }
        Ok(())
    })
}

#[test]
fn open_with_truncate_empties_the_file() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), pattern(10_000, 1))?;
        let mut file = File::options()
            .write(true)
            .truncate(true)
            .open(m.path("f"))?;
        ensure!(m.source("f").metadata()?.len() == 0);
        ensure!(file.metadata()?.len() == 0);
        file.write_all(b"x")?;
        holds(m.path("f"), b"x")
    })
}

#[test]
fn write_far_beyond_the_end_leaves_a_hole() -> Outcome {
    on_mount(&[], |m| {
        let file = File::create_new(m.path("sparse"))?;
        file.write_all_at(b"end", 1 << 40)?;
        ensure!(file.metadata()?.len() == (1 << 40) + 3);
        ensure!(
            m.source("sparse").metadata()?.blocks() < 1000,
            "the hole was written"
        );
        let mut byte = [1];
        file.read_exact_at(&mut byte, 1 << 39)?;
        ensure!(byte == [0]);
        Ok(())
    })
}

#[test]
fn lseek_finds_data_and_holes() -> Outcome {
    on_mount(&[], |m| {
        use rustix::fs::{SeekFrom, seek};
        let file = File::create_new(m.path("sparse"))?;
        file.set_len(4 << 20)?;
        file.write_all_at(&[1; 4096], 2 << 20)?;
        let host = File::open(m.source("sparse"))?;
        for at in [0, 1 << 20, 2 << 20, (2 << 20) + 1, 3 << 20] {
            for to in [SeekFrom::Data(at), SeekFrom::Hole(at)] {
                equal(format!("{to:?}"), seek(&file, to), seek(&host, to))?;
            }
        }
        ensure!(seek(&file, SeekFrom::Data(5 << 20)) == Err(Errno::NXIO));
        ensure!(seek(&file, SeekFrom::Data(0)) == Ok(2 << 20));
        Ok(())
    })
}

#[test]
fn read_at_and_after_the_end_is_short() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), pattern(5000, 3))?;
        let mut file = File::open(m.path("f"))?;
        let mut buffer = [0; 4096];
        ensure!(file.read_at(&mut buffer, 4900)? == 100);
        ensure!(file.read_at(&mut buffer, 5000)? == 0);
        ensure!(file.read_at(&mut buffer, 1 << 50)? == 0);
        file.seek(SeekFrom::Start(4999))?;
        ensure!(file.read(&mut buffer)? == 1);
        Ok(())
    })
}

#[test]
fn read_and_write_by_a_descriptor_of_the_wrong_mode_is_ebadf() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), "data")?;
        let reader = File::open(m.path("f"))?;
        let writer = open_wronly(m.path("f"))?;
        refused(reader.write_at(b"x", 0), libc::EBADF)?;
        refused(writer.read_at(&mut [0], 0), libc::EBADF)?;
        // The kernel reads partial pages of files opened write-only: 3 bytes inside one page.
        writer.write_all_at(b"ata", 1)?;
        writer.write_all_at(b"!", 5000)?;
        ensure!(std::fs::read(m.source("f"))?.len() == 5001);
        Ok(())
    })
}

#[test]
fn write_with_o_direct_and_o_sync_reaches_source() -> Outcome {
    on_mount(&[], |m| {
        for (name, flags) in [("dsync", libc::O_DSYNC), ("sync", libc::O_SYNC)] {
            let file = open(&m.path(name), flags)?;
            file.write_all_at(&pattern(9000, 4), 100)?;
            ensure!(std::fs::read(m.source(name))?[100..] == pattern(9000, 4));
        }
        let file = open(&m.path("direct"), libc::O_DIRECT)?;
        // Aligned for any backing file system: a file of whole blocks from an aligned buffer.
        let mut room = vec![0; 3 * 4096];
        let start = room.as_ptr().align_offset(4096);
        room[start..start + 8192].copy_from_slice(&pattern(8192, 5));
        file.write_all_at(&room[start..start + 8192], 4096)?;
        ensure!(std::fs::read(m.source("direct"))?[4096..] == pattern(8192, 5));
        room.fill(0);
        let read = file.read_at(&mut room[start..start + 8192], 4096)?;
        ensure!(read == 8192 && room[start..start + 8192] == pattern(8192, 5));
        Ok(())
    })
}

/// One mode on a file of 64 KiB of data; the result must equal SOURCE's own.
fn fallocate_like_native(m: &Mount, mode: FallocateFlags, range: (u64, u64)) -> Outcome {
    let data = pattern(65536, 6);
    std::fs::write(m.path("f"), &data)?;
    std::fs::write(m.source("native"), &data)?;
    let file = open_rdwr(m.path("f"))?;
    let native = open_rdwr(m.source("native"))?;
    // A warm cache, which must not survive a change of the range.
    holds(m.path("f"), &data)?;
    let expected = fallocate(&native, mode, range.0, range.1);
    let got = fallocate(&file, mode, range.0, range.1);
    // FUSE's kernel side knows only these modes and refuses others itself.
    let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
    if !known.contains(mode) && got == Err(Errno::OPNOTSUPP) {
        return Ok(());
    }
    equal("fallocate", got, expected)?;
    holds(m.path("f"), std::fs::read(m.source("native"))?)?;
    equal("size", file.metadata()?.len(), native.metadata()?.len())
}

#[test]
fn fallocate_in_every_mode_does_as_the_backing_does() -> Outcome {
    on_mount(&[], |m| {
        let keep = FallocateFlags::KEEP_SIZE;
        let modes = [
            FallocateFlags::empty(),
            keep,
            FallocateFlags::PUNCH_HOLE | keep,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::ZERO_RANGE | keep,
            FallocateFlags::COLLAPSE_RANGE,
            FallocateFlags::INSERT_RANGE,
            FallocateFlags::PUNCH_HOLE,
        ];
        for mode in modes {
            let pages = [(0, 4096), (4096, 8192)];
            let odd = [(1000, 3000), (60_000, 20_000), (70_000, 5000)];
            for range in pages.into_iter().chain(odd) {
                fallocate_like_native(m, mode, range)
                    .with_context(|| format!("{mode:?} {range:?}"))?;
            }
        }
        Ok(())
    })
}

#[test]
fn fallocate_reserves_blocks_on_source() -> Outcome {
    on_backing(Backing::Ext4(64), &[], |m| {
        let file = File::create(m.path("f"))?;
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20)?;
        ensure!(m.source("f").metadata()?.blocks() * 512 >= 1 << 20);
        ensure!(file.metadata()?.len() == 0);
        ensure!(fallocate(&file, FallocateFlags::empty(), 0, 1 << 30) == Err(Errno::NOSPC));
        Ok(())
    })
}

#[test]
fn write_to_a_full_file_system_is_enospc_and_not_data() -> Outcome {
    on_backing(Backing::Ext4(30), &[], |m| {
        let mut file = File::create(m.path("f"))?;
        let block = pattern(1 << 20, 7);
        let error = loop {
            match file.write_all(&block) {
                Ok(()) => ensure!(file.metadata()?.len() < 64 << 20, "30 MiB hold 64"),
                Err(error) => break error,
            }
        };
        ensure!(error.raw_os_error() == Some(libc::ENOSPC), "{error}");
        holds(m.path("f"), std::fs::read(m.source("f"))?)
    })
}

#[test]
fn copy_file_range_copies_within_and_between_files() -> Outcome {
    on_mount(&[], |m| {
        let data = pattern(300_000, 8);
        std::fs::write(m.path("from"), &data)?;
        let from = File::open(m.path("from"))?;
        let to = File::create_new(m.path("to"))?;
        to.write_all_at(&[9; 100], 0)?;
        ensure!(std::fs::read(m.path("to"))?.len() == 100);
        let (mut at, mut to_at, mut left) = (1000, 50, 200_000);
        while left > 0 {
            let copied =
                rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), left)?;
            ensure!(copied > 0, "no progress at {at}");
            left -= copied;
        }
        let copy = [&[9; 50], &data[1000..201_000]].concat();
        holds(m.path("to"), &copy)?;
        holds(m.source("to"), &copy)?;
        let (mut at, mut to_at) = (0, 250_000);
        let both = open_rdwr(m.path("from"))?;
        let copied =
            rustix::fs::copy_file_range(&both, Some(&mut at), &both, Some(&mut to_at), 1000)?;
        ensure!(std::fs::read(m.path("from"))?[250_000..250_000 + copied] == data[..copied]);
        Ok(())
    })
}

#[test]
fn copy_file_range_of_overlapping_ranges_is_einval() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("f"), pattern(10_000, 1))?;
        let file = open_rdwr(m.path("f"))?;
        let (mut from, mut to) = (0, 100);
        let got = rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 1000);
        ensure!(got == Err(Errno::INVAL), "{got:?}");
        Ok(())
    })
}

#[test]
fn write_on_source_is_seen_through_the_mount() -> Outcome {
    on_mount(&[], |m| {
        if xtests::support::mount::cache_mode() == "always" {
            return Err(missing("a cache mode that looks at SOURCE again"));
        }
        std::fs::write(m.path("f"), pattern(8192, 1))?;
        holds(m.path("f"), pattern(8192, 1))?;
        std::fs::write(m.source("f"), pattern(9000, 2))?;
        let deadline = std::time::Duration::from_secs(3);
        xtests::support::wait::wait_until("SOURCE's new content", deadline, || {
            Ok(std::fs::read(m.path("f"))? == pattern(9000, 2))
        })
    })
}

#[test]
fn read_of_a_file_without_read_permission_for_others_is_eacces() -> Outcome {
    on_mount(&[], |m| {
        std::fs::write(m.path("secret"), "x")?;
        let path = m.path("secret");
        chmod(&path, 0o600)?;
        let read = User::new(12345, 12345).act(|| Ok(std::fs::read(&path)))?;
        refused(read, libc::EACCES)?;
        holds(path, b"x")
    })
}
