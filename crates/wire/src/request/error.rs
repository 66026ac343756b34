//! Why a message was refused, and the errno for the kernel.

use nix::errno::Errno;
use thiserror::Error;

use crate::abi::InHeader;
use crate::opcode::Opcode;

/// A message that violates the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{cause}{}", of(.header.as_ref()))]
pub struct DecodeError {
    /// The header, if the message had one.
    pub header: Option<InHeader>,
    /// What is wrong.
    pub cause: Malformed,
}

/// What is wrong with a message. `part` is the kernel's name of what could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Less than a header.
    #[error("message of {have} bytes: a header has 40")]
    NoHeader {
        /// Bytes received.
        have: usize,
    },
    /// The header says another length.
    #[error("message of {have} bytes whose header says {said}")]
    Length {
        /// `fuse_in_header.len`.
        said: u32,
        /// Bytes received.
        have: usize,
    },
    /// The transport gave less in one piece than [`crate::head_len`] asks for.
    #[error("only {have} bytes of the message in one piece, {need} needed")]
    Head {
        /// Bytes in one piece.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The other byte order.
    #[error("INIT from a machine of the other byte order: such guests cannot be served")]
    ByteOrder,
    /// No opcode of FUSE 7.46.
    #[error("unknown opcode")]
    UnknownOpcode,
    /// A struct does not fit in what is left.
    #[error("{part} needs {need} bytes, {have} are left")]
    Short {
        /// Struct or array.
        part: &'static str,
        /// Its size.
        need: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// A name without NUL at its end.
    #[error("{part} does not end with NUL")]
    Unterminated {
        /// Which name.
        part: &'static str,
    },
    /// More than the operation's arguments.
    #[error("{count} bytes after the last argument")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// A length or a count that contradicts the length of the message.
    #[error("{part} says {said}, but {have} follow")]
    Count {
        /// The field.
        part: &'static str,
        /// Its value.
        said: u64,
        /// What follows in the message.
        have: u64,
    },
    /// A value that no kernel sends.
    #[error("{part} cannot be {value}")]
    Value {
        /// The field.
        part: &'static str,
        /// Its value.
        value: u64,
    },
    /// Extensions after an operation that has none, or that INIT did not grant.
    #[error("extensions of {len} bytes, where none can be")]
    UnexpectedExtensions {
        /// Their length as the header has it.
        len: usize,
    },
}

fn of(header: Option<&InHeader>) -> String {
    let Some(header) = header else {
        return String::new();
    };
    let InHeader { opcode, unique, .. } = *header;
    let name = Opcode::from_raw(opcode).map_or("opcode", Opcode::name);
    format!(" ({name} {opcode}, unique {unique:#x})")
}

impl DecodeError {
    /// What the caller of the system call sees.
    pub fn errno(&self) -> Errno {
        match self.cause {
            Malformed::UnknownOpcode => Errno::ENOSYS,
            Malformed::NoHeader { .. }
            | Malformed::Length { .. }
            | Malformed::Head { .. }
            | Malformed::ByteOrder
            | Malformed::Short { .. }
            | Malformed::Unterminated { .. }
            | Malformed::Trailing { .. }
            | Malformed::Count { .. }
            | Malformed::Value { .. }
            | Malformed::UnexpectedExtensions { .. } => Errno::EINVAL,
        }
    }

    /// The `unique` to be answered with [`Self::errno`], if the kernel waits for an answer.
    pub fn unanswered(&self) -> Option<u64> {
        let header = self.header?;
        match Opcode::from_raw(header.opcode) {
            Some(opcode) if !opcode.is_answered() => None,
            _operation => Some(header.unique),
        }
    }
}
