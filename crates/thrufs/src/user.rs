//! The user who runs the program.

/// Whether the effective user is root: mount(2) is used then, and fusermount3 otherwise.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
