//! A second process that takes a lock: `xtests hold-lock`. POSIX locks belong to a process and a
//! signal must end one that waits, so a thread will not do.
//!
//! Prints one word when it knows (`locked`, `busy`, or the error) and ends with its stdin.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, fcntl};

use super::command::wait_for_exit;
use super::process::pid_of;

/// The three kinds of advisory lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// fcntl(F_SETLK): owned by the process.
    Posix,
    /// fcntl(F_OFD_SETLK): owned by the open file.
    Ofd,
    /// flock(2).
    Flock,
}

impl Kind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Posix => "posix",
            Self::Ofd => "ofd",
            Self::Flock => "flock",
        }
    }
}

/// Arguments of the hidden subcommand.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The kind of lock.
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// A shared (read) lock instead of an exclusive one.
    #[arg(long)]
    pub shared: bool,
    /// Wait for it.
    #[arg(long)]
    pub wait: bool,
    /// First byte (POSIX and OFD).
    #[arg(long, default_value_t = 0)]
    pub start: i64,
    /// How many bytes; 0 means to the end of the file.
    #[arg(long, default_value_t = 0)]
    pub len: i64,
    /// The file.
    pub file: PathBuf,
}

/// Tries to take the lock on `file`; the kernel's errno is the inner result.
pub fn take(file: &File, args: &Args) -> nix::Result<()> {
    use rustix::fs::{FlockOperation, flock};
    if args.kind == Kind::Flock {
        let operation = match (args.shared, args.wait) {
            (true, true) => FlockOperation::LockShared,
            (true, false) => FlockOperation::NonBlockingLockShared,
            (false, true) => FlockOperation::LockExclusive,
            (false, false) => FlockOperation::NonBlockingLockExclusive,
        };
        return flock(file, operation)
            .map_err(|error| nix::errno::Errno::from_raw(error.raw_os_error()));
    }
    let lock = range(
        if args.shared {
            libc::F_RDLCK
        } else {
            libc::F_WRLCK
        },
        args.start,
        args.len,
    );
    let operation = match (args.kind, args.wait) {
        (Kind::Ofd, true) => FcntlArg::F_OFD_SETLKW(&lock),
        (Kind::Ofd, false) => FcntlArg::F_OFD_SETLK(&lock),
        (_, true) => FcntlArg::F_SETLKW(&lock),
        (_, false) => FcntlArg::F_SETLK(&lock),
    };
    fcntl(file, operation).map(|_| ())
}

/// A `struct flock` from the beginning of the file.
pub fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

/// The subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    let file = File::options().read(true).write(true).open(&args.file);
    let file = file.with_context(|| args.file.display().to_string())?;
    println!("open");
    match take(&file, args) {
        Ok(()) => println!("locked"),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => println!("busy"),
        Err(error) => println!("{error:?}"),
    }
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(ExitCode::SUCCESS)
}

/// Whether another process holds a lock of this kind on `file`; POSIX locks and OFD locks exclude each other.
pub fn is_locked(xtests: &Path, kind: Kind, file: &Path) -> Result<bool> {
    let mut other = LockHolder::start(xtests, kind, &[], file)?;
    let word = other.says()?;
    other.release()?;
    match word.as_str() {
        "busy" => Ok(true),
        "locked" => Ok(false),
        _error => bail!("{}: {word}", file.display()),
    }
}

/// The other process, from the test's side. Killed when dropped.
pub struct LockHolder {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl LockHolder {
    /// Starts it; returns once it has the file open and is about to lock.
    pub fn start(xtests: &Path, kind: Kind, extra: &[&str], file: &Path) -> Result<Self> {
        let mut command = Command::new(xtests);
        command
            .args(["hold-lock", "--kind", kind.name()])
            .args(extra)
            .arg(file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| xtests.display().to_string())?;
        let stdout = child
            .stdout
            .take()
            .context("the child's stdout is a pipe")?;
        let mut holder = Self {
            child,
            stdout: BufReader::new(stdout),
        };
        let said = holder.says()?;
        if said != "open" {
            bail!(
                "the lock holder said {said:?} instead of opening {}",
                file.display()
            );
        }
        Ok(holder)
    }

    /// The next word; blocks until it comes (the mount's watchdog ends a wait that would not end).
    pub fn says(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Its process id.
    pub fn pid(&self) -> nix::unistd::Pid {
        pid_of(&self.child)
    }

    /// Waits until it has ended.
    pub fn wait_for_end(&mut self, deadline: Duration) -> Result<()> {
        wait_for_exit(&mut self.child, "the lock holder to end", deadline).map(|_| ())
    }

    /// Ends it, which releases its lock.
    pub fn release(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.wait_for_end(Duration::from_secs(5))
    }
}

impl Drop for LockHolder {
    fn drop(&mut self) {
        // The child may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
