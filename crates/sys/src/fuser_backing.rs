//! Backing ids in fuser's replies, where another process registered them: fuser lends them to a reply only by
//! an unsafe call, since it would end an id that it owns.
//!
//! Invariant: fuser never ends an id that was lent here; that is for who registered it.

use std::ops::Deref;

use fuser::{BackingId, ReplyCreate, ReplyOpen};

/// An id for one reply. fuser does not end it.
#[derive(Debug)]
pub struct Borrowed(Option<BackingId>);

impl Borrowed {
    /// For a reply to OPEN.
    pub fn by_open(reply: &ReplyOpen, id: i32) -> Self {
        // SAFETY: only the connection's table of ids is at stake, which the kernel checks; and the wrapper
        // is turned back before it could end the id.
        Self(Some(unsafe { reply.wrap_backing(id.cast_unsigned()) }))
    }

    /// For a reply to CREATE.
    pub fn by_create(reply: &ReplyCreate, id: i32) -> Self {
        // SAFETY: as above.
        Self(Some(unsafe { reply.wrap_backing(id.cast_unsigned()) }))
    }
}

impl Deref for Borrowed {
    type Target = BackingId;

    fn deref(&self) -> &BackingId {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let _still_registered = self.0.take().map(BackingId::into_raw);
    }
}
