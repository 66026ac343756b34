//! A server that was taken over, against its supervisor: a test has the server's end of the socket by which files
//! are given to the kernel, and says by it what no server says. The socket, the thread of the supervisor that
//! answers, and the connection to the kernel are those of a mount.
//!
//! What the thread does when the kernel or the server is slow stands in its unit tests
//! (`crates/thrufs/src/daemon/registrar/tests.rs`), where the kernel is a fake; what a server can get hold of
//! outside SOURCE at all, in `confinement.rs`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::cmsg_space;
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, makedev, memfd_create, mknodat, openat};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, socket_timeout, socket_type};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, recv, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use xtests::support::calls::open;
use xtests::support::checks::{equal, holds};
use xtests::support::process::{descriptors, resident};
use xtests::support::wait::{wait_for, wait_until};
use xtests::support::{Backing, Mount, Outcome, on_backing, on_daemon};

const PASSED: &[&str] = &["--passthrough=auto", "--cache=always"];
/// As in `registrar.rs`.
const OPEN: u32 = 1;
const CLOSE: u32 = 2;
const SETTLE: u32 = 3;
/// Of one message (SCM_MAX_FD).
const MOST_FILES: usize = 253;
const SOON: Duration = Duration::from_secs(30);

/// The server's end of the socket; the server itself says nothing while nothing is opened.
struct TakenOver(OwnedFd);

/// A message: the operation, the number of the question, and an id that ends.
fn packet(operation: u32, number: u32, ended: i32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&operation.to_ne_bytes());
    bytes[4..8].copy_from_slice(&number.to_ne_bytes());
    bytes[8..].copy_from_slice(&ended.to_ne_bytes());
    bytes
}

impl TakenOver {
    fn server_of(m: &Mount) -> Result<Self> {
        let pid = m.server_pid()?.as_raw();
        let server = Pid::from_raw(pid).context("a process id")?;
        let server = pidfd_open(server, PidfdFlags::empty())?;
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            let number = entry?.file_name().to_string_lossy().parse()?;
            let Ok(fd) = pidfd_getfd(&server, number, PidfdGetfdFlags::empty()) else {
                continue;
            };
            // Of the server's sockets this one alone has a limit to waiting.
            let is_packets = socket_type(&fd).is_ok_and(|kind| kind == SocketType::SEQPACKET);
            if is_packets && socket_timeout(&fd, Timeout::Recv)?.is_some() {
                return Ok(Self(fd));
            }
        }
        anyhow::bail!("process {pid} has no such socket")
    }

    fn say(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
        let said = wait_for("room in the socket", SOON, || {
            let mut space = [std::mem::MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FILES))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() {
                ensure!(ancillary.push(SendAncillaryMessage::ScmRights(files)));
            }
            let data = [std::io::IoSlice::new(bytes)];
            match sendmsg(&self.0, &data, &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => Ok(None),
                said => Ok(Some(said?)),
            }
        })?;
        equal("bytes of a message", said, bytes.len())
    }

    /// The next answer: to what, and an id or an errno below 0; none when there is none yet.
    fn hear(&self) -> Result<Option<(u32, i32)>> {
        let mut answer = [0; 8];
        match recv(&self.0, &mut answer, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => return Ok(None),
            count => equal("bytes of an answer", count?.0, answer.len())?,
        }
        let [a, b, c, d, e, f, g, h] = answer;
        Ok(Some((
            u32::from_ne_bytes([a, b, c, d]),
            i32::from_ne_bytes([e, f, g, h]),
        )))
    }

    /// The answer to the question of this number; ids that others got are ended.
    fn answer_to(&self, number: u32, patience: Duration) -> Result<i32> {
        wait_for("an answer", patience, || {
            while let Some((to, answer)) = self.hear()? {
                if to == number {
                    return Ok(Some(answer));
                }
                if answer > 0 {
                    self.close(answer)?;
                }
            }
            Ok(None)
        })
    }

    fn ask(&self, operation: u32, number: u32, files: &[BorrowedFd<'_>]) -> Result<i32> {
        self.say(&packet(operation, number, 0), files)?;
        self.answer_to(number, SOON)
    }

    fn open(&self, file: impl AsFd) -> Result<i32> {
        self.ask(OPEN, 77, &[file.as_fd()])
    }

    fn close(&self, id: i32) -> Result<()> {
        self.say(&packet(CLOSE, 0, id), &[])
    }

    /// Returns when all that was said is done. An answer for which there is no room is lost.
    fn settle(&self) -> Result<()> {
        let answer = wait_for("an answer to SETTLE", SOON, || {
            self.say(&packet(SETTLE, u32::MAX, 0), &[])?;
            Ok(self.answer_to(u32::MAX, Duration::from_secs(1)).ok())
        })?;
        equal("SETTLE", answer, 0)
    }
}

fn by_path(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = path.as_ref();
    openat(CWD, path, flags, Mode::empty()).with_context(|| path.display().to_string())
}

/// Of what no server is given: files of other devices.
fn on_other_devices(m: &Mount) -> Result<Vec<(&'static str, OwnedFd)>> {
    std::fs::write(m.scratch().path().join("beside"), "")?;
    std::fs::write(m.source("of the mount"), "")?;
    let (pipe, _writer) = rustix::pipe::pipe()?;
    Ok(vec![
        ("beside SOURCE", by_path(m.scratch().path().join("beside"))?),
        ("of the mount itself", by_path(m.path("of the mount"))?),
        ("/etc/passwd", by_path("/etc/passwd")?),
        ("/proc/self/mem", by_path("/proc/self/mem")?),
        ("/dev/fuse", by_path("/dev/fuse")?),
        ("/dev/null", File::open("/dev/null")?.into()),
        ("memory", memfd_create("x", MemfdFlags::CLOEXEC)?),
        ("a pipe", pipe),
        ("a directory", by_path("/")?),
    ])
}

/// In SOURCE, but no regular files.
fn of_other_kinds(m: &Mount) -> Result<Vec<(&'static str, OwnedFd)>> {
    let node = |name: &str, kind, device| -> Result<OwnedFd> {
        mknodat(CWD, m.source(name), kind, Mode::RUSR | Mode::WUSR, device)?;
        by_path(m.source(name))
    };
    let _socket = UnixListener::bind(m.source("socket"))?;
    std::os::unix::fs::symlink("/etc/passwd", m.source("symlink"))?;
    Ok(vec![
        (
            "null",
            node("null", FileType::CharacterDevice, makedev(1, 3))?,
        ),
        (
            "memory",
            node("mem", FileType::CharacterDevice, makedev(1, 1))?,
        ),
        ("disk", node("disk", FileType::BlockDevice, makedev(7, 0))?),
        ("FIFO", node("fifo", FileType::Fifo, 0)?),
        ("socket", by_path(m.source("socket"))?),
        ("symlink", by_path(m.source("symlink"))?),
        ("SOURCE", by_path(m.source(""))?),
    ])
}

#[test]
fn open_of_what_is_no_regular_file_of_source_is_refused_and_the_kernel_not_asked() -> Outcome {
    on_backing(Backing::Tmpfs, PASSED, |m| {
        m.require_mount()?;
        let (devices, kinds) = (on_other_devices(m)?, of_other_kinds(m)?);
        let server = TakenOver::server_of(m)?;
        for (what, file) in &devices {
            equal(what, server.open(file)?, -libc::EXDEV)?;
        }
        for (what, file) in &kinds {
            equal(what, server.open(file)?, -libc::EOPNOTSUPP)?;
        }
        equal("no file", server.ask(OPEN, 1, &[])?, -libc::EBADF)?;
        // The kernel counts from 1, and gives out no number again before all the others.
        std::fs::write(m.source("f"), "")?;
        for expected in 1..=3 {
            let id = server.open(by_path(m.source("f"))?)?;
            equal("what the kernel was asked for", id, expected)?;
            server.close(id)?;
        }
        server.settle()
    })
}

#[test]
fn ids_are_no_more_than_descriptors_and_the_supervisor_holds_none_of_these() -> Outcome {
    const LIMIT: usize = 256;
    on_daemon(&[PASSED, &["--rlimit-nofile=256"]].concat(), |m| {
        std::fs::write(m.source("f"), "")?;
        let supervisor = m.pid()?;
        let server = TakenOver::server_of(m)?;
        let before = descriptors(supervisor)?;
        let mut ids = Vec::new();
        let refused = loop {
            match server.open(by_path(m.source("f"))?)? {
                id @ 1.. => ids.push(id),
                errno => break errno,
            }
            ensure!(ids.len() <= LIMIT, "there is no end");
        };
        equal("one more", refused, -libc::EMFILE)?;
        equal("ids", ids.len(), LIMIT)?;
        equal("descriptors", descriptors(supervisor)?, before)?;
        for id in ids {
            server.close(id)?;
        }
        ensure!(server.open(by_path(m.source("f"))?)? > 0);
        Ok(())
    })
}

/// Numbers of ids are small, and each connection has its own.
#[test]
fn close_of_all_numbers_ends_no_id_of_another_mount() -> Outcome {
    on_daemon(PASSED, |m| {
        let other = Mount::new(Backing::Here, PASSED)?;
        let content = vec![5; 1 << 20];
        let first = open(&other.path("f"), 0)?;
        first.write_all_at(&content, 0)?;
        let server = TakenOver::server_of(m)?;
        std::fs::write(m.source("mine"), "")?;
        let mine = server.open(by_path(m.source("mine"))?)?;
        for id in (-10..1000).chain([i32::MIN, i32::MAX]) {
            server.close(id)?;
        }
        server.settle()?;
        ensure!(server.open(by_path(m.source("mine"))?)? > mine);
        // By the id that it has: without one that the kernel knows, open(2) fails.
        let second = open(&other.path("f"), 0)?;
        let mut back = vec![0; content.len()];
        second.read_exact_at(&mut back, 0)?;
        ensure!(back == content);
        equal("WRITEs", other.requests("WRITE")?, 0)?;
        equal("READs", other.requests("READ")?, 0)?;
        drop((first, second));
        other.unmount()
    })
}

/// Too short, too long, unknown, with no file, with too many, and questions whose answers are not read.
#[test]
fn hundred_thousand_hostile_messages_leave_the_supervisor_as_it_was() -> Outcome {
    const MESSAGES: u32 = 100_000;
    on_daemon(PASSED, |m| {
        std::fs::write(m.source("f"), "")?;
        let supervisor = m.pid()?;
        let server = TakenOver::server_of(m)?;
        let (null, file) = (File::open("/dev/null")?, by_path(m.source("f"))?);
        let long = vec![0xff; 60 << 10];
        let flood = [null.as_fd(); MOST_FILES];
        let of_source = [file.as_fd(); MOST_FILES];
        server.settle()?;
        let before = (descriptors(supervisor)?, resident(supervisor)?);
        for number in 0..MESSAGES {
            let id = (number % 512).cast_signed();
            let (open, close) = (packet(OPEN, number, -id), packet(CLOSE, number, id));
            let (bytes, files): (&[u8], &[BorrowedFd<'_>]) = match number % 16 {
                0 => (&long[..1], &[]),
                1 => (&long[..11], &flood[..1]),
                2 => (&long[..13], &flood[..2]),
                3 if number % 160 == 3 => (&long, &[]),
                4 if number % 160 == 4 => (&open, &flood),
                5 if number % 160 == 5 => (&open, &of_source),
                6 if number % 160 == 6 => (&close, &of_source),
                7 => (&packet(SETTLE, number, id), &flood[..1]),
                8 => (&packet(number, 8, id), &of_source[..1]),
                9 => (&packet(u32::MAX, number, i32::MIN), &[]),
                10 => (&close, &[]),
                11 => (&open, &[]),
                12 => (&open, &flood[..1]),
                13 => (&long[..4096], &flood[..8]),
                // KEEP and SWEEP.
                14 => (&packet(4 + number / 16 % 2, number, id), &of_source[..1]),
                _other => (&open, &of_source[..1]),
            };
            server.say(bytes, files)?;
        }
        server.settle()?;
        equal("descriptors", descriptors(supervisor)?, before.0)?;
        let grown = resident(supervisor)?.saturating_sub(before.1);
        ensure!(grown < 512 << 10, "{grown} bytes more");
        eprintln!("{grown} bytes more of {}", before.1);
        // One form after the other, each answered.
        for bytes in [&long[..1], &long[..11], &long[..13], &long[..4096]] {
            server.say(bytes, &flood)?;
            equal(bytes.len(), server.answer_to(0, SOON)?, -libc::EINVAL)?;
        }
        let unknown = server.ask(6, 9, &flood[..1])?;
        equal("unknown", unknown, -libc::EINVAL)?;
        drop(server);
        serves_on(m, true)
    })
}

/// A message of no bytes is how the end of a server looks.
#[test]
fn message_of_no_bytes_ends_kernel_passthrough_and_nothing_else() -> Outcome {
    on_daemon(PASSED, |m| {
        let server = TakenOver::server_of(m)?;
        server.say(&[], &[])?;
        drop(server);
        serves_on(m, false)
    })
}

/// Files of the mount are written and read, past the daemon or not.
fn serves_on(m: &Mount, is_passed_through: bool) -> Outcome {
    let mut index = 0;
    wait_until("files to go their way", SOON, || {
        index += 1;
        let name = format!("after{index}");
        let writes = m.requests("WRITE")?;
        let file = open(&m.path(&name), 0)?;
        file.write_all_at(&[7; 5000], 0)?;
        holds(m.source(&name), [7; 5000])?;
        Ok((m.requests("WRITE")? == writes) == is_passed_through)
    })
}
