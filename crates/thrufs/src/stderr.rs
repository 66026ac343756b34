//! Messages of the program itself on standard error.
//!
//! Invariant: a closed standard error is no panic, as `eprintln!` would make it.

use std::io::Write;

use tracing::Level;

use crate::logging::destination::stderr_is_journal;
use crate::logging::escape::escaped;
use crate::logging::lines::journal_prefix;
use crate::logging::pipe::LINE_MAX;

/// Says what went wrong.
pub(crate) fn complain(message: &dyn std::fmt::Display) {
    say(Level::ERROR, &format!("thrufs: {message:#}"));
}

/// Says what will be otherwise than was asked for or expected.
pub(crate) fn warn(message: &str) {
    say(Level::WARN, &format!("thrufs: warning: {message}"));
}

fn say(level: Level, message: &str) {
    let message = for_stderr(level, message);
    // A closed standard error has no reader.
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// A message of the program itself for standard error, without the log: escaped, and with its level
/// where the journal reads it.
fn for_stderr(level: Level, message: &str) -> String {
    // A message may have several lines.
    let lines = message
        .lines()
        .map(|line| escaped(line.as_bytes(), LINE_MAX));
    let text = lines.collect::<Vec<_>>().join("\n");
    match stderr_is_journal() {
        true => format!("{}{text}", journal_prefix(level)),
        false => text,
    }
}
