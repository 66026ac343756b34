//! ^C and SIGTERM: the run under way is given up, what is done is kept.
//!
//! The signals are blocked and waited for by a thread, so that nothing happens at an arbitrary
//! point; children start with an empty mask. fio gets a process group of its own, since the
//! terminal sends ^C to the whole foreground group.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// Whether somebody wants us to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on; before any other thread is started, since those inherit the mask.
    pub(super) fn watch() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block().context("pthread_sigmask")?;
        let interrupt = Self::default();
        let flag = interrupt.clone();
        std::thread::spawn(move || {
            while signals.wait().is_ok() {
                eprintln!("stopping; what is done is kept");
                flag.0.store(true, Ordering::Relaxed);
            }
        });
        Ok(interrupt)
    }

    /// The same for what knows nothing of this type; set when it has come.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether it has come.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
