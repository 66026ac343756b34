//! SIGINT, SIGTERM and SIGHUP in the process that the user started, while its daemon mounts.
//!
//! Invariant: from before the fork until the mount is taken over, such a signal interrupts the wait and
//! nothing else, so that the daemon is stopped first; then it has its effect. A signal that the starter
//! has set to be ignored (nohup(1), a shell's background job) stays ignored. A signalfd(2), not handlers:
//! the waits poll(2) already, and the child must inherit none.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The signals are blocked, and can be waited for.
#[derive(Debug)]
pub(super) struct Interrupts {
    arrived: SignalFd,
    /// The mask from before.
    before: SigSet,
}

/// A signal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted by {0}")]
pub(super) struct Interrupted(pub(super) Signal);

impl Interrupts {
    /// Blocks the signals in this thread, the only one.
    pub(super) fn block() -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let wanted = ENDING
            .iter()
            .filter(|signal| !is_ignored(&status, **signal));
        let set: SigSet = wanted.copied().collect();
        let before = set
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .context("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let arrived = SignalFd::with_flags(&set, flags).context("signalfd")?;
        Ok(Self { arrived, before })
    }

    /// Lets the signals have their effect again.
    pub(super) fn restore(&self) -> anyhow::Result<()> {
        self.before.thread_set_mask().context("unblock signals")
    }

    /// An error if one has come.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let arrived = self.arrived.read_signal().context("read a signal")?;
        let number = arrived.and_then(|arrived| i32::try_from(arrived.ssi_signo).ok());
        match number.map(Signal::try_from) {
            Some(signal) => Err(Interrupted(signal.context("a signal")?).into()),
            None => Ok(()),
        }
    }

    /// Ends this process by `signal`, as without a handler: a shell ends its
    /// script at that.
    pub(super) fn die_of(&self, signal: Signal) -> ! {
        // Where it does not end the process, the exit code tells the same.
        let _blocked = self.restore().map(|()| raise(signal));
        std::process::exit(128 + signal as i32)
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }
}

/// By `SigIgn` of /proc/self/status.
fn is_ignored(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) & (1 << (signal as i32 - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ignored_of_a_status_as_nohup_makes_it() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\tffff\n";
        assert!(is_ignored(status, Signal::SIGHUP));
        assert!(!is_ignored(status, Signal::SIGINT));
        assert!(!is_ignored("", Signal::SIGHUP));
    }

    #[test]
    fn check_after_a_signal_names_it_once() {
        // In a thread of its own, whose mask ends with it.
        let thread = std::thread::spawn(|| {
            let interrupts = Interrupts::block().unwrap();
            assert!(interrupts.check().is_ok());
            raise(Signal::SIGTERM).unwrap();
            let error = interrupts.check().unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&Interrupted(Signal::SIGTERM)));
            assert!(interrupts.check().is_ok());
        });
        thread.join().unwrap();
    }
}
