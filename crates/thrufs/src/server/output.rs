//! What the server writes to its standard error: a pipe, so that it holds no terminal and no log
//! file of the outside, and so that the system log is spoken to by a process that can reach it.
//!
//! Invariant: a line goes out as it came. With `--syslog` its first word is its level; what has none
//! (the message of a panic) is an error.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;

use super::last_words::LastWords;

/// Passes lines on until nobody writes any more. Returns the last of them.
pub(super) fn relay(output: OwnedFd, syslog: bool) -> Vec<String> {
    let mut last = LastWords::default();
    let mut lines = BufReader::new(File::from(output));
    let mut line = Vec::new();
    while let Ok(1..) = lines.read_until(b'\n', &mut line) {
        if syslog {
            log(&String::from_utf8_lossy(&line));
        } else {
            // Where standard error is closed there is nobody to hear it.
            let _ = std::io::stderr().write_all(&line);
        }
        last.note(&line);
        line.clear();
    }
    last.into_lines()
}

fn log(line: &str) {
    let line = line.trim();
    let (level, text) = line.split_once(' ').unwrap_or((line, ""));
    match level {
        "TRACE" => tracing::trace!(target: "thrufs", "{text}"),
        "DEBUG" => tracing::debug!(target: "thrufs", "{text}"),
        "INFO" => tracing::info!(target: "thrufs", "{text}"),
        "WARN" => tracing::warn!(target: "thrufs", "{text}"),
        "ERROR" => tracing::error!(target: "thrufs", "{text}"),
        _ => tracing::error!(target: "thrufs", "{line}"),
    }
}
