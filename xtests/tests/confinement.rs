//! How tight the serving process's sandbox is, as /proc shows it, and as a break-out attempt finds it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtests::support::calls::{chmod, refused};
use xtests::support::checks::holds;
use xtests::support::command::output;
use xtests::support::install::BREAK_OUT;
use xtests::support::mount::{Leftover, is_native, thrufs, transport_option};
use xtests::support::mount_table::is_mounted;
use xtests::support::wait::wait_until;
use xtests::support::{
    Backing, Layout, Mount, Outcome, Scratch, User, case, missing, on_daemon, on_mount,
};

const SOON: Duration = Duration::from_secs(10);
/// chown, dac_override, fowner, fsetid, setgid, setuid, linux_immutable, mknod and setfcap, by number.
const KEPT: &[u32] = &[0, 1, 3, 4, 6, 7, 9, 27, 31];
const DAC_READ_SEARCH: u32 = 2;
const SYS_ADMIN: u32 = 21;
/// Number of break-out attempts.
const ATTEMPTS: usize = 18;

/// The capabilities of a server, and `also`. Where SOURCE is a whole file system it opens files by their handles.
fn kept(source: &Scratch, also: &[u32]) -> Vec<u32> {
    let mut kept = [KEPT, also].concat();
    if source.is_whole() {
        kept.push(DAC_READ_SEARCH);
    }
    kept
}

fn mask(numbers: &[u32]) -> u64 {
    numbers.iter().fold(0, |mask, number| mask | 1 << number)
}

/// The lines of /proc/PID/status.
fn status(pid: Pid) -> Result<BTreeMap<String, String>> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(path)?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect())
}

fn capabilities(status: &BTreeMap<String, String>, set: &str) -> Result<u64> {
    let hex = status.get(set).with_context(|| format!("no {set}"))?;
    Ok(u64::from_str_radix(hex, 16)?)
}

fn namespace(pid: Pid, kind: &str) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/ns/{kind}");
    std::fs::read_link(&path).context(path)
}

/// Privileges of each thread of a serving process.
fn check_privileges(pid: Pid, kept: &[u32]) -> Outcome {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid = task?.file_name().to_string_lossy().parse()?;
        let status = status(Pid::from_raw(tid))?;
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let held = capabilities(&status, set)?;
            ensure!(held == mask(kept), "{set} of {tid}: {held:x}");
        }
        for set in ["CapInh", "CapAmb"] {
            ensure!(capabilities(&status, set)? == 0, "{set} of {tid}");
        }
        ensure!(status["NoNewPrivs"] == "1", "NoNewPrivs of {tid}");
        ensure!(status["Seccomp"] == "2", "Seccomp of {tid}");
        ensure!(status["Seccomp_filters"] == "2", "Seccomp_filters of {tid}");
    }
    Ok(())
}

#[test]
fn server_by_default_has_namespaces_few_capabilities_and_a_filter() -> Outcome {
    on_mount(&[], |m| {
        let pid = m.server_pid()?;
        std::fs::write(m.path("f"), "content")?;
        ensure!(pid != m.pid()?, "one process does both");
        check_privileges(pid, &kept(m.scratch(), &[]))?;
        let nspid = &status(pid)?["NSpid"];
        ensure!(nspid.split_whitespace().last() == Some("1"), "{nspid}");
        let ours = Pid::this();
        for kind in ["mnt", "pid", "net", "ipc"] {
            let same = namespace(pid, kind)? == namespace(ours, kind)?;
            ensure!(!same, "the {kind} namespace is the host's");
        }
        // Its root is SOURCE, and its mount namespace has nothing else.
        holds(format!("/proc/{pid}/root/f"), b"content")?;
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        ensure!(mounts.lines().count() == 1, "{mounts}");
        ensure!(mounts.contains("nosuid,nodev"), "{mounts}");
        Ok(())
    })
}

#[test]
fn server_with_options_that_need_more_has_that_alone() -> Outcome {
    let with = |option: &str, numbers: &[u32]| {
        on_daemon(&["--cache=auto", option], |m| {
            check_privileges(m.server_pid()?, &kept(m.scratch(), numbers))
        })
    };
    with("--inode-file-handles=prefer", &[DAC_READ_SEARCH])?;
    with("--watch", &[DAC_READ_SEARCH])?;
    // The supervisor registers the files.
    with("--passthrough=always", &[])?;
    with("--modcaps=+sys_admin", &[SYS_ADMIN])?;
    on_daemon(&["--modcaps=-mknod:-setfcap"], |m| {
        let mut kept = kept(m.scratch(), &[]);
        kept.retain(|number| ![27, 31].contains(number));
        check_privileges(m.server_pid()?, &kept)
    })
}

#[test]
fn server_in_chroot_has_source_as_root_and_the_same_privileges() -> Outcome {
    on_daemon(&["--sandbox=chroot"], |m| {
        let pid = m.server_pid()?;
        std::fs::write(m.path("f"), "content")?;
        check_privileges(pid, &kept(m.scratch(), &[]))?;
        holds(format!("/proc/{pid}/root/f"), b"content")?;
        ensure!(namespace(pid, "mnt")? == namespace(Pid::this(), "mnt")?);
        Ok(())
    })
}

/// Runs the attempts in the daemon itself; returns its output, by line. SOURCE is a directory: of a
/// whole file system every file may be opened by its handle, and none of them is outside.
fn break_out(options: &[&str]) -> Result<(bool, Vec<String>)> {
    if is_native() {
        return Err(missing("a mount (this is a native run)"));
    }
    let program = thrufs()?.with_file_name(BREAK_OUT);
    if !program.is_file() {
        return Err(missing(format!(
            "{}: `cargo build --release -p thrufs --features break-out`, and copy it there",
            program.display()
        )));
    }
    let scratch = Scratch::with(Backing::Here, Layout::Below)?;
    let _leftover = Leftover(scratch.mountpoint());
    // One unexpected descriptor, on the root, as a careless parent would leave it.
    let root = File::open("/")?;
    nix::fcntl::fcntl(
        &root,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )?;
    let mut command = Command::new(program);
    command
        .args(["mount", "-f", "--log-level=error"])
        .args(transport_option())
        .args(options)
        .args([scratch.source(), scratch.mountpoint()]);
    let done = output(&mut command)?;
    ensure!(!is_mounted(&scratch.mountpoint()), "the mount is left");
    let said = String::from_utf8_lossy(&done.stderr);
    // The log puts time and level before the server's message.
    let text = |line: &str| {
        line.split_once("ERROR ")
            .map_or(line, |(_, text)| text)
            .to_owned()
    };
    Ok((done.status.success(), said.lines().map(text).collect()))
}

/// All attempts in a sandbox without the filter, which would end the server at the first: each wall
/// holds alone. The sandbox does not stop those of `open`; it must stop all others.
fn check_walls(sandbox: &str, open: &[&str]) -> Outcome {
    let option = format!("--sandbox={sandbox}");
    let (_, lines) = break_out(&["--break-out=all", "--seccomp=none", &option])?;
    let names = |result: &str| -> Vec<String> {
        let of = lines.iter().filter_map(|line| line.strip_prefix(result));
        of.filter_map(|rest| Some(rest.split_once(':')?.0.to_owned()))
            .collect()
    };
    let (held, escaped) = (names("held: "), names("escaped: "));
    ensure!(escaped == open, "{lines:#?}");
    ensure!(held.len() + escaped.len() == ATTEMPTS, "{lines:#?}");
    Ok(())
}

#[test]
fn break_out_of_the_namespaces_finds_nothing_outside() -> Outcome {
    // Privileges in a new user namespace are useless outside; the filter refuses the call.
    case(|| check_walls("namespace", &["user-namespace"]))
}

#[test]
fn break_out_of_the_chroot_finds_no_file_outside() -> Outcome {
    // Processes and networks are the machine's; the filter blocks the calls on both.
    case(|| check_walls("chroot", &["signal", "network"]))
}

#[test]
fn break_out_with_no_sandbox_shows_that_the_attempts_would_succeed() -> Outcome {
    case(|| {
        let options = ["--break-out=all", "--sandbox=none", "--seccomp=log"];
        let (_, lines) = break_out(&options)?;
        for name in [
            "open",
            "descriptors",
            "symlink",
            "device",
            "file-handle",
            "signal",
            "network",
        ] {
            let wanted = format!("escaped: {name}:");
            let escapes = lines.iter().any(|line| line.starts_with(&wanted));
            ensure!(escapes, "{name} is held by nothing: {lines:#?}");
        }
        Ok(())
    })
}

#[test]
fn break_out_by_a_forbidden_system_call_ends_the_server() -> Outcome {
    const ATTEMPTS: [&str; 7] = [
        "mount",
        "user-namespace",
        "signal",
        "ptrace",
        "network",
        "execve",
        "chroot",
    ];
    case(|| {
        for sandbox in ["namespace", "chroot"] {
            for attempt in ATTEMPTS {
                let options = [
                    &*format!("--sandbox={sandbox}"),
                    &format!("--break-out={attempt}"),
                ];
                let (success, lines) = break_out(&options)?;
                let said = lines.join("\n");
                ensure!(!success, "{options:?}: {said}");
                ensure!(said.contains("--seccomp forbids"), "{options:?}: {said}");
                ensure!(!said.contains("escaped"), "{options:?}: {said}");
            }
        }
        Ok(())
    })
}

#[test]
fn supervisor_killed_takes_the_server_along() -> Outcome {
    case(|| {
        let mut m = Mount::new(Backing::Here, &[])?;
        let server = m.server_pid()?;
        kill(m.pid()?, Signal::SIGKILL)?;
        ensure!(m.wait_for_daemon().is_err(), "it was killed");
        wait_until("the server to be gone", SOON, || {
            Ok(!Path::new(&format!("/proc/{server}")).exists())
        })
    })
}

/// A mount made below SOURCE later is served, as without a sandbox, where SOURCE's mount is shared
/// (systemd makes all mounts shared).
#[test]
fn mount_made_below_source_later_shows_up() -> Outcome {
    case(|| {
        let scratch = Scratch::with(Backing::Tmpfs, Layout::AsBacked)?;
        let none = None::<&str>;
        let shared = MsFlags::MS_SHARED;
        mount(none, &scratch.source(), none, shared, none)?;
        let m = Mount::of(scratch, &[])?;
        m.require_mount()?;
        let inner = m.source("inner");
        std::fs::create_dir(&inner)?;
        mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), none)?;
        let mounted = Leftover(inner.clone());
        std::fs::write(inner.join("f"), "later")?;
        wait_until("the file system to show up", SOON, || {
            Ok(std::fs::read(m.path("inner/f")).is_ok_and(|text| text == b"later"))
        })?;
        drop(mounted);
        m.unmount()
    })
}

#[test]
fn server_with_maps_of_ids_serves_in_a_user_namespace() -> Outcome {
    let options = ["--uid-map=:0:100000:65536:", "--gid-map=:0:100000:65536:"];
    on_daemon(&options, |m| {
        let pid = m.server_pid()?;
        ensure!(namespace(pid, "user")? != namespace(Pid::this(), "user")?);
        ensure!(status(pid)?["Uid"].starts_with("100000\t"), "its user");
        chown(m.source("."), Some(100_000), Some(100_000))?;
        std::fs::write(m.path("f"), "content")?;
        ensure!(m.path("f").metadata()?.uid() == 0, "on the mount");
        ensure!(m.source("f").metadata()?.uid() == 100_000, "on SOURCE");
        Ok(())
    })
}

#[test]
fn create_by_an_owner_outside_the_maps_is_refused_and_not_done_as_root() -> Outcome {
    let options = ["--uid-map=:0:100000:1000:", "--gid-map=:0:100000:1000:"];
    on_daemon(&options, |m| {
        chown(m.source("."), Some(100_000), Some(100_000))?;
        std::fs::create_dir(m.path("all"))?;
        chmod(m.path("all"), 0o777)?;
        let file = |name: &str| m.path("all").join(name);
        User::new(999, 999).act(|| Ok(std::fs::write(file("inside"), "x")?))?;
        let made = m.source("all/inside").metadata()?;
        ensure!((made.uid(), made.gid()) == (100_999, 100_999), "{made:?}");
        for (uid, gid) in [(1000, 999), (999, 1000), (1000, 1000)] {
            let made = User::new(uid, gid).act(|| Ok(File::create(file("outside"))))?;
            refused(made, libc::EOVERFLOW).with_context(|| format!("{uid}:{gid}"))?;
            ensure!(!m.source("all/outside").exists(), "made by whom?");
        }
        Ok(())
    })
}
