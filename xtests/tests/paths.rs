//! SOURCE and MOUNTPOINT under every name that mkdir(1) takes: paths are bytes, escaped in the
//! mount table, and never text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use xtests::support::calls::errno;
use xtests::support::command::succeed;
use xtests::support::mount::{Leftover, STRANGE_NAMES, thrufs};
use xtests::support::operator;
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, case, unmounted};

const SOON: Duration = Duration::from_secs(10);

fn is_mounted(dir: &Path) -> bool {
    dir.join("f").exists()
}

fn check(source: &Path, dir: &Path) -> Outcome {
    let run = |words: &[&str], paths: &[&Path]| -> Result<String> {
        succeed(Command::new(thrufs()?).args(words).args(paths))
    };
    run(&["mount"], &[source, dir])?;
    ensure!(is_mounted(dir), "it is not mounted");
    let shown = run(&["status"], &[dir])?;
    ensure!(shown.contains("up 0 min"), "{shown}");
    let [_, server] = operator::processes(&operator::status(dir)?)?;
    let listed = run(&["status"], &[])?;
    ensure!(
        listed.lines().all(|line| !line.contains('\x1b')),
        "{listed}"
    );
    kill(server, Signal::SIGKILL)?;
    wait_until("the mount to be dead", SOON, || {
        let errno = errno(std::fs::read_dir(dir));
        Ok(errno == Some(libc::ENOTCONN))
    })?;
    run(&["mount", "--replace-dead"], &[source, dir])?;
    ensure!(is_mounted(dir), "it is not mounted again");
    run(&["umount"], &[dir])?;
    ensure!(!is_mounted(dir), "it is still mounted");
    by_fstab(source, dir)
}

/// As mount(8) calls it for a line of fstab.
fn by_fstab(source: &Path, dir: &Path) -> Outcome {
    let helper = dir.with_file_name("mount.fuse.thrufs");
    let _there_already = std::os::unix::fs::symlink(std::fs::canonicalize(thrufs()?)?, &helper);
    let mut mount = Command::new(&helper);
    succeed(mount.args([source, dir]).args(["-o", "rw,nofail"]))?;
    ensure!(is_mounted(dir), "it is not mounted by the helper");
    succeed(Command::new("umount").arg("--").arg(dir))?;
    ensure!(!is_mounted(dir), "umount(8) left it");
    Ok(())
}

#[test]
fn mount_with_any_name_works_and_is_found_again() -> Outcome {
    case(|| {
        let (scratch, _leftover) = unmounted()?;
        for name in STRANGE_NAMES {
            let name = OsStr::from_bytes(name);
            let make = |place: &str| -> Result<PathBuf> {
                let parent = scratch.path().join(place);
                std::fs::create_dir_all(parent.join(name))?;
                Ok(parent.join(name))
            };
            let (source, dir) = (make("sources")?, make("mountpoints")?);
            std::fs::write(source.join("f"), "content")?;
            let _leftover = Leftover(dir.clone());
            check(&source, &dir).with_context(|| format!("{name:?}"))?;
        }
        Ok(())
    })
}
