//! pjdfstest (the crate): POSIX semantics of the name space, on the mount as on the native
//! directory. The bar: no test fails, and no test is skipped that runs natively.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::verdicts::{Verdict, Verdicts};
use crate::support::command::{output, said, tail};
use crate::support::install;

const VERSION: &str = "0.2.2";

/// No feature of FreeBSD's; two users of a fresh Debian, with their groups.
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

/// Makes sure of the program.
pub(super) fn provide() -> Result<()> {
    files().map(|_| ())
}

/// The program and the file that says that it is there: what it takes to run it where nothing can be
/// installed.
pub fn files() -> Result<[PathBuf; 2]> {
    install::apt(&[("/usr/include/sys/acl.h", "libacl1-dev")])?;
    let program = install::tool("pjdfstest", VERSION)?;
    Ok([program, install::stamp("pjdfstest", VERSION)])
}

/// Runs it in `dir`.
pub fn run(dir: &Path) -> Result<Verdicts> {
    let program = install::tool("pjdfstest", VERSION)?;
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), CONFIG)?;
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "300"]).arg(&program);
    command.arg("-c").arg(config.path());
    let text = said(&output(command.arg("-p").arg(dir))?);
    let verdicts = parse(&text);
    let count = verdicts.len();
    ensure!(count > 300, "pjdfstest ran {count} tests\n{}", tail(&text));
    Ok(verdicts)
}

/// Lines of `module::test   verdict`; every other line explains.
fn parse(text: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(verdict)) = (words.next(), words.next()) else {
            continue;
        };
        let verdict = match verdict {
            "ok" => Verdict::Passed,
            "FAILED" => Verdict::Failed("fails".to_owned()),
            "skipped" => Verdict::Skipped("pjdfstest skips it".to_owned()),
            _ => continue,
        };
        if name.contains("::") {
            verdicts.insert(name.to_owned(), verdict);
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_pjdfstest_lines_has_every_test_once() {
        let text = "chmod::a   ok\nchown::b\t FAILED\n   because x::y ok\nlink::c skipped\n";
        let verdicts = parse(text);
        assert_eq!(verdicts["chmod::a"], Verdict::Passed);
        assert!(matches!(verdicts["chown::b"], Verdict::Failed(_)));
        assert!(matches!(verdicts["link::c"], Verdict::Skipped(_)));
        assert_eq!(verdicts.len(), 3);
    }
}
