//! QEMU as the machine, for kernels that are no programs.
//!
//! A KVM that exists but does not work (on some hosts a nested guest dies at its first
//! instructions, or never reaches them) prints nothing, so the first kernel is tried with it,
//! without the guest's files. Otherwise QEMU's own translator runs the kernel: some ten times
//! slower, and everywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::build::Kernel;
use crate::console::run;
use crate::error::{Result, at};
use crate::guest::MODULES;
use crate::initramfs;
use crate::machine::{Device, Machine};
use crate::modules;
use crate::outcome::Outcome;

const PROGRAM: &str = "qemu-system-x86_64";
/// The accelerator that every host has.
const TRANSLATOR: &str = "tcg";
/// The translator's processor: everything that it can translate but cmpxchg16b, which SLUB uses
/// where it can. With it QEMU 7.2 leaves garbage in EFLAGS now and then, the single-step flag
/// included: of 48 boots of Linux 6.12.95 alone 23 ended in a double fault or an oops, of 48 without it none.
const TRANSLATED: &str = "max,-cx16";
/// A kernel under a working hypervisor prints within a second, and without files it ends in the next.
const TRIAL: Duration = Duration::from_secs(20);
/// How every kernel's console begins.
const FIRST_WORD: &str = "Linux version ";

pub(crate) fn boot(
    machine: &Machine,
    kernel: &Kernel,
    files: &[PathBuf],
    dir: &Path,
    deadline: Duration,
) -> Result<Outcome> {
    let modules = match &kernel.package {
        Some(package) => modules::gather(package, &machine.modules, &dir.join("modules"))?,
        None => Vec::new(),
    };
    let archive = dir.join("initramfs");
    initramfs::write(&[files, &modules].concat(), &archive)?;
    let accelerator = if !machine.counted && has_kvm(kernel, dir)? {
        "kvm"
    } else {
        TRANSLATOR
    };
    let inside = Inside {
        archive: &archive,
        modules: (!modules.is_empty()).then(|| dir.join("modules")),
    };
    let command = command(machine, kernel, Some(&inside), accelerator);
    run(&command, dir, deadline, &machine.stop)
}

/// The guest's files.
struct Inside<'a> {
    archive: &'a Path,
    /// Where its modules are, if there are any.
    modules: Option<PathBuf>,
}

/// Whether `kernel` runs under KVM here: tried with the first kernel, and taken for the others.
fn has_kvm(kernel: &Kernel, dir: &Path) -> Result<bool> {
    static HAS_KVM: OnceLock<bool> = OnceLock::new();
    if let Some(known) = HAS_KVM.get() {
        return Ok(*known);
    }
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    let has = device.is_ok() && is_heard(kernel, &dir.join("trial"))?;
    Ok(*HAS_KVM.get_or_init(|| has))
}

/// Whether a machine with `kernel` alone prints anything under KVM.
fn is_heard(kernel: &Kernel, dir: &Path) -> Result<bool> {
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    let bare = Machine {
        memory: 256,
        ..Machine::default()
    };
    let command = command(&bare, kernel, None, "kvm");
    let outcome = run(&command, dir, TRIAL, &bare.stop)?;
    let console = std::fs::read(&outcome.console).map_err(at(&outcome.console))?;
    Ok(String::from_utf8_lossy(&console).contains(FIRST_WORD))
}

fn command(
    machine: &Machine,
    kernel: &Kernel,
    inside: Option<&Inside<'_>>,
    accelerator: &str,
) -> Command {
    let mut words = vec!["console=ttyS0".to_owned(), "panic=-1".to_owned()];
    words.extend(machine.kernel_arguments.iter().cloned());
    if let Some(modules) = inside.and_then(|inside| inside.modules.as_ref()) {
        // The kernel puts unknown words into the first process's environment.
        words.push(format!("{MODULES}={}", modules.display()));
    }
    if let [program, arguments @ ..] = machine.init.as_slice() {
        words.extend([format!("rdinit={program}"), "--".to_owned()]);
        words.extend(arguments.iter().cloned());
    }
    let mut command = Command::new(PROGRAM);
    let processor = match accelerator {
        TRANSLATOR => TRANSLATED,
        _hypervisor => "max",
    };
    command.args(["-accel", accelerator, "-cpu", processor]);
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
    add_devices(&mut command, machine);
    command.arg("-kernel").arg(&kernel.image);
    if let Some(inside) = inside {
        command.arg("-initrd").arg(inside.archive);
    }
    command.args(["-append", &words.join(" ")]);
    command
}

fn add_devices(command: &mut Command, machine: &Machine) {
    if machine.devices.is_empty() {
        return;
    }
    // A device's process reads and writes the guest's memory.
    let size = machine.memory;
    let memory = format!("memory-backend-memfd,id=memory,size={size}M,share=on");
    command.args(["-object", &memory, "-machine", "memory-backend=memory"]);
    for (number, Device { socket, qemu, .. }) in machine.devices.iter().enumerate() {
        let socket = format!("socket,id=device{number},path={}", socket.display());
        let device = format!("{qemu},chardev=device{number}");
        command.args(["-chardev", &socket, "-device", &device]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Kind;

    fn kernel() -> Kernel {
        Kernel {
            image: "vmlinuz".into(),
            kind: Kind::Bootable,
            variant: "v".into(),
            source: "s".into(),
            package: None,
        }
    }

    fn words(devices: Vec<Device>) -> Vec<String> {
        let machine = Machine {
            memory: 64,
            devices,
            init: vec!["/init".into(), "kernel".into(), "guest".into()],
            kernel_arguments: vec!["quiet".into()],
            ..Machine::default()
        };
        let inside = Inside {
            archive: Path::new("archive"),
            modules: Some("/m".into()),
        };
        let command = command(&machine, &kernel(), Some(&inside), TRANSLATOR);
        let words = command.get_args().map(|word| word.to_string_lossy());
        words.map(String::from).collect()
    }

    #[test]
    fn command_names_the_first_process_before_its_arguments() {
        let line = "console=ttyS0 panic=-1 quiet LAB_MODULES=/m rdinit=/init -- kernel guest";
        assert_eq!(words(Vec::new()).last().unwrap(), line);
    }

    #[test]
    fn command_of_a_machine_with_a_device_shares_its_memory() {
        let line = words(vec![Device {
            socket: "s".into(),
            id: 26,
            qemu: "vhost-user-fs-pci,tag=t".into(),
        }]);
        let line = line.join(" ");
        for part in [
            "memory-backend-memfd,id=memory,size=64M,share=on",
            "-chardev socket,id=device0,path=s",
            "-device vhost-user-fs-pci,tag=t,chardev=device0",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!words(Vec::new()).join(" ").contains("share=on"));
    }
}
