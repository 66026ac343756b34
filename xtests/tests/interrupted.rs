//! Callers that a signal ends at a random moment: before their request, while it waits for SOURCE, for a lock or
//! for a thread, and while it is answered. They end, and nothing of them stays.
//!
//! Invariant: a run can be repeated: the moments follow from a seed, which is printed, and which [`SEED`] sets.
//! How long an end took is printed too, and not asserted but for [`HUNG`]: the machine has a part in it.

use std::fs::File;
use std::io::Seek;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use xtests::support::asked::{ROUNDS, number};
use xtests::support::command::{describe, wait_for_exit};
use xtests::support::lock_holder::{Kind, LockHolder};
use xtests::support::mount::is_default_run;
use xtests::support::process::{is_in_call, pid_of};
use xtests::support::random::Random;
use xtests::support::threads::in_threads;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, missing};

/// Variable with the number from which the moments follow.
const SEED: &str = "THRUFS_TEST_SEED";
const XTESTS: &str = env!("CARGO_BIN_EXE_xtests");
const DEVICE: &str = "--transport=device";
/// How many callers each test ends, where [`ROUNDS`] does not say it.
const CALLERS: usize = 60;
/// A caller that has not ended by then never will, on a machine however busy.
const HUNG: Duration = Duration::from_secs(20);
/// Microseconds: no moment is later. A program takes some thousand to its first request.
const LATEST: usize = 20_000;
/// Threads of the daemon below which SOURCE hangs, of which each caller takes one until SOURCE answers.
const THREADS: &str = "--thread-pool-size=16";
const CALLERS_AT_A_TIME: usize = 10;

fn callers() -> Result<usize> {
    number(ROUNDS, CALLERS)
}

/// A mount of `scratch` that is not given up before as many callers have ended.
fn mounted(scratch: Scratch, options: &[&str]) -> Result<Mount> {
    if !is_default_run() {
        let once = "nothing: signals are tested once, by --transport=device";
        return Err(missing(once));
    }
    let limit = HUNG * 6 + Duration::from_secs(callers()? as u64);
    let mount = Mount::of(scratch, options)?.allow(limit);
    mount.require_mount()?;
    Ok(mount)
}

/// When callers are interrupted, and how long those took to end that waited.
struct Moments {
    name: String,
    random: Random,
    ends: Vec<Duration>,
}

impl Moments {
    /// `stream` tells the threads of a test apart.
    fn new(name: &str, stream: u64) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let seed = number(SEED, u64::from(now.subsec_nanos()))?;
        eprintln!("{name}: {SEED}={seed}");
        Ok(Self {
            name: name.to_owned(),
            random: Random(seed ^ (stream << 32)),
            ends: Vec::new(),
        })
    }

    /// Starts `program`, interrupts it, and waits for its end. Half of them are interrupted so long after their
    /// start, which can be before they ask for anything; the others so long after `waits` is true.
    fn interrupt(
        &mut self,
        program: &mut Command,
        mut waits: impl FnMut(&mut Child) -> Result<bool>,
    ) -> Result<ExitStatus> {
        let what = describe(program);
        let mut child = program
            .stderr(Stdio::null())
            .spawn()
            .context(what.clone())?;
        let has_to_wait = self.random.below(2) == 0;
        if has_to_wait {
            let waits = wait_until(&format!("{what} to wait"), HUNG, || waits(&mut child));
            if waits.is_err() {
                // Reaped with the test's process: it may be one that cannot be killed.
                let _gone = child.kill();
            }
            waits?;
        }
        let moment = self.random.below(LATEST);
        std::thread::sleep(Duration::from_micros(moment as u64));
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let began = Instant::now();
        kill(pid_of(&child), Signal::SIGINT)?;
        let status = wait_for_exit(&mut child, &what, HUNG)?;
        if has_to_wait {
            self.ends.push(began.elapsed());
        }
        Ok(status)
    }
}

impl Drop for Moments {
    fn drop(&mut self) {
        self.ends.sort();
        let Some(longest) = self.ends.last() else {
            return;
        };
        let (name, count, median) = (&self.name, self.ends.len(), self.ends[self.ends.len() / 2]);
        eprintln!("{name}: {count} that waited ended in {median:?} (median), {longest:?} at most");
    }
}

/// What a daemon holds for its callers: inodes, handles, and its descriptors, by which it locks as well.
fn held(m: &Mount) -> Result<(Option<u64>, Option<u64>, usize)> {
    let status = m.status()?;
    let descriptors = m.daemon_descriptors()?;
    Ok((
        status["inodes"].as_u64(),
        status["handles"].as_u64(),
        descriptors,
    ))
}

fn wait_for_held(m: &Mount, before: (Option<u64>, Option<u64>, usize)) -> Outcome {
    let same = wait_until("nothing to be left of the callers", HUNG, || {
        let now = held(m)?;
        // A descriptor of the daemon's start may have been closed since.
        let is_left = (now.0, now.1) != (before.0, before.1) || now.2 > before.2;
        Ok(m.waiting()? == 0 && !is_left)
    });
    same.with_context(|| format!("{:?} before, {:?} now", before, held(m)))
}

/// The programs whose first request is LOOKUP, GETATTR, OPEN, OPENDIR and READ, where the kernel knows `dir/file`.
fn program(m: &Mount, kind: usize, open: &File) -> Result<Command> {
    let of = |name: &str, options: &[&str], path: &str| {
        let mut command = Command::new(name);
        command.args(options).arg(m.path(path)).stdin(Stdio::null());
        command
    };
    let mut command = match kind % 5 {
        0 => of("stat", &[], "dir/absent"),
        1 => of("stat", &["--cached=never"], "dir/file"),
        2 => of("cat", &[], "dir/file"),
        3 => of("ls", &[], "dir"),
        _read => {
            let mut command = Command::new("cat");
            command.stdin(open.try_clone()?);
            command
        }
    };
    command.stdout(Stdio::null());
    Ok(command)
}

#[test]
fn callers_interrupted_while_source_hangs_end_and_leave_nothing() -> Outcome {
    case(|| {
        let lower = mounted(Scratch::new(Backing::Here)?, &["--cache=never"])?;
        std::fs::create_dir(lower.path("dir"))?;
        std::fs::write(lower.path("dir/file"), "content")?;
        let known = ["--entry-timeout=3600", "--attr-timeout=3600"];
        let options = [DEVICE, "--cache=never", THREADS, known[0], known[1]];
        let upper = mounted(Scratch::sharing(lower.dir().to_owned())?, &options)?;
        let callers = callers()?;
        let open = File::open(upper.path("dir/file"))?;
        upper.drop_caches()?;
        let before = held(&upper)?;
        let mut moments = Moments::new("SOURCE hangs", 0)?;
        for first in (0..callers).step_by(CALLERS_AT_A_TIME) {
            lower.while_stopped(|| {
                for at in first..callers.min(first + CALLERS_AT_A_TIME) {
                    wait_until("no request to wait", HUNG, || Ok(upper.waiting()? == 0))?;
                    let mut program = program(&upper, at, &open)?;
                    let status = moments.interrupt(&mut program, |_| Ok(upper.waiting()? > 0))?;
                    let ended = status.signal() == Some(libc::SIGINT);
                    ensure!(ended, "{}: {status}", describe(&program));
                }
                Ok(())
            })?;
            // What SOURCE answers now is dropped.
            ensure!(std::fs::read(upper.path("dir/file"))? == b"content");
            wait_until("the threads to be free", HUNG, || {
                Ok(upper.status()?["in_flight"].as_u64() == Some(0))
            })?;
        }
        upper.drop_caches()?;
        wait_for_held(&upper, before)?;
        drop(open);
        upper.unmount()?;
        lower.unmount()
    })
}

fn hold_lock(kind: Kind, file: &Path) -> Command {
    let mut command = Command::new(XTESTS);
    command.args(["hold-lock", "--wait", "--kind"]);
    command.arg(kind.name()).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The lock is free for others then, on the mount and on SOURCE.
fn is_free(kind: Kind, file: &Path) -> Outcome {
    let mut other = LockHolder::start(Path::new(XTESTS), kind, &[], file)?;
    let word = other.says()?;
    ensure!(word == "locked", "{kind:?} of {}: {word}", file.display());
    other.release()
}

#[test]
fn callers_interrupted_while_they_wait_for_a_lock_end_and_leave_none() -> Outcome {
    case(|| {
        for locks in ["--locks=local", "--locks=host"] {
            let m = mounted(Scratch::new(Backing::Here)?, &[DEVICE, locks])?;
            File::create(m.path("f"))?;
            for kind in [Kind::Posix, Kind::Ofd, Kind::Flock] {
                let name = format!("{locks} {kind:?}");
                interrupt_waiters(&m, kind, &name).with_context(|| name.clone())?;
            }
            m.unmount()?;
        }
        Ok(())
    })
}

/// A sixth of the callers, since there are two places where locks are kept, and three kinds of them.
fn interrupt_waiters(m: &Mount, kind: Kind, name: &str) -> Outcome {
    let path = m.path("f");
    let mut holder = LockHolder::start(Path::new(XTESTS), kind, &[], &path)?;
    ensure!(holder.says()? == "locked");
    let before = held(m)?;
    let mut moments = Moments::new(name, 0)?;
    for _caller in 0..callers()?.div_ceil(6) {
        let mut program = hold_lock(kind, &path);
        let calls = [libc::SYS_fcntl, libc::SYS_flock];
        let waits = |child: &mut Child| Ok(is_in_call(pid_of(child), &calls));
        let status = moments.interrupt(&mut program, waits)?;
        ensure!(status.signal() == Some(libc::SIGINT), "{status}");
    }
    wait_for_held(m, before)?;
    holder.release()?;
    is_free(kind, &path)?;
    is_free(kind, &m.source("f"))
}

/// One thread serves three that write: a WRITE that has not begun ends with its caller, the others run to their end.
#[test]
fn callers_interrupted_while_they_write_leave_all_of_it_or_nothing() -> Outcome {
    const WRITERS: usize = 3;
    const WRITTEN: &[u8] = &[7; 4096];
    let options = [
        DEVICE,
        "--cache=never",
        "--thread-pool-size=1",
        "--fault=write:delay=10",
    ];
    case(|| {
        let m = mounted(Scratch::new(Backing::Here)?, &options)?;
        std::fs::write(m.source("from"), WRITTEN)?;
        for writer in 0..WRITERS {
            File::create(m.path(&format!("to{writer}")))?;
        }
        m.drop_caches()?;
        let before = held(&m)?;
        let each = callers()?.div_ceil(WRITERS);
        in_threads(WRITERS, |writer| {
            let (name, mut moments) =
                (format!("to{writer}"), Moments::new("WRITE", writer as u64)?);
            let mut file = File::options().write(true).open(m.path(&name))?;
            for _caller in 0..each {
                file.set_len(0)?;
                file.rewind()?;
                let mut program = Command::new("cat");
                program.stdin(File::open(m.source("from"))?);
                program.stdout(file.try_clone()?);
                let status = moments.interrupt(&mut program, |child| {
                    let calls = [libc::SYS_write, libc::SYS_copy_file_range];
                    Ok(child.try_wait()?.is_some() || is_in_call(pid_of(child), &calls))
                })?;
                let found = std::fs::read(m.source(&name))?;
                let is_whole = found == WRITTEN;
                let is_right = is_whole || (found.is_empty() && !status.success());
                ensure!(is_right, "{status}, with {} bytes", found.len());
            }
            Ok(())
        })?;
        m.drop_caches()?;
        wait_for_held(&m, before)?;
        m.unmount()
    })
}
