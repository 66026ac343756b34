//! The queue of lines in front of a log that may not be read, and the thread that writes them.
//!
//! Invariant: [`Lines::push`] never waits for the log. The queue is bounded in bytes; a line beyond that
//! is dropped and counted, and the count stands in the log where the lines are missing.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::destination::Destination;
use super::escape::escaped;
use super::pipe::LINE_MAX;

/// Bytes that wait at most: some ten thousand lines.
const QUEUE_MAX: usize = 2 << 20;

/// The log of this process.
static LOG: OnceLock<Arc<Queue>> = OnceLock::new();

/// Waits until what was logged so far is written, but not longer than `patience`.
pub(crate) fn flush(patience: Duration) {
    if let Some(queue) = LOG.get() {
        queue.wait_until_written(patience);
    }
}

/// Where lines are queued; all clones are the same queue.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    destination: Destination,
    queue: Arc<Queue>,
}

impl Lines {
    /// Starts the thread that writes the lines; `syslog` for [`Destination::Syslog`].
    pub(super) fn start(
        destination: Destination,
        syslog: Option<syslog_tracing::Syslog>,
    ) -> io::Result<Self> {
        let lines = Self::new(destination);
        let of_the_thread = lines.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || match syslog {
            Some(syslog) => in_the_system_log(syslog, || of_the_thread.write(to_the_system_log)),
            None => of_the_thread.write(|line| to(&mut io::stderr(), line)),
        })?;
        // There is one log in a process: tracing takes no second one either.
        let _first = LOG.set(Arc::clone(&lines.queue));
        Ok(lines)
    }

    fn new(destination: Destination) -> Self {
        Self {
            destination,
            queue: Arc::default(),
        }
    }

    /// Queues one line, which is escaped and bounded on the way.
    pub(crate) fn push(&self, level: Level, text: &[u8]) {
        self.queue.push(self.line(level, text));
    }

    fn line(&self, level: Level, text: &[u8]) -> Line {
        let text = escaped(text.trim_ascii(), LINE_MAX);
        Line {
            level,
            text: finished(self.destination, level, &text),
        }
    }

    /// Writes what is queued, for as long as the process lives.
    fn write(&self, mut write: impl FnMut(&Line)) {
        loop {
            let (dropped, line) = self.queue.next();
            if dropped > 0 {
                let told = format!("{dropped} log lines were dropped: the log was not read");
                write(&self.line(Level::WARN, told.as_bytes()));
            }
            if let Some(line) = line {
                write(&line);
            }
        }
    }
}

/// A line as its destination takes it.
fn finished(destination: Destination, level: Level, text: &str) -> String {
    match destination {
        Destination::Syslog => text.to_owned(),
        Destination::Journal => format!("{}{text}\n", journal_prefix(level)),
        Destination::Stderr { colour } => {
            let mut time = String::new();
            // The time of the event, not of its writing. A clock that cannot be formatted is left out.
            let _unknown = SystemTime.format_time(&mut Writer::new(&mut time));
            if colour {
                let colour = colour_of(level);
                format!("\x1b[2m{time}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m {text}\n")
            } else {
                format!("{time} {level:>5} {text}\n")
            }
        }
    }
}

/// As tracing-subscriber has them.
fn colour_of(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// The level as sd-daemon(3) has it.
pub(crate) fn journal_prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Runs `body` while this thread's events go to the system log, which takes their level from them.
pub(crate) fn in_the_system_log(syslog: syslog_tracing::Syslog, body: impl FnOnce()) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(syslog)
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_target(false)
        .finish();
    tracing::subscriber::with_default(subscriber, body);
}

fn to_the_system_log(line: &Line) {
    let text = &line.text;
    match line.level {
        Level::ERROR => tracing::error!("{text}"),
        Level::WARN => tracing::warn!("{text}"),
        Level::INFO => tracing::info!("{text}"),
        Level::DEBUG => tracing::debug!("{text}"),
        Level::TRACE => tracing::trace!("{text}"),
    }
}

fn to(log: &mut impl Write, line: &Line) {
    // Where standard error is closed there is no reader.
    let _closed = log.write_all(line.text.as_bytes());
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Event {
            lines: self,
            level: Level::INFO,
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        Event {
            lines: self,
            level: *event.level(),
        }
    }
}

/// One event: the layer of tracing-subscriber writes it at once.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    lines: &'a Lines,
    level: Level,
}

impl Write for Event<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.push(self.level, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Line {
    level: Level,
    text: String,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// With the number of lines that were dropped before each.
    waiting: VecDeque<(u64, Line)>,
    bytes: usize,
    /// Since the last line that found room.
    dropped: u64,
    /// A line is on its way to the log.
    is_writing: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Line) {
        let mut state = self.lock();
        if state.bytes + line.text.len() > QUEUE_MAX {
            state.dropped += 1;
            return;
        }
        state.bytes += line.text.len();
        let dropped = std::mem::take(&mut state.dropped);
        state.waiting.push_back((dropped, line));
        self.changed.notify_all();
    }

    /// The next line, with what was dropped before it; or what was dropped last, once there is no
    /// further line.
    fn next(&self) -> (u64, Option<Line>) {
        let mut state = self.lock();
        state.is_writing = false;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| {
                state.waiting.is_empty() && state.dropped == 0
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        match state.waiting.pop_front() {
            Some((dropped, line)) => {
                state.bytes -= line.text.len();
                (dropped, Some(line))
            }
            None => (std::mem::take(&mut state.dropped), None),
        }
    }

    fn wait_until_written(&self, patience: Duration) {
        let is_pending =
            |state: &mut State| state.is_writing || !state.waiting.is_empty() || state.dropped > 0;
        // Either way the caller goes on.
        let _written_or_late = self
            .changed
            .wait_timeout_while(self.lock(), patience, is_pending);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::JoinHandle;

    use super::*;

    /// A log that is written to only as far as it is read, and what was read of it.
    fn log_without_room() -> (Lines, mpsc::Receiver<String>, JoinHandle<()>) {
        let lines = Lines::new(Destination::Journal);
        let (log, reader) = mpsc::sync_channel(0);
        let of_the_thread = lines.clone();
        let thread = std::thread::spawn(move || {
            of_the_thread.write(|line| log.send(line.text.clone()).unwrap());
        });
        (lines, reader, thread)
    }

    /// A terminal that is stopped with ^S, or a pipe that is full, once stopped the mount.
    #[test]
    fn push_to_a_log_that_is_not_read_drops_lines_and_tells_how_many_in_their_place() {
        let (lines, reader, thread) = log_without_room();
        let text = "x".repeat(1000);
        let mut pushed = 0;
        while lines.queue.lock().dropped < 7 {
            lines.push(Level::INFO, text.as_bytes());
            pushed += 1;
        }
        assert!(lines.queue.lock().bytes <= QUEUE_MAX);
        let one = reader.recv().unwrap();
        assert_eq!(one, format!("<6>{text}\n"));
        // The second one has left the queue by now, or does so before it is read.
        let two = reader.recv().unwrap();
        assert_eq!(two, one);
        lines.push(Level::ERROR, b"after");
        for _ in 2..pushed - 7 {
            assert_eq!(reader.recv().unwrap(), one);
        }
        let notice = reader.recv().unwrap();
        assert_eq!(
            notice,
            "<4>7 log lines were dropped: the log was not read\n"
        );
        assert_eq!(reader.recv().unwrap(), "<3>after\n");
        drop(reader);
        lines.push(Level::INFO, b"ends the thread");
        assert!(thread.join().is_err());
    }

    #[test]
    fn write_of_the_last_line_tells_what_was_dropped_after_it() {
        let (lines, reader, thread) = log_without_room();
        lines.push(Level::INFO, b"last");
        lines.queue.lock().dropped = 3;
        assert_eq!(reader.recv().unwrap(), "<6>last\n");
        assert!(reader.recv().unwrap().starts_with("<4>3 log lines"));
        drop(reader);
        lines.push(Level::INFO, b"ends the thread");
        assert!(thread.join().is_err());
    }

    #[test]
    fn wait_until_written_returns_when_all_is_written_and_not_before() {
        let (lines, reader, thread) = log_without_room();
        lines.push(Level::INFO, b"a");
        lines.queue.wait_until_written(Duration::from_millis(1));
        assert!(lines.queue.lock().is_writing || !lines.queue.lock().waiting.is_empty());
        assert_eq!(reader.recv().unwrap(), "<6>a\n");
        lines.queue.wait_until_written(Duration::from_secs(3600));
        drop(reader);
        lines.push(Level::INFO, b"ends the thread");
        assert!(thread.join().is_err());
    }

    #[test]
    fn finished_has_time_and_level_only_where_the_destination_lacks_them() {
        let line = |destination| finished(destination, Level::WARN, "text");
        assert_eq!(line(Destination::Journal), "<4>text\n");
        assert_eq!(line(Destination::Syslog), "text");
        let plain = line(Destination::Stderr { colour: false });
        assert!(
            plain.starts_with("20") && plain.ends_with("Z  WARN text\n"),
            "{plain}"
        );
        assert!(line(Destination::Stderr { colour: true }).contains("\x1b[33m WARN\x1b[0m text"));
    }
}
