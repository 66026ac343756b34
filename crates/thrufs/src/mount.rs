//! The mount table: the mount is made and removed here, and nothing else touches it.

pub(crate) mod attach;
pub(crate) mod attached;
pub(crate) mod connection;
pub(crate) mod detach;
pub(crate) mod direct;
pub(crate) mod fusermount;
pub(crate) mod occupied;
pub(crate) mod options;
pub(crate) mod paths;
pub(crate) mod read_ahead;
pub(crate) mod replace_dead;
pub(crate) mod sysctls;
