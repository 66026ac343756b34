//! What the server writes to its standard error: a pipe, so that it holds no terminal and no log
//! file of the outside, and so that the system log is spoken to by a process that can reach it.
//!
//! Invariant: whatever the server writes, it is read at once, and comes into the log as lines of bounded
//! length without control characters, as many as [`LINES_A_SECOND`] unless more than that was asked for.
//! A line begins with its level; one without (the message of a panic) is an error.

use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use tracing::Level;
use tracing::level_filters::LevelFilter;

use super::last_words::LastWords;
use crate::logging::{LINE_MAX, Lines};

/// A server that is well says some lines an hour.
const LINES_A_SECOND: f64 = 100.0;
/// How many may come at once.
const BURST: f64 = 1000.0;
/// How soon it is told that lines were dropped, when none follows.
const TELL: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The pipe that a server writes to.
#[derive(Debug)]
pub(super) struct Output {
    pipe: OwnedFd,
    /// Whether bytes are out of the pipe, but not yet in the log.
    is_relaying: Mutex<bool>,
    changed: Condvar,
}

impl Output {
    pub(super) fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe,
            is_relaying: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// Passes lines on until the server has closed the pipe, and returns the last of them. With `level`
    /// debug or trace, where each request may have its line, as many as come.
    pub(super) fn relay(&self, lines: &Lines, level: LevelFilter) -> Vec<String> {
        let rate = (level <= LevelFilter::INFO).then(|| Rate::new(Instant::now()));
        let mut relay = Relay {
            line: Vec::new(),
            dropped: 0,
            last: LastWords::default(),
            rate,
            log: |level, text: &[u8]| lines.push(level, text),
        };
        let mut buffer = vec![0; 64 << 10];
        loop {
            if !self.wait_for_output((relay.dropped > 0).then_some(&TELL)) {
                relay.tell_of_dropped();
                continue;
            }
            *self.lock() = true;
            let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.pipe, &mut *buffer));
            let count = read.unwrap_or(0);
            relay.take(&buffer[..count], Instant::now());
            if count == 0 {
                relay.end(Instant::now());
            }
            *self.lock() = false;
            self.changed.notify_all();
            if count == 0 {
                return relay.last.into_lines();
            }
        }
    }

    /// Whether there is something to read, or the end; false when `patience` is over first.
    fn wait_for_output(&self, patience: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
        match rustix::event::poll(&mut fds, patience) {
            Ok(ready) => ready > 0,
            // read(2) knows better.
            Err(_) => true,
        }
    }

    /// Waits until what the server has written before now is in the log, but not longer than `patience`.
    pub(super) fn wait_until_relayed(&self, patience: Duration) {
        let is_pending = |is_relaying: &mut bool| {
            // In this order: bytes that leave the pipe in between are being relayed.
            let unread = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
            unread > 0 || *is_relaying
        };
        // Either way the caller goes on.
        let _relayed_or_late = self
            .changed
            .wait_timeout_while(self.lock(), patience, is_pending);
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_relaying
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// From bytes to the lines that are let through.
struct Relay<L> {
    /// The beginning of a line that is not complete; of a long one as much as is shown.
    line: Vec<u8>,
    /// Lines that were too many, and that the log does not tell of yet.
    dropped: u64,
    last: LastWords,
    rate: Option<Rate>,
    log: L,
}

impl<L: FnMut(Level, &[u8])> Relay<L> {
    fn take(&mut self, bytes: &[u8], now: Instant) {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            // One byte more than is shown, so that the log marks the line as cut.
            let room = (LINE_MAX + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if pieces.peek().is_some() {
                self.end_of_line(now);
            }
        }
    }

    /// Nothing more will come.
    fn end(&mut self, now: Instant) {
        if !self.line.is_empty() {
            self.end_of_line(now);
        }
        self.tell_of_dropped();
    }

    fn end_of_line(&mut self, now: Instant) {
        let line = std::mem::take(&mut self.line);
        self.last.note(&line);
        if self.rate.as_mut().is_some_and(|rate| !rate.admits(now)) {
            self.dropped += 1;
            return;
        }
        self.tell_of_dropped();
        let (level, text) = level_of(&line);
        (self.log)(level, text);
    }

    fn tell_of_dropped(&mut self) {
        if self.dropped > 0 {
            let told = format!(
                "{} log lines of the server were dropped: it wrote more than {LINES_A_SECOND} a second",
                self.dropped
            );
            self.dropped = 0;
            (self.log)(Level::WARN, told.as_bytes());
        }
    }
}

fn level_of(line: &[u8]) -> (Level, &[u8]) {
    let line = line.trim_ascii();
    let mut words = line.splitn(2, |byte| *byte == b' ');
    let level = match words.next() {
        Some(b"TRACE") => Level::TRACE,
        Some(b"DEBUG") => Level::DEBUG,
        Some(b"INFO") => Level::INFO,
        Some(b"WARN") => Level::WARN,
        Some(b"ERROR") => Level::ERROR,
        _no_level => return (Level::ERROR, line),
    };
    (level, words.next().unwrap_or_default())
}

/// A bucket of tokens.
#[derive(Debug)]
struct Rate {
    left: f64,
    at: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            at: now,
        }
    }

    fn admits(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * LINES_A_SECOND).min(BURST);
        self.at = now;
        let admits = self.left >= 1.0;
        if admits {
            self.left -= 1.0;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = Vec<(Level, String)>;

    /// What comes into the log of these writes, each so many seconds after the first.
    fn relayed(writes: &[(f64, &[u8])], rate: bool) -> Told {
        let began = Instant::now();
        let mut told = Told::new();
        let mut relay = Relay {
            line: Vec::new(),
            dropped: 0,
            last: LastWords::default(),
            rate: rate.then(|| Rate::new(began)),
            log: |level, text: &[u8]| {
                assert!(text.len() <= LINE_MAX + 1, "{}", text.len());
                told.push((level, String::from_utf8_lossy(text).into_owned()));
            },
        };
        let mut now = began;
        for (after, bytes) in writes {
            now = began + Duration::from_secs_f64(*after);
            relay.take(bytes, now);
            assert!(relay.line.len() <= LINE_MAX + 1);
        }
        relay.end(now);
        told
    }

    #[test]
    fn take_of_pieces_gives_whole_lines_with_their_level() {
        let told = relayed(
            &[
                (0.0, b" INFO a\nWA"),
                (0.0, b"RN b\nno level\nERROR"),
                (0.0, b" c"),
            ],
            true,
        );
        let wanted = [
            (Level::INFO, "a"),
            (Level::WARN, "b"),
            (Level::ERROR, "no level"),
            (Level::ERROR, "c"),
        ];
        assert_eq!(told, wanted.map(|(level, text)| (level, text.to_owned())));
    }

    /// A server that was taken over once made its supervisor keep all of an endless line in memory.
    #[test]
    fn take_of_a_line_without_end_keeps_no_more_than_is_shown() {
        let endless = vec![b'x'; 1 << 20];
        let told = relayed(
            &[(0.0, &endless), (0.0, &endless), (0.0, b"\nINFO next\n")],
            true,
        );
        assert_eq!(told[0].1.len(), LINE_MAX + 1);
        assert_eq!(told[1..], [(Level::INFO, "next".to_owned())]);
    }

    #[test]
    fn take_of_too_many_lines_drops_and_counts_them() {
        let flood = b"WARN x\n".repeat(3000);
        let told = relayed(
            &[(0.0, &flood), (1.0, &flood), (60.0, b"INFO after\n")],
            true,
        );
        let notices: Vec<&str> = told
            .iter()
            .map(|(_, text)| text.as_str())
            .filter(|text| *text != "x")
            .collect();
        // 1000 at once and 100 in the second after it; the rest of both is told where it is missing.
        let wanted = "log lines of the server were dropped: it wrote more than 100 a second";
        let wanted = [
            format!("2000 {wanted}"),
            format!("2900 {wanted}"),
            "after".to_owned(),
        ];
        assert_eq!(notices, wanted);
        assert_eq!(told.len(), 1100 + 3);
        assert_eq!(relayed(&[(0.0, &flood)], false).len(), 3000);
    }

    #[test]
    fn wait_until_relayed_returns_when_the_pipe_is_empty_or_it_is_late() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let output = Output::new(reader.into());
        output.wait_until_relayed(Duration::from_secs(3600));
        std::io::Write::write_all(&mut writer, b"INFO a\n").unwrap();
        output.wait_until_relayed(Duration::from_millis(1));
        *output.lock() = true;
        let mut bytes = [0; 7];
        rustix::io::read(&output.pipe, &mut bytes).unwrap();
        output.wait_until_relayed(Duration::from_millis(1));
        *output.lock() = false;
        output.wait_until_relayed(Duration::from_secs(3600));
    }
}
