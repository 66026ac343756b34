//! Coherence of the kernel's cache with SOURCE: what makes it stale, and how it is told.
//!
//! [`external`] tells a change under SOURCE from the mount's own, for the files in [`open_files`];
//! [`fanotify`] does so for the whole file system (`--watch`); [`invalidate`] sends the notifications.

pub(crate) mod external;
pub(crate) mod fanotify;
pub(crate) mod invalidate;
pub(crate) mod open_files;
