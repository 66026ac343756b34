//! A stuck process, as /proc and fusectl show it. Nothing here touches the mount under test: a
//! stuck mount must not take the watcher with it, so the connection is found through mountinfo's
//! device number and not by stat(2).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Functions of the kernel in which a thread waits for a page (folio) lock.
const PAGE_LOCK_WAITS: &[&str] = &[
    "folio_wait_bit_common",
    "__folio_lock",
    "folio_lock",
    "__lock_page",
    "lock_page",
    "wait_on_page_bit",
    "put_and_wait_on_page_locked",
    "folio_put_wait_locked",
];

/// One thread as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Thread {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) comm: String,
    /// `D`, `S`, ...
    pub(crate) state: String,
    pub(crate) wchan: String,
    /// Function names, innermost first; empty without the permission to read it.
    pub(crate) stack: Vec<String>,
    /// Grows whenever the thread sleeps: two equal values mean that it has not moved.
    pub(crate) switches: u64,
}

impl Thread {
    /// Whether it waits for the lock of a page.
    pub(crate) fn waits_for_page(&self) -> bool {
        let frames = self.stack.iter().chain([&self.wchan]);
        frames
            .into_iter()
            .any(|frame| PAGE_LOCK_WAITS.contains(&frame.as_str()))
    }
}

fn read(path: &Path) -> String {
    // A thread that has just ended, or no permission: an empty text says as much as an error would.
    fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// All threads of a process.
pub(crate) fn threads(pid: u32) -> Vec<Thread> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let ids = tasks
        .flatten()
        .filter_map(|task| task.file_name().to_str()?.parse().ok());
    ids.map(|tid| thread(pid, tid)).collect()
}

fn thread(pid: u32, tid: u32) -> Thread {
    let task = PathBuf::from(format!("/proc/{pid}/task/{tid}"));
    let status = read(&task.join("status"));
    let frame = |line: &str| {
        let name = line.split_whitespace().last()?.split('+').next()?;
        Some(name.to_owned())
    };
    Thread {
        pid,
        tid,
        comm: read(&task.join("comm")).trim().to_owned(),
        state: field(&status, "State:")
            .and_then(|s| s.get(..1))
            .unwrap_or("?")
            .to_owned(),
        wchan: read(&task.join("wchan")).trim().to_owned(),
        stack: read(&task.join("stack"))
            .lines()
            .filter_map(frame)
            .collect(),
        switches: field(&status, "voluntary_ctxt_switches:")
            .and_then(|count| count.parse().ok())
            .unwrap_or(0),
    }
}

/// Whether this descriptor of a process is /dev/fuse of the connection. On kernels whose fdinfo
/// does not name the connection, every server counts.
fn serves(fd: &Path, connection: u64) -> bool {
    if !fs::read_link(fd).is_ok_and(|link| link == Path::new("/dev/fuse")) {
        return false;
    }
    let number = fd.file_name().unwrap_or_default();
    let Some(process) = fd.parent().and_then(Path::parent) else {
        return false;
    };
    let info = read(&process.join("fdinfo").join(number));
    field(&info, "fuse_connection:").is_none_or(|named| named.parse() == Ok(connection))
}

/// The processes that serve a connection.
fn servers(connection: u64) -> Vec<u32> {
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = all
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(|fd| serves(&fd.path(), connection))))
    })
    .collect()
}

/// The FUSE connection of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Connection {
    /// The file system type that mountinfo names.
    pub(crate) fstype: String,
    /// The connection's directory in fusectl, if the mount is FUSE's.
    pub(crate) control: Option<PathBuf>,
    /// Its number there.
    pub(crate) number: u64,
}

/// Finds the connection by the device number of the mount.
pub(crate) fn connection(dev: u64) -> Connection {
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    let number = format!("{major}:{minor}");
    let mountinfo = read(Path::new("/proc/self/mountinfo"));
    let fstype = mountinfo.lines().find_map(|line| {
        let mut halves = line.splitn(2, " - ");
        let found = halves.next()?.split(' ').nth(2)? == number;
        let fstype = halves.next()?.split(' ').next()?;
        found.then(|| fstype.to_owned())
    });
    let fstype = fstype.unwrap_or_else(|| "unknown".into());
    let control = PathBuf::from(format!("/sys/fs/fuse/connections/{minor}"));
    let mut found = Connection {
        control: None,
        number: minor,
        fstype,
    };
    found.control = (found.is_fuse() && control.is_dir()).then_some(control);
    found
}

impl Connection {
    /// Whether the file system is FUSE, by /dev/fuse or by virtiofs.
    pub(crate) fn is_fuse(&self) -> bool {
        self.fstype.starts_with("fuse") || self.fstype == "virtiofs"
    }

    /// The number of requests without an answer; None if fusectl does not tell.
    pub(crate) fn waiting(&self) -> Option<u64> {
        read(&self.control.as_ref()?.join("waiting"))
            .trim()
            .parse()
            .ok()
    }

    /// The server's threads that wait for a page: a server that waits for itself.
    pub(crate) fn server_page_waits(&self) -> Vec<Thread> {
        let pids = servers(self.number).into_iter();
        pids.flat_map(threads)
            .filter(Thread::waits_for_page)
            .collect()
    }

    /// Ends the connection: every request gets ECONNABORTED.
    pub(crate) fn abort(&self) -> std::io::Result<()> {
        match &self.control {
            Some(control) => fs::write(control.join("abort"), "1"),
            None => Err(std::io::Error::other(
                "no fusectl for this mount; mount -t fusectl none /sys/fs/fuse/connections",
            )),
        }
    }
}
