//! Waiting for a condition with a deadline. Nothing in the harness sleeps and hopes: the error
//! names the condition that did not come.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks: short against any deadline, long against the look itself.
const POLL: Duration = Duration::from_millis(2);

/// Calls `probe` until it gives a value; fails after `deadline`, naming `what`.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} in vain for {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// As [`wait_for`], for a plain condition.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, deadline, || Ok(holds()?.then_some(())))
}
