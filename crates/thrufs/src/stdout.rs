//! What the subcommands print.
//!
//! Invariant: a reader that goes away before the end (`thrufs status | head -1`) has got what it wants:
//! the error by which the program then ends is recognised, and is no failure. Not `println!`, which
//! panics there, and not SIGPIPE, which would end `thrufs demo` before it has unmounted.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// The reader of standard output is gone.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
struct Closed;

/// Prints text and a newline.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    draw(&format!("{text}\n"))
}

/// Prints text as it is.
pub(crate) fn draw(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    marked(written)
}

fn marked(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("write to standard output"),
    }
}

/// Whether `error` says that the reader of standard output is gone.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    error.is::<Closed>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_closed_of_a_pipe_without_reader_only() {
        let error = |kind: ErrorKind| marked(Err(kind.into())).unwrap_err();
        assert!(is_closed(&error(ErrorKind::BrokenPipe).context("status")));
        assert!(!is_closed(&error(ErrorKind::StorageFull)));
        // A socket that breaks has nothing to do with standard output.
        let socket = io::Error::from(ErrorKind::BrokenPipe);
        assert!(!is_closed(&anyhow::Error::new(socket)));
    }
}
