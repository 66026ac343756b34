//! Which form a ledger has, and that one has none.

use std::io;

/// "thrufs" and the version of this form, in the first word.
pub(super) const FORM: u64 = 0x7468_7275_6673_0003;

/// The ledger is not one that a server wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger of the server that died is damaged: {0}")]
pub struct Damaged(pub(crate) &'static str);

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(io::ErrorKind::InvalidData, damaged)
    }
}
