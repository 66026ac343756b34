//! What is mounted where, read from the mount table, and the FUSE connection behind a mount point.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// Whether something is mounted on exactly this path.
pub fn is_mounted(path: &Path) -> bool {
    mount_line(path).is_some()
}

/// The errno of stat(2) of `path`, asked of the server and not of the kernel's cache.
pub fn stat_error(path: &Path) -> Option<i32> {
    statx(
        CWD,
        path,
        AtFlags::STATX_FORCE_SYNC,
        StatxFlags::BASIC_STATS,
    )
    .err()
    .map(Errno::raw_os_error)
}

/// The line of /proc/self/mountinfo for this mount point (the topmost, if several).
pub fn mount_line(path: &Path) -> Option<String> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    let path = escaped(path);
    let mut lines = table.rsplit(|byte| *byte == b'\n');
    lines
        .find(|line| line.split(|byte| *byte == b' ').nth(4) == Some(&path))
        .map(|line| String::from_utf8_lossy(line).into_owned())
}

/// The mount table at `path`, such as /proc/self/mountinfo. Not as UTF-8, which the name of any mount
/// point may break.
pub fn mount_table(path: impl AsRef<Path>) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

/// In the mount table's encoding.
fn escaped(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes().iter();
    bytes
        .flat_map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            other => vec![*other],
        })
        .collect()
}

/// The directory of the FUSE connection behind a mount point, in the control file system.
pub(super) fn connection(path: &Path) -> Option<PathBuf> {
    let line = mount_line(path)?;
    let minor = line.split(' ').nth(2)?.strip_prefix("0:")?;
    let all = Path::new("/sys/fs/fuse/connections");
    let control = all.join(minor);
    if !control.exists() {
        let _there_already = Command::new("mount")
            .args(["-t", "fusectl", "fusectl"])
            .arg(all)
            .stderr(Stdio::null())
            .status();
    }
    Some(control)
}

/// How many mounts lie on each other at `path`.
pub fn mounts_at(path: &Path) -> std::io::Result<usize> {
    let point = format!(" {} ", path.display());
    let table = mount_table("/proc/self/mountinfo")?;
    Ok(table.lines().filter(|line| line.contains(&point)).count())
}

/// Aborts the FUSE connection behind a mount point: every caller gets an error at once.
pub fn abort(path: &Path) {
    let Some(control) = connection(path) else {
        return;
    };
    let file = control.join("abort");
    // Opened before the second look: when a mount is gone another gets its number, but the open
    // file stays with the connection that had it.
    let opened = File::options().write(true).open(&file);
    if connection(path) != Some(control) {
        return;
    }
    if let Err(error) = opened.and_then(|mut file| file.write_all(b"1")) {
        eprintln!(
            "cannot abort the connection of {}: {}: {error}",
            path.display(),
            file.display()
        );
    }
}

/// Removes a mount that a test made by itself when the test is over.
pub struct Leftover(pub PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            abort(&self.0);
            let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        }
    }
}
