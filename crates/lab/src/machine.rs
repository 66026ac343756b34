//! Boots a kernel and reads its console until it ends or the deadline comes.
//!
//! Invariants: the guest's root is the host's file system, mounted read-only, or an initramfs; when
//! `boot` returns no process of the guest is left, whatever the outcome; and none is left either when the caller is
//! killed.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::build::{Kernel, Kind};
use crate::error::{Error, Result, at};
use crate::outcome::{End, Outcome, Reader};
use crate::process::{missing, tied};
use crate::qemu;

/// How often a machine that says nothing is looked after.
const STOP_WITHIN: Duration = Duration::from_millis(200);
/// What QEMU says when its hypervisor cannot go on; it stays then, and does nothing.
const BROKEN_DOWN: &str = "KVM internal error";

/// The guest's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// All that the host has, read-only; User Mode Linux only.
    Host,
    /// These files of the host's at least, at the same paths, with the shared libraries they need.
    Files(Vec<PathBuf>),
}

/// A device of which the other side is a process of the host's that listens at a socket (vhost-user).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where it listens.
    pub socket: PathBuf,
    /// What it is, as virtio numbers devices.
    pub id: u32,
    /// The same in QEMU's words, with what it is told of it: `vhost-user-fs-pci,tag=x`.
    pub qemu: String,
}

/// A machine that can boot a kernel.
pub struct Machine {
    /// Memory in MiB.
    pub memory: u32,
    /// Processors; a kernel without SMP has to be given one.
    pub cpus: u32,
    /// Whether its clock counts instructions, one a nanosecond, and skips the time in which there is none to
    /// execute. Only QEMU's translator can do that.
    pub counted: bool,
    /// What the guest sees.
    pub root: Root,
    /// What it has beside memory and processors.
    pub devices: Vec<Device>,
    /// What has to be loaded first, where the kernel has it as a module.
    pub modules: Vec<String>,
    /// The first process: a path on the host, and its arguments.
    pub init: Vec<String>,
    /// Further words for the kernel's command line.
    pub kernel_arguments: Vec<String>,
    /// When this is set the machine is stopped, as at the deadline.
    pub stop: Arc<AtomicBool>,
}

/// One processor, a GiB of memory, the host's files, and nothing else.
impl Default for Machine {
    fn default() -> Self {
        Self {
            memory: 1024,
            cpus: 1,
            counted: false,
            root: Root::Host,
            devices: Vec::new(),
            modules: Vec::new(),
            init: Vec::new(),
            kernel_arguments: Vec::new(),
            stop: Arc::default(),
        }
    }
}

impl Machine {
    /// Boots `kernel` and waits for its end, at most for `deadline`. `dir` takes the console and
    /// whatever the machine needs on the host.
    pub fn boot(&self, kernel: &Kernel, dir: &Path, deadline: Duration) -> Result<Outcome> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        match (kernel.kind, &self.root) {
            // The host's root has all files that could be asked for.
            (Kind::UserMode, _) if self.counted => Err(Error::Counted {
                image: kernel.image.clone(),
            }),
            (Kind::UserMode, _) => self.run(&self.command(kernel, dir), dir, deadline),
            (Kind::Bootable, Root::Files(files)) => qemu::boot(self, kernel, files, dir, deadline),
            (Kind::Bootable, Root::Host) => Err(Error::Root {
                image: kernel.image.clone(),
            }),
        }
    }

    /// Runs what is the machine, a process group of its own, and reads its console.
    pub(crate) fn run(&self, command: &Command, dir: &Path, deadline: Duration) -> Result<Outcome> {
        let console = dir.join("console");
        let mut command = tied(command, "KILL")?;
        command.stdin(Stdio::null()).process_group(0);
        let (output, input) = std::io::pipe().map_err(at(dir))?;
        command
            .stdout(input.try_clone().map_err(at(dir))?)
            .stderr(input);
        let begin = Instant::now();
        let mut child = command
            .spawn()
            .map_err(|source| missing(&command, source))?;
        // It holds the writing end, without which the output ends with the machine.
        drop(command);
        let lines = console_lines(output, &console)?;
        let mut reader = Reader::default();
        let in_time = read_until(&lines, begin + deadline, &self.stop, &mut reader);
        stop(&mut child).map_err(at(dir))?;
        // what was on its way when the machine stopped
        lines.iter().for_each(|line| reader.line(&line));
        let end = match (reader.done, in_time) {
            (true, _) => End::Done,
            (false, true) => End::Died,
            (false, false) => End::Deadline,
        };
        let Reader {
            verdicts,
            reports,
            running,
            ..
        } = reader;
        Ok(Outcome {
            verdicts,
            reports,
            end,
            running,
            console,
            took: begin.elapsed(),
        })
    }

    fn command(&self, kernel: &Kernel, dir: &Path) -> Command {
        let mut command = Command::new(&kernel.image);
        command
            .arg(format!("mem={}M", self.memory))
            .arg(format!("uml_dir={}", dir.display()));
        if self.cpus > 1 {
            // SMP exists only with the seccomp way of running the guest's processes
            command
                .arg(format!("ncpus={}", self.cpus))
                .arg("seccomp=on");
        }
        command.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]);
        // Without a console= User Mode Linux appends one to the line, where it becomes init's argument.
        command
            .args(["console=tty0", "con=null", "con0=null,fd:1"])
            .args(&self.kernel_arguments);
        for Device { socket, id, .. } in &self.devices {
            // The number is the device's own, by which two of a kind are told apart.
            command.arg(format!("virtio_uml.device={}:{id}:1", socket.display()));
        }
        if let [program, arguments @ ..] = self.init.as_slice() {
            command
                .arg(format!("init={program}"))
                .arg("--")
                .args(arguments);
        }
        command
    }
}

/// Keeps the console in a file and hands its lines on.
fn console_lines(output: PipeReader, console: &PathBuf) -> Result<Receiver<String>> {
    let mut file = File::create(console).map_err(at(console))?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            // A console that cannot be kept is still read; and if nobody listens any more, nobody cares.
            let kept = writeln!(file, "{line}");
            if sender.send(line).is_err() || kept.is_err() {
                break;
            }
        }
    });
    Ok(lines)
}

/// Reads until the console closes or the hypervisor gives up; false if the deadline came before.
fn read_until(
    lines: &Receiver<String>,
    deadline: Instant,
    stop: &AtomicBool,
    reader: &mut Reader,
) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return false;
        }
        match lines.recv_timeout(left.min(STOP_WITHIN)) {
            Ok(line) if line.contains(BROKEN_DOWN) => return true,
            Ok(line) => reader.line(&line),
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Ends all processes of the machine, which are a process group of their own.
fn stop(child: &mut Child) -> std::io::Result<()> {
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits"));
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => child.wait().map(|_| ()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A "kernel" that is a shell script.
    fn kernel(dir: &Path, script: &str) -> Kernel {
        let image = dir.join("linux");
        std::fs::write(&image, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o755)).unwrap();
        Kernel {
            image,
            kind: Kind::UserMode,
            variant: "v".into(),
            source: "s".into(),
            package: None,
        }
    }

    fn machine() -> Machine {
        Machine {
            memory: 64,
            init: vec!["/init".into()],
            ..Machine::default()
        }
    }

    #[test]
    fn boot_of_a_guest_that_says_end_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = kernel(dir.path(), "echo LAB-VERDICT t PASS; echo LAB-END");
        let outcome = machine()
            .boot(&kernel, dir.path(), Duration::from_secs(30))
            .unwrap();
        assert_eq!(outcome.end, End::Done);
        assert_eq!(outcome.verdicts.len(), 1);
        assert!(
            std::fs::read_to_string(outcome.console)
                .unwrap()
                .contains("LAB-END")
        );
    }

    #[test]
    fn boot_of_a_program_that_is_to_be_counted_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = kernel(dir.path(), "true");
        let machine = Machine {
            counted: true,
            ..machine()
        };
        let outcome = machine.boot(&kernel, dir.path(), Duration::from_secs(30));
        let error = outcome.err().unwrap().to_string();
        assert!(error.contains("bootable image"), "{error}");
    }

    #[test]
    fn boot_of_a_guest_that_goes_silently_has_died() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = kernel(dir.path(), "echo LAB-START t");
        let outcome = machine()
            .boot(&kernel, dir.path(), Duration::from_secs(30))
            .unwrap();
        assert_eq!(
            (outcome.end, outcome.running.as_deref()),
            (End::Died, Some("t"))
        );
    }

    #[test]
    fn boot_of_a_guest_that_is_to_be_stopped_does_not_wait_for_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = kernel(dir.path(), "echo LAB-START t; exec tail -f /dev/null");
        let machine = machine();
        machine.stop.store(true, Ordering::Relaxed);
        // An hour: the test would not end.
        let outcome = machine.boot(&kernel, dir.path(), Duration::from_secs(3600));
        assert_eq!(outcome.unwrap().end, End::Deadline);
    }

    #[test]
    fn boot_of_a_guest_that_hangs_ends_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = kernel(dir.path(), "echo LAB-START t; exec tail -f /dev/null");
        let outcome = machine()
            .boot(&kernel, dir.path(), Duration::from_millis(300))
            .unwrap();
        assert_eq!(outcome.end, End::Deadline);
    }
}
