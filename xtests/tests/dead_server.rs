//! What a mount becomes when its server ends without having been told to: dead, and never the directory
//! below; and what is told of it, and where.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use xtests::support::calls::refused;
use xtests::support::checks::{equal, holds, mentions};
use xtests::support::mount::cache_mode;
use xtests::support::mount_table::{is_mounted, stat_error};
use xtests::support::operator;
use xtests::support::process::state;
use xtests::support::stuck_notification;
use xtests::support::threads::beside;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, missing, unmounted};

const SOON: Duration = Duration::from_secs(10);
const NOTHING: Option<&str> = None;
/// Lies in the directory that is mounted on.
const BELOW: &str = "below";

/// A mount with the file `f`, over a directory with the file [`BELOW`].
fn mounted_over_something(options: &[&str]) -> Result<Mount> {
    let scratch = Scratch::new(Backing::Here)?;
    std::fs::write(scratch.source().join("f"), "content")?;
    std::fs::write(scratch.mountpoint().join(BELOW), "")?;
    let m = Mount::of(scratch, options)?;
    m.require_mount()?;
    Ok(m)
}

/// Lists the mount all the time while `body` runs. What is listed is the mount or an error.
fn while_listed<T>(dir: &Path, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let list = || {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            ensure!(entry.file_name() != BELOW, "the directory below shows");
        }
        Ok(())
    };
    beside(list, body)
}

/// The mount is there, and dead; and it can be unmounted.
fn check_dead(m: &Mount) -> Outcome {
    ensure!(is_mounted(m.dir()), "it is unmounted: {}", m.log());
    for name in ["", "f", BELOW] {
        // Attributes that the kernel has cached outlive the server by their timeout.
        let errno = stat_error(&m.path(name));
        ensure!(errno == Some(libc::ENOTCONN), "stat of '{name}': {errno:?}");
    }
    let listed = std::fs::read_dir(m.dir()).and_then(|names| {
        let names = names.map(|entry| entry.map(|entry| entry.file_name()));
        names.collect::<std::io::Result<Vec<_>>>()
    });
    match listed {
        // What the kernel has cached of it, and never the directory below.
        Ok(names) if cache_mode() == "always" => equal("names", names, vec!["f".into()])?,
        refusal => refused(refusal, libc::ENOTCONN).context("readdir")?,
    }
    operator::umount(m.dir())
}

/// The server's death unmounted: the empty directory below showed, and `rsync -a --delete MNT/ backup/`
/// emptied the backup.
#[test]
fn server_ended_by_a_signal_leaves_a_dead_mount() -> Outcome {
    case(|| {
        // In its own pid namespace the server is process 1, which no other signal sent to it ends.
        let cases = [
            ("--sandbox=namespace", Signal::SIGKILL),
            ("--sandbox=chroot", Signal::SIGSYS),
            ("--sandbox=none", Signal::SIGKILL),
            ("--sandbox=none", Signal::SIGABRT),
        ];
        for (sandbox, signal) in cases {
            let mut m = mounted_over_something(&[sandbox])?;
            let server = m.server_pid()?;
            ensure!(server != m.pid()?, "{sandbox}: one process does both");
            let dir = m.dir().to_owned();
            let code = while_listed(&dir, || {
                kill(server, signal)?;
                m.wait_for_daemon()
            })?;
            ensure!(code == 1, "{sandbox}, {signal}: exit code {code}");
            let log = m.log();
            let named = match signal {
                Signal::SIGSYS => "--seccomp forbids",
                other => &format!("ended by {other}"),
            };
            ensure!(log.contains(named), "{sandbox}, {signal}: {log}");
            ensure!(log.contains("answers ENOTCONN"), "{sandbox}: {log}");
            check_dead(&m).with_context(|| format!("{sandbox}, {signal}"))?;
        }
        Ok(())
    })
}

/// The supervisor learned of the server's end before it had announced the mount, which answered already,
/// and unmounted: the directory below showed.
#[test]
fn server_killed_at_its_first_answer_leaves_a_dead_mount() -> Outcome {
    case(|| {
        for round in 0..30 {
            // What the server logs delays what it tells.
            let mut m = mounted_over_something(&["--log-level=trace"])?;
            let (supervisor, server) = (m.pid()?, m.server_pid()?);
            kill(supervisor, Signal::SIGSTOP)?;
            kill(server, Signal::SIGKILL)?;
            wait_until("the server to be dead", SOON, || {
                // Reaped already, where a thread of the supervisor was not stopped yet.
                Ok(state(server).is_none_or(|state| state == 'Z'))
            })?;
            kill(supervisor, Signal::SIGCONT)?;
            let code = m.wait_for_daemon()?;
            ensure!(code == 1, "round {round}: exit code {code}");
            check_dead(&m).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })
}

#[test]
fn supervisor_killed_leaves_a_dead_mount_whether_or_not_the_server_is_too() -> Outcome {
    case(|| {
        let cases: [(&[&str], bool); 4] = [
            (&["--sandbox=namespace"], false),
            (&["--sandbox=namespace"], true),
            (&["--sandbox=none"], false),
            (&["--sandbox=none", "--seccomp=none"], false),
        ];
        for (options, both) in cases {
            let mut m = mounted_over_something(options)?;
            let (supervisor, server) = (m.pid()?, m.server_pid()?);
            let dir = m.dir().to_owned();
            let code = while_listed(&dir, || {
                kill(supervisor, Signal::SIGKILL)?;
                if both {
                    // It may have been taken along already.
                    let _gone = kill(server, Signal::SIGKILL);
                }
                Ok(m.wait_for_daemon())
            })?;
            ensure!(code.is_err(), "{options:?}: a killed daemon has no code");
            wait_until("the connection to be gone", SOON, || {
                // A directory that the kernel has cached is listed all the same.
                Ok(rustix::fs::statvfs(m.dir()).err() == Some(rustix::io::Errno::NOTCONN))
            })?;
            check_dead(&m).with_context(|| format!("{options:?}"))?;
        }
        Ok(())
    })
}

/// A thread of the server waits in the kernel, uninterruptibly, for a folio that a READ holds locked. A
/// server that is killed then does not end, and nothing else ended the connection: the READ waited for ever.
#[test]
fn server_killed_while_its_notification_waits_leaves_a_dead_mount() -> Outcome {
    case(|| {
        let mut m = mounted_over_something(&stuck_notification::OPTIONS)?;
        let callers = stuck_notification::begin(&m)?;
        kill(m.server_pid()?, Signal::SIGKILL)?;
        let code = m.wait_for_daemon()?;
        ensure!(code == 1, "exit code {code}\n{}", m.log());
        callers.check_failed()?;
        check_dead(&m)
    })
}

/// The mount that is made at once gets the numbers of the one before it in the mount table; the daemon of
/// that one must not take it for its own, dead.
#[test]
fn unmount_with_another_mount_made_at_once_is_no_death() -> Outcome {
    case(|| {
        for round in 0..20 {
            let mut m = mounted_over_something(&[])?;
            operator::umount(m.dir())?;
            operator::mount(&m.source(""), m.dir(), &[])?;
            let code = m.wait_for_daemon()?;
            ensure!(code == 0, "round {round}: exit code {code}\n{}", m.log());
            ensure!(m.log().contains("was unmounted"), "{}", m.log());
            holds(m.path("f"), b"content")?;
            operator::umount(m.dir())?;
        }
        Ok(())
    })
}

#[test]
fn death_in_the_background_is_told_to_the_system_log_with_the_last_words() -> Outcome {
    case(|| {
        let (scratch, _leftover) = unmounted()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let log = system_log(&scratch)?;
                for options in [
                    &[][..],
                    &["--syslog"],
                    &["--sandbox=none", "--seccomp=none"],
                ] {
                    check_told(&scratch, &log, options).with_context(|| format!("{options:?}"))?;
                }
                Ok(())
            });
            thread.join().map_err(|_| anyhow!("the test panicked"))?
        })
    })
}

/// A /dev of this thread's own with a system log.
fn system_log(scratch: &Scratch) -> Result<UnixDatagram> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| missing(format!("a mount namespace: {errno}")))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NOTHING, "/", NOTHING, private, NOTHING).context("a private mount namespace")?;
    let dev = scratch.path().join("dev");
    std::fs::create_dir(&dev)?;
    mount(
        Some("tmpfs"),
        &dev,
        Some("tmpfs"),
        MsFlags::empty(),
        NOTHING,
    )?;
    for (name, number) in [("null", makedev(1, 3)), ("fuse", makedev(10, 229))] {
        mknod(
            &dev.join(name),
            SFlag::S_IFCHR,
            Mode::from_bits_retain(0o666),
            number,
        )
        .map_err(|errno| missing(format!("mknod of /dev/{name}: {errno}")))?;
    }
    let log = UnixDatagram::bind(dev.join("log"))?;
    log.set_nonblocking(true)?;
    let control = Path::new("/sys/fs/fuse/connections");
    // It may be there already.
    let _mounted = mount(
        Some("fusectl"),
        control,
        Some("fusectl"),
        MsFlags::empty(),
        NOTHING,
    );
    mount(Some(&dev), "/dev", NOTHING, MsFlags::MS_MOVE, NOTHING)?;
    Ok(log)
}

fn check_told(scratch: &Scratch, log: &UnixDatagram, options: &[&str]) -> Outcome {
    let dir = scratch.mountpoint();
    let options = [&["--log-level=debug"], options].concat();
    operator::mount(&scratch.source(), &dir, &options)?;
    let status = operator::status(&dir)?;
    let [daemon, server] = operator::processes(&status)?;
    let has_supervisor = daemon != server;
    if !has_supervisor {
        // What ends it must leave it time for a word.
        let minor = status["device"].as_str().unwrap_or_default();
        let minor = minor.trim_start_matches("0:");
        std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1")?;
    } else {
        kill(server, Signal::SIGKILL)?;
    }
    let mut told = String::new();
    let mut read = || -> Result<()> {
        let mut buffer = [0; 8192];
        while let Ok(length) = log.recv(&mut buffer) {
            told += &String::from_utf8_lossy(&buffer[..length]);
            told.push('\n');
        }
        Ok(())
    };
    let process = format!("/proc/{daemon}");
    wait_until("the daemon to be gone", SOON, || {
        read()?;
        Ok(!Path::new(&process).exists())
    })?;
    read()?;
    let death = match has_supervisor {
        true => "ended by SIGKILL",
        false => "the connection to the kernel was ended",
    };
    // `<27>`: an error of a daemon.
    let errors: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("<27>"))
        .collect();
    let of_death: Vec<&&str> = errors.iter().filter(|line| line.contains(death)).collect();
    ensure!(of_death.len() == 1, "not told once:\n{told}");
    for wanted in ["thrufs[", "answers ENOTCONN", "thrufs umount"] {
        mentions(of_death[0], wanted)?;
    }
    if has_supervisor {
        // At this level it had said what INIT negotiated.
        ensure!(told.contains("INIT: "), "no last words:\n{told}");
    }
    ensure!(std::fs::read_dir(&dir).is_err(), "it answers");
    operator::uncover(&dir)
}
