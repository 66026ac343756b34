//! The directory that the cases work in: examined before anything else, and removed afterwards. By
//! a worker, since each of these calls can hang.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thrufs_sys::mapped_io::Mapping;

use super::case::FILE_LEN;
use super::finding::{Finding, Stop, open, wait_for_go};
use super::{oracle, roles};

/// Created below the directory that is given.
pub(crate) const SUBDIRECTORY: &str = ".xtests-repro";

/// Reports the kind of the path; it must exist.
pub(crate) fn is_file(path: &Path) -> Result<Finding, Stop> {
    wait_for_go()?;
    let found = match fs::metadata(path) {
        Ok(found) if found.is_dir() => "directory",
        Ok(_) => "file",
        Err(error) => return Err(Stop::Io("stat", error)),
    };
    Ok(Finding::Ok(found.into()))
}

/// Examines the path before anything else does: the watcher itself never touches the mount.
pub(crate) fn preflight(files: &[PathBuf; 2], overwrite: bool) -> Result<Finding, Stop> {
    wait_for_go()?;
    let parent = files[0].parent().unwrap_or(Path::new("/"));
    if let Ok(found) = fs::metadata(&files[0]) {
        if !found.is_file() || (found.len() > 0 && !overwrite) {
            return Err(Stop::error(format!(
                "{} is not an empty regular file; choose another or give --overwrite",
                files[0].display()
            )));
        }
    } else if parent.file_name().is_some_and(|name| name == SUBDIRECTORY) {
        fs::create_dir_all(parent).map_err(Stop::at("create a directory"))?;
    }
    for file in files {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(file)
            .map_err(Stop::at("create a file"))?;
    }
    let parent = parent
        .canonicalize()
        .map_err(Stop::at("resolve the path"))?;
    use std::os::unix::fs::MetadataExt;
    let dev = fs::metadata(&parent).map_err(Stop::at("stat"))?.dev();
    // Decides only which defects of the kernel are known here; an unknown answer means none.
    let cached = fills_page_cache(&files[1]).unwrap_or(false);
    Ok(Finding::Ok(format!("{dev} {cached}")))
}

/// Whether read(2) of this file, whose length is changed, leaves its pages in the page cache.
fn fills_page_cache(path: &Path) -> Result<bool, Stop> {
    let file = open(path)?;
    file.set_len(FILE_LEN as u64)
        .map_err(Stop::at("truncate"))?;
    // Private: a mount with direct I/O may refuse shared ones.
    let map = Mapping::of_file(&file, FILE_LEN, false, false).map_err(Stop::at("mmap"))?;
    oracle::is_cached(&file, &map)
}

/// Removes the cases' files.
pub(crate) fn cleanup(files: &[PathBuf; 2]) -> Result<Finding, Stop> {
    wait_for_go()?;
    if let Some(parent) = files[0].parent()
        && parent.file_name().is_some_and(|name| name == SUBDIRECTORY)
    {
        fs::remove_dir_all(parent).map_err(Stop::at("remove the test directory"))?;
        return Ok(Finding::Ok(String::new()));
    }
    for file in roles::appender_files(files) {
        match fs::remove_file(file) {
            // Only the random mode creates them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            other => other.map_err(Stop::at("remove an appender's file"))?,
        }
    }
    fs::remove_file(&files[1]).map_err(Stop::at("remove the second file"))?;
    Ok(Finding::Ok(String::new()))
}
