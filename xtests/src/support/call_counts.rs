//! The system calls of a process, counted by strace.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::wait_for_exit;
use super::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// How often each call was made, the most frequent first.
pub type Calls = Vec<(String, u64)>;

/// strace, attached.
pub struct Trace {
    strace: Child,
    table: PathBuf,
}

impl Trace {
    /// Attaches to all threads of `pid`, by strace from PATH. Its files are in `dir`.
    pub fn start(pid: u32, dir: &Path) -> Result<Self> {
        let (table, log) = (dir.join("calls"), dir.join("strace.log"));
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-c", "-U", "calls,name", "-o"])
            .arg(&table);
        strace.args(["-p", &pid.to_string()]);
        let strace = strace
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn();
        let strace = strace.context("strace")?;
        wait_until("strace to be attached", LIMIT, || {
            Ok(std::fs::read_to_string(&log)?.contains("attached"))
        })?;
        Ok(Self { strace, table })
    }

    /// Detaches, and reads what was counted.
    pub fn stop(mut self) -> Result<Calls> {
        let pid = Pid::from_raw(i32::try_from(self.strace.id())?);
        kill(pid, Signal::SIGINT)?;
        wait_for_exit(&mut self.strace, "strace", LIMIT)?;
        let text = std::fs::read_to_string(&self.table)?;
        Ok(parse(&text))
    }
}

/// The lines of `strace -c -U calls,name`; the header, the rules and the total are none.
fn parse(text: &str) -> Calls {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (count, name) = (words.next()?.parse().ok()?, words.next()?);
        (name != "total").then(|| (name.to_owned(), count))
    };
    let mut calls: Calls = text.lines().filter_map(line).collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_has_each_call_and_no_total() {
        let text = "     calls syscall\n--------- ----------------\n        12 writev\n       300 read\n--------- ----------------\n       312 total\n";
        let calls = parse(text);
        assert_eq!(calls, [("read".to_owned(), 300), ("writev".to_owned(), 12)]);
    }
}
