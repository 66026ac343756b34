//! The start of a daemon as its starter sees it: inherited descriptors, interruptions, messages,
//! and a log that nothing reads.

use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill, killpg};
use xtests::support::asked::number;
use xtests::support::checks::{holds, mentions};
use xtests::support::command::{output, said_on_stderr, succeed, wait_for_exit};
use xtests::support::mount::{Leftover, NEVER, mount_command, thrufs};
use xtests::support::mount_table::{abort, is_mounted, mount_line, mounts_at};
use xtests::support::operator::{processes, status, umount, uncover};
use xtests::support::process::{has_open, pid_of, state};
use xtests::support::random::Random;
use xtests::support::wait::{wait_for, wait_until};
use xtests::support::{Outcome, Scratch, case, missing, unmounted};

const SOON: Duration = Duration::from_secs(30);
/// How often a start is interrupted; THRUFS_INTERRUPTIONS for more.
const INTERRUPTIONS: usize = 24;
/// The ways to run as one process or two.
const SHAPES: [&[&str]; 3] = [
    &[],
    &["--sandbox=none"],
    &["--sandbox=none", "--seccomp=none"],
];

fn mount(s: &Scratch, options: &[&str]) -> Result<Command> {
    let mut command = mount_command()?;
    command.args(options).args([s.source(), s.mountpoint()]);
    command.stdin(Stdio::null());
    Ok(command)
}

fn wait_for_mount(s: &Scratch) -> Outcome {
    wait_until("the mount", SOON, || Ok(is_mounted(&s.mountpoint())))
}

/// Ends a daemon by SIGTERM, which must unmount.
fn terminate(s: &Scratch, daemon: &mut Child) -> Outcome {
    kill(pid_of(daemon), Signal::SIGTERM)?;
    let status = wait_for_exit(daemon, "the daemon to end", SOON)?;
    ensure!(status.success(), "{status}");
    ensure!(!is_mounted(&s.mountpoint()), "still mounted");
    Ok(())
}

/// flock(1) holds its lock by a descriptor that the program inherits: a daemon that kept it held the
/// lock until the unmount, and a pipe of a CI job never ended.
#[test]
fn mount_in_the_background_keeps_no_descriptor_of_its_starter() -> Outcome {
    case(|| {
        for options in SHAPES {
            let (s, _leftover) = unmounted()?;
            let lock = s.path().join("lock");
            let mount = mount(&s, options)?;
            let mut flock = Command::new("flock");
            flock.arg(&lock).arg(mount.get_program());
            // Returns when the program has ended and both pipes have.
            succeed(flock.args(mount.get_args()))?;
            Flock::lock(File::open(&lock)?, FlockArg::LockExclusiveNonblock)
                .map_err(|(_, errno)| errno)
                .with_context(|| format!("{options:?}: the lock is held"))?;
            for pid in processes(&status(&s.mountpoint())?)? {
                for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
                    let target = std::fs::read_link(entry?.path())?;
                    let shown = target.to_string_lossy();
                    ensure!(!shown.contains("lock"), "{options:?}: {shown}");
                }
            }
            umount(&s.mountpoint())?;
        }
        Ok(())
    })
}

#[test]
fn mount_in_the_foreground_keeps_nothing_beyond_the_standard_streams() -> Outcome {
    case(|| {
        for options in SHAPES {
            let (s, _leftover) = unmounted()?;
            let lock = s.path().join("lock");
            File::create(&lock)?;
            let mount = mount(&s, &[&["-f"], options].concat())?;
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec 9<\"$0\"; exec \"$@\""]).arg(&lock);
            shell.arg(mount.get_program()).args(mount.get_args());
            let mut daemon = shell.stdin(Stdio::null()).spawn()?;
            let daemon_pid = pid_of(&daemon);
            let kept = wait_for_mount(&s).and_then(|()| has_open(daemon_pid, &lock));
            terminate(&s, &mut daemon).with_context(|| format!("{options:?}"))?;
            ensure!(!kept?, "{options:?}: the starter's file is open");
        }
        Ok(())
    })
}

/// A start that is interrupted after `after`: the signal goes to the process alone, or to its group
/// as ^C does. Returns whether the mount appeared.
fn interrupted(s: &Scratch, signal: Signal, after: Duration, group: bool) -> Result<bool> {
    let mut start = mount(s, &[])?;
    let mut start = start.process_group(0).stderr(Stdio::piped()).spawn()?;
    let pid = pid_of(&start);
    // The random moment itself, and no wait for anything.
    std::thread::sleep(after);
    if group {
        killpg(pid, signal)?;
    } else {
        kill(pid, signal)?;
    }
    let status = wait_for_exit(&mut start, "the start to end", SOON)?;
    // At once: whatever is left when the starter has ended stays.
    let mounted = is_mounted(&s.mountpoint());
    let said = std::io::read_to_string(start.stderr.take().context("no stderr")?)?;
    let told = format!(
        "{signal} after {after:?}, to the group: {group}: {status}, mounted: {mounted}\n{said}"
    );
    ensure!(mounted == status.success(), "{told}");
    ensure!(mounted || status.signal() == Some(signal as i32), "{told}");
    if mounted {
        holds(s.mountpoint().join("f"), b"content")?;
        umount(&s.mountpoint())?;
    }
    Ok(mounted)
}

/// ^C during the start left the mount in a quarter of tries.
#[test]
fn start_interrupted_at_any_moment_leaves_a_mount_only_if_it_succeeds() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let began = Instant::now();
        succeed(&mut mount(&s, &[])?)?;
        let usual = began.elapsed();
        umount(&s.mountpoint())?;
        let tries = number("THRUFS_INTERRUPTIONS", INTERRUPTIONS)?;
        let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let mut random = Random(0x0014_0000_0006);
        let mut mounted = 0;
        for number in 0..tries {
            let signal = signals[number % signals.len()];
            // A little beyond the usual time, so that the last moment is among the moments.
            let limit = usual.as_micros() * 5 / 4;
            let after = random.below(usize::try_from(limit)?);
            let after = Duration::from_micros(u64::try_from(after)?);
            mounted += usize::from(interrupted(&s, signal, after, number % 2 == 0)?);
        }
        println!("{tries} interruptions within {usual:?} and a quarter: {mounted} mounts");
        Ok(())
    })
}

/// A start that is stopped after its daemon has mounted and before it has taken the mount over. Meanwhile
/// the daemon waits for its status socket's directory, which it then gets.
fn stopped_while_it_waits(s: &Scratch) -> Result<Child> {
    let runtime = Path::new("/run/thrufs");
    if !runtime.exists() {
        // One that another daemon makes meanwhile is as good.
        let _there = DirBuilder::new().mode(0o700).create(runtime);
    }
    let runtime = File::open(runtime).context("/run/thrufs")?;
    let _lock = Flock::lock(runtime, FlockArg::LockExclusive)
        .map_err(|(_file, errno)| errno)
        .context("lock /run/thrufs")?;
    let start = mount(s, &[])?.stderr(Stdio::piped()).spawn()?;
    let pid = pid_of(&start);
    wait_for_mount(s)?;
    kill(pid, Signal::SIGSTOP)?;
    wait_until("the start to be stopped", SOON, || {
        Ok(state(pid) == Some('T'))
    })?;
    Ok(start)
}

#[test]
fn start_interrupted_while_the_daemon_mounts_says_that_nothing_is_mounted() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let mut start = stopped_while_it_waits(&s)?;
            kill(pid_of(&start), signal)?;
            kill(pid_of(&start), Signal::SIGCONT)?;
            let status = wait_for_exit(&mut start, "the start to end", SOON)?;
            ensure!(!is_mounted(&s.mountpoint()), "{signal}: left mounted");
            ensure!(status.signal() == Some(signal as i32), "{signal}: {status}");
            let said = std::io::read_to_string(start.stderr.take().context("no stderr")?)?;
            let dir = s.mountpoint();
            let wanted = format!("{signal}: nothing is mounted at {}", dir.display());
            ensure!(said.contains(&wanted), "{said}");
        }
        Ok(())
    })
}

/// The starter cannot report anything then, but the daemon notices that its starter is gone.
#[test]
fn start_killed_while_the_daemon_mounts_leaves_no_mount() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let mut start = stopped_while_it_waits(&s)?;
        start.kill()?;
        start.wait()?;
        let dir = s.mountpoint();
        wait_until("the daemon to unmount", SOON, || Ok(!is_mounted(&dir)))
    })
}

/// systemd recorded a daemon as failed that it had stopped during its start.
#[test]
fn daemon_with_sigterm_while_it_starts_exits_0_and_leaves_no_mount() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let mut daemon = mount(&s, &["-f"])?.spawn()?;
        wait_for_mount(&s)?;
        terminate(&s, &mut daemon)
    })
}

/// As nohup(1) and a shell's background job do.
#[test]
fn start_with_a_signal_ignored_goes_on_at_it() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let mount = mount(&s, &[])?;
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' HUP; kill -HUP $$; exec \"$@\"", "sh"]);
        shell.arg(mount.get_program()).args(mount.get_args());
        let mut start = shell.stdin(Stdio::null()).spawn()?;
        let (pid, program) = (pid_of(&start), std::fs::canonicalize(thrufs()?)?);
        // For as long as the start takes after the shell has ended.
        let status = wait_for("the start to end", SOON, || {
            if std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program) {
                kill(pid, Signal::SIGHUP)?;
            }
            Ok(start.try_wait()?)
        })?;
        ensure!(status.success(), "{status}");
        umount(&s.mountpoint())
    })
}

/// Writes 100 MiB through the mount, in a thread: a mount that does not answer blocks its caller.
fn write_a_lot(dir: &Path) -> Outcome {
    const LIMIT: Duration = Duration::from_secs(300);
    let (sender, done) = mpsc::channel();
    let path = dir.join("big");
    std::thread::spawn(move || {
        let chunk = vec![7; 1 << 20];
        let written = File::create(path).and_then(|mut file| {
            (0..100).try_for_each(|_| std::io::Write::write_all(&mut file, &chunk))
        });
        sender.send(written)
    });
    match done.recv_timeout(LIMIT) {
        Ok(written) => written.context("write"),
        Err(_) => {
            abort(dir);
            bail!("the mount has stopped: 100 MiB are not written after {LIMIT:?}")
        }
    }
}

/// A log without a reader stopped the mount: a full pipe, or ^S on the terminal.
#[test]
fn log_that_is_not_read_stops_neither_the_mount_nor_its_end() -> Outcome {
    case(|| {
        for options in SHAPES {
            let (s, _leftover) = unmounted()?;
            // A line or more for each of 1600 WRITEs: the pipes held 128 KiB.
            let trace = ["-f", "--log-level=trace", "--max-write=64K", NEVER];
            let mut mount = mount(&s, &[&trace, options].concat())?;
            let mut daemon = mount.stderr(Stdio::piped()).spawn()?;
            let mut log = daemon.stderr.take().context("no stderr")?;
            wait_for_mount(&s)?;
            write_a_lot(&s.mountpoint())?;
            std::fs::remove_file(s.mountpoint().join("big"))?;
            terminate(&s, &mut daemon).with_context(|| format!("{options:?}"))?;
            let mut text = String::new();
            log.read_to_string(&mut text)?;
            ensure!(text.contains(" WRITE "), "{options:?}: {text}");
        }
        Ok(())
    })
}

#[test]
fn log_in_the_journal_has_levels_and_no_time() -> Outcome {
    use std::os::unix::fs::MetadataExt;

    case(|| {
        let (s, _leftover) = unmounted()?;
        let (mut reader, writer) = std::io::pipe()?;
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let found = writer.metadata()?;
        let mut mount = mount(&s, &["-f"])?;
        mount.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()));
        let mut daemon = mount.stderr(writer).spawn()?;
        drop(mount);
        wait_for_mount(&s)?;
        holds(s.mountpoint().join("f"), b"content")?;
        terminate(&s, &mut daemon)?;
        let mut log = String::new();
        reader.read_to_string(&mut log)?;
        // The supervisor's and the server's.
        for wanted in [
            "serving in --sandbox",
            "INIT: protocol",
            "SIGTERM: unmounting",
        ] {
            ensure!(log.contains(&format!("<6>{wanted}")), "{wanted}:\n{log}");
        }
        ensure!(log.lines().all(|line| line.starts_with('<')), "{log}");
        Ok(())
    })
}

#[test]
fn mount_at_a_place_that_is_mounted_names_what_is_there() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        succeed(&mut mount(&s, &[])?)?;
        let refused = output(&mut mount(&s, &[])?)?;
        let said = said_on_stderr(&refused);
        let status = refused.status;
        ensure!(status.code() == Some(2), "{status}: {said}");
        let (source, dir) = (s.source(), s.mountpoint());
        for wanted in [
            format!("{} is mounted already", dir.display()),
            format!("{} of type fuse.thrufs", source.display()),
            format!("`thrufs umount {}`", dir.display()),
            "--nonempty".to_owned(),
        ] {
            ensure!(said.contains(&wanted), "{wanted}: {said}");
        }
        ensure!(mounts_at(&dir)? == 1);
        let said = output(&mut mount(&s, &["-o", "nonempty"])?)?;
        ensure!(said.status.success() && said.stderr.is_empty(), "{said:?}");
        ensure!(mounts_at(&dir)? == 2);
        uncover(&dir)?;
        umount(&s.mountpoint())
    })
}

#[test]
fn mount_over_files_warns_that_they_are_hidden() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let warns = |options: &[&str], on: &Path| -> Result<bool> {
            let mounted = output(mount_command()?.args(options).arg(s.source()).arg(on))?;
            let said = said_on_stderr(&mounted);
            ensure!(mounted.status.success(), "{said}");
            uncover(on)?;
            Ok(said.contains("is not empty: its files are hidden"))
        };
        let dir = s.mountpoint();
        ensure!(!warns(&[], &dir)?, "it is empty");
        std::fs::write(dir.join("below"), "")?;
        ensure!(warns(&[], &dir)?, "no warning");
        ensure!(!warns(&["--nonempty"], &dir)?, "it was asked for");
        let _leftover = Leftover(s.source());
        ensure!(!warns(&[], &s.source())?, "over itself nothing is hidden");
        Ok(())
    })
}

#[test]
fn mount_that_is_granted_less_than_asked_says_so() -> Outcome {
    case(|| {
        let limit = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit")
            .map_err(|_| missing("fs.fuse.max_pages_limit (Linux 6.13)"))?;
        let granted = limit.trim().parse::<u64>()? * 4096;
        if granted >= 16 << 20 {
            return Err(missing("a max_pages_limit below 4096"));
        }
        let (s, _leftover) = unmounted()?;
        for (options, wanted) in [
            (&["--max-write=16M"][..], true),
            (&["--max-write=64K"], false),
        ] {
            let mounted = output(&mut mount(&s, options)?)?;
            let said = said_on_stderr(&mounted);
            ensure!(mounted.status.success(), "{said}");
            umount(&s.mountpoint())?;
            let told = format!("--max-write=16777216: the kernel grants {granted}");
            ensure!(said.contains(&told) == wanted, "{options:?}: {said}");
            ensure!(wanted || said.is_empty(), "{options:?}: {said}");
        }
        Ok(())
    })
}

/// mount(2) has been done by then, and is taken back.
#[test]
fn mount_whose_init_fails_fails_and_leaves_no_mount() -> Outcome {
    case(|| {
        for shape in SHAPES {
            let (s, _leftover) = unmounted()?;
            let init = ["--posix-acl=always", "--without=FUSE_POSIX_ACL"];
            let failed = output(&mut mount(&s, &[shape, &init].concat())?)?;
            let said = String::from_utf8_lossy(&failed.stderr);
            mentions(&said, "--without=FUSE_POSIX_ACL")?;
            ensure!(failed.status.code() == Some(1), "{}", failed.status);
            ensure!(!is_mounted(&s.mountpoint()), "{shape:?}: still mounted");
        }
        Ok(())
    })
}

#[test]
fn remount_changes_flags_and_refuses_options_that_the_daemon_has_not() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let helper: PathBuf = s.path().join("mount.fuse.thrufs");
        std::os::unix::fs::symlink(std::fs::canonicalize(thrufs()?)?, &helper)?;
        let mount = |options: &str| {
            let mut mount = Command::new(&helper);
            mount.args([s.source(), s.mountpoint()]);
            output(mount.args(["-o", options]))
        };
        let mounted = mount("rw,cache=never,xattr,nofail")?;
        ensure!(mounted.status.success(), "{mounted:?}");
        let line = || mount_line(&s.mountpoint()).unwrap_or_default();
        // As mount(8) and systemd repeat them.
        let same = mount("remount,ro,cache=never,xattr,nofail,allow_other,default_permissions")?;
        ensure!(same.status.success() && same.stderr.is_empty(), "{same:?}");
        ensure!(line().contains(" ro,"), "{}", line());
        let other = mount("remount,rw,cache=auto,xattr,posix_acl")?;
        let said = said_on_stderr(&other);
        ensure!(other.status.code() == Some(32), "{}: {said}", other.status);
        ensure!(said.contains("leave out --cache --posix-acl,"), "{said}");
        ensure!(line().contains(" ro,"), "{}", line());
        ensure!(mount("remount,rw")?.status.success() && line().contains(" rw,"));
        umount(&s.mountpoint())
    })
}
