//! POSIX, OFD and flock(2) locks, kept by the client's kernel (`--locks local`) or on SOURCE
//! (`--locks host`), and waiting for them.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use xtests::support::calls::open_rdwr;
use xtests::support::lock_holder::{Kind, LockHolder, range};
use xtests::support::process::is_in_call;
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, on_daemon, on_mount};

const KINDS: [Kind; 3] = [Kind::Posix, Kind::Ofd, Kind::Flock];
const SOON: Duration = Duration::from_secs(5);
const BOTH: [&str; 2] = ["--locks=local", "--locks=host"];

fn holder(kind: Kind, extra: &[&str], file: &Path) -> Result<LockHolder> {
    LockHolder::start(Path::new(env!("CARGO_BIN_EXE_xtests")), kind, extra, file)
}

/// A process that has locked `file`.
fn held(kind: Kind, extra: &[&str], file: &Path) -> Result<LockHolder> {
    let mut holder = holder(kind, extra, file)?;
    let word = holder.says()?;
    ensure!(word == "locked", "{kind:?} {extra:?}: {word}");
    Ok(holder)
}

/// The result of another process that tries the lock on `file`.
fn attempt(kind: Kind, extra: &[&str], file: &Path) -> Result<String> {
    let mut other = holder(kind, extra, file)?;
    let word = other.says()?;
    other.release()?;
    Ok(word)
}

/// Waits until the process is inside fcntl(2) or flock(2).
fn wait_for_blocked(waiter: &LockHolder) -> Outcome {
    wait_until("the lock holder to wait in the kernel", SOON, || {
        Ok(is_in_call(
            waiter.pid(),
            &[libc::SYS_fcntl, libc::SYS_flock],
        ))
    })
}

/// Lets one process lock a new file, wherever locks are kept and with each of `kinds`, and runs `body`.
fn with_held(
    kinds: &[Kind],
    extra: &[&str],
    body: impl Fn(Kind, &Path, LockHolder) -> Outcome,
) -> Outcome {
    for option in BOTH {
        on_mount(&[option], |m| {
            for &kind in kinds {
                let path = m.path("f");
                File::create(&path)?;
                let first = held(kind, extra, &path).context(option)?;
                body(kind, &path, first).with_context(|| format!("{option} {kind:?}"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn lock_held_by_one_process_is_busy_for_another() -> Outcome {
    with_held(&KINDS, &[], |kind, path, first| {
        ensure!(attempt(kind, &[], path)? == "busy", "not exclusive");
        ensure!(attempt(kind, &["--shared"], path)? == "busy", "shared");
        first.release()?;
        ensure!(attempt(kind, &[], path)? == "locked", "not released");
        Ok(())
    })
}

#[test]
fn lock_shared_by_two_processes_excludes_a_writer() -> Outcome {
    with_held(&KINDS, &["--shared"], |kind, path, first| {
        ensure!(attempt(kind, &["--shared"], path)? == "locked");
        ensure!(attempt(kind, &[], path)? == "busy");
        first.release()
    })
}

#[test]
fn lock_of_byte_ranges_collides_only_where_they_overlap() -> Outcome {
    let range = ["--start=100", "--len=50"];
    with_held(&[Kind::Posix, Kind::Ofd], &range, |kind, path, first| {
        let cases = [
            ("0", "100", "locked"),
            ("150", "10", "locked"),
            ("149", "1", "busy"),
        ];
        for (start, len, expected) in cases {
            let (start, len) = (format!("--start={start}"), format!("--len={len}"));
            let got = attempt(kind, &[&start, &len], path)?;
            ensure!(got == expected, "{start} {len}: {got}");
        }
        first.release()
    })
}

#[test]
fn getlk_names_the_range_that_is_in_the_way() -> Outcome {
    let locked = ["--start=100", "--len=50"];
    with_held(&[Kind::Posix], &locked, |_, path, other| {
        let file = open_rdwr(path)?;
        let mut asked = range(libc::F_WRLCK, 0, 0);
        fcntl(&file, FcntlArg::F_GETLK(&mut asked))?;
        let got = (i32::from(asked.l_type), asked.l_start, asked.l_len);
        ensure!(got == (libc::F_WRLCK, 100, 50), "{got:?}");
        let mut free = range(libc::F_WRLCK, 0, 100);
        fcntl(&file, FcntlArg::F_GETLK(&mut free))?;
        let kind = i32::from(free.l_type);
        ensure!(kind == libc::F_UNLCK, "{kind}");
        other.release()
    })
}

#[test]
fn lock_on_the_host_is_seen_from_both_sides() -> Outcome {
    on_daemon(&["--locks=host"], |m| {
        for kind in KINDS {
            File::create(m.path("f"))?;
            let client = held(kind, &[], &m.path("f"))?;
            let on_source = attempt(kind, &[], &m.source("f"))?;
            ensure!(on_source == "busy", "{kind:?}: SOURCE does not see it");
            client.release()?;
            wait_until("SOURCE to see the release", SOON, || {
                Ok(attempt(kind, &[], &m.source("f"))? == "locked")
            })?;
            let host = held(kind, &[], &m.source("f"))?;
            let here = attempt(kind, &[], &m.path("f"))?;
            ensure!(here == "busy", "{kind:?}: the mount does not see it");
            host.release()?;
        }
        Ok(())
    })
}

#[test]
fn lock_kept_locally_is_not_seen_on_source() -> Outcome {
    on_daemon(&["--locks=local"], |m| {
        for kind in KINDS {
            File::create(m.path("f"))?;
            let client = held(kind, &[], &m.path("f"))?;
            ensure!(attempt(kind, &[], &m.source("f"))? == "locked", "{kind:?}");
            client.release()?;
        }
        Ok(())
    })
}

#[test]
fn lock_that_waits_is_granted_when_the_other_is_released() -> Outcome {
    with_held(&KINDS, &[], |kind, path, first| {
        let mut waiter = holder(kind, &["--wait"], path)?;
        wait_for_blocked(&waiter)?;
        first.release()?;
        ensure!(waiter.says()? == "locked");
        waiter.release()
    })
}

#[test]
fn lock_that_waits_is_given_up_within_a_second_of_a_signal() -> Outcome {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        with_held(&KINDS, &[], |kind, path, first| {
            let mut waiter = holder(kind, &["--wait"], path)?;
            wait_for_blocked(&waiter)?;
            let start = Instant::now();
            kill(waiter.pid(), signal)?;
            waiter.wait_for_end(SOON)?;
            let took = start.elapsed();
            ensure!(took < Duration::from_secs(1), "{signal}: {took:?}");
            first.release()?;
            ensure!(attempt(kind, &[], path)? == "locked", "a ghost holds it");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn lock_waiters_in_number_leave_the_mount_usable() -> Outcome {
    on_mount(&["--locks=host"], |m| {
        let path = m.path("f");
        File::create(&path)?;
        let first = held(Kind::Posix, &[], &path)?;
        let mut waiters = Vec::new();
        for index in 0..24 {
            let kind = [Kind::Posix, Kind::Ofd][index % 2];
            let waiter = holder(kind, &["--wait"], &path)?;
            wait_for_blocked(&waiter)?;
            waiters.push(waiter);
        }
        let start = Instant::now();
        for index in 0..100 {
            std::fs::write(m.path(&format!("g{index}")), "x")?;
        }
        let took = start.elapsed();
        ensure!(took < SOON, "{took:?} for 100 files");
        first.release()
    })
}

#[test]
fn lock_is_dropped_when_its_process_is_killed() -> Outcome {
    with_held(&KINDS, &[], |kind, path, mut first| {
        kill(first.pid(), Signal::SIGKILL)?;
        first.wait_for_end(SOON)?;
        wait_until("the lock of a killed process to go", SOON, || {
            Ok(attempt(kind, &[], path)? == "locked")
        })
    })
}
