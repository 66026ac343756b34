//! A Debian release in a directory, made by mmdebstrap, and the scripts that run in it.
//!
//! Invariant: the machine's own mount table is never touched: all mounts are made in a mount namespace that ends with
//! the script. The toolchain of Rust and the crates that cargo has downloaded are this machine's, bound in: Debian's
//! rustc is too old, and rustup would download the same again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::support::command::{output, said, succeed, tail};

/// What the stranger's machine has. The last three are for the tests, and so that the package brings nothing but itself.
const PACKAGES: &str = "ca-certificates,git,build-essential,man-db,systemd,fuse3";
/// Seconds until a script is ended with everything that it started.
const LIMIT: &str = "2400";

/// Mounts what a system has, and runs the script in it: `ROOT SCRIPT [FROM TO]...`.
const ENTER: &str = r#"
set -e
root=$1 script=$2
shift 2
# The mount table of a root that is no mount point of its own lacks what / is in.
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
while [ $# -gt 0 ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 CARGO_TERM_COLOR=never DEBIAN_FRONTEND=noninteractive \
    PATH=/root/.cargo/bin:/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -exc "$script"
"#;

pub(super) struct Chroot {
    dir: PathBuf,
    log: PathBuf,
    /// Directories of this machine, and where they are inside.
    bound: Vec<(PathBuf, &'static str)>,
}

impl Chroot {
    /// Installs the release `suite` from `mirror` into `dir`.
    pub(super) fn make(dir: PathBuf, suite: &str, mirror: &str, log: &Path) -> Result<Self> {
        let sysroot = succeed(Command::new("rustc").args(["--print", "sysroot"]))?;
        let mut bound = vec![(PathBuf::from(sysroot.trim()), "/opt/rust")];
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
        let crates = home
            .context("neither CARGO_HOME nor HOME")?
            .join("registry");
        if crates.is_dir() {
            bound.push((crates, "/root/.cargo/registry"));
        }
        let mut make = namespaced();
        make.args(["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"]);
        make.arg(format!("--include={PACKAGES}"));
        succeed(make.arg(suite).arg(&dir).arg(mirror))?;
        File::create(log).with_context(|| log.display().to_string())?;
        // The network is this machine's, with the authorities that it trusts.
        for file in ["etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"] {
            let ours = Path::new("/").join(file);
            if ours.exists() {
                std::fs::copy(ours, dir.join(file))?;
            }
        }
        Ok(Self {
            dir,
            log: log.to_owned(),
            bound,
        })
    }

    /// A path inside, as this machine sees it.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.dir.join(inside.trim_start_matches('/'))
    }

    /// Runs the script as root, each command of which must succeed; its output goes to the log.
    pub(super) fn run(&self, name: &str, script: &str) -> Result<()> {
        let mut command = namespaced();
        command.args(["sh", "-c", ENTER, "sh"]);
        command.arg(&self.dir).arg(script);
        for (from, to) in &self.bound {
            command.arg(from).arg(to);
        }
        let began = Instant::now();
        let done = output(&mut command)?;
        let (text, seconds) = (said(&done), began.elapsed().as_secs_f64());
        let mut log = File::options().append(true).open(&self.log)?;
        writeln!(log, "=== {name}: {} ({seconds:.1} s)\n{text}", done.status)?;
        if !done.status.success() {
            bail!("{}\n{}{}", done.status, tail(&text), self.log.display());
        }
        Ok(())
    }
}

/// In namespaces of mounts and processes that end with it.
fn namespaced() -> Command {
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=10",
        LIMIT,
        "unshare",
        "--mount",
        "--propagation=private",
    ]);
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}
