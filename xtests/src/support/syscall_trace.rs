//! The system calls that a mount's server makes for each request, by strace(1).
//!
//! A thread of the server serves one request from its read(2) of /dev/fuse to the next, so what it calls in
//! between belongs to that request. Why not a count for the whole process: requests of several kinds run side
//! by side, and threads of the server have work of their own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::daemon_fixture::tied_to_us;
use super::install::find;
use super::mount::Mount;
use super::skip::missing;
use super::wait::wait_until;

/// Calls of the allocator and of locks, and what each thread does once. They name no file.
const NOT_COUNTED: [&str; 11] = [
    "futex",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "brk",
    "sched_yield",
    "clock_gettime",
    "restart_syscall",
    "unshare",
    "poll",
];
/// Of /dev/fuse, in which strace shows what was read: length and opcode.
const HEADER: &str = "8";
const SOON: Duration = Duration::from_secs(10);

/// Traces the server of a mount while it lives.
pub struct SyscallTrace {
    strace: Child,
    log: PathBuf,
    devices: Vec<String>,
}

/// A request that was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// As in `enum fuse_opcode`.
    pub opcode: u32,
    /// Names of the calls, in order, without those on /dev/fuse.
    pub calls: Vec<String>,
}

impl SyscallTrace {
    /// Starts, and returns when every thread of the server is traced. Skips a native run, and a machine
    /// without strace.
    pub fn start(mount: &Mount) -> Result<Self> {
        let server = mount.server_pid()?;
        let strace = find("strace").ok_or_else(|| missing("strace (strace)"))?;
        let log = mount.scratch().path().join("strace.log");
        let devices = descriptors_of_fuse(server)?;
        ensure!(
            !devices.is_empty(),
            "process {server} has no /dev/fuse open"
        );
        let mut command = tied_to_us(&strace);
        command
            .args(["--follow-forks", "--quiet=all", "--strings-in-hex=all"])
            .args(["--string-limit", HEADER, "--output"])
            .arg(&log)
            .args(["--attach", &server.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let trace = Self {
            strace: command.spawn().context("strace")?,
            log,
            devices,
        };
        wait_until("strace to trace every thread", SOON, || {
            all_are_traced(server)
        })?;
        Ok(trace)
    }

    /// Ends, and returns what was served since the start.
    pub fn requests(mut self) -> Result<Vec<Served>> {
        self.end();
        let text =
            std::fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        Ok(parse(&text, &self.devices))
    }

    /// strace leaves the server as it was, and writes what it has yet to write.
    fn end(&mut self) {
        let pid = Pid::from_raw(self.strace.id().cast_signed());
        // Fails only if it has ended already.
        let _ended = kill(pid, Signal::SIGTERM);
        let _status = self.strace.wait();
    }
}

impl Drop for SyscallTrace {
    fn drop(&mut self) {
        self.end();
    }
}

fn descriptors_of_fuse(pid: Pid) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // Closed meanwhile, if not.
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        if target == Path::new("/dev/fuse") {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

fn all_are_traced(pid: Pid) -> Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_none_or(|tracer| tracer.trim() == "0") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lines are `TID call(arguments) = result`, or in two parts where another thread came between.
fn parse(text: &str, devices: &[String]) -> Vec<Served> {
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut serving: HashMap<&str, Served> = HashMap::new();
    let mut served = Vec::new();
    for line in text.lines() {
        let Some((tid, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            if is_read_of(begun, devices) {
                served.extend(serving.remove(tid));
            }
            unfinished.insert(tid, begun.to_owned());
            continue;
        }
        let call = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let end = resumed.split_once("resumed>").map_or("", |(_, end)| end);
                unfinished.remove(tid).unwrap_or_default() + end
            }
            None => rest.to_owned(),
        };
        let Some((name, arguments)) = call.split_once('(') else {
            continue;
        };
        match (name, is_on(arguments, devices)) {
            ("read", true) => {
                served.extend(serving.remove(tid));
                if let Some(opcode) = opcode(arguments) {
                    let calls = Vec::new();
                    serving.insert(tid, Served { opcode, calls });
                }
            }
            ("write" | "writev" | "ioctl", true) => {}
            _other => {
                if let Some(request) = serving.get_mut(tid)
                    && !NOT_COUNTED.contains(&name)
                    // The standard library of a debug build asks before each close(2).
                    && !arguments.contains("F_GETFD")
                {
                    request.calls.push(name.to_owned());
                }
            }
        }
    }
    // Answered, and the thread not yet back at its read(2).
    served.extend(serving.into_values());
    served
}

/// Whether the first argument is one of these descriptors.
fn is_on(arguments: &str, devices: &[String]) -> bool {
    let first = arguments.split([',', ')']).next().unwrap_or_default();
    devices.iter().any(|device| device == first)
}

/// A thread that reads the next request has done with the one before.
fn is_read_of(begun: &str, devices: &[String]) -> bool {
    let arguments = begun.strip_prefix("read(");
    arguments.is_some_and(|arguments| is_on(arguments, devices))
}

/// The second number of a header that was read: `5, "\x38\x00\x00\x00\x01\x00\x00\x00"..., 1052672) = 56`.
fn opcode(arguments: &str) -> Option<u32> {
    let text = arguments.split('"').nth(1)?;
    let bytes: Vec<u8> = text
        .split("\\x")
        .skip(1)
        .map(|digits| u8::from_str_radix(digits, 16).ok())
        .collect::<Option<_>>()?;
    let opcode = bytes.get(4..8)?.try_into().ok()?;
    Some(u32::from_le_bytes(opcode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_gives_each_request_the_calls_of_its_thread() {
        let text = r#"7 read(5, "\x38\x00\x00\x00\x01\x00\x00\x00"..., 100) = 41
8 read(5,  <unfinished ...>
7 openat2(8, "\x64", {flags=O_PATH}, 24) = 21
8 <... read resumed>"\x38\x00\x00\x00\x03\x00\x00\x00"..., 100) = 56
7 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1
8 statx(9, "", 0, 0, {}) = 0
7 writev(5, [{}], 2) = 144
8 writev(5, [{}], 2) = 120
7 fcntl(21, F_GETFD) = 0x1 (flags FD_CLOEXEC)
7 close(21) = 0
7 read(5,  <unfinished ...>
8 read(5, 0x7f, 100) = -1 ENODEV (No such device)
"#;
        let request = |opcode, calls: &[&str]| Served {
            opcode,
            calls: calls.iter().map(|call| (*call).to_owned()).collect(),
        };
        let served = parse(text, &["5".to_owned()]);
        let expected = [request(1, &["openat2", "close"]), request(3, &["statx"])];
        assert_eq!(served, expected);
    }
}
