//! Boots a kernel: as a program (User Mode Linux), or as an image in QEMU.
//!
//! Invariant: the guest's root is the host's file system, mounted read-only, or an initramfs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::build::{Kernel, Kind};
use crate::console::run;
use crate::error::{Error, Result, at};
use crate::machine::{Device, Machine, Root};
use crate::outcome::Outcome;
use crate::qemu;

impl Machine {
    /// Boots `kernel` and waits for its end, at most for `deadline`. `dir` takes the console and
    /// whatever the machine needs on the host.
    pub fn boot(&self, kernel: &Kernel, dir: &Path, deadline: Duration) -> Result<Outcome> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        match (kernel.kind, &self.root) {
            // The host's root has every file that could be requested.
            (Kind::UserMode, _) if self.counted => Err(Error::Counted {
                image: kernel.image.clone(),
            }),
            (Kind::UserMode, _) => run(&self.command(kernel, dir), dir, deadline, &self.stop),
            (Kind::Bootable, Root::Files(files)) => qemu::boot(self, kernel, files, dir, deadline),
            (Kind::Bootable, Root::Host) => Err(Error::Root {
                image: kernel.image.clone(),
            }),
        }
    }

    fn command(&self, kernel: &Kernel, dir: &Path) -> Command {
        let mut command = Command::new(&kernel.image);
        command
            .arg(format!("mem={}M", self.memory))
            .arg(format!("uml_dir={}", dir.display()));
        if self.cpus > 1 {
            // SMP needs the seccomp way of running the guest's processes.
            command
                .arg(format!("ncpus={}", self.cpus))
                .arg("seccomp=on");
        }
        command.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]);
        // Without a console= User Mode Linux appends one to the line, where it becomes init's argument.
        command
            .args(["console=tty0", "con=null", "con0=null,fd:1"])
            .args(&self.kernel_arguments);
        for (number, Device { socket, id, .. }) in self.devices.iter().enumerate() {
            // The number is the device's own, and tells two of a kind apart.
            let socket = socket.display();
            command.arg(format!("virtio_uml.device={socket}:{id}:{number}"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::End;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::Ordering;

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
        // An hour, so that the test would not end.
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
