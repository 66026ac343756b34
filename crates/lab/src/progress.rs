//! How far a build is: lines that make has printed, of about how many.
//!
//! The total comes from the recipe, for a build from nothing, since make itself does not know it.
//! Existing objects count as done; for a copy of which few files are compiled again no note ever comes.

use std::path::Path;

use crate::error::{Result, at};

pub(crate) struct Progress {
    variant: String,
    /// Objects from an earlier build.
    there: usize,
    total: Option<usize>,
}

impl Progress {
    /// A build of `variant` that prints about `total` lines from nothing and reuses the objects in `reused`.
    pub(crate) fn new(variant: &str, total: Option<usize>, reused: Option<&Path>) -> Result<Self> {
        Ok(Self {
            variant: variant.to_owned(),
            there: reused.map(count).transpose()?.unwrap_or(0),
            total,
        })
    }

    /// The note after so many lines.
    pub(crate) fn note(&self, lines: usize) -> String {
        let (variant, done) = (&self.variant, self.there + lines);
        match self.total {
            // More lines than expected: the total is wrong.
            Some(total) if done < total => {
                let percent = done * 100 / total;
                format!("{variant}: {done} steps of about {total} ({percent} percent)")
            }
            Some(_) | None => format!("{variant}: {done} steps"),
        }
    }
}

/// The object files below `dir`.
fn count(dir: &Path) -> Result<usize> {
    let mut found = 0;
    for entry in std::fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let path = entry.path();
        if entry.file_type().map_err(at(&path))?.is_dir() {
            found += count(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "o") {
            found += 1;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_of_a_directory_is_its_objects_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("fs/fuse")).unwrap();
        for name in ["a.o", "a.c", "fs/fuse/file.o", "fs/.file.o.cmd"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(count(dir.path()).unwrap(), 2);
    }

    #[test]
    fn note_has_the_total_while_that_is_not_exceeded() {
        let progress = |there, total| Progress {
            variant: "stock".into(),
            there,
            total,
        };
        let note = progress(500, Some(1000)).note(250);
        assert_eq!(note, "stock: 750 steps of about 1000 (75 percent)");
        assert_eq!(progress(900, Some(1000)).note(250), "stock: 1150 steps");
        assert_eq!(progress(0, None).note(250), "stock: 250 steps");
    }
}
