//! Results on standard output.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Writes `text`. A reader that has seen enough, `head` for one, is no error.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}
