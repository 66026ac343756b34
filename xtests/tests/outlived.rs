//! `--survive`: the mount outlives its server, without an error and without a wrong byte.
//!
//! Each kind of request that may not be repeated is met by a death between what it did and its answer (`--fault`),
//! and fails there without the journal; and all of them at once are met by deaths at any moment. Nothing here
//! depends on how long anything takes.

use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

#[path = "outlived/mix.rs"]
mod mix;
#[path = "outlived/modes.rs"]
mod modes;
#[path = "outlived/runs.rs"]
mod runs;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{CWD, FlockOperation, XattrFlags};
use rustix::process::{Pid, Signal, kill_process};
use xtests::support::calls::{errno, open_append, open_rdwr, refused};
use xtests::support::checks::{equal, holds};
use xtests::support::load::{create_exclusively, exchange};
use xtests::support::process::children;
use xtests::support::surviving::{SURVIVE, mounted};
use xtests::support::wait::{wait_for, wait_until};
use xtests::support::{Backing, Mount, Outcome, Scratch, case};

/// For a server to come, on a machine however busy.
const SOON: Duration = Duration::from_secs(60);

/// When a mount with so many deaths counts as hung.
fn limit(deaths: u64) -> Duration {
    Duration::from_secs(120 + 5 * deaths)
}

/// The process that serves now: the child of the one that starts servers.
fn server(m: &Mount) -> Result<Pid> {
    let zygote = m.server_pid()?;
    let server = wait_for("a server", SOON, || {
        Ok(children(zygote)?.first().map(|pid| pid.as_raw()))
    })?;
    Pid::from_raw(server).context("a process id is not 0")
}

fn deaths(m: &Mount) -> Result<u64> {
    let deaths = m.status()?["deaths"].as_u64();
    deaths.context("no deaths in the status")
}

/// Kills the server, and waits for the next one.
fn kill_server(m: &Mount) -> Outcome {
    let killed = server(m)?;
    kill_process(killed, Signal::KILL)?;
    wait_until("the next server", SOON, || Ok(server(m)? != killed))
}

/// What the kernel holds when nothing is used.
fn check_nothing_is_left(m: &Mount) -> Outcome {
    wait_until("all to be forgotten", SOON, || {
        m.drop_caches()?;
        let status = m.status()?;
        let left = (status["handles"].as_u64(), status["inodes"].as_u64());
        Ok(left == (Some(0), Some(1)))
    })
    .with_context(|| {
        m.status()
            .map(|status| status.to_string())
            .unwrap_or_default()
    })
}

/// A kind of request that may not be repeated: how the server dies in it, what prepares it, and the request with
/// what must hold after it.
struct Row {
    name: &'static str,
    fault: &'static str,
    prepare: fn(&Path) -> Outcome,
    act: fn(&Path) -> Outcome,
}

fn nothing(_dir: &Path) -> Outcome {
    Ok(())
}

fn file(dir: &Path) -> Outcome {
    Ok(std::fs::write(dir.join("f"), "content")?)
}

fn two_files(dir: &Path) -> Outcome {
    file(dir)?;
    Ok(std::fs::write(dir.join("g"), "other")?)
}

fn is_gone(path: &Path) -> Outcome {
    refused(path.symlink_metadata(), libc::ENOENT).with_context(|| path.display().to_string())
}

const ROWS: &[Row] = &[
    Row {
        name: "UNLINK",
        fault: "remove:nth=1:kill",
        prepare: file,
        act: |dir| {
            std::fs::remove_file(dir.join("f"))?;
            is_gone(&dir.join("f"))
        },
    },
    Row {
        name: "RMDIR",
        fault: "remove:nth=1:kill",
        prepare: |dir| Ok(std::fs::create_dir(dir.join("d"))?),
        act: |dir| {
            std::fs::remove_dir(dir.join("d"))?;
            is_gone(&dir.join("d"))
        },
    },
    Row {
        name: "RENAME",
        fault: "rename:nth=1:kill",
        prepare: two_files,
        act: |dir| {
            std::fs::rename(dir.join("f"), dir.join("g"))?;
            is_gone(&dir.join("f"))?;
            holds(dir.join("g"), "content")
        },
    },
    Row {
        name: "RENAME that exchanges",
        fault: "rename:nth=1:kill",
        prepare: two_files,
        act: |dir| {
            exchange(&dir.join("f"), &dir.join("g"))?;
            holds(dir.join("f"), "other")?;
            holds(dir.join("g"), "content")
        },
    },
    Row {
        name: "MKDIR",
        fault: "make:nth=1:kill",
        prepare: nothing,
        act: |dir| Ok(std::fs::create_dir(dir.join("d"))?),
    },
    Row {
        name: "SYMLINK",
        fault: "make:nth=1:kill",
        prepare: nothing,
        act: |dir| {
            std::os::unix::fs::symlink("target", dir.join("s"))?;
            equal(
                "target",
                std::fs::read_link(dir.join("s"))?,
                "target".into(),
            )
        },
    },
    Row {
        name: "MKNOD",
        fault: "make:nth=1:kill",
        prepare: nothing,
        act: |dir| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            Ok(rustix::fs::mknodat(CWD, dir.join("p"), kind, mode, 0)?)
        },
    },
    Row {
        name: "CREATE",
        fault: "make:nth=1:kill",
        prepare: nothing,
        act: |dir| {
            let mut file = create_exclusively(&dir.join("n"))?;
            file.write_all(b"written")?;
            holds(dir.join("n"), "written")
        },
    },
    Row {
        name: "LINK",
        fault: "link:nth=1:kill",
        prepare: file,
        act: |dir| {
            std::fs::hard_link(dir.join("f"), dir.join("l"))?;
            equal("links", dir.join("f").metadata()?.nlink(), 2)
        },
    },
    Row {
        name: "a WRITE that appends",
        fault: "write:nth=1:kill",
        prepare: file,
        act: |dir| {
            open_append(dir.join("f"))?.write_all(b" and more")?;
            holds(dir.join("f"), "content and more")
        },
    },
    Row {
        name: "SETXATTR that creates",
        fault: "xattr:nth=1:kill",
        prepare: file,
        act: |dir| set_new_attribute(&dir.join("f")),
    },
    Row {
        name: "REMOVEXATTR",
        fault: "xattr:nth=1:kill",
        prepare: |dir| {
            file(dir)?;
            set_new_attribute(&dir.join("f"))
        },
        act: |dir| Ok(rustix::fs::removexattr(dir.join("f"), "user.a")?),
    },
];

fn set_new_attribute(path: &Path) -> Outcome {
    rustix::fs::setxattr(path, "user.a", b"value", XattrFlags::CREATE)?;
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(path, "user.a", &mut value)?;
    equal("value", &value[..len], b"value")
}

/// Has the server die in the row's request, and checks what the row says.
fn meet(row: &Row, options: &[&str]) -> Result<(Mount, Outcome)> {
    let scratch = Scratch::new(Backing::Ext4(64))?;
    (row.prepare)(&scratch.source())?;
    // What the kernel remembers of an answer could hide what was done twice.
    let never = "--cache=never";
    let fault = format!("--fault={}", row.fault);
    let options: Vec<&str> = SURVIVE.iter().chain(options).copied().collect();
    let all = [&options[..], &["--xattr", never, &fault]].concat();
    let m = Mount::of(scratch, &all)?;
    m.require_mount()?;
    let outcome = (row.act)(m.dir());
    ensure!(
        deaths(&m)? == 1,
        "{}: no server died: {}",
        row.name,
        m.log()
    );
    Ok((m, outcome))
}

#[test]
fn request_that_was_done_when_the_server_died_is_done_once() -> Outcome {
    case(|| {
        for row in ROWS {
            let (m, outcome) = meet(row, &[])?;
            outcome.with_context(|| format!("{}\n{}", row.name, m.log()))?;
            check_nothing_is_left(&m).context(row.name)?;
            m.unmount()?;
        }
        Ok(())
    })
}

/// The same deaths, and nothing noted: each row fails, so each would show if the journal did nothing.
#[test]
fn request_that_was_done_when_the_server_died_fails_without_the_journal() -> Outcome {
    case(|| {
        for row in ROWS {
            let (m, outcome) = meet(row, &["--fault=journal:off"])?;
            ensure!(outcome.is_err(), "{} was right without", row.name);
            m.unmount()?;
        }
        Ok(())
    })
}

/// What the answer would have given out is given out once: the handle of OPEN, the lookup of LOOKUP and CREATE.
#[test]
fn death_before_the_answer_of_an_open_or_a_lookup_leaves_none_behind() -> Outcome {
    case(|| {
        for fault in [
            "open:nth=1:kill",
            "lookup:nth=1:kill",
            "open:nth=2:kill",
            "lookup:nth=2:kill",
        ] {
            let scratch = Scratch::new(Backing::Here)?;
            two_files(&scratch.source())?;
            let fault = format!("--fault={fault}");
            let options = [&SURVIVE[..], &[&fault]].concat();
            let m = Mount::of(scratch, &options)?;
            m.require_mount()?;
            holds(m.path("f"), "content")?;
            drop(create_exclusively(&m.path("n"))?);
            equal("entries", std::fs::read_dir(m.dir())?.count(), 3)?;
            ensure!(deaths(&m)? == 1, "{fault}: no server died");
            check_nothing_is_left(&m).context(fault)?;
            m.unmount()?;
        }
        Ok(())
    })
}

#[test]
fn open_unlinked_file_and_a_lock_and_its_waiter_outlive_the_server() -> Outcome {
    case(|| {
        let m = mounted(Backing::Here, &[])?;
        let removed = create_exclusively(&m.path("removed"))?;
        removed.write_all_at(b"before", 0)?;
        std::fs::remove_file(m.path("removed"))?;
        std::fs::write(m.path("locked"), "")?;
        let holder = open_rdwr(m.path("locked"))?;
        rustix::fs::flock(&holder, FlockOperation::LockExclusive)?;
        let waiter = open_rdwr(m.path("locked"))?;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| rustix::fs::flock(&waiter, FlockOperation::LockExclusive));
            for _death in 0..3 {
                kill_server(&m)?;
                let mut content = [0; 6];
                removed.read_exact_at(&mut content, 0)?;
                equal("content", &content, b"before")?;
                equal("links", removed.metadata()?.nlink(), 0)?;
            }
            removed.write_all_at(b" and after", 6)?;
            equal("size", removed.metadata()?.len(), 16)?;
            let other = open_rdwr(m.path("locked"))?;
            let busy = rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive);
            equal("lock", busy, Err(rustix::io::Errno::WOULDBLOCK))?;
            rustix::fs::flock(&holder, FlockOperation::Unlock)?;
            let locked = waiting.join().map_err(|_| anyhow!("the waiter panicked"))?;
            Ok::<(), anyhow::Error>(locked?)
        })?;
        equal("deaths", deaths(&m)?, 3)?;
        drop((removed, holder, waiter));
        check_nothing_is_left(&m)?;
        m.unmount()
    })
}

#[test]
fn read_that_waits_for_source_is_served_by_the_next_server() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Here)?;
        file(&scratch.source())?;
        // Both servers wait.
        let options = [&SURVIVE[..], &["--fault=read:delay=1000"]].concat();
        let m = Mount::of(scratch, &options)?;
        m.require_mount()?;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| std::fs::read(m.path("f")));
            wait_until("the READ", SOON, || Ok(m.requests("READ")? > 0))?;
            kill_server(&m)?;
            let content = reader
                .join()
                .map_err(|_| anyhow!("the reader panicked"))??;
            equal("content", content.as_slice(), b"content")
        })?;
        equal("deaths", deaths(&m)?, 1)?;
        m.unmount()
    })
}

/// A request that ends each server that serves it is answered with EIO, and the mount goes on.
#[test]
fn request_that_ends_two_servers_by_their_own_fault_is_eio() -> Outcome {
    case(|| {
        let m = mounted(Backing::Ext4(64), &["--xattr", "--fault=xattr:abort"])?;
        file(m.dir())?;
        let set = rustix::fs::setxattr(m.path("f"), "user.a", b"value", XattrFlags::CREATE);
        equal("setxattr", set, Err(rustix::io::Errno::IO))?;
        holds(m.path("f"), "content")?;
        equal("deaths", deaths(&m)?, 2)?;
        let log = m.log();
        ensure!(log.contains("SETXATTR") && log.contains("SIGABRT"), "{log}");
        m.unmount()
    })
}

/// As when it panics, when it makes a system call that --seccomp forbids, and when it follows a wrong pointer.
#[test]
fn server_ended_by_a_signal_of_its_own_is_followed_by_another() -> Outcome {
    case(|| {
        let m = mounted(Backing::Here, &[])?;
        file(m.dir())?;
        for (signal, name) in [
            (Signal::ABORT, "SIGABRT"),
            (Signal::SYS, "SIGSYS"),
            (Signal::SEGV, "SIGSEGV"),
            (Signal::BUS, "SIGBUS"),
        ] {
            let ended = server(&m)?;
            // Again and again: the handler that looks for an overflow of the stack lets a SIGSEGV and a SIGBUS pass, for
            // the instruction to fault once more, which without a fault does not.
            wait_until("the next server", SOON, || {
                let _gone = kill_process(ended, signal);
                Ok(server(&m)? != ended)
            })?;
            holds(m.path("f"), "content")?;
            let log = m.log();
            ensure!(log.contains(&format!("ended by {name}")), "{log}");
        }
        equal("deaths", deaths(&m)?, 4)?;
        m.unmount()
    })
}

#[test]
fn more_deaths_than_allowed_leave_a_dead_mount() -> Outcome {
    case(|| {
        let mut m = mounted(Backing::Here, &["--survive-deaths=2"])?;
        file(m.dir())?;
        for _death in 0..2 {
            kill_server(&m)?;
            holds(m.path("f"), "content")?;
        }
        kill_process(server(&m)?, Signal::KILL)?;
        equal("exit code", m.wait_for_daemon()?, 1)?;
        let log = m.log();
        ensure!(log.contains("--survive-deaths"), "{log}");
        ensure!(
            errno(std::fs::read_dir(m.dir())) == Some(libc::ENOTCONN),
            "{log}"
        );
        xtests::support::operator::umount(m.dir())
    })
}

#[test]
fn killed_zygote_leaves_a_dead_mount() -> Outcome {
    case(|| {
        let mut m = mounted(Backing::Here, &[])?;
        let zygote = Pid::from_raw(m.server_pid()?.as_raw()).context("a process id is not 0")?;
        kill_process(zygote, Signal::KILL)?;
        equal("exit code", m.wait_for_daemon()?, 1)?;
        ensure!(
            errno(std::fs::read_dir(m.dir())) == Some(libc::ENOTCONN),
            "{}",
            m.log()
        );
        xtests::support::operator::umount(m.dir())
    })
}

#[test]
fn survive_without_what_it_needs_is_refused() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Here)?;
        for option in [
            "--transport=fuser",
            "--watch",
            "--inode-file-handles=prefer",
        ] {
            let options = match option {
                "--transport=fuser" => vec![option, "--survive=always"],
                _other => [&SURVIVE[..], &[option]].concat(),
            };
            let said = std::process::Command::new(xtests::support::mount::thrufs()?)
                .arg("mount")
                .args(options)
                .args([scratch.source(), scratch.mountpoint()])
                .output()?;
            let text = String::from_utf8_lossy(&said.stderr);
            ensure!(
                !said.status.success() && text.contains(option.split('=').next().unwrap_or(option)),
                "{option}: {text}"
            );
        }
        Ok(())
    })
}
