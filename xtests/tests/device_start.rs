//! A virtiofs device: its socket, how it is started by those that start virtiofsd, and how it ends.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use thrufs_wire::Opcode;
use thrufs_wire::abi::WriteOut;
use xtests::support::asked::{ROUNDS, number};
use xtests::support::command::{output, said_on_stderr, wait_for_exit};
use xtests::support::daemon_fixture::tied_to_us;
use xtests::support::guest::calls::{
    MIB, ROOT, booted, getattr, large, lookup, open, pattern, read_in, write_in,
};
use xtests::support::guest::{Cut, Device, Guest, Options};
use xtests::support::mount::thrufs;
use xtests::support::process::pid_of;
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, case};
use zerocopy::IntoBytes;

/// For what takes a moment.
const STEP: Duration = Duration::from_secs(10);

#[test]
fn disconnect_ends_the_device_with_success() -> Outcome {
    case(|| {
        let (mut device, guest) = booted(&[], Options::default())?;
        drop(guest);
        device.ends_well()?;
        ensure!(!device.socket().exists(), "the socket is left");
        Ok(())
    })
}

#[test]
fn keep_serves_the_next_front_end_from_a_clean_start() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted(&["--keep"], Options::default())?;
        std::fs::write(device.shared("f"), "")?;
        let nodeid = lookup(&mut guest, "f")?.nodeid;
        for _ in 0..3 {
            drop(guest);
            guest = device.connect(Options::default())?;
            ensure!(getattr(&mut guest, 1, ROOT)? == libc::ENOTCONN);
            guest.init()?;
            ensure!(getattr(&mut guest, 1, nodeid)? == libc::ESTALE);
        }
        ensure!(device.is_alive()?);
        device.signal(Signal::SIGTERM)?;
        device.ends_well()
    })
}

#[test]
fn sigterm_answers_what_is_under_way_and_ends_with_success() -> Outcome {
    case(|| {
        let (mut device, mut guest) = booted(&["--fault=write:nth=1:delay=1500"], large(1))?;
        std::fs::write(device.shared("f"), "")?;
        let (nodeid, fh) = open(&mut guest, "f")?;
        let data = pattern(MIB);
        let arg = write_in(fh, 0, MIB);
        let parts = [arg.as_bytes(), &data];
        let sent = guest.send((1, Cut::Linux), Opcode::Write, nodeid, &parts, 8)?;
        wait_until("the WRITE to be taken", STEP, || device.is_delaying())?;
        device.signal(Signal::SIGTERM)?;
        device.ends_well()?;
        ensure!(guest.wait(sent)?.value::<WriteOut>()?.size as usize == MIB);
        ensure!(std::fs::read(device.shared("f"))? == data);
        Ok(())
    })
}

#[test]
fn sigterm_without_a_front_end_ends_with_success() -> Outcome {
    case(|| {
        let mut device = Device::new(&[])?;
        device.wait_for_pid_file()?;
        device.signal(Signal::SIGTERM)?;
        device.ends_well()?;
        ensure!(!device.socket().exists() && !device.pid_file().exists());
        Ok(())
    })
}

#[test]
fn socket_has_its_final_mode_and_a_pid_file_beside_it() -> Outcome {
    case(|| {
        for (options, mode) in [(&[][..], 0o700), (&["--socket-group=0"], 0o770)] {
            let device = Device::new(options)?;
            let permissions = std::fs::metadata(device.socket())?.permissions();
            ensure!(permissions.mode() & 0o7777 == mode, "{permissions:?}");
            device.wait_for_pid_file()?;
            let path = device.pid_file();
            ensure!(std::fs::read_to_string(&path)? == format!("{}\n", device.pid()?));
            ensure!(std::fs::metadata(&path)?.permissions().mode() & 0o7777 == 0o600);
        }
        Ok(())
    })
}

#[test]
fn socket_that_is_served_is_not_replaced_and_one_that_is_stale_is() -> Outcome {
    case(|| {
        let device = Device::new(&[])?;
        device.wait_for_pid_file()?;
        let mut second = tied_to_us(&thrufs()?);
        second
            .args(["device", "--shared-dir", "/", "--socket-path"])
            .arg(device.socket());
        let output = second.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{said}");
        ensure!(said.contains("served by another process"), "{said}");
        device.connect(Options::default())?.init()?;
        let stale = device.dir().join("stale");
        drop(UnixListener::bind(&stale)?);
        let mut third = tied_to_us(&thrufs()?);
        third.arg("device");
        let device = Device::at(third, &stale, &[])?;
        device.wait_for_pid_file()?;
        device.connect(Options::default())?.init()?;
        Ok(())
    })
}

/// The socket's address has 107 bytes; Incus has longer paths.
#[test]
fn socket_with_a_long_path_is_made() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let long = dir.path().join("x".repeat(100));
        std::fs::create_dir(&long)?;
        let mut command = tied_to_us(&thrufs()?);
        command.arg("device");
        let _device = Device::at(command, &long.join("y".repeat(60)), &[])?;
        let link = dir.path().join("s");
        std::os::unix::fs::symlink(long.join("y".repeat(60)), &link)?;
        Guest::connect(&link, Options::default())?.init()?;
        Ok(())
    })
}

#[test]
fn inherited_socket_is_served_as_libvirt_passes_it() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("s");
        let listener = inheritable(&socket)?;
        let number = listener.as_raw_fd();
        let mut command = tied_to_us(&thrufs()?);
        command
            .arg("device")
            .arg(format!("--fd={number}"))
            .args(["-o", "cache=always,no_flock,no_posix_lock"])
            .arg(format!("--shared-dir={}", dir.path().display()));
        let mut process = command.stderr(Stdio::null()).spawn()?;
        let mut guest = Guest::connect(&socket, Options::default())?;
        guest.init()?;
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        drop(guest);
        let status = wait_for_exit(&mut process, "the end", STEP)?;
        ensure!(status.success(), "{status}");
        Ok(())
    })
}

#[test]
fn called_as_virtiofsd_it_takes_its_options() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let virtiofsd = dir.path().join("virtiofsd");
        std::os::unix::fs::symlink(thrufs()?, &virtiofsd)?;
        let options = ["--sandbox=none", "--cache=auto", "--thread-pool-size=4"];
        let device = Device::start(tied_to_us(&virtiofsd), &options)?;
        let mut guest = device.connect(Options::default())?;
        guest.init()?;
        let asked = Command::new(&virtiofsd)
            .arg("--print-capabilities")
            .output()?;
        ensure!(asked.status.success());
        let said: serde_json::Value = serde_json::from_slice(&asked.stdout)?;
        ensure!(said["type"] == "fs" && said["features"].is_array());
        Ok(())
    })
}

#[test]
fn sandboxes_and_filters_of_each_kind_serve() -> Outcome {
    case(|| {
        for options in [
            &["--sandbox=namespace", "--seccomp=kill"][..],
            &["--sandbox=chroot", "--seccomp=kill"],
            &["--sandbox=none", "--seccomp=kill"],
            &["--sandbox=none", "--seccomp=none"],
        ] {
            let (mut device, mut guest) = booted(options, Options::default())?;
            std::fs::write(device.shared("f"), "content")?;
            let (nodeid, fh) = open(&mut guest, "f")?;
            let arg = read_in(fh, 0, 100);
            let answer = guest.call(1, Opcode::Read, nodeid, &[arg.as_bytes()], 100)?;
            ensure!(answer.data == b"content", "{options:?}: {answer:?}");
            drop(guest);
            device.ends_well()?;
        }
        Ok(())
    })
}

/// A socket that a process below inherits, by its number.
fn inheritable(socket: &Path) -> Result<UnixListener> {
    let listener = UnixListener::bind(socket)?;
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())?;
    Ok(listener)
}

/// Starts `thrufs device` on `dir`; the caller ends it.
fn start(mut command: Command, dir: &Path) -> Result<Child> {
    command.arg(format!("--shared-dir={}", dir.display()));
    Ok(command.stderr(Stdio::null()).spawn()?)
}

/// A guest reboots, and its monitor connects anew.
#[test]
fn keep_serves_the_next_front_end_of_an_inherited_socket() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("s");
        let listener = inheritable(&socket)?;
        let mut command = tied_to_us(&thrufs()?);
        let fd = format!("--fd={}", listener.as_raw_fd());
        command.args(["device", "--keep", &fd]);
        let mut process = start(command, dir.path())?;
        for _ in 0..3 {
            let mut guest = Guest::connect(&socket, Options::default())?;
            ensure!(getattr(&mut guest, 1, ROOT)? == libc::ENOTCONN);
            guest.init()?;
            ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        }
        kill(pid_of(&process), Signal::SIGTERM)?;
        let status = wait_for_exit(&mut process, "the end", STEP)?;
        ensure!(status.success(), "{status}");
        Ok(())
    })
}

/// Automation waited for the file, connected, and got ECONNREFUSED or EACCES.
#[test]
fn socket_can_be_connected_to_as_soon_as_it_is_there() -> Outcome {
    case(|| {
        for round in 0..number(ROUNDS, 100)? {
            let device = Device::new(&["--sandbox=none", "--seccomp=none"])?;
            let stream = UnixStream::connect(device.socket())?;
            let mut guest = Guest::over(stream, Options::default())?;
            if round % 10 == 0 {
                guest.init()?;
            }
        }
        let device = Device::new(&[])?;
        device.connect(Options::default())?.init()?;
        Ok(())
    })
}

#[test]
fn start_that_fails_says_why_in_one_line() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let shared = format!("--shared-dir={}", dir.path().display());
        let socket = format!("--socket-path={}", dir.path().join("s").display());
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let metrics = format!("--metrics={}", taken.local_addr()?);
        let cases: &[(&[&str], i32, &str)] = &[
            (&["--shared-dir=/no/such", &socket], 2, "/no/such"),
            (
                &["--shared-dir=/dev/null", &socket],
                2,
                "neither a directory nor a file",
            ),
            (
                &["--shared-dir=/etc/passwd", "--sandbox=chroot", &socket],
                2,
                "--sandbox=none",
            ),
            (&[&shared], 2, "--socket-path=SOCKET"),
            (&[&shared, "--socket-path=/no/such/s"], 2, "/no/such/s"),
            (&[&shared, "--socket-path=/"], 2, "has no name"),
            (
                &[&shared, &socket, "--socket-group=no-such"],
                2,
                "no such group",
            ),
            (&[&shared, "--fd=999"], 2, "--fd=999"),
            (&[&shared, "--fd=0"], 2, "no socket"),
            (&[&shared, &socket, &metrics], 1, "--metrics"),
            (&[&shared, &socket, "--watch"], 2, "notifications"),
        ];
        for (options, code, wanted) in cases {
            let mut command = tied_to_us(&thrufs()?);
            command.arg("device").args(*options).stdin(Stdio::null());
            let output = output(&mut command)?;
            let said = said_on_stderr(&output);
            ensure!(output.status.code() == Some(*code), "{options:?}: {said}");
            let last = said.trim_end().lines().last().unwrap_or_default();
            ensure!(last.contains(wanted), "{options:?}: {said}");
            let is_reason = |line: &&str| line.starts_with("thrufs") || line.starts_with("error");
            let reasons = said.lines().filter(is_reason);
            ensure!(reasons.count() == 1, "{options:?}: {said}");
        }
        ensure!(!dir.path().join("s").exists(), "a socket is left");
        Ok(())
    })
}

#[test]
fn systemd_is_told_of_readiness_and_of_the_end() -> Outcome {
    case(|| {
        for confined in [true, false] {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("notify");
            let notified = UnixDatagram::bind(&path)?;
            notified.set_read_timeout(Some(STEP))?;
            let mut command = tied_to_us(&thrufs()?);
            command.arg("device").env("NOTIFY_SOCKET", &path);
            let options: &[&str] = match confined {
                true => &[],
                false => &["--sandbox=none", "--seccomp=none"],
            };
            let mut device = Device::start(command, options)?;
            let told = || -> Result<String> {
                let mut bytes = [0; 4096];
                let len = notified.recv(&mut bytes)?;
                Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
            };
            let ready = told()?;
            ensure!(ready.contains("READY=1"), "{ready}");
            // Whatever is told to be ready can be connected to.
            device.connect(Options::default())?.init()?;
            device.ends_well()?;
            let stopping = told()?;
            ensure!(stopping.contains("STOPPING=1"), "{stopping}");
        }
        Ok(())
    })
}

#[test]
fn socket_that_systemd_passes_is_served() -> Outcome {
    case(|| {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket)?;
        let mut shell = tied_to_us(Path::new("/bin/sh"));
        // Its process is the one that LISTEN_PID names. A shell need not know descriptors above 9.
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" device \"$1\"";
        shell
            .args(["-c", script])
            .arg(thrufs()?)
            .stdin(OwnedFd::from(listener));
        let mut process = start(shell, dir.path())?;
        let mut guest = Guest::connect(&socket, Options::default())?;
        guest.init()?;
        ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        drop(guest);
        let status = wait_for_exit(&mut process, "the end", STEP)?;
        ensure!(status.success(), "{status}");
        // It is its owner's.
        ensure!(socket.exists());
        Ok(())
    })
}

#[test]
fn init_without_what_an_option_needs_is_refused_by_always_and_served_by_auto() -> Outcome {
    case(|| {
        for (always, auto) in [
            ("--posix-acl=always", "--posix-acl=auto"),
            ("--security-label=always", "--security-label=auto"),
        ] {
            let device = Device::new(&[always])?;
            let mut guest = device.connect(Options::default())?;
            ensure!(guest.init_offering(0)?.error == libc::EIO, "{always}");
            let option = always.split('=').next().unwrap_or_default();
            device.log_with(option)?;
            // A guest that has it is served by the same device.
            guest.init()?;
            let device = Device::new(&[auto])?;
            let mut guest = device.connect(Options::default())?;
            ensure!(guest.init_offering(0)?.error == 0, "{auto}");
            ensure!(getattr(&mut guest, 1, ROOT)? == 0);
        }
        Ok(())
    })
}

/// A monitor without shared memory sends no descriptors: a panic, where it should be the reason.
#[test]
fn message_of_the_front_end_that_makes_no_sense_ends_the_device_with_one_line() -> Outcome {
    type Messages<'a> = &'a [(u32, &'a [u8])];
    const SET_OWNER: u32 = 3;
    const SET_MEM_TABLE: u32 = 5;
    case(|| {
        // One region, and no descriptor with it.
        let mut region = [0_u8; 40];
        region[0] = 1;
        region[18] = 16;
        let cases: &[(&str, Messages<'_>)] = &[
            (
                "no descriptor",
                &[(SET_OWNER, &[]), (SET_MEM_TABLE, &region)],
            ),
            (
                "too short",
                &[(SET_OWNER, &[]), (SET_MEM_TABLE, &region[..8])],
            ),
            ("unknown", &[(999, &[])]),
            ("too long", &[(SET_MEM_TABLE, &[0; 4000])]),
        ];
        for (what, messages) in cases {
            let mut device = Device::new(&[])?;
            let mut stream = UnixStream::connect(device.socket())?;
            for (request, payload) in *messages {
                let header = [*request, 1, payload.len() as u32].map(u32::to_ne_bytes);
                let message = [header.as_flattened(), payload].concat();
                // It may have gone already.
                let _sent = stream.write_all(&message);
            }
            let status = device.wait()?;
            let log = device.log();
            ensure!(status.code() == Some(1), "{what}: {status}: {log}");
            let lines = log
                .lines()
                .filter(|line| line.starts_with("thrufs: vhost-user"));
            ensure!(lines.count() == 1, "{what}: {log}");
            ensure!(!log.contains("panicked"), "{what}: {log}");
        }
        Ok(())
    })
}
