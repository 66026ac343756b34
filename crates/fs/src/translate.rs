//! What is called otherwise on SOURCE than the client sees it: users and groups, and extended attributes.

pub(crate) mod ids;
pub(crate) mod xattrs;
