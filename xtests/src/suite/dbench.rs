//! dbench: the calls of a file server's clients, as its authors recorded them. The test is that
//! every call succeeds; dbench's figures are ignored.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::options::Options;
use super::verdicts::Verdicts;
use crate::support::command::{succeed, tail};
use crate::support::install;

const LOAD: &str = "/usr/share/dbench/client.txt";
const CLIENTS: &str = "4";

/// Makes sure of the program.
pub(super) fn provide() -> Result<()> {
    install::apt(&[("dbench", "dbench"), (LOAD, "dbench")])
}

/// Runs it in `dir`.
pub(super) fn run(dir: &Path, options: &Options) -> Result<Verdicts> {
    let seconds = options.seconds();
    let mut command = Command::new("timeout");
    // dbench warms up for a fifth of the time before it counts, and cleans up afterwards.
    command.args(["--kill-after=5", &(3 * seconds + 60).to_string()]);
    command.args(["dbench", "-c", LOAD, "-t", &seconds.to_string(), "-D"]);
    let outcome = (|| {
        let text = succeed(command.arg(dir).arg(CLIENTS))?;
        ensure!(text.contains("Throughput "), "dbench: {}", tail(&text));
        Ok(())
    })();
    Ok(Verdicts::from([("dbench".to_owned(), outcome.into())]))
}
