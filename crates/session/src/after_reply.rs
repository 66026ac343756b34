//! What the outcome of a request asks of the kernel's cache, and whether before or after the reply. Once,
//! for all transports.
//!
//! Invariant: an invalidation is never sent from the thread that serves the request. One that must come
//! after the reply is queued when the reply has been sent: until then the kernel may hold a folio of the
//! range locked. One that must come before the reply sends the reply itself, from the invalidating thread.

use std::sync::Arc;
use std::time::Duration;

use thrufs_fs::{Attr, Entry, Passthrough, Result, WriteRequest};

/// Answers a WRITE.
///
/// A failed or short WRITE leaves bytes in the kernel's cache that the backing file does not hold: they
/// are invalidated after the reply. A direct WRITE past cached bytes leaves the older ones there: they
/// are invalidated before it.
pub(crate) fn answer_write(
    fs: &Passthrough,
    request: &WriteRequest<'_>,
    done: Result<usize>,
    reply: impl FnOnce(Result<usize>) + Send + 'static,
) {
    let is_whole = done == Ok(request.data.len());
    if is_whole && fs.may_be_cached_stale(request) {
        return fs.drop_range_then(request, move || reply(done));
    }
    reply(done);
    if !is_whole {
        fs.invalidate_after_failed_write(request);
    }
}

/// Answers with attributes. Those that show an external change are answered when the kernel has
/// invalidated what it cached of the file, so that a reader that sees the new mtime reads the new bytes.
pub(crate) fn answer_attr(
    fs: &Arc<Passthrough>,
    mut attr: Attr,
    reply: impl FnOnce(Attr) + Send + 'static,
) {
    match attr.external.take() {
        None => reply(attr),
        Some(external) => fs.invalidate_file_then(attr.ino, external, move || reply(attr)),
    }
}

/// How long the kernel may use the attributes, and the name, of an entry that is answered at once (CREATE,
/// READDIRPLUS). With an external change it asks again at once, and [`answer_attr`] applies.
pub(crate) fn timeouts(fs: &Passthrough, entry: &Entry) -> (Duration, Duration) {
    match entry.attr.external {
        None => (fs.attr_timeout(&entry.attr), entry.entry_timeout),
        Some(_) => (Duration::ZERO, Duration::ZERO),
    }
}

/// The same for fuser, which has one timeout for both.
pub(crate) fn timeout(fs: &Passthrough, entry: &Entry) -> Duration {
    let (attr, name) = timeouts(fs, entry);
    attr.min(name)
}
