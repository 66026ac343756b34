//! QEMU as the machine, for kernels that are no programs.
//!
//! KVM is tried first. Where it is there but does not work (a nested guest on some hosts dies at its
//! first instructions, or never comes to them) there is not a word, and the same is run again by QEMU's own translator:
//! some ten times slower, and it works everywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::build::Kernel;
use crate::error::Result;
use crate::initramfs;
use crate::machine::Machine;
use crate::outcome::{End, Outcome};

const PROGRAM: &str = "qemu-system-x86_64";
/// A kernel under a hypervisor that works speaks within a second.
const FIRST_WORD: Duration = Duration::from_secs(20);

pub(crate) fn boot(
    machine: &Machine,
    kernel: &Kernel,
    files: &[PathBuf],
    dir: &Path,
    deadline: Duration,
) -> Result<Outcome> {
    let archive = dir.join("initramfs");
    initramfs::write(files, &archive)?;
    let start = |accelerator, silence| {
        let command = command(machine, kernel, &archive, accelerator);
        machine.run(command, dir, silence, deadline)
    };
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if device.is_ok() && !machine.counted {
        let outcome = start("kvm", FIRST_WORD)?;
        let silent = outcome.verdicts.is_empty() && outcome.running.is_none();
        if outcome.end != End::Died || !silent {
            return Ok(outcome);
        }
    }
    start("tcg", deadline)
}

fn command(machine: &Machine, kernel: &Kernel, archive: &Path, accelerator: &str) -> Command {
    let mut words = vec!["console=ttyS0".to_owned(), "panic=-1".to_owned()];
    words.extend(machine.kernel_arguments.iter().cloned());
    if let [program, arguments @ ..] = machine.init.as_slice() {
        words.extend([format!("rdinit={program}"), "--".to_owned()]);
        words.extend(arguments.iter().cloned());
    }
    let mut command = Command::new(PROGRAM);
    command.args(["-accel", accelerator, "-cpu", "max"]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    if machine.counted {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    command.args(["-serial", "stdio"]);
    command.args(["-m", &machine.memory.to_string()]);
    command.args(["-smp", &machine.cpus.to_string()]);
    command
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(archive);
    command.args(["-append", &words.join(" ")]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Kind;
    use crate::machine::Root;

    #[test]
    fn command_names_the_first_process_before_its_arguments() {
        let machine = Machine {
            memory: 64,
            cpus: 1,
            counted: false,
            root: Root::Files(Vec::new()),
            init: vec!["/init".into(), "kernel".into(), "guest".into()],
            kernel_arguments: vec!["quiet".into()],
        };
        let kernel = Kernel {
            image: "vmlinuz".into(),
            kind: Kind::Bootable,
            variant: "v".into(),
            source: "s".into(),
        };
        let command = command(&machine, &kernel, Path::new("archive"), "tcg");
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let line = "console=ttyS0 panic=-1 quiet rdinit=/init -- kernel guest";
        assert_eq!(words.last().unwrap(), line);
    }
}
