//! Who keeps a mount busy, from /proc: open files, working directories, roots, programs, mappings
//! and other mounts.
//!
//! Nothing is asked of the mount itself: links are read and compared, never followed.

use std::fmt::Write;
use std::path::Path;

use thrufs_sys::mountinfo;

/// More are counted, not named.
const NAMED_MAX: usize = 5;

/// A phrase that names the users of the mount, such as `used by bash (4711)`.
pub(super) fn users(mount_id: u64, mountpoint: &Path) -> String {
    let mut names = Vec::new();
    if let Some(inner) = mount_below(mountpoint) {
        names.push(format!("the mount at {inner}"));
    }
    names.extend(processes(mount_id, mountpoint));
    if names.is_empty() {
        return "no user was found (processes of other users are visible to root only)".to_owned();
    }
    let mut phrase = format!("used by {}", names[..names.len().min(NAMED_MAX)].join(", "));
    if names.len() > NAMED_MAX {
        // Writing to a String cannot fail.
        let _ = write!(phrase, " and {} more", names.len() - NAMED_MAX);
    }
    phrase
}

fn mount_below(mountpoint: &Path) -> Option<String> {
    let entries = mountinfo::all().ok()?;
    let inner = entries.into_iter().map(|entry| entry.mount_point);
    inner
        .filter(|path| path.starts_with(mountpoint) && path != mountpoint)
        .map(|path| path.display().to_string())
        .next()
}

fn processes(mount_id: u64, mountpoint: &Path) -> Vec<String> {
    let Ok(proc) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for entry in proc.flatten() {
        let file_name = entry.file_name();
        let Some(pid) = file_name.to_str().filter(|name| is_other_process(name)) else {
            continue;
        };
        if uses(&entry.path(), mount_id, mountpoint) {
            let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            names.push(format!("{} ({pid})", comm.trim()));
        }
    }
    names
}

/// This process may stand in the mount as well, but goes away by itself.
fn is_other_process(name: &str) -> bool {
    name.parse().is_ok_and(|pid: u32| pid != std::process::id())
}

fn uses(process: &Path, mount_id: u64, mountpoint: &Path) -> bool {
    let links = ["cwd", "root", "exe"];
    links
        .iter()
        .any(|link| points_into(&process.join(link), mountpoint))
        || has_open_file(&process.join("fdinfo"), mount_id)
        || has_mapping(&process.join("maps"), mountpoint)
}

fn points_into(link: &Path, mountpoint: &Path) -> bool {
    std::fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint))
}

fn has_open_file(fdinfo: &Path, mount_id: u64) -> bool {
    let Ok(files) = std::fs::read_dir(fdinfo) else {
        return false;
    };
    files.flatten().any(|file| {
        std::fs::read_to_string(file.path())
            .is_ok_and(|text| mountinfo::mount_id_of(&text) == Some(mount_id))
    })
}

fn has_mapping(maps: &Path, mountpoint: &Path) -> bool {
    let Ok(text) = std::fs::read(maps) else {
        return false;
    };
    let text = String::from_utf8_lossy(&text);
    // The sixth column is the path, which begins at the first slash.
    let mut paths = text
        .lines()
        .filter_map(|line| line.find('/').map(|start| &line[start..]));
    paths.any(|path| Path::new(path).starts_with(mountpoint))
}
