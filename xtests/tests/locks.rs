//! POSIX, OFD and flock(2) locks, kept by the client's kernel (`--locks local`) or on SOURCE
//! (`--locks host`), and waiting for them.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use xtests::support::lock_holder::{Kind, LockHolder, range};
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, on_mount};

const KINDS: [Kind; 3] = [Kind::Posix, Kind::Ofd, Kind::Flock];
const BOTH: [&str; 2] = ["--locks=local", "--locks=host"];

fn holder(kind: Kind, extra: &[&str], file: &Path) -> Result<LockHolder> {
    LockHolder::start(Path::new(env!("CARGO_BIN_EXE_xtests")), kind, extra, file)
}

/// What another process gets that tries the lock on `file`.
fn attempt(kind: Kind, extra: &[&str], file: &Path) -> Result<String> {
    let mut other = holder(kind, extra, file)?;
    let word = other.says()?;
    other.release()?;
    Ok(word)
}

/// Waits until the process is inside fcntl(2) or flock(2).
fn wait_for_blocked(waiter: &LockHolder) -> Outcome {
    let file = format!("/proc/{}/syscall", waiter.pid());
    let locking = [libc::SYS_fcntl, libc::SYS_flock].map(|number| number.to_string());
    wait_until(
        "the lock holder to wait in the kernel",
        Duration::from_secs(5),
        || {
            let text = std::fs::read_to_string(&file)?;
            Ok(locking
                .iter()
                .any(|number| text.split(' ').next() == Some(number)))
        },
    )
}

#[test]
fn lock_held_by_one_process_is_busy_for_another() -> Outcome {
    for option in BOTH {
        on_mount(&[option], |m| {
            for kind in KINDS {
                let path = m.path("f");
                File::create(&path)?;
                let mut first = holder(kind, &[], &path)?;
                ensure!(first.says()? == "locked", "{option} {kind:?}");
                ensure!(
                    attempt(kind, &[], &path)? == "busy",
                    "{option} {kind:?}: not exclusive"
                );
                ensure!(
                    attempt(kind, &["--shared"], &path)? == "busy",
                    "{option} {kind:?}: shared"
                );
                first.release()?;
                ensure!(
                    attempt(kind, &[], &path)? == "locked",
                    "{option} {kind:?}: not released"
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn lock_shared_by_two_processes_excludes_a_writer() -> Outcome {
    for option in BOTH {
        on_mount(&[option], |m| {
            for kind in KINDS {
                let path = m.path("f");
                File::create(&path)?;
                let mut first = holder(kind, &["--shared"], &path)?;
                ensure!(first.says()? == "locked");
                ensure!(
                    attempt(kind, &["--shared"], &path)? == "locked",
                    "{option} {kind:?}"
                );
                ensure!(attempt(kind, &[], &path)? == "busy", "{option} {kind:?}");
                first.release()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn lock_of_byte_ranges_collides_only_where_they_overlap() -> Outcome {
    for option in BOTH {
        on_mount(&[option], |m| {
            for kind in [Kind::Posix, Kind::Ofd] {
                let path = m.path("f");
                File::create(&path)?;
                let mut first = holder(kind, &["--start=100", "--len=50"], &path)?;
                ensure!(first.says()? == "locked");
                let cases = [
                    ("0", "100", "locked"),
                    ("150", "10", "locked"),
                    ("149", "1", "busy"),
                ];
                for (start, len, expected) in cases {
                    let (start, len) = (format!("--start={start}"), format!("--len={len}"));
                    let got = attempt(kind, &[&start, &len], &path)?;
                    ensure!(got == expected, "{option} {kind:?} {start} {len}: {got}");
                }
                first.release()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn getlk_names_the_range_that_is_in_the_way() -> Outcome {
    for option in BOTH {
        on_mount(&[option], |m| {
            let path = m.path("f");
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            let mut other = holder(Kind::Posix, &["--start=100", "--len=50"], &path)?;
            ensure!(other.says()? == "locked");
            let mut asked = range(libc::F_WRLCK, 0, 0);
            fcntl(&file, FcntlArg::F_GETLK(&mut asked))?;
            let got = (i32::from(asked.l_type), asked.l_start, asked.l_len);
            ensure!(got == (libc::F_WRLCK, 100, 50), "{option}: {got:?}");
            let mut free = range(libc::F_WRLCK, 0, 100);
            fcntl(&file, FcntlArg::F_GETLK(&mut free))?;
            ensure!(
                i32::from(free.l_type) == libc::F_UNLCK,
                "{option}: {}",
                free.l_type
            );
            other.release()
        })?;
    }
    Ok(())
}

#[test]
fn lock_on_the_host_is_seen_from_both_sides() -> Outcome {
    on_mount(&["--locks=host"], |m| {
        m.require_mount()?;
        for kind in KINDS {
            File::create(m.path("f"))?;
            let mut client = holder(kind, &[], &m.path("f"))?;
            ensure!(client.says()? == "locked");
            ensure!(
                attempt(kind, &[], &m.source("f"))? == "busy",
                "{kind:?}: SOURCE does not see it"
            );
            client.release()?;
            wait_until("SOURCE to see the release", Duration::from_secs(5), || {
                Ok(attempt(kind, &[], &m.source("f"))? == "locked")
            })?;
            let mut host = holder(kind, &[], &m.source("f"))?;
            ensure!(host.says()? == "locked");
            ensure!(
                attempt(kind, &[], &m.path("f"))? == "busy",
                "{kind:?}: the mount does not see it"
            );
            host.release()?;
        }
        Ok(())
    })
}

#[test]
fn lock_kept_locally_is_not_seen_on_source() -> Outcome {
    on_mount(&["--locks=local"], |m| {
        m.require_mount()?;
        for kind in KINDS {
            File::create(m.path("f"))?;
            let mut client = holder(kind, &[], &m.path("f"))?;
            ensure!(client.says()? == "locked");
            ensure!(attempt(kind, &[], &m.source("f"))? == "locked", "{kind:?}");
            client.release()?;
        }
        Ok(())
    })
}

#[test]
fn lock_that_waits_is_granted_when_the_other_is_released() -> Outcome {
    for option in BOTH {
        on_mount(&[option], |m| {
            for kind in KINDS {
                let path = m.path("f");
                File::create(&path)?;
                let mut first = holder(kind, &[], &path)?;
                ensure!(first.says()? == "locked");
                let mut waiter = holder(kind, &["--wait"], &path)?;
                wait_for_blocked(&waiter)?;
                first.release()?;
                ensure!(waiter.says()? == "locked", "{option} {kind:?}");
                waiter.release()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn lock_that_waits_is_given_up_within_a_second_of_a_signal() -> Outcome {
    for option in BOTH {
        on_mount(&[option], |m| {
            for kind in KINDS {
                for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                    let path = m.path("f");
                    File::create(&path)?;
                    let mut first = holder(kind, &[], &path)?;
                    ensure!(first.says()? == "locked");
                    let mut waiter = holder(kind, &["--wait"], &path)?;
                    wait_for_blocked(&waiter)?;
                    let start = Instant::now();
                    kill(waiter.pid(), signal)?;
                    waiter.wait_for_end(Duration::from_secs(5))?;
                    let took = start.elapsed();
                    ensure!(
                        took < Duration::from_secs(1),
                        "{option} {kind:?} {signal}: {took:?}"
                    );
                    first.release()?;
                    ensure!(
                        attempt(kind, &[], &path)? == "locked",
                        "{option} {kind:?}: a ghost holds it"
                    );
                }
            }
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
        let mut first = holder(Kind::Posix, &[], &path)?;
        ensure!(first.says()? == "locked");
        let mut waiters = Vec::new();
        for index in 0..24 {
            let kind = if index % 2 == 0 {
                Kind::Posix
            } else {
                Kind::Ofd
            };
            let waiter = holder(kind, &["--wait"], &path)?;
            wait_for_blocked(&waiter)?;
            waiters.push(waiter);
        }
        let start = Instant::now();
        for index in 0..100 {
            std::fs::write(m.path(&format!("g{index}")), "x")?;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(5),
            "{:?} for 100 files",
            start.elapsed()
        );
        first.release()
    })
}

#[test]
fn lock_is_dropped_when_its_process_is_killed() -> Outcome {
    for option in BOTH {
        on_mount(&[option], |m| {
            for kind in KINDS {
                let path = m.path("f");
                File::create(&path)?;
                let mut first = holder(kind, &[], &path)?;
                ensure!(first.says()? == "locked");
                kill(first.pid(), Signal::SIGKILL)?;
                first.wait_for_end(Duration::from_secs(5))?;
                wait_until(
                    "the lock of a killed process to go",
                    Duration::from_secs(5),
                    || Ok(attempt(kind, &[], &path)? == "locked"),
                )?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
