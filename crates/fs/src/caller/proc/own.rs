//! What this process takes of the machine, from /proc/self and the process's clocks.
//!
//! Invariant: reading needs no free descriptor: all that is read again is held open, since the process
//! is asked just when clients have used up its descriptors. Not getrusage(2) for the CPU time: the
//! system call filter leaves it out, and the process's clock says the same.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use rustix::fs::{Dir, Mode, OFlags};

/// The files of /proc/self, of the process that opened them.
pub(crate) struct ProcFiles {
    descriptors: Mutex<Dir>,
    statm: File,
    /// Found once, so that it is the same whenever it is asked for.
    started: Duration,
}

const STAT: &str = "/proc/self/stat";
const STATM: &str = "/proc/self/statm";

impl ProcFiles {
    /// Opens them; `self_fd` is /proc/self/fd, and `process` /proc/self, where that is not found by its path.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub(crate) fn open(self_fd: &OwnedFd, process: Option<&OwnedFd>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = rustix::fs::openat(self_fd, c".", flags, Mode::empty())?;
        Ok(Self {
            descriptors: Mutex::new(Dir::new(listing)?),
            statm: open_own(process, STATM)?,
            started: started(open_own(process, STAT)?)?,
        })
    }

    /// How many descriptors this process has open.
    pub(crate) fn count_descriptors(&self) -> io::Result<u64> {
        let mut listing = self.descriptors.lock();
        listing.rewind();
        let mut count = 0;
        for entry in &mut *listing {
            let is_dot = matches!(entry?.file_name().to_bytes(), b"." | b"..");
            count += u64::from(!is_dot);
        }
        Ok(count)
    }

    /// Bytes of address space, and of those in memory.
    pub(crate) fn memory(&self) -> io::Result<(u64, u64)> {
        let mut line = [0; 256];
        let len = self.statm.read_at(&mut line, 0)?;
        let line = String::from_utf8_lossy(&line[..len]);
        let mut pages = line.split(' ').map_while(|field| field.parse::<u64>().ok());
        let (Some(all), Some(resident)) = (pages.next(), pages.next()) else {
            return Err(io::Error::other(format!("{STATM}: no numbers of pages")));
        };
        let page = rustix::param::page_size() as u64;
        Ok((all * page, resident * page))
    }

    /// CPU time of all threads, those that have ended included.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        clock(ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    /// When this process started, since 1970.
    pub(crate) fn started(&self) -> Duration {
        self.started
    }
}

/// Opens `path`, which is that of a file of /proc/self, in `process` if that is given.
fn open_own(process: Option<&OwnedFd>, path: &'static str) -> io::Result<File> {
    let opened = match process {
        Some(process) => {
            let name = path.trim_start_matches("/proc/self/");
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(process, name, flags, Mode::empty()).map(File::from)
        }
        None => return File::open(path).map_err(at(path)),
    };
    opened.map_err(|errno| at(path)(errno.into()))
}

/// The kernel counts from the boot, the time that the machine was suspended included.
fn started(file: File) -> io::Result<Duration> {
    let stat = io::read_to_string(file).map_err(at(STAT))?;
    // starttime is the 20th field after the name, which may hold anything (proc_pid_stat(5)).
    let ticks = stat
        .rsplit_once(") ")
        .and_then(|(_, fields)| fields.split(' ').nth(19)?.parse::<u64>().ok())
        .ok_or_else(|| io::Error::other(format!("{STAT}: no starttime")))?;
    let after_boot = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    let age = clock(ClockId::CLOCK_BOOTTIME)?.saturating_sub(Duration::from_secs_f64(after_boot));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.unwrap_or_default().saturating_sub(age))
}

fn clock(id: ClockId) -> io::Result<Duration> {
    Ok(Duration::from(clock_gettime(id)?))
}

pub(super) fn at(path: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{path}: {error}; mount /proc"))
}
