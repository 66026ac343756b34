//! The command line's outer form: subcommands, or what mount(8) and mount.fuse3 call.
//!
//! mount(8) runs `mount.thrufs SOURCE MOUNTPOINT -o ...`, mount.fuse3 runs `thrufs SOURCE MOUNTPOINT
//! -o ...`, people type `thrufs mount ...`: all three are read by the same definition.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::daemon::link;
use crate::demo::{DemoArgs, ReproduceArgs};
use crate::doctor::DoctorArgs;
use crate::options::MountArgs;
use crate::options::device::DeviceArgs;
use crate::status::StatusArgs;
use crate::top::TopArgs;
use crate::umount::UmountArgs;
use crate::upgrade::{SetArgs, UpgradeArgs};

/// Serve a directory through FUSE, write-through, in as few WRITE requests as the limits allow.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "thrufs", version, arg_required_else_help = true)]
#[command(
    after_help = "Also as a mount helper: `mount -t fuse.thrufs SOURCE MOUNTPOINT -o OPTIONS`, \
    and in /etc/fstab: `SOURCE MOUNTPOINT fuse.thrufs OPTIONS 0 0`."
)]
pub(crate) struct Cli {
    /// Print what this build offers, as JSON
    #[arg(long)]
    pub(crate) print_capabilities: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make SOURCE appear at MOUNTPOINT
    Mount(Box<MountArgs>),
    /// Serve a directory to a virtual machine, in place of virtiofsd
    Device(Box<DeviceArgs>),
    /// Unmount MOUNTPOINT
    Umount(UmountArgs),
    /// Show what a mount or a device is doing
    Status(StatusArgs),
    /// Show live what all mounts and devices are doing, by request and by calling process
    Top(TopArgs),
    /// Look for what keeps mounts from working here, and for what is wrong with those that there are
    Doctor(DoctorArgs),
    /// Have another binary serve a mount that is in use (--survive)
    Upgrade(UpgradeArgs),
    /// Change options of a mount that is in use (--survive)
    Set(SetArgs),
    /// What the daemon of a mount starts to serve it on
    #[command(hide = true)]
    TakeOver,
    /// Mount a scratch directory, work in it, show what the kernel sent, and clean up
    Demo(DemoArgs),
    /// The program that used to deadlock, which `demo` runs with a deadline
    #[command(hide = true)]
    Reproduce(ReproduceArgs),
}

/// How the program was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One of the subcommands other than `mount`, or a question such as `--help`.
    Subcommand,
    /// A mount; these arguments are for [`MountArgs`].
    Mount {
        program: String,
        arguments: Vec<OsString>,
        by_mount8: bool,
    },
    /// A device; these arguments are for [`DeviceArgs`].
    Device {
        program: String,
        arguments: Vec<OsString>,
    },
}

/// Decides by the program's name, then by the first argument.
pub(crate) fn form(line: &[OsString]) -> Form {
    let (program, arguments) = match line.split_first() {
        Some((program, arguments)) => (program.as_os_str(), arguments),
        None => (OsStr::new("thrufs"), line),
    };
    let name = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    if name.starts_with("mount.") {
        return Form::Mount {
            program: name.into_owned(),
            arguments: arguments.to_vec(),
            by_mount8: true,
        };
    }
    if name == "virtiofsd" {
        return Form::Device {
            program: name.into_owned(),
            arguments: arguments.to_vec(),
        };
    }
    match arguments.first() {
        Some(first) if first == "device" => Form::Device {
            program: "thrufs device".to_owned(),
            arguments: arguments[1..].to_vec(),
        },
        Some(first) if first == "mount" => Form::Mount {
            program: "thrufs mount".to_owned(),
            arguments: arguments[1..].to_vec(),
            by_mount8: false,
        },
        Some(first) if is_helper_call(first, arguments) => Form::Mount {
            program: "thrufs".to_owned(),
            arguments: arguments.to_vec(),
            by_mount8: false,
        },
        _ => Form::Subcommand,
    }
}

/// `thrufs SOURCE MOUNTPOINT ...`, options anywhere. A word that is neither a subcommand nor a path
/// is left to clap, which knows the near matches.
fn is_helper_call(first: &OsStr, arguments: &[OsString]) -> bool {
    const SUBCOMMANDS: &[&str] = &[
        "umount",
        "status",
        "top",
        "doctor",
        "upgrade",
        "set",
        link::TAKE_OVER,
        "demo",
        "reproduce",
        "help",
    ];
    const QUESTIONS: &[&str] = &["-h", "--help", "-V", "--version", "--print-capabilities"];
    let first_text = first.to_string_lossy();
    if SUBCOMMANDS.contains(&&*first_text) || QUESTIONS.contains(&&*first_text) {
        return false;
    }
    let has_o = arguments
        .iter()
        .any(|argument| argument.to_string_lossy().starts_with("-o"));
    has_o || first_text.starts_with('-') || first_text.contains('/') || Path::new(first).is_dir()
}

/// virtiofsd's question, which libvirt asks; `separate-options` says that each option is a long
/// option of its own.
pub(crate) const CAPABILITIES: &str = r#"{
  "type": "fs",
  "transport": "fuse",
  "features": [
    "separate-options"
  ]
}"#;

/// The same of a device. Of virtiofsd 1.14's features that of migration is missing.
pub(crate) const DEVICE_CAPABILITIES: &str = r#"{
  "type": "fs",
  "features": [
    "posix-acl-negotiation-mode",
    "security-label-negotiation-mode",
    "separate-options"
  ]
}"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn form_of(line: &[&str]) -> Form {
        form(&line.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn is_mount(line: &[&str]) -> bool {
        matches!(form_of(line), Form::Mount { .. })
    }

    #[test]
    fn form_by_program_name_is_a_mount_by_mount8() {
        for program in ["/sbin/mount.thrufs", "mount.fuse.thrufs"] {
            match form_of(&[program, "demo", "/mnt"]) {
                Form::Mount {
                    arguments,
                    by_mount8,
                    ..
                } => {
                    assert!(by_mount8);
                    assert_eq!(arguments, ["demo", "/mnt"]);
                }
                other => panic!("{program} is a mount helper: {other:?}"),
            }
        }
    }

    #[test]
    fn form_without_subcommand_is_a_mount_when_it_looks_like_one() {
        assert!(is_mount(&["thrufs", "/srv", "/mnt", "-o", "ro"]));
        assert!(is_mount(&["thrufs", "-o", "ro", "srv", "mnt"]));
        assert!(is_mount(&["thrufs", "srv", "mnt", "-oro"]));
        assert!(is_mount(&["thrufs", "-f", "srv", "mnt"]));
        assert!(is_mount(&["thrufs", "/srv", "/mnt"]));
    }

    #[test]
    fn form_with_a_word_or_a_question_is_left_to_the_subcommands() {
        for line in [
            &["thrufs"][..],
            &["thrufs", "monut", "a", "b"],
            &["thrufs", "umount", "/mnt"],
            &["thrufs", "status", "/mnt"],
            &["thrufs", "demo"],
            &["thrufs", "--help"],
            &["thrufs", "-V"],
            &["thrufs", "--print-capabilities"],
        ] {
            assert_eq!(form_of(line), Form::Subcommand, "{line:?}");
        }
    }

    #[test]
    fn form_by_the_name_virtiofsd_or_by_subcommand_is_a_device() {
        for line in [
            &["/usr/libexec/virtiofsd", "--fd=3"][..],
            &["virtiofsd", "--version"],
            &["thrufs", "device", "--fd=3"],
        ] {
            assert!(matches!(form_of(line), Form::Device { .. }), "{line:?}");
        }
    }

    #[test]
    fn cli_definition_holds_together() {
        <Cli as clap::CommandFactory>::command().debug_assert();
        <MountArgs as clap::CommandFactory>::command().debug_assert();
        <DeviceArgs as clap::CommandFactory>::command().debug_assert();
    }
}
