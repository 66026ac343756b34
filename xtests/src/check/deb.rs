//! The stage `deb`: the Debian package is built, installed, used by mount(8), fstab and `thrufs`, and
//! removed without a trace.
//!
//! Invariant: a package `thrufs` that is installed already is in use, and then nothing is touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::report::Report;
use crate::support::command::{output, succeed};
use crate::support::install;
use crate::support::mount::Leftover;
use crate::support::mount_table::{is_mounted, mount_line};
use crate::support::skip::missing;
use crate::support::{Backing, Scratch};

const PACKAGE: &str = "thrufs";
const CARGO_DEB: &str = "3.7.0";

pub(super) fn deb(report: &mut Report) -> Result<()> {
    if install::find("dpkg").is_none() {
        return Err(missing("dpkg: this machine is no Debian"));
    }
    if is_installed()? {
        return Err(missing(
            "a machine without the package thrufs: `dpkg -r thrufs`",
        ));
    }
    let file = match build() {
        Ok(file) => file,
        Err(error) => {
            report.record("deb::build", Err(error));
            return Ok(());
        }
    };
    report.pass("deb::build");
    report.record("deb::lintian", lintian(&file));
    let installed = Installed;
    let outcome = succeed(Command::new("dpkg").arg("-i").arg(&file)).map(|_| ());
    let done = outcome.is_ok();
    report.record("deb::install", outcome);
    if done {
        report.record("deb::files", files_are_there());
        report.record("deb::unit", unit_is_valid());
        report.record("deb::mount", mounts(&["-t", "fuse.thrufs"]));
        report.record("deb::fstab", mounts_by_fstab());
    }
    report.record("deb::remove", remove(&installed));
    Ok(())
}

/// Removes the package, whatever happened in between.
struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        // The package is already gone.
        let _purged = Command::new("dpkg").args(["--purge", PACKAGE]).output();
    }
}

fn is_installed() -> Result<bool> {
    let status = output(Command::new("dpkg-query").args(["-W", "-f=${Status}", PACKAGE]))?;
    Ok(String::from_utf8_lossy(&status.stdout).contains("installed"))
}

fn build() -> Result<PathBuf> {
    let program = install::tool("cargo-deb", CARGO_DEB)?;
    install::thrufs()?;
    let file = install::target().join("check/thrufs.deb");
    std::fs::create_dir_all(install::target().join("check"))?;
    let mut build = Command::new(program);
    build
        .current_dir(install::root())
        .args(["deb", "--package", "thrufs", "--no-build", "--fast"]);
    succeed(build.arg("--output").arg(&file))?;
    Ok(file)
}

/// What may stay is in `contrib/debian/lintian-overrides`, which the package brings, with its reason.
fn lintian(package: &Path) -> Result<()> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on=error,warning"]);
    succeed(lintian.arg(package)).map(|_| ())
}

fn listed() -> Result<Vec<PathBuf>> {
    let text = succeed(Command::new("dpkg").args(["-L", PACKAGE]))?;
    Ok(text.lines().map(PathBuf::from).collect())
}

fn files_are_there() -> Result<()> {
    let files = listed()?;
    for wanted in [
        "/usr/bin/thrufs",
        "/usr/sbin/mount.fuse.thrufs",
        "/usr/share/man/man8/thrufs-mount.8",
        "/usr/share/man/man8/mount.fuse.thrufs.8",
        "/usr/share/doc/thrufs/semantics.md",
        "/usr/share/bash-completion/completions/thrufs",
        "/usr/lib/systemd/system/thrufs@.service",
        "/usr/share/doc/thrufs/examples/alerts.yml",
    ] {
        let is_it = |file: &PathBuf| file.to_string_lossy().trim_end_matches(".gz") == wanted;
        ensure!(
            files.iter().any(is_it),
            "{wanted} is not in the package: {files:?}"
        );
    }
    let version = succeed(Command::new("/usr/bin/thrufs").arg("-V"))?;
    ensure!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    Ok(())
}

fn unit_is_valid() -> Result<()> {
    if install::find("systemd-analyze").is_none() {
        return Err(missing("systemd-analyze (systemd)"));
    }
    let unit = "/usr/lib/systemd/system/thrufs@.service";
    let verify = output(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(unit),
    )?;
    let said = String::from_utf8_lossy(&verify.stderr);
    // systemd-analyze looks at all units that this one needs, and complains of those as well.
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("thrufs"))
        .collect();
    ensure!(ours.is_empty(), "{}", ours.join("\n"));
    Ok(())
}

fn scratch() -> Result<(Scratch, Leftover)> {
    let scratch = Scratch::new(Backing::Here)?;
    std::fs::write(scratch.source().join("f"), "content")?;
    let leftover = Leftover(scratch.mountpoint());
    Ok((scratch, leftover))
}

/// A mount made by `mount` answers, has the right type, and can be unmounted by umount(8).
fn mounts(arguments: &[&str]) -> Result<()> {
    let (s, _leftover) = scratch()?;
    let mut mount = Command::new("mount");
    succeed(mount.args(arguments).args([s.source(), s.mountpoint()]))?;
    check_and_unmount(&s.mountpoint())
}

/// The line of /etc/fstab, in a file of our own.
fn mounts_by_fstab() -> Result<()> {
    let (s, _leftover) = scratch()?;
    let (source, dir) = (s.source(), s.mountpoint());
    let line = format!(
        "{} {} fuse.thrufs cache=auto,attr_timeout=0.5,nofail,x-systemd.automount,noatime 0 0\n",
        source.display(),
        dir.display()
    );
    let fstab = s.path().join("fstab");
    std::fs::write(&fstab, line)?;
    succeed(Command::new("mount").arg("-T").arg(&fstab).arg(&dir))?;
    check_and_unmount(&dir)
}

fn check_and_unmount(dir: &Path) -> Result<()> {
    let line = mount_line(dir).context("nothing is mounted")?;
    ensure!(line.contains(" - fuse.thrufs "), "{line}");
    ensure!(std::fs::read(dir.join("f"))? == b"content");
    succeed(Command::new("umount").arg(dir))?;
    ensure!(!is_mounted(dir), "still mounted");
    Ok(())
}

fn remove(_installed: &Installed) -> Result<()> {
    let files = listed().unwrap_or_default();
    succeed(Command::new("dpkg").args(["--purge", PACKAGE]))?;
    let is_ours = |file: &&PathBuf| file.to_string_lossy().contains("thrufs");
    for file in files.iter().filter(is_ours) {
        ensure!(
            file.symlink_metadata().is_err(),
            "{} stays behind",
            file.display()
        );
    }
    ensure!(!is_installed()?, "still installed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian(name: &str) -> String {
        let path = install::root().join("contrib/debian").join(name);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lintian_override_without_a_reason_is_in_no_line() {
        let text = debian("lintian-overrides");
        let mut before = "";
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (is_reason, was_reason) = (line.starts_with('#'), before.starts_with('#'));
            assert!(is_reason || was_reason, "{line}");
            assert!(!is_reason || line.len() > 20, "{line}");
            before = line;
        }
    }

    #[test]
    fn changelog_of_the_package_begins_with_this_version() {
        let wanted = concat!("thrufs (", env!("CARGO_PKG_VERSION"), "-");
        let text = debian("changelog");
        assert!(text.starts_with(wanted), "{text}");
    }
}
