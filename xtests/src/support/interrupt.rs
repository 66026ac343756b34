//! ^C and SIGTERM: work under way is given up, and the harness ends by itself, so that every mount,
//! device and directory is removed by its owner's drop.
//!
//! Invariant: a thread acts on the signals, so that nothing happens at an arbitrary point. Their
//! handlers (tokio's) end with exec; a blocked signal would stay blocked in every child, which then
//! obeys no SIGTERM. A program under way has a process group of
//! its own (the terminal sends ^C to the whole foreground group), by which it is ended with
//! everything that it started; none is started afterwards.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::process;
use super::wait::wait_until;

/// After this a program that does not obey SIGTERM is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Set by [`Interrupt::watch_programs`].
static WATCHED: OnceLock<Interrupt> = OnceLock::new();
/// Process groups of the programs under way.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Whether a signal has come.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

/// The error of a program that was ended, or not started, because of a signal.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("ended by a signal")]
pub struct Interrupted;

impl Interrupt {
    /// Watches from now on. Programs are left to the caller, which reads the flag.
    ///
    /// # Errors
    /// From sigaction(2).
    pub fn watch() -> Result<Self> {
        Self::begin("stopping; what is done is kept", || ())
    }

    /// The same, and ends the programs of [`spawn`] when a signal comes.
    ///
    /// # Errors
    /// From sigaction(2).
    pub fn watch_programs() -> Result<Self> {
        let words = "stopping: what runs is ended, what was made is removed";
        let interrupt = Self::begin(words, end_programs)?;
        Ok(WATCHED.get_or_init(|| interrupt).clone())
    }

    fn begin(words: &'static str, then: impl Fn() + Send + 'static) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the thread that waits for signals")?;
        let guard = runtime.enter();
        let mut interrupts = signal(SignalKind::interrupt()).context("SIGINT")?;
        let mut terminations = signal(SignalKind::terminate()).context("SIGTERM")?;
        drop(guard);
        let interrupt = Self::default();
        let flag = interrupt.flag();
        std::thread::spawn(move || {
            loop {
                runtime.block_on(async {
                    tokio::select! {
                        _ = interrupts.recv() => {}
                        _ = terminations.recv() => {}
                    }
                });
                eprintln!("{words}");
                flag.store(true, Ordering::Relaxed);
                then();
            }
        });
        Ok(interrupt)
    }

    /// The flag alone, for code that knows nothing of this type.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether a signal has come.
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

    /// The child, for callers that wait in another way.
    pub fn child(&mut self) -> &mut Child {
        self.child
            .as_mut()
            .expect("taken by wait_with_output alone, at its end")
    }

    /// [`Child::wait`]; [`Interrupted`] once a signal has come.
    ///
    /// # Errors
    /// As there.
    pub fn wait(mut self) -> Result<ExitStatus> {
        let status = self.child().wait()?;
        not_interrupted().map(|()| status)
    }

    /// [`Child::wait_with_output`]; [`Interrupted`] once a signal has come.
    ///
    /// # Errors
    /// As there.
    pub fn wait_with_output(mut self) -> Result<Output> {
        let child = self.child.take().expect("this consumes the program");
        let output = child.wait_with_output()?;
        not_interrupted().map(|()| output)
    }
}

/// An error once a signal has come, if signals are watched.
///
/// # Errors
/// [`Interrupted`].
pub fn not_interrupted() -> Result<()> {
    match WATCHED.get() {
        Some(interrupt) if interrupt.is_set() => Err(Interrupted.into()),
        _ => Ok(()),
    }
}

/// Starts a program that ends when a signal comes, if signals are watched.
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
        // A signal that came meanwhile may have missed this program.
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
        // A reused process id belongs to none of our children.
        if process::parent(*group) == Some(Pid::this()) {
            // Fails only if all of them are gone, which is the aim.
            let _gone = killpg(*group, signal);
        }
    }
}
