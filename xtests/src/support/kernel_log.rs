//! The kernel's complaints while a test runs: an oops, a warning, a hung task.

use std::process::Command;

use anyhow::{Result, bail};

use super::command::succeed;
use super::skip::missing;

/// Words of the kernel's own complaints.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "general protection fault",
    "blocked for more than",
    "soft lockup",
    "rcu_sched self-detected stall",
];

/// A complaint about a caller in the same words: mount(2) with MS_MANDLOCK, once after each boot.
const OF_CALLERS: &str = "WARNING: The mand mount option has been deprecated";

/// The log's end at one moment.
pub struct KernelLog {
    last: Option<String>,
}

impl KernelLog {
    /// Remembers where the log ends now.
    pub fn mark() -> Result<Self> {
        Ok(Self {
            last: read()?.lines().last().map(str::to_owned),
        })
    }

    /// Fails with the kernel's complaints since the mark.
    pub fn ensure_quiet(&self) -> Result<()> {
        let complaints = since(&read()?, self.last.as_deref());
        if complaints.is_empty() {
            return Ok(());
        }
        bail!("the kernel says:\n{}", complaints.join("\n"))
    }
}

fn read() -> Result<String> {
    succeed(&mut Command::new("dmesg"))
        .map_err(|error| missing(format!("the kernel log: {error:#}")))
}

/// The complaints after the line `last`; in the whole log if that line has been overwritten.
fn since(log: &str, last: Option<&str>) -> Vec<String> {
    let lines: Vec<&str> = log.lines().collect();
    let start = lines.iter().rposition(|line| Some(*line) == last);
    let new = &lines[start.map_or(0, |at| at + 1)..];
    new.iter()
        .filter(|line| COMPLAINTS.iter().any(|word| line.contains(word)))
        .filter(|line| !line.contains(OF_CALLERS))
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_a_line_finds_only_later_complaints() {
        let log = "[1] BUG: old\n[2] mark\n[3] INFO: task a blocked for more than 120 seconds.\n";
        assert_eq!(since(log, Some("[2] mark")).len(), 1);
        assert_eq!(since(log, None).len(), 2);
        assert!(since("[2] mark\n", Some("[2] mark")).is_empty());
    }

    #[test]
    fn since_a_line_leaves_out_what_is_said_of_a_caller() {
        let log = "[1] mark\n[2]   WARNING: The mand mount option has been deprecated and\n\
                   [3] WARNING: fs/fuse/file.c:1 at f, CPU#0: a/1\n";
        assert_eq!(since(log, Some("[1] mark")).len(), 1);
    }
}
