//! The last lines that a server wrote, for the report of its death.
//!
//! Invariant: bounded in lines and in bytes, whatever the server writes.

use std::collections::VecDeque;

/// Lines that are kept.
const LINES: usize = 10;
/// Bytes of each.
const LENGTH: usize = 512;

#[derive(Debug, Default)]
pub(super) struct LastWords(VecDeque<Vec<u8>>);

impl LastWords {
    /// The server has written `line`.
    pub(super) fn note(&mut self, line: &[u8]) {
        let mut kept = match self.0.len() < LINES {
            true => Vec::new(),
            // The buffer is used again: this is done for every line.
            false => self.0.pop_front().unwrap_or_default(),
        };
        kept.clear();
        kept.extend_from_slice(&line[..line.len().min(LENGTH)]);
        self.0.push_back(kept);
    }

    /// All that are kept, the oldest first.
    pub(super) fn into_lines(self) -> Vec<String> {
        let text = |line: Vec<u8>| String::from_utf8_lossy(&line).trim_end().to_owned();
        self.0.into_iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn into_lines_after_many_long_lines_gives_the_beginning_of_the_last_ten() {
        let mut last = LastWords::default();
        for number in 0..100 {
            last.note(format!("{number} {}\n", "x".repeat(LENGTH)).as_bytes());
        }
        last.note(b"\xff the end\n");
        let lines = last.into_lines();
        assert_eq!(lines.len(), LINES);
        assert!(lines[0].starts_with("91 x"), "{lines:?}");
        assert_eq!(lines[8].len(), LENGTH);
        assert_eq!(lines[9], "\u{fffd} the end");
    }
}
