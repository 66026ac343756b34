//! A patch series, and how it is laid over the lab's source tree.
//!
//! Invariant: the tree always is the pristine source with exactly one series over it, and a file
//! whose content does not change keeps its time stamp, so that make builds only what differs
//! between two variants. So the originals of all files that any series has ever touched are kept,
//! and the patched content is made from them in a scratch directory, where a patch that does not
//! apply does no harm. Not one tree per variant: make records absolute paths, so nothing could be
//! shared between them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result, at};
use crate::process::missing;

/// Patches that are applied in order.
#[derive(Debug, Clone, Default)]
pub struct Series {
    patches: Vec<PathBuf>,
    base: String,
}

impl Series {
    /// No patches: the source as it is.
    pub fn none() -> Self {
        Self::default()
    }

    /// The `*.patch` files of `dir`, in the order of their names, made for `base`. A cover letter, which
    /// git names `0000-*.patch`, is sent with them and changes nothing.
    pub fn from_dir(dir: &Path, base: &str) -> Result<Self> {
        let mut patches = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(at(dir))? {
            let path = entry.map_err(at(dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".patch") && !name.starts_with("0000-") {
                patches.push(path);
            }
        }
        if patches.is_empty() {
            let source =
                std::io::Error::new(std::io::ErrorKind::NotFound, "it has no *.patch files");
            return Err(Error::File {
                path: dir.to_owned(),
                source,
            });
        }
        patches.sort();
        Ok(Self {
            patches,
            base: base.to_owned(),
        })
    }

    /// This series, and `next` on top of it.
    #[must_use]
    pub fn then(mut self, next: Self) -> Self {
        self.patches.extend(next.patches);
        self
    }

    /// The first `count` patches only.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.patches.truncate(count);
        self
    }

    /// The number of patches.
    pub fn len(&self) -> usize {
        self.patches.len()
    }

    /// Whether it has no patches.
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// Whether one of the patches changes, adds or removes `path`.
    pub fn touches(&self, path: &str) -> Result<bool> {
        for patch in &self.patches {
            let text = read(patch)?;
            if touched(&String::from_utf8_lossy(&text)).contains(path) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Feeds the content of all patches to `hash`.
    pub(crate) fn hash(&self, hash: &mut Sha256) -> Result<()> {
        for patch in &self.patches {
            let content = std::fs::read(patch).map_err(at(patch))?;
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
        Ok(())
    }

    /// Writes `path` into `dir` as the series creates it; for files that the series adds.
    pub fn extract(&self, path: &str, dir: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        for patch in &self.patches {
            self.apply(
                patch,
                dir,
                "an empty directory",
                &[&format!("--include={path}")],
            )?;
        }
        let file = dir.join(path);
        std::fs::metadata(&file).map_err(at(&file))?;
        Ok(file)
    }

    /// Lays this series over `tree`, replacing the one that is there.
    pub(crate) fn lay_over(&self, tree: &Path, tree_name: &str) -> Result<()> {
        let originals = tree.join(".lab/originals");
        let scratch = tree.join(".lab/scratch");
        self.keep_originals(tree, &originals)?;
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch).map_err(at(&scratch))?;
        }
        let known = files_below(&originals)?;
        for path in &known {
            // An empty original stands for "there was no such file".
            let content = read(&originals.join(path))?;
            if !content.is_empty() {
                write(&scratch.join(path), &content)?;
            }
        }
        std::fs::create_dir_all(&scratch).map_err(at(&scratch))?;
        for patch in &self.patches {
            self.apply(patch, &scratch, tree_name, &[])?;
        }
        for path in &known {
            sync(&scratch.join(path), &tree.join(path))?;
        }
        Ok(())
    }

    /// Keeps the pristine content of each file that the series touches.
    fn keep_originals(&self, tree: &Path, originals: &Path) -> Result<()> {
        std::fs::create_dir_all(originals).map_err(at(originals))?;
        for patch in &self.patches {
            let text = read(patch)?;
            for path in touched(&String::from_utf8_lossy(&text)) {
                let original = originals.join(&path);
                if !original.exists() {
                    let file = tree.join(&path);
                    let content = if file.exists() {
                        read(&file)?
                    } else {
                        Vec::new()
                    };
                    write(&original, &content)?;
                }
            }
        }
        Ok(())
    }

    fn apply(&self, patch: &Path, dir: &Path, onto: &str, more: &[&str]) -> Result<()> {
        let patch = std::fs::canonicalize(patch).map_err(at(patch))?;
        let mut git = Command::new("git");
        // Inside of a repository git apply works relative to its top, and skips everything else.
        git.args(["apply", "--whitespace=nowarn"])
            .args(more)
            .arg(&patch)
            .current_dir(dir);
        git.env_remove("GIT_DIR")
            .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir));
        let output = git.output().map_err(|source| missing(&git, source))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Patch {
            patch,
            onto: onto.to_owned(),
            base: self.base.clone(),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// The paths that a patch changes, adds or removes.
fn touched(patch: &str) -> BTreeSet<String> {
    patch
        .lines()
        .filter_map(|line| line.strip_prefix("diff --git a/")?.split_once(" b/"))
        .map(|(old, _)| old.to_owned())
        .collect()
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(current) = open.pop() {
        for entry in std::fs::read_dir(&current).map_err(at(&current))? {
            let path = entry.map_err(at(&current))?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let relative = path.strip_prefix(dir).expect("listed below this directory");
                files.push(relative.to_owned());
            }
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(at(path))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    std::fs::write(path, content).map_err(at(path))
}

/// Makes `to` like `from`; touches it only if they differ.
fn sync(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        if to.exists() {
            std::fs::remove_file(to).map_err(at(to))?;
        }
        return Ok(());
    }
    let wanted = read(from)?;
    if to.exists() && read(to)? == wanted {
        return Ok(());
    }
    write(to, &wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGE: &str = "diff --git a/d/f b/d/f\n--- a/d/f\n+++ b/d/f\n@@ -1 +1 @@\n-old\n+new\n";
    const ADD: &str =
        "diff --git a/g b/g\nnew file mode 100644\n--- /dev/null\n+++ b/g\n@@ -0,0 +1 @@\n+added\n";

    fn lab() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (tree, patches) = (dir.path().join("tree"), dir.path().join("patches"));
        write(&tree.join("d/f"), b"old\n").unwrap();
        std::fs::create_dir(&patches).unwrap();
        (dir, tree, patches)
    }

    #[test]
    fn lay_over_then_none_restores_the_pristine_tree() {
        let (_dir, tree, patches) = lab();
        write(&patches.join("1.patch"), CHANGE.as_bytes()).unwrap();
        write(&patches.join("2.patch"), ADD.as_bytes()).unwrap();
        let series = Series::from_dir(&patches, "test").unwrap();
        series.lay_over(&tree, "tree").unwrap();
        assert_eq!(read(&tree.join("d/f")).unwrap(), b"new\n");
        assert_eq!(read(&tree.join("g")).unwrap(), b"added\n");
        Series::none().lay_over(&tree, "tree").unwrap();
        assert_eq!(read(&tree.join("d/f")).unwrap(), b"old\n");
        assert!(!tree.join("g").exists());
    }

    #[test]
    fn from_dir_leaves_out_the_cover_letter() {
        let (_dir, _tree, patches) = lab();
        write(&patches.join("0000-cover-letter.patch"), b"[PATCH 0/1]\n").unwrap();
        let error = Series::from_dir(&patches, "test").unwrap_err();
        assert!(error.to_string().contains("no *.patch files"), "{error}");
        write(&patches.join("0001-change.patch"), CHANGE.as_bytes()).unwrap();
        assert_eq!(Series::from_dir(&patches, "test").unwrap().len(), 1);
    }

    #[test]
    fn lay_over_of_the_same_series_keeps_time_stamps() {
        let (_dir, tree, patches) = lab();
        write(&patches.join("1.patch"), CHANGE.as_bytes()).unwrap();
        let series = Series::from_dir(&patches, "test").unwrap();
        series.lay_over(&tree, "tree").unwrap();
        let time = || {
            std::fs::metadata(tree.join("d/f"))
                .unwrap()
                .modified()
                .unwrap()
        };
        let before = time();
        series.lay_over(&tree, "tree").unwrap();
        assert_eq!(before, time());
    }

    #[test]
    fn lay_over_of_a_patch_that_does_not_apply_names_it_and_leaves_the_tree() {
        let (_dir, tree, patches) = lab();
        write(
            &patches.join("1.patch"),
            CHANGE.replace("-old", "-other").as_bytes(),
        )
        .unwrap();
        let series = Series::from_dir(&patches, "the base").unwrap();
        let error = series.lay_over(&tree, "the tree").unwrap_err().to_string();
        assert!(
            error.contains("1.patch") && error.contains("the base"),
            "{error}"
        );
        assert_eq!(read(&tree.join("d/f")).unwrap(), b"old\n");
    }

    #[test]
    fn extract_of_an_added_file_needs_no_tree() {
        let (dir, _tree, patches) = lab();
        write(&patches.join("1.patch"), CHANGE.as_bytes()).unwrap();
        write(&patches.join("2.patch"), ADD.as_bytes()).unwrap();
        let series = Series::from_dir(&patches, "test").unwrap();
        let file = series.extract("g", &dir.path().join("out")).unwrap();
        assert_eq!(read(&file).unwrap(), b"added\n");
    }
}
