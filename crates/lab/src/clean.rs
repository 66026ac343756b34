//! Removing a lab from the disk.
//!
//! Invariant: nothing is removed from a directory that holds anything no lab makes, since `--lab`
//! takes any path. Links are removed and not followed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, at};

/// Everything that a lab makes in its directory.
const OURS: [&str; 13] = [
    "apt",
    "build",
    "compiler.log",
    "copy.log",
    "distribution",
    "download",
    "kernel",
    "lock",
    "release",
    "run",
    "selftest",
    "source",
    "unpack.log",
];

/// What is in a lab's directory.
///
/// # Errors
/// There is something in it that is not a lab's.
pub(crate) fn contents(lab: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(lab).map_err(at(lab))? {
        let entry = entry.map_err(at(lab))?;
        let name = entry.file_name();
        // The second: a scratch directory of a program that was killed.
        let is_ours =
            OURS.iter().any(|ours| name == *ours) || name.as_encoded_bytes().starts_with(b".tmp");
        if !is_ours {
            return Err(Error::NotALab {
                dir: lab.to_owned(),
                foreign: entry.path(),
            });
        }
        all.push(entry.path());
    }
    Ok(all)
}

/// Removes a lab's directory with its content; returns the number of bytes.
pub(crate) fn remove(lab: &Path) -> Result<u64> {
    let mut bytes = 0;
    for path in contents(lab)? {
        bytes += size(&path)?;
    }
    std::fs::remove_dir_all(lab).map_err(at(lab))?;
    Ok(bytes)
}

/// Bytes that a file, or everything in a directory, takes on the disk.
fn size(path: &Path) -> Result<u64> {
    let found = std::fs::symlink_metadata(path).map_err(at(path))?;
    let mut bytes = found.blocks() * 512;
    if found.is_dir() {
        for entry in std::fs::read_dir(path).map_err(at(path))? {
            bytes += size(&entry.map_err(at(path))?.path())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use crate::Lab;

    #[test]
    fn remove_of_a_lab_removes_all_and_says_how_much() {
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab::new(&dir.path().join("lab"), 1).unwrap();
        std::fs::create_dir_all(lab.dir().join("source/linux")).unwrap();
        std::fs::write(lab.dir().join("source/linux/file"), [1; 10_000]).unwrap();
        std::os::unix::fs::symlink(dir.path(), lab.dir().join("run")).unwrap();
        let bytes = lab.remove(&|_| ()).unwrap();
        assert!(bytes >= 10_000, "{bytes}");
        assert!(!dir.path().join("lab").exists());
        assert!(dir.path().exists());
    }

    #[test]
    fn remove_of_a_directory_with_something_else_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab::new(dir.path(), 1).unwrap();
        std::fs::create_dir(dir.path().join("kernel")).unwrap();
        std::fs::write(dir.path().join("letters"), "dear").unwrap();
        let error = lab.remove(&|_| ()).unwrap_err().to_string();
        assert!(error.contains("letters"), "{error}");
        assert!(dir.path().join("kernel").exists());
    }
}
