//! Faults around a mount: the daemon is killed or stopped, the connection aborted, SOURCE goes
//! away, fills up or fails, signals rain. A user of the mount gets an error or an answer, and the
//! mount point can be used again.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use xtests::support::calls::{errno, open_rdwr, open_wronly, refused};
use xtests::support::checks::{equal, holds, same_bytes};
use xtests::support::command::{output, said_on_stderr};
use xtests::support::mount::{NEVER, mount_command, mounted_with, thrufs};
use xtests::support::mount_table::{
    abort, is_mounted, mount_line, mount_table, mounts_at, stat_error,
};
use xtests::support::operator::{self, umount_when_idle};
use xtests::support::threads::beside;
use xtests::support::wait::wait_until;
use xtests::support::{
    Backing, Mount, Outcome, Scratch, case, missing, mounted, on_backing, on_daemon, on_mount,
    on_whole, unmounted,
};

const SOON: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: &str = "/proc/sys/fs/fuse/default_request_timeout";

/// Mounts in the background with `--replace-dead`, reads, and unmounts.
fn remount(source: &Path, dir: &Path) -> Outcome {
    remount_over(source, dir)?;
    ensure!(!is_mounted(dir), "something is still mounted");
    Ok(())
}

/// As `remount`, where something stays mounted below.
fn remount_over(source: &Path, dir: &Path) -> Outcome {
    operator::mount(source, dir, &["--replace-dead", "--nonempty"])?;
    holds(dir.join("f"), b"content")?;
    umount_when_idle(dir)
}

/// If the daemon is two processes, the one that serves dies a moment after the other.
fn wait_for_dead(dir: &Path) -> Outcome {
    wait_until("the connection to be gone", SOON, || {
        Ok(stat_error(dir) == Some(libc::ENOTCONN))
    })
}

#[test]
fn daemon_killed_under_load_loses_nothing_acknowledged_and_is_replaced_at_once() -> Outcome {
    case(|| {
        const BLOCK: usize = 10_000;
        // What the kernel passes through goes on without the daemon.
        let mut m = mounted_with(&[NEVER])?;
        let acknowledged: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| -> Outcome {
            for (index, count) in acknowledged.iter().enumerate() {
                let file = File::create(m.path(&format!("w{index}")))?;
                scope.spawn(move || {
                    let write = |at| file.write_all_at(&[7; BLOCK], at).is_ok();
                    while write(count.load(Ordering::SeqCst)) {
                        count.fetch_add(BLOCK as u64, Ordering::SeqCst);
                    }
                });
            }
            let writes = |count: &AtomicU64| count.load(Ordering::SeqCst) > 1 << 20;
            wait_until("the writers to write", SOON, || {
                Ok(acknowledged.iter().all(writes))
            })?;
            kill(m.pid()?, Signal::SIGKILL)?;
            Ok(())
        })?;
        // A killed daemon has no exit code.
        ensure!(m.wait_for_daemon().is_err());
        wait_for_dead(m.dir())?;
        for (index, count) in acknowledged.iter().enumerate() {
            let written = std::fs::read(m.source(&format!("w{index}")))?;
            let count = usize::try_from(count.load(Ordering::SeqCst))?;
            ensure!(written.len() >= count, "{} of {count} bytes", written.len());
            same_bytes(index, &written[..count], vec![7; count])?;
        }
        remount(&m.source(""), m.dir())
    })
}

#[test]
fn mount_on_a_dead_mount_names_both_remedies() -> Outcome {
    case(|| {
        let mut m = mounted()?;
        kill(m.pid()?, Signal::SIGKILL)?;
        ensure!(m.wait_for_daemon().is_err());
        wait_for_dead(m.dir())?;
        let refused = output(mount_command()?.args([&m.source(""), m.dir()]))?;
        let text = said_on_stderr(&refused);
        ensure!(!refused.status.success(), "{text}");
        ensure!(text.contains("thrufs umount"), "{text}");
        ensure!(text.contains("--replace-dead"), "{text}");
        remount(&m.source(""), m.dir())
    })
}

#[test]
fn replace_dead_leaves_what_lives_or_is_not_thrufs() -> Outcome {
    case(|| {
        let m = mounted()?;
        let before = mount_line(m.dir());
        remount_over(&m.source(""), m.dir())?;
        ensure!(mount_line(m.dir()) == before, "the mount below is another");
        holds(m.path("f"), b"content")?;
        m.unmount()?;
        let scratch = Scratch::new(Backing::Here)?;
        std::fs::write(scratch.source().join("f"), "content")?;
        scratch.mount_tmpfs(&scratch.mountpoint())?;
        let before = mount_line(&scratch.mountpoint());
        remount_over(&scratch.source(), &scratch.mountpoint())?;
        equal("the tmpfs", mount_line(&scratch.mountpoint()), before)?;
        scratch.unmount_last()
    })
}

#[test]
fn replace_dead_removes_several_on_top_of_each_other() -> Outcome {
    case(|| {
        let mut first = mounted()?;
        let dir = first.dir().to_owned();
        let mut second = mount_command()?;
        second.args(["-f", "--nonempty"]);
        let mut second = second.args([&first.source(""), &dir]).spawn()?;
        let both = wait_until("two mounts", SOON, || Ok(mounts_at(&dir)? == 2));
        second.kill()?;
        second.wait()?;
        kill(first.pid()?, Signal::SIGKILL)?;
        ensure!(first.wait_for_daemon().is_err());
        both?;
        wait_for_dead(&dir)?;
        remount(&first.source(""), &dir)?;
        ensure!(mounts_at(&dir)? == 0);
        Ok(())
    })
}

/// A daemon whose connection was aborted fails, logs the reason, and leaves its mount.
fn check_given_up(m: &mut Mount, why: &str) -> Outcome {
    let code = m.wait_for_daemon()?;
    let log = m.log();
    ensure!(code == 1, "exit code {code}\n{log}");
    ensure!(log.contains(why), "{log}");
    ensure!(log.contains("stays mounted and answers ENOTCONN"), "{log}");
    ensure!(is_mounted(m.dir()), "the directory below shows");
    Ok(())
}

#[test]
fn abort_by_fusectl_ends_the_daemon_and_the_place_is_free_again() -> Outcome {
    case(|| {
        let mut m = mounted()?;
        let open = File::open(m.path("f"))?;
        abort(m.dir());
        let asked = std::fs::metadata(m.path("g"));
        ensure!(asked.is_err(), "a request after the abort succeeds");
        check_given_up(&mut m, "an abort by /sys/fs/fuse/connections/")?;
        ensure!(!m.log().contains("panicked"), "{}", m.log());
        drop(open);
        remount(&m.source(""), m.dir())
    })
}

#[test]
fn request_without_an_answer_for_the_timeout_ends_the_mount() -> Outcome {
    case(|| {
        let Ok(before) = std::fs::read_to_string(REQUEST_TIMEOUT) else {
            return Err(missing(format!("{REQUEST_TIMEOUT} (Linux 6.15)")));
        };
        let options = ["--request-timeout=15", "--fault=write:delay=600000"];
        let mut m = Mount::new(Backing::Tmpfs, &options)?;
        m.require_mount()?;
        std::fs::write(m.source("f"), "content")?;
        wait_until("the sysctl to be put back", SOON, || {
            Ok(std::fs::read_to_string(REQUEST_TIMEOUT)? == before)
        })?;
        // The kernel checks every 15 seconds.
        refused(
            std::fs::write(m.path("new"), "never answered"),
            libc::ECONNABORTED,
        )?;
        check_given_up(&mut m, "--request-timeout=15")?;
        remount(&m.source(""), m.dir())
    })
}

#[test]
fn abort_while_a_call_on_source_hangs_ends_the_daemon() -> Outcome {
    case(|| {
        let options = ["--sandbox=none", "--fault=write:delay=600000"];
        let mut m = Mount::new(Backing::Tmpfs, &options)?;
        m.require_mount()?;
        std::fs::write(m.source("f"), "content")?;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| errno(std::fs::write(m.path("new"), "never answered")));
            let begun = wait_until("the WRITE", SOON, || Ok(m.requests("WRITE")? > 0));
            abort(m.dir());
            let error = writer.join().ok().flatten();
            ensure!(error == Some(libc::ECONNABORTED), "{error:?}");
            begun
        })?;
        check_given_up(&mut m, "does not return")?;
        remount(&m.source(""), m.dir())
    })
}

fn refuses_names(removed: &Path) -> Outcome {
    let error = errno(std::fs::write(removed.join("g"), ""));
    let is_gone = matches!(error, Some(libc::ENOENT | libc::ESTALE));
    ensure!(is_gone, "{error:?}");
    Ok(())
}

#[test]
fn source_removed_gives_errors_and_serves_what_is_open() -> Outcome {
    on_daemon(&[], |m| {
        std::fs::create_dir(m.path("d"))?;
        std::fs::write(m.path("d/f"), "content")?;
        let mut open = open_rdwr(m.path("d/f"))?;
        std::fs::remove_dir_all(m.source("d"))?;
        let mut text = String::new();
        open.read_to_string(&mut text)?;
        ensure!(text == "content", "{text:?}");
        open.write_all(b"more")?;
        refuses_names(&m.path("d"))?;
        if m.scratch().is_whole() {
            // A mount point cannot be removed.
            return Ok(());
        }
        // Everything below SOURCE, and SOURCE itself.
        std::fs::remove_dir_all(m.source(""))?;
        refuses_names(m.dir())
    })
}

#[test]
fn source_remounted_read_only_refuses_writes_until_it_is_writable() -> Outcome {
    on_whole(Backing::Tmpfs, &[], |m| {
        // A written file stays open on SOURCE until RELEASE, which comes after close(2) has returned.
        let remount = |options: &str| {
            wait_until("no file of SOURCE to be open for writing", SOON, || {
                let mut mount = Command::new("mount");
                let option = format!("remount,{options}");
                let done = output(mount.args(["-o", &option]).arg(m.source("")))?;
                let said = said_on_stderr(&done);
                ensure!(done.status.success() || said.contains("busy"), "{said}");
                Ok(done.status.success())
            })
        };
        std::fs::write(m.path("f"), "content")?;
        remount("ro")?;
        refused(std::fs::write(m.path("f"), "other"), libc::EROFS)?;
        refused(File::create(m.path("g")), libc::EROFS)?;
        holds(m.path("f"), b"content")?;
        remount("rw")?;
        std::fs::write(m.path("f"), "other")?;
        holds(m.source("f"), b"other")
    })
}

#[test]
fn source_full_gives_enospc_and_takes_writes_again() -> Outcome {
    on_backing(Backing::Ext4(16), &[], |m| {
        let filled = (0..64)
            .try_for_each(|index| std::fs::write(m.path(&format!("f{index}")), vec![7; 1 << 20]));
        refused(filled, libc::ENOSPC)?;
        for index in 0..4 {
            std::fs::remove_file(m.path(&format!("f{index}")))?;
        }
        std::fs::write(m.path("g"), vec![8; 1 << 20])?;
        holds(m.source("g"), vec![8; 1 << 20])
    })
}

/// A device that fails: the image behind the loop device ends before the file's blocks.
#[test]
fn source_on_a_device_that_fails_gives_eio_and_serves_on() -> Outcome {
    on_backing(Backing::Ext4(32), &[], |m| {
        m.require_mount()?;
        std::fs::write(m.path("f"), vec![7; 8 << 20])?;
        let open = File::open(m.path("f"))?;
        open.sync_all()?;
        m.drop_caches()?;
        let image = m.scratch().path().join("image");
        let file = open_wronly(&image)?;
        let size = file.metadata()?.len();
        file.set_len(64 << 10)?;
        m.drop_caches()?;
        refused(open.read_exact_at(&mut vec![0; 8 << 20], 0), libc::EIO)?;
        // The mount itself still answers.
        ensure!(std::fs::metadata(m.dir())?.is_dir());
        file.set_len(size)?;
        Ok(())
    })
}

#[test]
fn signals_without_number_disturb_no_request() -> Outcome {
    on_mount(&[], |m| {
        let pid = m.server_pid()?;
        let harmless = [
            Signal::SIGHUP,
            Signal::SIGWINCH,
            Signal::SIGCHLD,
            Signal::SIGURG,
            Signal::SIGXFSZ,
        ];
        let sent = AtomicU64::new(0);
        let storm = || {
            harmless.iter().try_for_each(|signal| kill(pid, *signal))?;
            sent.fetch_add(harmless.len() as u64, Ordering::Relaxed);
            Ok(())
        };
        let work = |round: usize| {
            let path = m.path(&format!("f{}", round % 10));
            let data = vec![round as u8; 40_000 + round];
            std::fs::write(&path, &data)?;
            holds(&path, &data)
        };
        beside(storm, || (0..300).try_for_each(work))?;
        ensure!(sent.into_inner() > 1000, "too few signals");
        Ok(())
    })
}

/// As in a suspended machine, or a paused container.
#[test]
fn daemon_stopped_and_continued_answers_what_waited() -> Outcome {
    on_daemon(&[], |m| {
        std::fs::write(m.path("f"), "content")?;
        // A directory each: the kernel would make the second wait for the first in a common one.
        std::fs::create_dir(m.path("d"))?;
        m.drop_caches()?;
        let (path, other) = (m.path("f"), m.path("d/g"));
        let (reading, writing) = m.while_stopped(|| {
            let reading = std::thread::spawn(move || std::fs::read(path));
            let writing = std::thread::spawn(move || std::fs::write(other, "written"));
            wait_until("both to wait", SOON, || Ok(m.waiting()? >= 2))?;
            let served = reading.is_finished() || writing.is_finished();
            ensure!(!served, "a stopped daemon served");
            Ok((reading, writing))
        })?;
        ensure!(reading.join().expect("no panic")? == b"content");
        writing.join().expect("no panic")?;
        holds(m.source("d/g"), b"written")
    })
}

/// State that must be the same before and after: mounts, connections, processes called thrufs.
fn traces() -> Result<(usize, usize, usize)> {
    let mounts = mount_table("/proc/self/mountinfo")?;
    let connections = std::fs::read_dir("/sys/fs/fuse/connections").map_or(0, Iterator::count);
    let exe = std::fs::canonicalize(thrufs()?)?;
    let is_ours =
        |process: &PathBuf| std::fs::read_link(process.join("exe")).is_ok_and(|link| link == exe);
    let processes = std::fs::read_dir("/proc")?
        .flatten()
        .map(|entry| entry.path());
    Ok((
        mounts.lines().count(),
        connections,
        processes.filter(is_ours).count(),
    ))
}

fn cycle(times: usize) -> Outcome {
    let (s, _leftover) = unmounted()?;
    let ours = |count: Result<(usize, usize, usize)>| count.context("look for what is left");
    let before = ours(traces())?;
    for round in 0..times {
        remount(&s.source(), &s.mountpoint()).with_context(|| format!("round {round}"))?;
    }
    // Other tests mount and unmount meanwhile; a leak would be one for each round.
    wait_until(
        "mounts, connections and processes to be as few as before",
        SOON,
        || {
            let now = traces()?;
            let slack = times / 4;
            Ok(now.0 <= before.0 + slack && now.1 <= before.1 + slack && now.2 <= before.2 + slack)
        },
    )
}

#[test]
fn mount_and_unmount_two_hundred_times_leaves_nothing() -> Outcome {
    case(|| cycle(200))
}

#[test]
#[ignore = "long: cargo test --release -p xtests --test survival -- --ignored mount_and_unmount"]
fn mount_and_unmount_ten_thousand_times_leaves_nothing() -> Outcome {
    case(|| cycle(10_000))
}
