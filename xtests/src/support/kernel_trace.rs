//! One event of the kernel's tracing, through tracefs.
//!
//! Invariant: a trace is complete or an error; a trace that was too small is an error.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use super::skip::missing;

const TRACING: &str = "/sys/kernel/tracing";

/// Records an event while it lives.
pub struct KernelTrace {
    enable: PathBuf,
}

impl KernelTrace {
    /// Mounts tracefs if necessary, and starts recording `event`, which is `system/name`.
    ///
    /// # Errors
    /// A skip where the kernel lacks the event, which Linux has `since` a version.
    pub fn start(event: &str, since: &str) -> Result<Self> {
        let enable = Path::new(TRACING).join("events").join(event).join("enable");
        if !enable.exists() {
            let (kind, flags) = (Some("tracefs"), MsFlags::empty());
            mount(kind, TRACING, kind, flags, None::<&str>)
                .map_err(|errno| missing(format!("tracefs: {errno}")))?;
        }
        if !enable.exists() {
            let name = event.replace('/', ":");
            return Err(missing(format!(
                "the event {name}, which Linux has since {since}"
            )));
        }
        std::fs::write(&enable, "1").with_context(|| enable.display().to_string())?;
        Ok(Self { enable })
    }

    /// Sets the size of each CPU's buffer.
    pub fn make_room(&self, kilobytes: u32) -> Result<()> {
        let path = Path::new(TRACING).join("buffer_size_kb");
        std::fs::write(&path, kilobytes.to_string()).with_context(|| path.display().to_string())
    }

    /// Drops the events so far.
    pub fn clear(&self) -> std::io::Result<()> {
        std::fs::write(Path::new(TRACING).join("trace"), "")
    }

    /// The events since, as `parse` reads their lines.
    pub fn events<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        let text = std::fs::read_to_string(Path::new(TRACING).join("trace"))?;
        ensure!(
            is_whole(&text),
            "the kernel's trace had no room for all events: measure for a shorter time"
        );
        Ok(text.lines().filter_map(parse).collect())
    }
}

impl Drop for KernelTrace {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.enable, "0") {
            eprintln!("{}: {error}", self.enable.display());
        }
    }
}

/// `# entries-in-buffer/entries-written: 12/12   #P:2`
fn is_whole(text: &str) -> bool {
    let counts = text.lines().find_map(|line| {
        let (_, rest) = line.split_once("entries-written:")?;
        rest.split_whitespace().next()?.split_once('/')
    });
    counts.is_some_and(|(kept, written)| kept == written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_that_has_lost_requests_is_not_whole() {
        let header = |counts| {
            format!("# tracer: nop\n#\n# entries-in-buffer/entries-written: {counts}   #P:2\n")
        };
        assert!(is_whole(&header("12/12")));
        assert!(!is_whole(&header("12/15")) && !is_whole("# tracer: nop\n"));
    }
}
