//! The test program: the selftest that the series adds to the kernel, built for the host's
//! userland, which is the guest's as well.
//!
//! The selftest is extracted from the series and not kept a second time, so that there is one test
//! to maintain. It runs on every kernel of its base, also on kernels without the series; a base
//! whose series has no test gets the newest one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use thrufs_lab::Lab;

use super::build_args::say;
use super::plan::Base;

const TEST: &str = "tools/testing/selftests/filesystems/fuse/write_through_test.c";
const SELFTESTS: &str = "tools/testing/selftests";

pub(super) struct Program {
    pub(super) path: PathBuf,
    /// The names of its tests, in their order.
    pub(super) tests: Vec<String>,
}

impl Program {
    /// Builds the one for `base` in a directory of its own, and then moves it below the lab's in
    /// one step: another process may be running it from there.
    pub(super) fn build(lab: &Lab, base: &Base) -> anyhow::Result<Self> {
        let newest = Base::find(Base::NEWEST)?;
        let base = if base.tests()?.touches(TEST)? {
            base
        } else {
            &newest
        };
        let tree = lab.source_dir(&base.source(), &say)?;
        let built = lab.dir().join("selftest").join(&base.name);
        std::fs::create_dir_all(&built).with_context(|| format!("making {}", built.display()))?;
        let scratch = tempfile::tempdir_in(lab.dir())
            .with_context(|| format!("a directory in {}", lab.dir().display()))?;
        let dir = scratch.path();
        let source = base.tests()?.extract(TEST, dir)?;
        let harness = dir.join(SELFTESTS);
        headers(&tree.join(SELFTESTS), &harness)?;
        // The host's FUSE header may be older than the test, so the kernel's own is used.
        let include = dir.join("include");
        copy(
            &tree.join("include/uapi/linux/fuse.h"),
            &include.join("linux/fuse.h"),
        )?;
        let program = dir.join("write_through_test");
        let mut gcc = Command::new("gcc");
        gcc.args(["-Wall", "-O2", "-g", "-o"])
            .arg(&program)
            .arg(&source);
        gcc.arg("-I").arg(include).arg("-I").arg(harness);
        gcc.arg("-lpthread");
        let output = gcc.output().context("cannot run gcc: install it")?;
        if !output.status.success() {
            bail!(
                "building {}:\n{}",
                source.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let text = std::fs::read_to_string(&source)
            .with_context(|| format!("reading {}", source.display()))?;
        let path = built.join("write_through_test");
        std::fs::rename(&program, &path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self {
            path,
            tests: parse_tests(&text),
        })
    }
}

/// The harness, which the source includes by a relative path that not all trees have.
fn headers(from: &Path, to: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "h") {
            let name = path.file_name().expect("a listed file has a name");
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let dir = to.parent().unwrap_or(to);
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    std::fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// The tests that a source file defines. The program's own `-l` is a table for people, on stderr.
fn parse_tests(source: &str) -> Vec<String> {
    source
        .lines()
        .filter_map(|line| line.strip_prefix("TEST_F(fuse, ")?.strip_suffix(')'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_tests_keeps_tests_and_drops_the_rest() {
        let source = "FIXTURE(fuse)\n{\n}\nTEST_F(fuse, a)\n{\n}\nTEST_F(fuse, b)\n";
        assert_eq!(parse_tests(source), ["a", "b"]);
    }

    #[test]
    fn tests_of_the_series_are_found() {
        let dir = std::env::temp_dir().join(format!("kernel-series-{}", std::process::id()));
        let series = Base::find(Base::NEWEST).unwrap().tests().unwrap();
        let source = std::fs::read_to_string(series.extract(TEST, &dir).unwrap()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(
            parse_tests(&source)
                .iter()
                .any(|test| test == "requests_unaligned")
        );
    }
}
