//! The process that uses the probe's mount: one for each thread of events, controlled over a pipe.
//! A process of its own, since server and client in one address space can hang on that address
//! space's own locks, and since a hung client can be killed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use thrufs_sys::mapped_io::{Mapping, page_size, pwritev};

/// Orders to a client. Bytes are `len` times one value: enough for every question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Open(PathBuf),
    Write {
        offset: u64,
        len: usize,
        value: u8,
    },
    /// As `Write`, with O_DIRECT.
    WriteDirect {
        offset: u64,
        len: usize,
        value: u8,
    },
    /// `len` bytes of a value at the file's start, by io_uring.
    WriteUring(usize, u8),
    /// A write of `len` bytes whose buffer is readable up to `readable`.
    WriteHalfReadable {
        len: usize,
        readable: usize,
    },
    Read {
        offset: u64,
        len: usize,
    },
    /// Reads, and answers with the count alone: a MiB as JSON is slow.
    Fetch {
        offset: u64,
        len: usize,
    },
    Map(usize),
    /// One byte through the mapping.
    Load(usize),
    Stat,
    Store {
        offset: usize,
        value: u8,
    },
    /// sync_file_range over the whole file.
    SyncRange,
    /// Unmaps, syncs, and drops the file's pages.
    Evict,
    CopyRange {
        from: u64,
        to: u64,
        len: usize,
    },
    Truncate(u64),
    /// /proc/kpageflags of the mapping's page at this offset.
    PageFlags(usize),
}

impl Order {
    /// pwrite(2) of `len` bytes `value`.
    pub(crate) fn write(offset: usize, len: usize, value: u8) -> Self {
        let offset = offset as u64;
        Self::Write { offset, len, value }
    }

    /// A store of one byte through the mapping.
    pub(crate) fn store(offset: usize, value: u8) -> Self {
        Self::Store { offset, value }
    }
}

/// The client's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Count(usize),
    Bytes(Vec<u8>),
    Flags(u64),
    Errno(i32),
    /// Not an errno, for example nothing is mapped.
    Failed(String),
}

/// The hidden subcommand: executes orders until its input ends.
pub(crate) fn serve() -> anyhow::Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let mut hands = Hands::default();
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let answer = hands
            .obey(order)
            .unwrap_or_else(|error| match error.raw_os_error() {
                Some(errno) => Answer::Errno(errno),
                None => Answer::Failed(error.to_string()),
            });
        crate::tools::repro::finding::say(&serde_json::to_string(&answer)?);
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Hands {
    file: Option<(PathBuf, File)>,
    map: Option<Mapping>,
}

impl Hands {
    fn file(&self) -> io::Result<&File> {
        self.file
            .as_ref()
            .map(|(_, file)| file)
            .ok_or_else(|| io::Error::other("no file is open"))
    }

    fn map(&self) -> io::Result<&Mapping> {
        self.map
            .as_ref()
            .ok_or_else(|| io::Error::other("nothing is mapped"))
    }

    fn obey(&mut self, order: Order) -> io::Result<Answer> {
        match order {
            Order::Open(path) => {
                let file = File::options().read(true).write(true).open(&path)?;
                self.file = Some((path, file));
                Ok(Answer::Done)
            }
            Order::Write { offset, len, value } => Ok(Answer::Count(
                self.file()?.write_at(&vec![value; len], offset)?,
            )),
            Order::WriteDirect { offset, len, value } => self.write_direct(offset, len, value),
            Order::WriteUring(len, value) => self.write_uring(len, value),
            Order::WriteHalfReadable { len, readable } => self.write_half_readable(len, readable),
            Order::Read { offset, len } => {
                let mut bytes = vec![0; len];
                let count = self.file()?.read_at(&mut bytes, offset)?;
                bytes.truncate(count);
                Ok(Answer::Bytes(bytes))
            }
            Order::Fetch { offset, len } => Ok(Answer::Count(
                self.file()?.read_at(&mut vec![0; len], offset)?,
            )),
            Order::Map(len) => {
                self.map = Some(Mapping::of_file(self.file()?, len, true, true)?);
                Ok(Answer::Done)
            }
            Order::Load(offset) => Ok(Answer::Bytes(self.map()?.span(offset..offset + 1)?.load()?)),
            Order::Stat => {
                self.file()?.metadata()?;
                Ok(Answer::Done)
            }
            Order::Store { offset, value } => {
                self.map()?.span(offset..offset + 1)?.store(&[value])?;
                Ok(Answer::Done)
            }
            Order::SyncRange => {
                thrufs_sys::range_io::sync_file_range(self.file()?, 0, 0)?;
                Ok(Answer::Done)
            }
            Order::Evict => {
                self.map = None;
                self.file()?.sync_all()?;
                rustix::fs::fadvise(self.file()?, 0, None, rustix::fs::Advice::DontNeed)?;
                Ok(Answer::Done)
            }
            Order::CopyRange { from, to, len } => self.copy_range(from, to, len),
            Order::Truncate(len) => {
                self.file()?.set_len(len)?;
                Ok(Answer::Done)
            }
            Order::PageFlags(offset) => self.page_flags(offset),
        }
    }

    fn write_uring(&self, len: usize, value: u8) -> io::Result<Answer> {
        let buffer = Mapping::anonymous(len)?;
        let span = buffer.span(0..len)?;
        span.store(&vec![value; len])?;
        let count = thrufs_sys::uring::write(self.file()?, &span, 0)?;
        Ok(Answer::Count(count))
    }

    fn write_half_readable(&self, len: usize, readable: usize) -> io::Result<Answer> {
        let page = usize::try_from(page_size()).map_err(io::Error::other)?;
        let edge = readable.next_multiple_of(page);
        let buffer = Mapping::anonymous(edge + len)?;
        buffer.forbid_from(edge)?;
        let start = edge - readable;
        let span = buffer.span(start..start + len)?;
        Ok(Answer::Count(pwritev(self.file()?, &[span], 0)?))
    }

    fn copy_range(&self, mut from: u64, mut to: u64, len: usize) -> io::Result<Answer> {
        let file = self.file()?;
        let copied = rustix::fs::copy_file_range(file, Some(&mut from), file, Some(&mut to), len)?;
        Ok(Answer::Count(copied))
    }

    fn page_flags(&self, offset: usize) -> io::Result<Answer> {
        let span = self.map()?.span(offset..offset + 1)?;
        span.load()?;
        let mut flags = [0; 8];
        File::open("/proc/kpageflags")?.read_exact_at(&mut flags, span.page_frame()? * 8)?;
        Ok(Answer::Flags(u64::from_ne_bytes(flags)))
    }

    fn write_direct(&self, offset: u64, len: usize, value: u8) -> io::Result<Answer> {
        use std::os::unix::fs::OpenOptionsExt;
        let Some((path, _)) = &self.file else {
            return Err(io::Error::other("no file is open"));
        };
        let file = File::options()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)?;
        let buffer = Mapping::anonymous(len)?;
        buffer.span(0..len)?.store(&vec![value; len])?;
        Ok(Answer::Count(pwritev(
            &file,
            &[buffer.span(0..len)?],
            offset,
        )?))
    }
}

/// The prober's end of a client.
pub(crate) struct Client {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<Answer>,
    limit: Duration,
}

/// A client did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("{order} has not come back after {limit:?}")]
pub(crate) struct TimedOut {
    order: String,
    limit: Duration,
}

impl Client {
    /// Starts a client that has `path` open.
    pub(crate) fn open(path: &Path, limit: Duration) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("probe-client").current_dir("/");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("a client has no input")?;
        let stdout = child.stdout.take().context("a client has no output")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(answer) = serde_json::from_str(&line) {
                    let _prober_gone = sender.send(answer);
                }
            }
        });
        let mut client = Self {
            child,
            stdin,
            answers,
            limit,
        };
        match client.call(Order::Open(path.to_owned()))? {
            Answer::Done => Ok(client),
            other => bail!("{}: {other:?}", path.display()),
        }
    }

    /// Sends an order without waiting.
    pub(crate) fn start(&mut self, order: &Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(order)?;
        writeln!(self.stdin, "{line}").context("a client is gone")
    }

    /// Waits for the answer to an order that was sent.
    pub(crate) fn finish(&mut self, order: &str) -> anyhow::Result<Answer> {
        match self.answers.recv_timeout(self.limit) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => Err(TimedOut {
                order: order.to_owned(),
                limit: self.limit,
            }
            .into()),
            Err(RecvTimeoutError::Disconnected) => bail!("{order}: the client died of it"),
        }
    }

    /// Sends an order and returns the answer.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "orders are made for the call"
    )]
    pub(crate) fn call(&mut self, order: Order) -> anyhow::Result<Answer> {
        self.start(&order)?;
        self.finish(&format!("{order:?}"))
    }

    /// Reads, and requires bytes as the answer.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> anyhow::Result<Vec<u8>> {
        match self.call(Order::Read { offset, len })? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => bail!("read of {len} bytes at {offset}: {other:?}"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The client may be in D state until its connection is aborted, so nothing waits for it here.
        let _ended = self.child.kill();
        let _not_yet = self.child.try_wait();
    }
}
