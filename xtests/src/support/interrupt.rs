//! ^C and SIGTERM: what is under way is given up, and the harness ends by itself, so that whatever it has
//! mounted, attached and made is removed by its owner's drop.
//!
//! Invariant: the signals are blocked and waited for by a thread, so that nothing happens at an arbitrary
//! point; children start with an empty mask. A program that is waited for has a process group of its own
//! (the terminal sends ^C to the whole foreground group), by which it is ended with all that it started;
//! none is started afterwards.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::process;
use super::wait::wait_until;

/// After which a program that does not obey SIGTERM is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Set by [`Interrupt::watch_programs`].
static WATCHED: OnceLock<Interrupt> = OnceLock::new();
/// Process groups of the programs under way.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Whether a signal has come.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

/// The error of a program that was ended, or not started, because of a signal.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended by a signal")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// From now on; before any other thread is started, since those inherit the mask. Programs are left
    /// to the caller, which looks at the flag.
    ///
    /// # Errors
    /// From pthread_sigmask(3).
    pub fn watch() -> Result<Self> {
        Self::begin("stopping; what is done is kept", || ())
    }

    /// The same, and ends the programs of [`spawn`] when a signal comes.
    ///
    /// # Errors
    /// From pthread_sigmask(3).
    pub fn watch_programs() -> Result<Self> {
        let words = "stopping: what runs is ended, what was made is removed";
        let interrupt = Self::begin(words, end_programs)?;
        Ok(WATCHED.get_or_init(|| interrupt).clone())
    }

    fn begin(words: &'static str, then: impl Fn() + Send + 'static) -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block().context("pthread_sigmask")?;
        let interrupt = Self::default();
        let flag = interrupt.flag();
        std::thread::spawn(move || {
            while signals.wait().is_ok() {
                eprintln!("{words}");
                flag.store(true, Ordering::Relaxed);
                then();
            }
        });
        Ok(interrupt)
    }

    /// The same for what knows nothing of this type; set when it has come.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether it has come.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A program under way.
#[derive(Debug)]
pub struct Program {
    child: Option<Child>,
    group: Pid,
}

impl Program {
    fn new(child: Child) -> Self {
        Self {
            group: Pid::from_raw(child.id().cast_signed()),
            child: Some(child),
        }
    }

    /// For what waits otherwise.
    pub fn child(&mut self) -> &mut Child {
        self.child
            .as_mut()
            .expect("taken by wait_with_output alone, at its end")
    }

    /// See [`Child::wait`]; [`Interrupted`] where a signal has come.
    ///
    /// # Errors
    /// As there.
    pub fn wait(mut self) -> Result<ExitStatus> {
        let status = self.child().wait()?;
        not_interrupted().map(|()| status)
    }

    /// See [`Child::wait_with_output`]; [`Interrupted`] where a signal has come.
    ///
    /// # Errors
    /// As there.
    pub fn wait_with_output(mut self) -> Result<Output> {
        let child = self.child.take().expect("this consumes the program");
        let output = child.wait_with_output()?;
        not_interrupted().map(|()| output)
    }
}

/// An error once a signal has come, if those are watched.
///
/// # Errors
/// [`Interrupted`].
pub fn not_interrupted() -> Result<()> {
    match WATCHED.get() {
        Some(interrupt) if interrupt.is_set() => Err(Interrupted.into()),
        _ => Ok(()),
    }
}

/// Starts a program that ends when a signal comes, if those are watched.
///
/// # Errors
/// The program cannot be started; [`Interrupted`].
pub fn spawn(command: &mut Command) -> Result<Program> {
    let Some(interrupt) = WATCHED.get() else {
        return Ok(Program::new(command.spawn()?));
    };
    not_interrupted()?;
    let program = Program::new(command.process_group(0).spawn()?);
    groups().push(program.group);
    if interrupt.is_set() {
        // It came meanwhile, and may have missed this one.
        signal_all(Signal::SIGKILL);
    }
    Ok(program)
}

impl Drop for Program {
    fn drop(&mut self) {
        groups().retain(|group| *group != self.group);
    }
}

fn groups() -> MutexGuard<'static, Vec<Pid>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end_programs() {
    signal_all(Signal::SIGTERM);
    let gone = || Ok(groups().is_empty());
    if wait_until("the programs to end", GRACE, gone).is_err() {
        signal_all(Signal::SIGKILL);
    }
}

fn signal_all(signal: Signal) {
    for group in groups().iter() {
        // A number that was given to another process is none of our children.
        if process::parent(*group) == Some(Pid::this()) {
            // It fails only if all of them are gone, which is what is wanted.
            let _gone = killpg(*group, signal);
        }
    }
}
