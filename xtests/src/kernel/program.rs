//! The test program: the selftest that the series adds to the kernel, built for the host's userland,
//! which is the guest's as well.
//!
//! It is taken out of the series and not kept a second time, so that there is one test to be right. It
//! runs on every kernel, also on those that the series is not laid over.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use thrufs_lab::Lab;

use super::plan::Base;
use super::say;

const TEST: &str = "tools/testing/selftests/filesystems/fuse/write_through_test.c";

/// The built test program.
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// The names of its tests, in their order.
    pub(super) tests: Vec<String>,
}

impl Program {
    /// Builds it below the lab's directory.
    pub(super) fn build(lab: &Lab) -> anyhow::Result<Self> {
        let base = Base::find(Base::NEWEST)?;
        let tree = lab.source_dir(&base.source(), &say)?;
        let dir = lab.dir().join("selftest");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("clearing {}", dir.display()))?;
        }
        let source = base.series("patched")?.extract(TEST, &dir)?;
        headers(&tree, &dir.join("include/linux"))?;
        let path = dir.join("write_through_test");
        let mut gcc = Command::new("gcc");
        gcc.args(["-Wall", "-O2", "-g", "-o"])
            .arg(&path)
            .arg(&source);
        gcc.arg("-I").arg(dir.join("include"));
        gcc.arg("-I")
            .arg(tree.join("tools/testing/selftests"))
            .arg("-lpthread");
        // The source includes the harness by a relative path, which the tree has.
        gcc.arg("-iquote")
            .arg(tree.join("tools/testing/selftests/filesystems/fuse"));
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
        Ok(Self {
            path,
            tests: parse_tests(&text),
        })
    }
}

/// The host's FUSE header may be older than the test, so the kernel's own is used.
fn headers(tree: &Path, dir: &Path) -> anyhow::Result<()> {
    let header = tree.join("include/uapi/linux/fuse.h");
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    std::fs::copy(&header, dir.join("fuse.h"))
        .with_context(|| format!("copying {}", header.display()))?;
    Ok(())
}

/// The tests that a source file defines. Its own `-l` is a table for people, on stderr.
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
        let series = Base::find(Base::NEWEST).unwrap().series("patched").unwrap();
        let source = std::fs::read_to_string(series.extract(TEST, &dir).unwrap()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(
            parse_tests(&source)
                .iter()
                .any(|test| test == "requests_unaligned")
        );
    }
}
