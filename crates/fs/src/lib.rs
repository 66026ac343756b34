//! The passthrough file system.

mod config;

pub use config::{CachePolicy, Config, InodeFileHandles, LONG_TIMEOUT, Locks, PosixAcl, Timeouts};
