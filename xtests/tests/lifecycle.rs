//! From the command line to a clean unmount, by every way in and out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use xtests::support::calls::refused;
use xtests::support::command::{output, said, succeed};
use xtests::support::mount::{mount_command, thrufs};
use xtests::support::mount_table::{is_mounted, mount_line};
use xtests::support::operator;
use xtests::support::process::pid_of;
use xtests::support::stuck_notification;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, missing, mounted, unmounted};

const SOON: Duration = Duration::from_secs(10);

fn wait_for_unmounted(path: &Path) -> Outcome {
    wait_until("the mount to be gone", SOON, || Ok(!is_mounted(path)))
}

#[test]
fn daemon_with_sigterm_or_sigint_unmounts_and_exits_0() -> Outcome {
    case(|| {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut m = mounted()?;
            kill(m.pid()?, signal)?;
            let code = m.wait_for_daemon()?;
            ensure!(code == 0, "{signal}: exit code {code}\n{}", m.log());
            ensure!(!is_mounted(m.dir()), "{signal}: still mounted");
        }
        Ok(())
    })
}

#[test]
fn daemon_with_sigterm_while_a_file_is_open_goes_too() -> Outcome {
    case(|| {
        let mut m = mounted()?;
        let open = File::open(m.path("f"))?;
        kill(m.pid()?, Signal::SIGTERM)?;
        let code = m.wait_for_daemon()?;
        ensure!(code == 0, "exit code {code}\n{}", m.log());
        ensure!(!is_mounted(m.dir()), "still mounted");
        drop(open);
        Ok(())
    })
}

/// After a failed WRITE a thread of the daemon waits, uninterruptibly, for a folio that a READ
/// holds locked. A daemon that just ended would wait for ever: the READ is never answered, and the
/// connection does not end while one of its threads is in the kernel with it.
#[test]
fn daemon_with_sigterm_while_its_notification_waits_goes_too() -> Outcome {
    case(|| {
        let mut m = Mount::new(Backing::Here, &stuck_notification::OPTIONS)?;
        m.require_mount()?;
        let callers = stuck_notification::begin(&m)?;
        let line = mount_line(m.dir()).unwrap_or_default();
        let connection = line.split([' ', ':']).nth(3).unwrap_or_default();
        let abort = format!("/sys/fs/fuse/connections/{connection}/abort");
        kill(m.pid()?, Signal::SIGTERM)?;
        let code = m.wait_for_daemon().inspect_err(|_| {
            // A hung daemon must not outlive the test.
            let _aborted = std::fs::write(&abort, "1");
        })?;
        ensure!(code == 0, "exit code {code}\n{}", m.log());
        ensure!(!is_mounted(m.dir()), "still mounted");
        callers.check_failed()
    })
}

#[test]
fn daemon_with_sighup_keeps_serving() -> Outcome {
    case(|| {
        let m = mounted()?;
        for _ in 0..3 {
            kill(m.pid()?, Signal::SIGHUP)?;
            ensure!(std::fs::read(m.path("f"))? == b"content");
        }
        m.unmount()
    })
}

#[test]
fn umount_of_a_busy_mount_is_refused_and_serves_on() -> Outcome {
    case(|| {
        let m = mounted()?;
        let open = File::open(m.path("f"))?;
        ensure!(umount2(m.dir(), MntFlags::empty()) == Err(nix::errno::Errno::EBUSY));
        ensure!(std::fs::read(m.path("f"))? == b"content");
        drop(open);
        m.unmount()
    })
}

#[test]
fn umount_by_each_program_ends_the_daemon() -> Outcome {
    case(|| {
        // A forced unmount aborts the connection before it removes the mount.
        let programs: [&[&str]; 4] = [
            &["umount"],
            &["umount", "-f"],
            &["fusermount3", "-u"],
            &["thrufs", "umount"],
        ];
        for words in programs {
            let mut m = mounted()?;
            let program = if words[0] == "thrufs" {
                thrufs()?
            } else {
                words[0].into()
            };
            succeed(Command::new(program).args(&words[1..]).arg(m.dir()))?;
            wait_for_unmounted(m.dir())?;
            let code = m.wait_for_daemon()?;
            ensure!(code == 0, "{words:?}: the daemon exits {code}\n{}", m.log());
        }
        Ok(())
    })
}

#[test]
fn daemon_killed_gives_enotconn_and_can_be_unmounted() -> Outcome {
    case(|| {
        let mut m = mounted()?;
        kill(m.pid()?, Signal::SIGKILL)?;
        ensure!(
            m.wait_for_daemon().is_err(),
            "a killed daemon has no exit code"
        );
        refused(std::fs::read(m.path("f")), libc::ENOTCONN)?;
        operator::umount(m.dir())
    })
}

#[test]
fn mount_in_the_background_returns_when_it_answers() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        for _ in 0..5 {
            operator::mount(&s.source(), &s.mountpoint(), &[])?;
            ensure!(std::fs::read(s.mountpoint().join("f"))? == b"content");
            operator::umount(&s.mountpoint())?;
        }
        Ok(())
    })
}

#[test]
fn mount_that_cannot_start_names_the_reason_and_leaves_nothing() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let (source, dir) = (s.source(), s.mountpoint());
        let (none, file) = (s.path().join("none"), s.source().join("f"));
        let cases: [(&[&Path], &[&str], &str); 6] = [
            (&[&none, &dir], &[], "none"),
            (&[&source, &none], &[], "none"),
            (&[&file, &dir], &[], "f"),
            (&[&source, &dir], &["--cache=sometimes"], "sometimes"),
            (&[&source, &dir], &["-o", "cahce=auto"], "cache"),
            (&[&source], &[], "MOUNTPOINT"),
        ];
        for (paths, options, named) in cases {
            for foreground in [false, true] {
                let mut mount = Command::new("timeout");
                mount
                    .arg("10")
                    .arg(thrufs()?)
                    .arg("mount")
                    .args(options)
                    .args(paths);
                let result = output(mount.args(foreground.then_some("-f")))?;
                ensure!(!result.status.success(), "{paths:?} {options:?}: success");
                ensure!(
                    result.status.code() != Some(124),
                    "{paths:?} {options:?}: hangs"
                );
                let text = said(&result);
                ensure!(
                    text.contains(named),
                    "{paths:?} {options:?}: {named} is not in:\n{text}"
                );
                ensure!(!text.contains("panicked"), "{text}");
                ensure!(!is_mounted(&dir), "{paths:?} {options:?}: left mounted");
            }
        }
        Ok(())
    })
}

#[test]
fn mount_shows_type_source_and_safe_flags() -> Outcome {
    case(|| {
        let m = mounted()?;
        let line = mount_line(m.dir()).unwrap_or_default();
        let source = m.source("");
        let source = source.to_str().unwrap_or_default().trim_end_matches('/');
        ensure!(
            line.contains(&format!(" - fuse.thrufs {source} ")),
            "{line}"
        );
        for flag in ["nosuid", "nodev", "allow_other", "default_permissions"] {
            ensure!(line.contains(flag), "{flag}: {line}");
        }
        m.unmount()
    })
}

/// The binary under the name that mount(8) calls.
fn helper(s: &Scratch, name: &str) -> Result<PathBuf> {
    let link = s.path().join(name);
    std::os::unix::fs::symlink(std::fs::canonicalize(thrufs()?)?, &link)?;
    Ok(link)
}

#[test]
fn mount_helper_names_take_the_options_of_fstab() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let options = "rw,nofail,_netdev,x-systemd.automount,cache=never,noatime,comment=x";
        for name in ["mount.thrufs", "mount.fuse.thrufs"] {
            let program = helper(&s, name)?;
            let (source, dir) = (s.source(), s.mountpoint());
            succeed(
                Command::new(&program)
                    .args([&source, &dir])
                    .args(["-o", options]),
            )?;
            ensure!(std::fs::read(dir.join("f"))? == b"content", "{name}");
            ensure!(
                mount_line(&dir).unwrap_or_default().contains("noatime"),
                "{name}: noatime"
            );
            succeed(Command::new("umount").arg(&dir))?;
            let mut before = Command::new(&program);
            succeed(before.args(["-o", "ro,xattr"]).args([&source, &dir]))?;
            let error = std::fs::write(dir.join("g"), "").unwrap_err();
            ensure!(error.raw_os_error() == Some(libc::EROFS), "{name}: {error}");
            succeed(Command::new("umount").arg(&dir))?;
        }
        Ok(())
    })
}

#[test]
fn mount_by_mount8_through_mount_fuse_works() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        if !Path::new("/sbin/mount.fuse").exists() {
            return Err(missing("/sbin/mount.fuse (fuse3)"));
        }
        // With `PROGRAM#SOURCE` the program need not be installed where mount.fuse looks for it.
        let program = std::fs::canonicalize(thrufs()?)?;
        let device = format!("{}#{}", program.display(), s.source().display());
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "fuse", "-o", "nofail,cache=never", &device])
            .arg(s.mountpoint());
        succeed(&mut mount)?;
        ensure!(std::fs::read(s.mountpoint().join("f"))? == b"content");
        let line = mount_line(&s.mountpoint()).unwrap_or_default();
        ensure!(line.contains(" - fuse.thrufs "), "{line}");
        succeed(Command::new("umount").arg(s.mountpoint())).map(|_| ())
    })
}

/// The messages of systemd's Type=notify: READY=1 when INIT is done and the mount answers,
/// STOPPING=1 when the daemon ends.
#[test]
fn daemon_with_a_notify_socket_says_ready_and_stopping() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        let path = s.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(SOON))?;
        let next = || -> Result<String> {
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let mut mount = mount_command()?;
        mount.arg("-f").env("NOTIFY_SOCKET", &path);
        let mut daemon = mount.args([s.source(), s.mountpoint()]).spawn()?;
        let ready = next();
        let answer = std::fs::read(s.mountpoint().join("f"));
        kill(pid_of(&daemon), Signal::SIGTERM)?;
        let stopping = next();
        let status = daemon.wait()?;
        ensure!(ready?.contains("READY=1"));
        ensure!(answer? == b"content", "READY before the mount answers");
        ensure!(stopping?.contains("STOPPING=1"));
        ensure!(status.success(), "{status}");
        Ok(())
    })
}
