//! Names that are replaced by rename while others use them: as natively, who gives a name gets the file that
//! had it before or the one that has it now, and no error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtests::support::asked::number;
use xtests::support::calls::chmod;
use xtests::support::{Backing, Mount, Outcome, on_backing};

/// As in held.rs.
const WAYS: [(Backing, &str); 3] = [
    (Backing::Here, "--inode-file-handles=never"),
    (Backing::Tmpfs, "--inode-file-handles=prefer"),
    (Backing::Ext4(32), "--inode-file-handles=prefer"),
];

/// How long each of them.
fn time() -> Result<Duration> {
    Ok(Duration::from_secs(number("THRUFS_TEST_SECONDS", 1)?))
}

/// What became of the calls: how often each errno, 0 for none.
type Outcomes = BTreeMap<i32, u64>;

/// Replaces `dir/name` until `stop`, resting for `pause` each time.
fn replace(
    dir: &Path,
    own: &str,
    pause: Duration,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        std::fs::write(dir.join(own), own)?;
        std::fs::rename(dir.join(own), dir.join("name"))?;
        count.fetch_add(1, Ordering::Relaxed);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    Ok(())
}

/// Uses `dir/name` by each kind of call.
fn use_name(path: &Path, stop: &AtomicBool) -> Outcomes {
    let calls: [fn(&Path) -> io::Result<()>; 3] = [
        |path| File::open(path).map(drop),
        |path| path.metadata().map(drop),
        |path| chmod(path, 0o640),
    ];
    let mut outcomes = Outcomes::new();
    while !stop.load(Ordering::Relaxed) {
        for call in calls {
            let errno = call(path).map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0);
            *outcomes.entry(errno).or_default() += 1;
        }
    }
    outcomes
}

/// Two that replace the name in `dir`, two that use it through the mount.
fn race(m: &Mount, dir: &Path, pause: Duration) -> Result<Outcomes> {
    std::fs::write(dir.join("name"), "first")?;
    let (stop, replaced) = (AtomicBool::new(false), AtomicU64::new(0));
    let name: PathBuf = m.path("name");
    let outcomes = std::thread::scope(|scope| {
        let (stop, replaced) = (&stop, &replaced);
        let users = [(); 2].map(|()| scope.spawn(|| use_name(&name, stop)));
        let replacers =
            ["a", "b"].map(|own| scope.spawn(move || replace(dir, own, pause, stop, replaced)));
        let end = Instant::now() + time()?;
        while Instant::now() < end && !replacers.iter().any(|one| one.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
        for one in replacers {
            one.join().expect("no panic").context("a replacement")?;
        }
        let mut all = Outcomes::new();
        for user in users {
            for (errno, count) in user.join().expect("no panic") {
                *all.entry(errno).or_default() += count;
            }
        }
        anyhow::Ok(all)
    })?;
    println!("{replaced:?} replacements; calls by errno: {outcomes:?}");
    ensure!(
        outcomes.get(&0).is_some_and(|count| *count > 10),
        "{outcomes:?}"
    );
    Ok(outcomes)
}

fn only(outcomes: &Outcomes, allowed: &[i32]) -> Outcome {
    let failed = outcomes.keys().find(|errno| !allowed.contains(errno));
    ensure!(failed.is_none(), "calls by errno: {outcomes:?}");
    Ok(())
}

fn in_each_way(body: impl Fn(&Mount) -> Outcome) -> Outcome {
    WAYS.iter()
        .try_for_each(|(backing, handles)| on_backing(*backing, &[handles], &body))
}

/// Where inodes are held by handle, one in seven open(2) was ESTALE, and some were EIO: a file with the inode
/// number of one that was just removed made the kernel take the latter for bad.
#[test]
fn name_that_is_replaced_through_the_mount_is_always_a_file() -> Outcome {
    in_each_way(|m| only(&race(m, m.dir(), Duration::ZERO)?, &[0]))
}

#[test]
fn name_that_is_replaced_on_source_each_millisecond_is_always_a_file() -> Outcome {
    in_each_way(|m| only(&race(m, &m.source(""), Duration::from_millis(1))?, &[0]))
}

/// The kernel asks for the name a second time when it is told ESTALE, and not a third time.
#[test]
fn name_that_is_replaced_on_source_at_any_speed_is_a_file_or_estale() -> Outcome {
    in_each_way(|m| {
        let outcomes = race(m, &m.source(""), Duration::ZERO)?;
        only(&outcomes, &[0, libc::ESTALE])
    })
}
