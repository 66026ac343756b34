//! The stages of `xtests check`, cheapest first: name, what each needs, what it runs.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::cargo_tests::{self, tier};
use super::{build, deb, debian, kernels, workloads};
use crate::report::Report;
use crate::suite::{Name, Options, check};
use crate::support::install;
use crate::support::mount::{CACHE, ON, PASSTHROUGH, TRANSPORT};
use crate::support::scratch::LAYOUT;
use crate::support::skip::missing;

/// Something a stage cannot do without.
pub(super) enum Need {
    /// Effective user id 0.
    Root,
    /// /dev/fuse.
    FuseDevice,
    /// A Debian package: a program or file that it brings, and its name.
    Apt(&'static str, &'static str),
}

/// A row of the table.
pub(super) struct Stage {
    /// For `--stage`.
    pub(super) name: &'static str,
    /// For `--list`.
    pub(super) about: &'static str,
    /// Checked, and installed where possible, before `run`.
    pub(super) needs: &'static [Need],
    /// Records a verdict per test.
    pub(super) run: fn(&mut Report) -> Result<()>,
}

impl Stage {
    /// `mount` selects every stage `mount-…`.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Time limit of a stage that can take much longer than the others.
    pub(super) fn longest(&self) -> Duration {
        match self.name {
            "debian" => debian::LIMIT,
            "kernel" => kernels::LIMIT,
            "kernel-short" => kernels::SHORT_LIMIT,
            _ => Duration::ZERO,
        }
    }
}

/// What a real mount needs.
const MOUNT: &[Need] = &[Need::Root, Need::FuseDevice];

const MOUNT_TIER: &[Need] = &[
    Need::Root,
    Need::FuseDevice,
    Need::Apt("fusermount3", "fuse3"),
    Need::Apt("newuidmap", "uidmap"),
    Need::Apt("setfacl", "acl"),
    Need::Apt("getfattr", "attr"),
    Need::Apt("mkfs.ext4", "e2fsprogs"),
    Need::Apt("mkfs.btrfs", "btrfs-progs"),
    Need::Apt("fio", "fio"),
    Need::Apt(
        "/usr/lib/python3/dist-packages/prometheus_client",
        "python3-prometheus-client",
    ),
];

const DEB: &[Need] = &[
    Need::Root,
    Need::FuseDevice,
    Need::Apt("lintian", "lintian"),
];

const DEBIAN: &[Need] = &[
    Need::Root,
    Need::FuseDevice,
    Need::Apt("mmdebstrap", "mmdebstrap"),
    Need::Apt("git", "git"),
];

const TREE: &[Need] = &[
    Need::Root,
    Need::FuseDevice,
    Need::Apt("getfattr", "attr"),
    Need::Apt("setfacl", "acl"),
];

const KERNEL: &[Need] = &[
    Need::Root,
    Need::FuseDevice,
    Need::Apt("gcc", "gcc"),
    Need::Apt("make", "make"),
    Need::Apt("flex", "flex"),
    Need::Apt("bison", "bison"),
    Need::Apt("bc", "bc"),
    Need::Apt("xz", "xz-utils"),
    Need::Apt("git", "git"),
    Need::Apt("mkfs.ext4", "e2fsprogs"),
];

const GUEST: &[Need] = &[
    Need::Root,
    Need::Apt("qemu-system-x86_64", "qemu-system-x86"),
    Need::Apt("strace", "strace"),
    Need::Apt("xz", "xz-utils"),
];

/// Our own loop instead of fuser.
const DEVICE: (&str, &str) = (TRANSPORT, "device");

/// The stages, in order.
pub(super) const STAGES: &[Stage] = &[
    Stage {
        name: "fmt",
        about: "rustfmt",
        needs: &[],
        run: build::fmt,
    },
    Stage {
        name: "clippy",
        about: "clippy, warnings denied",
        needs: &[],
        run: build::clippy,
    },
    Stage {
        name: "rustdoc",
        about: "rustdoc, warnings denied",
        needs: &[],
        run: build::rustdoc,
    },
    Stage {
        name: "deny",
        about: "cargo-deny: licences, advisories",
        needs: &[],
        run: build::deny,
    },
    Stage {
        name: "help",
        about: "the binaries explain themselves",
        needs: &[],
        run: build::help,
    },
    Stage {
        name: "man",
        about: "manual pages, by mandoc -T lint",
        needs: &[Need::Apt("mandoc", "mandoc")],
        run: build::man,
    },
    Stage {
        name: "library",
        about: "cargo test",
        needs: &[],
        run: cargo_tests::library,
    },
    Stage {
        name: "native",
        about: "mount tests on SOURCE itself",
        needs: MOUNT_TIER,
        run: |report| tier("native", &[(ON, "native")], report),
    },
    Stage {
        name: "mount-auto",
        about: "mount tests with the defaults, SOURCE a whole file system",
        needs: MOUNT_TIER,
        run: |report| tier("mount-auto", &[(CACHE, "auto"), (LAYOUT, "whole")], report),
    },
    Stage {
        name: "mount-daemon",
        about: "mount tests, --passthrough=never --transport=device",
        needs: MOUNT_TIER,
        run: |report| {
            let environment = [(CACHE, "auto"), (PASSTHROUGH, "never"), DEVICE];
            tier("mount-daemon", &environment, report)
        },
    },
    Stage {
        name: "mount-never",
        about: "mount tests, --cache=never --transport=device",
        needs: MOUNT_TIER,
        run: |report| tier("mount-never", &[(CACHE, "never"), DEVICE], report),
    },
    Stage {
        name: "mount-always",
        about: "mount tests, --cache=always --passthrough=never",
        needs: MOUNT_TIER,
        run: |report| {
            let environment = [(CACHE, "always"), (PASSTHROUGH, "never")];
            tier("mount-always", &environment, report)
        },
    },
    Stage {
        name: "mount-device",
        about: "mount tests, --cache=always --transport=device, SOURCE a whole file system",
        needs: MOUNT_TIER,
        run: |report| {
            let environment = [(CACHE, "always"), (LAYOUT, "whole"), DEVICE];
            tier("mount-device", &environment, report)
        },
    },
    Stage {
        name: "deb",
        about: "the Debian package: built, checked by lintian, installed, used, removed",
        needs: DEB,
        run: deb::deb,
    },
    Stage {
        name: "demo",
        about: "thrufs demo",
        needs: MOUNT,
        run: workloads::demo,
    },
    Stage {
        name: "guest",
        about: "a virtual machine that mounts a device: files of both sides, overlay, reproducer",
        needs: GUEST,
        run: kernels::guest,
    },
    Stage {
        name: "pjdfstest",
        about: "POSIX suite, as natively",
        needs: MOUNT,
        run: |report| check(Name::Pjdfstest, &Options::default(), report),
    },
    Stage {
        name: "fsx",
        about: "fsx, 100,000 operations a mode",
        needs: MOUNT,
        run: |report| check(Name::Fsx, &Options::default(), report),
    },
    Stage {
        name: "fio-verify",
        about: "fio, written and verified by each engine",
        needs: MOUNT,
        run: |report| check(Name::FioVerify, &Options::default(), report),
    },
    Stage {
        name: "stress-ng",
        about: "stress-ng's file system stressors, short",
        needs: MOUNT,
        // A second for each stressor.
        run: |report| check(Name::StressNg, &Options::lasting(5), report),
    },
    Stage {
        name: "trinity",
        about: "random system calls, 20 seconds",
        needs: MOUNT,
        run: |report| check(Name::Trinity, &Options::lasting(20), report),
    },
    Stage {
        name: "dbench",
        about: "a file server's clients, 10 seconds",
        needs: MOUNT,
        run: |report| check(Name::Dbench, &Options::lasting(10), report),
    },
    Stage {
        name: "xfstests",
        about: "needs a checkout: THRUFS_XFSTESTS=DIR",
        needs: MOUNT,
        run: |report| {
            let checkout = std::env::var_os("THRUFS_XFSTESTS");
            let options = Options::with_checkout(checkout.map(Into::into));
            check(Name::Xfstests, &options, report)
        },
    },
    Stage {
        name: "tree",
        about: "50,000 files: cp, diff, tar, rm",
        needs: TREE,
        run: workloads::tree,
    },
    Stage {
        name: "git",
        about: "git init, add, commit, fsck",
        needs: &[Need::Root, Need::FuseDevice, Need::Apt("git", "git")],
        run: workloads::git,
    },
    Stage {
        name: "sqlite",
        about: "SQLite in WAL mode",
        needs: &[
            Need::Root,
            Need::FuseDevice,
            Need::Apt("sqlite3", "sqlite3"),
        ],
        run: workloads::sqlite,
    },
    Stage {
        name: "debian",
        about: "a stranger on fresh Debian 12 and 13: clone, demo, package, fstab, unit, a guest, purge, tests",
        needs: DEBIAN,
        run: debian::debian,
    },
    Stage {
        name: "kernel-short",
        about: "Linux 7.3 stock and patched, two at a time: selftests, reproducer",
        needs: KERNEL,
        run: kernels::short,
    },
    Stage {
        name: "kernel",
        about: "Linux 7.3 stock, patched, rfc, hold-all: built, booted, tested",
        needs: KERNEL,
        run: kernels::table,
    },
];

/// Provides what a stage needs; the first thing that is unavailable is the error that skips it.
pub(super) fn provide(stage: &Stage) -> Result<()> {
    let mut packages = Vec::new();
    for need in stage.needs {
        match need {
            Need::Root if !nix::unistd::geteuid().is_root() => {
                return Err(missing("root: run it as root (sudo)"));
            }
            Need::FuseDevice if !Path::new("/dev/fuse").exists() => {
                return Err(missing("/dev/fuse: load the fuse module (modprobe fuse)"));
            }
            Need::Root | Need::FuseDevice => {}
            Need::Apt(thing, package) => packages.push((*thing, *package)),
        }
    }
    install::apt(&packages)
}
