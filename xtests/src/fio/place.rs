//! Where SOURCE is: a tmpfs of our own, or a directory on a disk.
//!
//! Invariant: everything made here is gone afterwards, whether the session ends or is interrupted;
//! the files that jobs share are laid out once, natively, so that every configuration finds the same.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use xtests::support::install;
use xtests::support::mount_table::mount_table;
use xtests::support::scratch::{Backing, Scratch};

/// A backing with its SOURCE.
pub(super) struct Place {
    /// `tmpfs`, or the type of the file system.
    pub(super) name: String,
    source: PathBuf,
    _held: Held,
}

/// Removes it on drop.
enum Held {
    Tmpfs { _scratch: Scratch },
    Disk { _dir: TempDir },
}

impl Place {
    /// One for each of `backings`, with distinct names.
    pub(super) fn all(backings: &[String]) -> Result<Vec<Self>> {
        let places = backings.iter().map(|backing| Self::new(backing));
        let places: Vec<Self> = places.collect::<Result<_>>()?;
        for (at, place) in places.iter().enumerate() {
            let twice = places[..at].iter().any(|other| other.name == place.name);
            ensure!(!twice, "two backings are {}: name one of them", place.name);
        }
        Ok(places)
    }

    /// `tmpfs`, or a directory on the file system to use.
    pub(super) fn new(backing: &str) -> Result<Self> {
        if backing == "tmpfs" {
            let scratch = Scratch::new(Backing::Tmpfs)?;
            return Ok(Self {
                name: backing.to_owned(),
                source: scratch.source(),
                _held: Held::Tmpfs { _scratch: scratch },
            });
        }
        let dir = in_directory(Path::new(backing), "source-")?;
        let name = type_of(dir.path())?;
        if name == "tmpfs" {
            bail!(
                "--backing {backing}: that is a tmpfs as well; name a directory on a disk, or \
                 `--backing tmpfs` alone"
            );
        }
        Ok(Self {
            name,
            source: dir.path().to_owned(),
            _held: Held::Disk { _dir: dir },
        })
    }

    /// The directory that is served.
    pub(super) fn source(&self) -> &Path {
        &self.source
    }
}

/// A directory of our own in `parent`, removed with the value.
pub(super) fn in_directory(parent: &Path, prefix: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(parent)
        .with_context(|| format!("{}: cannot make a directory there", parent.display()))
}

/// tmpfs, and the disk that cargo's target directory is on.
pub(super) fn default_backings() -> Result<Vec<String>> {
    let disk = install::target().join("fio");
    std::fs::create_dir_all(&disk).with_context(|| disk.display().to_string())?;
    let disk = disk.to_str().context("target/ is not a UTF-8 path")?;
    Ok(vec!["tmpfs".to_owned(), disk.to_owned()])
}

/// The type of the file system that holds `path`, from the mount with the longest prefix of it.
fn type_of(path: &Path) -> Result<String> {
    let path = path.canonicalize()?;
    let table = mount_table("/proc/self/mountinfo").context("mountinfo")?;
    let found = table.lines().rev().filter_map(|line| {
        let point = Path::new(line.split(' ').nth(4)?);
        let kind = line.split(" - ").nth(1)?.split(' ').next()?;
        path.starts_with(point)
            .then(|| (point.as_os_str().len(), kind.to_owned()))
    });
    // The later of two mounts on one point is on top; reversed, max_by_key would take the earlier.
    let mut best: Option<(usize, String)> = None;
    for (length, kind) in found {
        if best.as_ref().is_none_or(|(longest, _)| length > *longest) {
            best = Some((length, kind));
        }
    }
    Ok(best.context("no mount holds it")?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_of_a_directory_is_that_of_the_longest_mount_above_it() {
        assert_eq!(type_of(Path::new("/proc/self")).expect("procfs"), "proc");
    }

    #[test]
    fn place_in_a_directory_that_is_not_there_is_refused() {
        let error = Place::new("/nonexistent").err().expect("not there");
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
