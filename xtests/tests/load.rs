//! Mixed random load for a while: the daemon's resources do not grow. (survival.rs has the faults.)

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use xtests::support::asked::number;
use xtests::support::calls::{open_append, open_wronly};
use xtests::support::random::Random;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, case, on_mount};

const SOON: Duration = Duration::from_secs(10);

/// One operation of the mix; a name that others removed meanwhile is no failure.
fn operate(dir: &Path, random: &mut Random) -> std::io::Result<()> {
    let name = |random: &mut Random| dir.join(format!("n{}", random.below(60)));
    let (path, other) = (name(random), name(random));
    let size = random.below(300_000);
    match random.below(14) {
        0 | 1 => std::fs::write(&path, vec![1; size]),
        2 | 3 => std::fs::read(&path).map(drop),
        4 => open_append(&path)?.write_all(&vec![2; size / 10]),
        5 => std::fs::rename(&path, &other),
        6 => std::fs::remove_file(&path),
        7 => std::fs::hard_link(&path, &other),
        8 => std::os::unix::fs::symlink(&path, &other),
        9 => open_wronly(&path)?.set_len(size as u64),
        10 => std::fs::read_dir(dir)?.try_for_each(|entry| entry?.metadata().map(drop)),
        11 => {
            let deep = dir.join(format!("d{}/e/f", random.below(20)));
            std::fs::create_dir_all(&deep)?;
            std::fs::remove_dir_all(deep.parent().unwrap_or(dir))
        }
        12 => {
            let file = File::open(&path)?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared)?;
            file.sync_data()
        }
        _stat => std::fs::symlink_metadata(&path).map(drop),
    }
}

/// Removes the files of [`operate`]: their number is chance, and a known file may cost the daemon a descriptor.
fn clear(dir: &Path) -> Outcome {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.symlink_metadata()?.is_dir() {
            true => std::fs::remove_dir_all(path)?,
            false => std::fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// Mixed random load, and the daemon's resources after a fifth of it and at the end.
fn load(m: &Mount, time: Duration) -> Outcome {
    const WORKERS: u64 = 4;
    m.require_mount()?;
    let operations = AtomicU64::new(0);
    let until = |end: Instant| {
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let operations = &operations;
                scope.spawn(move || {
                    let mut random = Random(worker * 77 + operations.load(Ordering::Relaxed) + 1);
                    while Instant::now() < end {
                        let _gone_meanwhile = operate(m.dir(), &mut random);
                        operations.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    };
    let start = Instant::now();
    until(start + time / 5);
    clear(m.dir())?;
    let (memory, open) = (m.daemon_memory()?, m.daemon_descriptors()?);
    until(start + time);
    clear(m.dir())?;
    let count = operations.load(Ordering::Relaxed);
    let (memory_now, open_now) = (m.daemon_memory()?, m.daemon_descriptors()?);
    println!(
        "{count} operations; {memory} bytes became {memory_now}, {open} descriptors {open_now}"
    );
    ensure!(count > 100, "{count} operations");
    ensure!(
        memory_now < memory + (8 << 20),
        "{memory} bytes became {memory_now}"
    );
    // The kernel sends RELEASE later.
    wait_until("descriptors as before", SOON, || {
        Ok(m.daemon_descriptors()? <= open + 8)
    })
}

#[test]
fn mixed_load_leaves_memory_and_descriptors_flat() -> Outcome {
    on_mount(&["--locks=host"], |m| load(m, Duration::from_secs(20)))
}

/// `THRUFS_LOAD_MINUTES` in place of an hour.
#[test]
#[ignore = "an hour: cargo test --release -p xtests --test load -- --ignored mixed_load"]
fn mixed_load_of_an_hour_leaves_memory_and_descriptors_flat() -> Outcome {
    case(|| {
        let minutes = number("THRUFS_LOAD_MINUTES", 60_u64)?;
        let time = Duration::from_secs(60 * minutes);
        let m = Mount::new(Backing::Here, &["--locks=host"])?.allow(2 * time);
        load(&m, time)?;
        m.unmount()
    })
}
