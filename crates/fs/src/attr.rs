//! Attributes of an inode, as statx(2) gives them, with the number under which the client sees it.

use rustix::fs::Statx;

use crate::coherence::external::ExternalChange;
use crate::inode::identity::FileKind;

/// What GETATTR and LOOKUP report.
#[derive(Clone, Debug)]
pub struct Attr {
    /// st_ino as the client sees it.
    pub ino: u64,
    /// Everything else, as the backing file system says it.
    pub stat: Statx,
    /// The file was changed outside this mount, and the kernel must drop what it cached of it before it
    /// is told.
    pub external: Option<ExternalChange>,
    /// The file may be stored to through a mapping that goes past the daemon: the kernel, which is told of
    /// none of it, must ask for the attributes each time.
    pub is_volatile: bool,
}

impl Attr {
    /// See [`FileKind`].
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(u32::from(self.stat.stx_mode))
    }
}
