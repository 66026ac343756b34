//! Two mounts of one SOURCE with `--cache=never` agree with each other after every operation; and
//! cached content agrees with writes past the cache.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use anyhow::{Result, ensure};
use thrufs_sys::mapped_io::Mapping;
use thrufs_sys::uring;
use xtests::support::calls::open_rdwr;
use xtests::support::random::Random;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, on_daemon};

const PAGE: usize = 4096;
const SOON: Duration = Duration::from_secs(10);

#[test]
fn write_on_one_mount_is_read_on_the_other_at_once() -> Outcome {
    case(|| {
        let first = Mount::new(Backing::Here, &["--cache=never"])?;
        let second = Mount::of(Scratch::sharing(first.source(""))?, &["--cache=never"])?;
        let files = [
            File::create_new(first.path("f"))?,
            open_rdwr(second.path("f"))?,
        ];
        let (mut model, mut random) = (Vec::new(), Random(42));
        for step in 0..3000_u32 {
            let (writer, reader) = (random.below(2), random.below(2));
            let (offset, len) = (random.below(200_000), 1 + random.below(20_000));
            if random.below(10) == 0 {
                files[writer].set_len(offset as u64)?;
                model.resize(offset, 0);
            } else {
                let data = vec![(step % 250) as u8 + 1; len];
                files[writer].write_all_at(&data, offset as u64)?;
                model.resize(model.len().max(offset + len), 0);
                model[offset..offset + len].copy_from_slice(&data);
            }
            let seen = files[reader].metadata()?.len();
            ensure!(
                seen == model.len() as u64,
                "step {step}: size {seen}, {}",
                model.len()
            );
            let (at, len) = (random.below(model.len() + 1), random.below(50_000));
            let mut buffer = vec![0; len];
            let read = files[reader].read_at(&mut buffer, at as u64)?;
            ensure!(
                buffer[..read] == model[at..at + read],
                "step {step}: stale bytes at {at}"
            );
        }
        drop(files);
        second.unmount()?;
        first.unmount()
    })
}

#[test]
fn names_made_on_one_mount_exist_on_the_other_at_once() -> Outcome {
    case(|| {
        let first = Mount::new(Backing::Here, &["--cache=never"])?;
        let second = Mount::of(Scratch::sharing(first.source(""))?, &["--cache=never"])?;
        for round in 0..200 {
            let (name, moved) = (format!("n{round}"), format!("m{round}"));
            ensure!(!second.path(&name).exists());
            std::fs::write(first.path(&name), "x")?;
            ensure!(second.path(&name).exists(), "{name} is not there");
            std::fs::rename(second.path(&name), second.path(&moved))?;
            ensure!(
                !first.path(&name).exists() && first.path(&moved).exists(),
                "{name} not moved"
            );
            std::fs::remove_file(first.path(&moved))?;
            ensure!(!second.path(&moved).exists(), "{moved} is still there");
        }
        second.unmount()?;
        first.unmount()
    })
}

/// Up to Linux 7.2 the kernel drops cached pages before an asynchronous direct write alone, not
/// after it as well: a READ in between brings content into the cache that is older than the write
/// (xfstests generic/451).
#[test]
fn read_during_an_asynchronous_direct_write_leaves_nothing_older_than_it_in_the_cache() -> Outcome {
    for cache in ["--cache=auto", "--cache=always"] {
        let slow = format!("--fault=write:range=0+{PAGE}:delay=1500");
        on_daemon(&[cache, &slow], |m| {
            std::fs::write(m.source("f"), [b'A'; 2 * PAGE])?;
            let reader = File::open(m.path("f"))?;
            let mut direct = File::options();
            let direct = direct.write(true).custom_flags(libc::O_DIRECT);
            let direct = direct.open(m.path("f"))?;
            let bytes = File::create_new(m.source("bytes"))?;
            bytes.write_all_at(&[b'B'; PAGE], 0)?;
            let read = || -> Result<u8> {
                let mut page = [0; PAGE];
                reader.read_exact_at(&mut page, 0)?;
                Ok(page[0])
            };
            std::thread::scope(|scope| -> Outcome {
                let writer = scope.spawn(move || -> Result<usize> {
                    let bytes = Mapping::of_file(&bytes, PAGE, false, false)?;
                    Ok(uring::write(&direct, &bytes.span(0..PAGE)?, 0)?)
                });
                wait_until("the WRITE", SOON, || Ok(m.requests("WRITE")? > 0))?;
                ensure!(read()? == b'A', "{cache}: the write was not slow enough");
                let written = writer.join().expect("it does not panic")?;
                ensure!(written == PAGE, "{cache}: {written} bytes");
                Ok(())
            })?;
            ensure!(read()? == b'B', "{cache}: the bytes of before stay");
            Ok(())
        })?;
    }
    Ok(())
}
