//! The FUSE requests that the kernel sends, as it tells them itself (the event fuse:fuse_request_send): the
//! same for every transport, so that no server has to count.
//!
//! Invariant: a count is of all requests or none: of a trace that was too small for them an error tells.
//! The requests of all connections are in it, so it is for machines that have one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use super::skip::missing;

const TRACING: &str = "/sys/kernel/tracing";

/// The kernel's events, while it lives.
pub struct RequestTrace {
    event: PathBuf,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// As in `enum fuse_opcode`.
    pub opcode: u32,
    /// Header included.
    pub len: u64,
}

impl RequestTrace {
    /// Opcode of READ.
    pub const READ: u32 = 15;
    /// Opcode of WRITE.
    pub const WRITE: u32 = 16;

    /// Mounts tracefs if it is not there, and begins.
    pub fn start() -> Result<Self> {
        let event = Path::new(TRACING).join("events/fuse/fuse_request_send/enable");
        if !event.exists() {
            let flags = MsFlags::empty();
            mount(
                Some("tracefs"),
                TRACING,
                Some("tracefs"),
                flags,
                None::<&str>,
            )
            .map_err(|errno| missing(format!("tracefs: {errno}")))?;
        }
        if !event.exists() {
            return Err(missing(
                "the event fuse:fuse_request_send, which Linux has since 6.11",
            ));
        }
        std::fs::write(&event, "1").with_context(|| event.display().to_string())?;
        Ok(Self { event })
    }

    /// Makes room for so much on each CPU; a request takes 50 bytes at most.
    pub fn make_room(&self, kilobytes: u32) -> Result<()> {
        let path = Path::new(TRACING).join("buffer_size_kb");
        std::fs::write(&path, kilobytes.to_string()).with_context(|| path.display().to_string())
    }

    /// Forgets what was sent.
    pub fn clear(&self) -> std::io::Result<()> {
        std::fs::write(Path::new(TRACING).join("trace"), "")
    }

    /// Each request since.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let text = std::fs::read_to_string(Path::new(TRACING).join("trace"))?;
        ensure!(
            is_whole(&text),
            "the kernel's trace had no room for all requests: measure for a shorter time"
        );
        Ok(text.lines().filter_map(parse).collect())
    }
}

impl Drop for RequestTrace {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.event, "0") {
            eprintln!("{}: {error}", self.event.display());
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

/// `... fuse_request_send: connection 1 req 2 opcode 16 (FUSE_WRITE) len 180`
fn parse(line: &str) -> Option<Request> {
    let (_, rest) = line.split_once("fuse_request_send: ")?;
    let after = |word: &str| {
        let (_, rest) = rest.split_once(word)?;
        rest.split_whitespace().next()
    };
    Some(Request {
        opcode: after("opcode ")?.parse().ok()?,
        len: after(" len ")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_a_trace_line_gives_opcode_and_length() {
        let line = "  xtests-31  [000] .....  1.5: fuse_request_send: connection 27 req 8 opcode 16 \
                    (FUSE_WRITE) len 65616 ";
        let expected = Request {
            opcode: RequestTrace::WRITE,
            len: 65616,
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse("# tracer: nop"), None);
    }

    #[test]
    fn trace_that_has_lost_requests_is_not_whole() {
        let header = |counts| {
            format!("# tracer: nop\n#\n# entries-in-buffer/entries-written: {counts}   #P:2\n")
        };
        assert!(is_whole(&header("12/12")));
        assert!(!is_whole(&header("12/15")) && !is_whole("# tracer: nop\n"));
    }
}
