//! For tests: what an attacker would try from a thread of the server.
//!
//! Run by the server itself (`--break-out`, hidden), shut in as it is for serving, in place of
//! serving. Each attempt says whether it reached something outside; the test of the harness has to
//! know nothing of how the process is shut in, and shows with `--sandbox=none` that the attempts
//! succeed where nothing holds them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::thread::CapabilitySet;

/// A file that is outside SOURCE on every machine.
const OUTSIDE: &str = "etc/passwd";

/// `Ok` is an escape, with what was reached.
type Attempt = fn(u32) -> anyhow::Result<String>;

const ATTEMPTS: &[(&str, Attempt)] = &[
    ("open", |_| read(&format!("/{OUTSIDE}"))),
    ("dotdot", |_| read(&format!("/../../../../../../{OUTSIDE}"))),
    ("current-directory", |_| {
        read(&format!("../../../../../../{OUTSIDE}"))
    }),
    ("proc-root", |_| read(&format!("/proc/1/root/{OUTSIDE}"))),
    ("proc-of-the-current-directory", |_| {
        read(&format!("../../1/root/{OUTSIDE}"))
    }),
    ("descriptors", |_| descriptors()),
    ("symlink", |_| symlink()),
    ("device", |_| device()),
    ("chroot", |_| chroot()),
    ("file-handle", |_| file_handle()),
    ("mount", |_| mount()),
    ("setns", |_| setns()),
    ("signal", signal),
    ("ptrace", ptrace_supervisor),
    ("network", |_| network()),
    ("execve", |_| execve()),
    ("capabilities", |_| capabilities()),
    // Last: those after it would have its capabilities.
    ("user-namespace", |_| user_namespace()),
];

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakOut {
    All,
    One(usize),
}

impl FromStr for BreakOut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = ATTEMPTS.iter().position(|(name, _)| *name == text);
        match (text, at) {
            ("all", _) => Ok(Self::All),
            (_, Some(at)) => Ok(Self::One(at)),
            _ => Err("must be all or the name of an attempt".to_owned()),
        }
    }
}

impl BreakOut {
    /// Tries, and says on standard error what came of it.
    pub(crate) fn run(self, supervisor: u32) {
        let attempts = match self {
            Self::All => ATTEMPTS,
            Self::One(at) => &ATTEMPTS[at..=at],
        };
        for (name, attempt) in attempts {
            let line = match attempt(supervisor) {
                Ok(reached) => format!("escaped: {name}: {reached}\n"),
                Err(error) => format!("held: {name}: {error:#}\n"),
            };
            // A closed standard error has no reader.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

fn read(path: &str) -> anyhow::Result<String> {
    let mut byte = [0];
    File::open(path)?.read_exact(&mut byte)?;
    Ok(path.to_owned())
}

/// Upwards from every descriptor that there is.
fn descriptors() -> anyhow::Result<String> {
    let mut tried = 0;
    for number in 0..1024 {
        let Ok(directory) = File::open(format!("/proc/self/fd/{number}"))
            .or_else(|_| File::open(number.to_string()))
        else {
            continue;
        };
        tried += 1;
        let up = format!("../../../../../../../{OUTSIDE}");
        if rustix::fs::openat(&directory, up, OFlags::RDONLY, Mode::empty()).is_ok() {
            return Ok(format!("from descriptor {number}"));
        }
    }
    bail!("from none of {tried} descriptors")
}

fn symlink() -> anyhow::Result<String> {
    let _there = std::fs::remove_file("/break-out");
    std::os::unix::fs::symlink(format!("/{OUTSIDE}"), "/break-out")?;
    let read = read("/break-out");
    std::fs::remove_file("/break-out")?;
    read
}

/// A device node of /dev/zero: one of a disk would be opened alike.
fn device() -> anyhow::Result<String> {
    let _there = std::fs::remove_file("/break-out-zero");
    let (kind, zero) = (FileType::CharacterDevice, rustix::fs::makedev(1, 5));
    rustix::fs::mknodat(CWD, "/break-out-zero", kind, Mode::RUSR, zero)?;
    let read = read("/break-out-zero");
    std::fs::remove_file("/break-out-zero")?;
    read
}

/// The classic: a root below the current directory no longer holds that back.
fn chroot() -> anyhow::Result<String> {
    let _there = std::fs::create_dir("/break-out-root");
    let changed = rustix::process::chroot("/break-out-root");
    if changed.is_err() {
        std::fs::remove_dir("/break-out-root")?;
    }
    changed?;
    read(&format!("../../../../../../{OUTSIDE}"))
}

/// open_by_handle_at(2) of one handle opens any file of the file system, also outside SOURCE.
fn file_handle() -> anyhow::Result<String> {
    let root = File::open("/")?;
    let handle = thrufs_sys::file_handle::FileHandle::of(&root)?;
    handle.open(std::os::fd::AsFd::as_fd(&root), libc::O_RDONLY)?;
    Ok("a file handle was opened".to_owned())
}

fn mount() -> anyhow::Result<String> {
    let none = None::<&str>;
    nix::mount::mount(Some("tmpfs"), "/", Some("tmpfs"), MsFlags::empty(), none)?;
    Ok("mounted a file system".to_owned())
}

fn user_namespace() -> anyhow::Result<String> {
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
    Ok("all capabilities in a new user namespace".to_owned())
}

fn setns() -> anyhow::Result<String> {
    let outside = File::open("/proc/1/ns/mnt").context("/proc/1/ns/mnt")?;
    nix::sched::setns(outside, CloneFlags::CLONE_NEWNS)?;
    Ok("the mount namespace outside".to_owned())
}

fn signal(supervisor: u32) -> anyhow::Result<String> {
    nix::sys::signal::kill(pid(supervisor)?, None)?;
    Ok("the supervisor can be signalled".to_owned())
}

fn ptrace_supervisor(supervisor: u32) -> anyhow::Result<String> {
    let pid = pid(supervisor)?;
    ptrace::seize(pid, ptrace::Options::empty())?;
    Ok("the supervisor can be traced".to_owned())
}

fn pid(supervisor: u32) -> anyhow::Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(supervisor)?))
}

/// The loopback interface of the machine: a refused connection has reached it as well.
fn network() -> anyhow::Result<String> {
    let unused = ([127, 0, 0, 1], 1).into();
    match TcpStream::connect_timeout(&unused, Duration::from_secs(5)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(error.into()),
    }
    Ok("the machine's loopback interface".to_owned())
}

fn execve() -> anyhow::Result<String> {
    std::process::Command::new("/bin/sh")
        .args(["-c", ":"])
        .status()?;
    Ok("a program was started".to_owned())
}

fn capabilities() -> anyhow::Result<String> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.permitted |= CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets)?;
    Ok("more capabilities".to_owned())
}
