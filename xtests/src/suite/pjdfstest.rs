//! pjdfstest (the crate): POSIX semantics of the name space, on the mount as on the native
//! directory. The bar: no test fails, and none is skipped that runs natively, by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::install;
use crate::report::Report;
use crate::support::command::{output, succeed, tail};
use crate::support::mount::{BIN, Mount};
use crate::support::scratch::{Backing, Scratch};

const VERSION: &str = "0.2.2";

/// No feature of FreeBSD; two users that a fresh Debian has, with their groups.
const CONFIG: &str = "\
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = false

[dummy_auth]
entries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]
";

/// What cannot be as natively on any FUSE mount, with the reason.
const DIFFERENT: &[(&str, &str)] = &[(
    "link::link_count_max",
    "the C library derives LINK_MAX from the file system's magic number, and knows none for FUSE",
)];

/// How a test ended, by the word that pjdfstest prints.
type Verdicts = BTreeMap<String, String>;

fn run(dir: &Path) -> Result<Verdicts> {
    let program = install::tool("pjdfstest", VERSION)?;
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), CONFIG)?;
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "300"])
        .arg(&program)
        .arg("-c")
        .arg(config.path());
    let said = output(command.arg("-p").arg(dir))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let verdicts = parse(&text);
    let errors = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(
        verdicts.len() > 300,
        "pjdfstest ran {} tests\n{}",
        verdicts.len(),
        tail(&(text + &errors))
    );
    Ok(verdicts)
}

/// Lines of `module::test   verdict`; the rest is explanation.
fn parse(text: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(verdict)) = (words.next(), words.next()) else {
            continue;
        };
        let known = ["ok", "FAILED", "skipped"].contains(&verdict);
        if name.contains("::") && known {
            verdicts.insert(name.to_owned(), verdict.to_owned());
        }
    }
    verdicts
}

fn different(name: &str) -> Option<&'static str> {
    DIFFERENT
        .iter()
        .find(|(test, _)| *test == name)
        .map(|(_, why)| *why)
}

/// Compares `dir` with a native directory.
pub fn compare(dir: &Path, report: &mut Report) -> Result<()> {
    let native = Scratch::new(Backing::Here)?;
    let expected = run(&native.source()).context("on the native directory")?;
    let got = run(dir)?;
    for (name, native) in &expected {
        let full = format!("pjdfstest::{name}");
        let verdict = got.get(name).map_or("not run", String::as_str);
        match (native.as_str(), verdict) {
            (_, "ok") => report.pass(full),
            ("skipped", "skipped") => report.skip(full, "skipped natively as well"),
            ("FAILED", "FAILED") => report.skip(full, "fails natively as well"),
            ("ok", "skipped") if different(name).is_some() => {
                report.skip(full, different(name).unwrap_or_default());
            }
            (native, verdict) => report.fail(full, format!("{verdict}, natively {native}")),
        }
    }
    Ok(())
}

/// On a scratch mount.
pub fn check(report: &mut Report) -> Result<()> {
    if std::env::var_os(BIN).is_none() {
        let mut build = Command::new("cargo");
        build.args(["build", "--quiet", "--release", "--package", "thrufs"]);
        succeed(build.current_dir(install::root()))?;
    }
    install::tool("pjdfstest", VERSION)?;
    let mount = Mount::new(Backing::Here, &[])?;
    compare(mount.dir(), report)?;
    report.record("pjdfstest::unmount", mount.unmount());
    Ok(())
}
