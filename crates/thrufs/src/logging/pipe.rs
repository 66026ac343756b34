//! The server's log: a pipe to its supervisor, written to without waiting.
//!
//! Invariant: a line is in the pipe as a whole or is dropped and counted, and no thread waits: up to
//! PIPE_BUF bytes are written at once or not at all (pipe(7)). Why not a queue and a thread, as in the
//! supervisor: until the filter and the capabilities are in place the server must have one thread.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use rustix::fs::OFlags;
use tracing_subscriber::fmt::MakeWriter;

use super::escape::{CUT, escaped};

/// PIPE_BUF, which is 4096 on Linux.
const PIPE_BUF: usize = 4096;
/// Longest line, without its end.
pub(crate) const LINE_MAX: usize = PIPE_BUF - CUT.len() - 1;
/// Room for what is logged while the supervisor gets no CPU; a user may ask for no more than
/// fs.pipe-max-size, by default just this.
const PIPE_SIZE: usize = 1 << 20;

/// Where the lines go.
#[derive(Clone, Debug)]
pub(super) struct PipeLog<P = io::Stderr> {
    pipe: Arc<P>,
    /// Lines that found no room since the last one that did.
    dropped: Arc<AtomicU64>,
}

impl PipeLog {
    /// On standard error, a pipe with no other writer.
    pub(super) fn on_stderr() -> anyhow::Result<Self> {
        Self::on(io::stderr())
    }
}

impl<P: AsFd> PipeLog<P> {
    fn on(pipe: P) -> anyhow::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&pipe).context("look at the pipe of the log")?;
        rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)
            .context("set up the pipe of the log")?;
        // Beyond what the user may have of it (pipe-user-pages-soft) it stays as it is.
        let _smaller = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_SIZE);
        Ok(Self {
            pipe: Arc::new(pipe),
            dropped: Arc::default(),
        })
    }

    fn write(&self, line: &[u8]) {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        let told = lost == 0 || self.put(&notice(lost));
        if !told {
            self.dropped.fetch_add(lost, Ordering::Relaxed);
        }
        if !told || !self.put(&escaped(line, LINE_MAX)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether there was room.
    fn put(&self, line: &str) -> bool {
        let line = format!("{line}\n");
        // Not by the standard library's handle: it has a lock, and buffers nothing anyhow.
        rustix::io::retry_on_intr(|| rustix::io::write(&self.pipe, line.as_bytes())).is_ok()
    }
}

/// What is told of lines that were dropped in the server; its level stands in front, as in every line.
fn notice(lost: u64) -> String {
    format!("WARN {lost} log lines of the server were dropped: the log was not read fast enough")
}

impl<'a, P: AsFd + 'a> MakeWriter<'a> for PipeLog<P> {
    type Writer = Line<'a, P>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self)
    }
}

/// One line: the layer of tracing-subscriber writes an event at once.
#[derive(Debug)]
pub(super) struct Line<'a, P>(&'a PipeLog<P>);

impl<P: AsFd> Write for Line<'_, P> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line.trim_ascii());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    fn pipe() -> (File, PipeLog<File>) {
        let (reader, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let log = PipeLog::on(writer).unwrap();
        (File::from(std::os::fd::OwnedFd::from(reader)), log)
    }

    fn log(log: &PipeLog<File>, line: &str) {
        log.make_writer().write_all(line.as_bytes()).unwrap();
    }

    /// A full pipe once held every thread that logged, and with it the mount.
    #[test]
    fn write_to_a_full_pipe_drops_lines_and_tells_how_many_when_there_is_room() {
        let (mut reader, full) = pipe();
        let line = "INFO ".to_owned() + &"x".repeat(LINE_MAX);
        while full.dropped.load(Ordering::Relaxed) < 7 {
            log(&full, &line);
        }
        let mut some = vec![0; 64 << 10];
        reader.read_exact(&mut some).unwrap();
        log(&full, "INFO after");
        drop(full);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let lines: Vec<&str> = rest.lines().collect();
        let [.., before, notice, after] = lines[..] else {
            panic!("{} lines", lines.len());
        };
        assert!(before.ends_with("x [cut]"), "{before}");
        assert!(notice.starts_with("WARN 7 log lines"), "{notice}");
        assert_eq!(after, "INFO after");
    }

    #[test]
    fn write_of_a_long_line_is_one_write_within_pipe_buf() {
        let (mut reader, log_) = pipe();
        log(&log_, &"\u{1b}\n".repeat(100_000));
        drop(log_);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(
            text.len() <= PIPE_BUF && text.len() > PIPE_BUF - 20,
            "{}",
            text.len()
        );
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.starts_with(r"\x1b\n\x1b") && text.ends_with(" [cut]\n"));
    }
}
