//! The FUSE requests that the kernel sends, from its own event fuse:fuse_request_send: the same for
//! every transport, so that no server has to count.
//!
//! The trace has the requests of all connections, so it is for machines that have one.

use anyhow::Result;

use super::kernel_trace::KernelTrace;

/// Records requests while it lives.
pub struct RequestTrace(KernelTrace);

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

    /// Starts; see [`KernelTrace::start`].
    pub fn start() -> Result<Self> {
        KernelTrace::start("fuse/fuse_request_send", "6.11").map(Self)
    }

    /// See [`KernelTrace::make_room`]; a request takes 50 bytes at most.
    pub fn make_room(&self, kilobytes: u32) -> Result<()> {
        self.0.make_room(kilobytes)
    }

    /// Drops the requests so far.
    pub fn clear(&self) -> std::io::Result<()> {
        self.0.clear()
    }

    /// The requests since.
    pub fn requests(&self) -> Result<Vec<Request>> {
        self.0.events(parse)
    }
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
}
