//! Every number of the protocol by the kernel's name, for the comparison with the kernel's header.
//!
//! Above [`crate::abi`] and not in it, since opcodes, notification codes and INIT's flags have files of their
//! own, which are built from its macros.

use crate::abi;
use crate::init_flags;
use crate::notify::Code;
use crate::opcode::Opcode;

/// Opcodes, notification codes, flags and constants.
pub fn values() -> impl Iterator<Item = (&'static str, u64)> {
    let opcodes = Opcode::ALL.iter();
    let opcodes = opcodes.map(|code| (code.name(), u64::from(code.as_raw())));
    let codes = Code::ALL.iter();
    let codes = codes.map(|code| (code.name(), u64::from(code.as_raw())));
    let flags = abi::values().chain(init_flags::FLAGS).copied();
    flags.chain(opcodes).chain(codes)
}
