//! The directories of a demo.

use std::path::PathBuf;

/// The directories of a demo.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    pub(super) source: PathBuf,
    pub(super) mountpoint: PathBuf,
}
