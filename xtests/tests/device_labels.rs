//! A virtiofs device: labels of new files from the guest's security module (FUSE_SECURITY_CTX), and what an overlay
//! in the guest makes of attributes and whiteouts.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, ensure};
use thrufs_wire::abi::{CreateIn, EntryOut, MkdirIn, MknodIn, Rename2In, SetxattrIn};
use thrufs_wire::{InitFlags, Opcode};
use xtests::support::guest::calls::{ROOT, booted, labels_extension, lookup};
use xtests::support::guest::{Device, Guest, Options};
use xtests::support::{Backing, Outcome, Scratch, case};
use zerocopy::IntoBytes;

/// What is made, by a request of its own.
#[derive(Clone, Copy, Debug)]
enum Node {
    File,
    Fifo,
    Directory,
    Symlink,
    Unnamed,
}

/// A label of SELinux.
const LABEL: (&str, &[u8]) = ("security.selinux", b"u:object_r:t:s0\0");

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

fn make_labelled(guest: &mut Guest, node: Node, name: &str) -> Result<i32> {
    let extension = labels_extension(&[LABEL]);
    let name = format!("{name}\0");
    let name = name.as_bytes();
    let create = CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: libc::S_IFREG | 0o644,
        ..CreateIn::default()
    };
    let answer = match node {
        Node::Directory => {
            let arg = MkdirIn {
                mode: 0o755,
                umask: 0,
            };
            guest.call_extended(Opcode::Mkdir, ROOT, &[arg.as_bytes(), name], &extension)
        }
        Node::Symlink => guest.call_extended(Opcode::Symlink, ROOT, &[name, b"t\0"], &extension),
        Node::Fifo => {
            let arg = MknodIn {
                mode: libc::S_IFIFO | 0o644,
                ..MknodIn::default()
            };
            guest.call_extended(Opcode::Mknod, ROOT, &[arg.as_bytes(), name], &extension)
        }
        Node::File => {
            let args = [create.as_bytes(), name];
            guest.call_extended(Opcode::Create, ROOT, &args, &extension)
        }
        Node::Unnamed => {
            let args = [create.as_bytes(), b"/\0"];
            guest.call_extended(Opcode::Tmpfile, ROOT, &args, &extension)
        }
    };
    Ok(answer?.error)
}

#[test]
fn label_of_a_new_file_is_set_under_its_mapped_name_or_the_file_is_not_made() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Ext4(64))?;
        let shared = format!("--shared-dir={}", scratch.source().display());
        let map = "--xattrmap=:map:security.selinux:user.virtiofs.:";
        let device = Device::new(&["--security-label", map, &shared])?;
        let mut guest = device.connect(Options::default())?;
        let granted = guest.init()?.capabilities();
        ensure!(granted.contains(InitFlags::FUSE_SECURITY_CTX));
        for (node, name) in [(Node::File, "f"), (Node::Directory, "d")] {
            let error = make_labelled(&mut guest, node, name)?;
            ensure!(error == 0, "{node:?}: {error}");
            let label = attribute(
                &scratch.source().join(name),
                "user.virtiofs.security.selinux",
            );
            ensure!(label.as_deref() == Some(LABEL.1), "{node:?}: {label:?}");
        }
        ensure!(make_labelled(&mut guest, Node::Unnamed, "")? == 0);
        // user.* is for regular files and directories alone.
        for (node, name) in [(Node::Symlink, "l"), (Node::Fifo, "p")] {
            let error = make_labelled(&mut guest, node, name)?;
            ensure!(error == libc::EOPNOTSUPP, "{node:?}: {error}");
            ensure!(
                scratch.source().join(name).symlink_metadata().is_err(),
                "{node:?} is left"
            );
        }
        Ok(())
    })
}

/// Where the process may set no such label, `auto` leaves labels to SOURCE and `always` fails; with EPERM it
/// looked like the caller's fault.
#[test]
fn label_that_source_does_not_take_is_eopnotsupp_by_always_and_not_asked_for_by_auto() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Ext4(64))?;
        let shared = format!("--shared-dir={}", scratch.source().display());
        // Under its own name the host's SELinux, if it has one, may let it.
        let map = "--xattrmap=:map:security.selinux:security.x.:";
        let device = Device::new(&["--security-label=auto", map, &shared])?;
        let granted = device.connect(Options::default())?.init()?.capabilities();
        ensure!(!granted.contains(InitFlags::FUSE_SECURITY_CTX));
        drop(device);
        let device = Device::new(&["--security-label=always", map, &shared])?;
        let mut guest = device.connect(Options::default())?;
        guest.init()?;
        let error = make_labelled(&mut guest, Node::File, "f")?;
        ensure!(error == libc::EOPNOTSUPP, "{error}");
        ensure!(!scratch.source().join("f").exists());
        device.log_with("--modcaps=+sys_admin")?;
        drop(device);
        let options = [
            "--security-label=auto",
            "--modcaps=+sys_admin",
            map,
            &shared,
        ];
        let (_device, mut guest) = booted(&options, Options::default())?;
        for (node, name) in [(Node::File, "f"), (Node::Symlink, "l"), (Node::Fifo, "p")] {
            let error = make_labelled(&mut guest, node, name)?;
            ensure!(error == 0, "{node:?}: {error}");
            let label = attribute(&scratch.source().join(name), "security.x.security.selinux");
            ensure!(label.as_deref() == Some(LABEL.1), "{node:?}: {label:?}");
        }
        Ok(())
    })
}

/// A file that the guest has a label for that is no label.
#[test]
fn label_under_a_name_that_is_none_is_einval() -> Outcome {
    case(|| {
        let options = ["--security-label", "--modcaps=+sys_admin"];
        let (device, mut guest) = booted(&options, Options::default())?;
        let arg = MkdirIn {
            mode: 0o755,
            umask: 0,
        };
        for name in ["user.x", "security.capability", "trusted.overlay.opaque"] {
            let extension = labels_extension(&[(name, b"v")]);
            let args = [arg.as_bytes(), b"d\0"];
            let answer = guest.call_extended(Opcode::Mkdir, ROOT, &args, &extension)?;
            ensure!(answer.error == libc::EINVAL, "{name}: {answer:?}");
            ensure!(!device.shared("d").exists(), "{name}");
        }
        Ok(())
    })
}

/// RENAME2 in the root.
fn rename2(guest: &mut Guest, from: &str, to: &str, flags: u32) -> Result<i32> {
    let arg = Rename2In {
        newdir: ROOT,
        flags,
        padding: 0,
    };
    let (from, to) = (format!("{from}\0"), format!("{to}\0"));
    let args = [arg.as_bytes(), from.as_bytes(), to.as_bytes()];
    Ok(guest.call(1, Opcode::Rename2, ROOT, &args, 0)?.error)
}

/// A container engine in the guest whose storage is on the share.
#[test]
fn what_an_overlay_asks_of_its_upper_layer_is_there() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Ext4(64))?;
        let shared = format!("--shared-dir={}", scratch.source().display());
        let options = ["--xattr", "--modcaps=+sys_admin", &shared];
        let (_device, mut guest) = booted(&options, Options::default())?;
        // What it leaves where a name was removed that is in a lower layer.
        let arg = MknodIn {
            mode: libc::S_IFCHR,
            ..MknodIn::default()
        };
        let answer = guest.call(
            1,
            Opcode::Mknod,
            ROOT,
            &[arg.as_bytes(), b"whiteout\0"],
            128,
        )?;
        let attr = answer.value::<EntryOut>()?.attr;
        ensure!(attr.mode & libc::S_IFMT == libc::S_IFCHR && attr.rdev == 0);
        for name in ["a", "b"] {
            std::fs::write(scratch.source().join(name), name)?;
        }
        ensure!(rename2(&mut guest, "a", "c", libc::RENAME_WHITEOUT)? == 0);
        let left = scratch.source().join("a").symlink_metadata()?;
        ensure!(left.mode() & libc::S_IFMT == libc::S_IFCHR && left.rdev() == 0);
        ensure!(rename2(&mut guest, "b", "c", libc::RENAME_NOREPLACE)? == libc::EEXIST);
        ensure!(rename2(&mut guest, "b", "c", libc::RENAME_EXCHANGE)? == 0);
        ensure!(std::fs::read(scratch.source().join("c"))? == b"b");
        let nodeid = lookup(&mut guest, "c")?.nodeid;
        for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
            let arg = SetxattrIn {
                size: 1,
                ..SetxattrIn::default()
            };
            let text = format!("{name}\0");
            // Without FUSE_SETXATTR_EXT.
            let args = [&arg.as_bytes()[..8], text.as_bytes(), b"y"];
            let answer = guest.call(1, Opcode::Setxattr, nodeid, &args, 0)?;
            ensure!(answer.error == 0, "{name}: {answer:?}");
            let value = attribute(&scratch.source().join("c"), name);
            ensure!(value.as_deref() == Some(b"y"), "{name}");
        }
        // A file is copied up without a name, and gets it when it is whole.
        let arg = CreateIn {
            flags: libc::O_RDWR.cast_unsigned(),
            mode: libc::S_IFREG | 0o600,
            ..CreateIn::default()
        };
        let answer = guest.call(1, Opcode::Tmpfile, ROOT, &[arg.as_bytes(), b"/\0"], 144)?;
        let nodeid = answer.value::<EntryOut>()?.nodeid;
        let args = [&nodeid.to_ne_bytes()[..], b"whole\0"];
        let answer = guest.call(1, Opcode::Link, ROOT, &args, 128)?;
        ensure!(answer.value::<EntryOut>()?.nodeid == nodeid);
        ensure!(scratch.source().join("whole").exists());
        Ok(())
    })
}
