//! Where a directory handle stands, if lseek(2) cannot return there: cookies beyond `i64::MAX`, as some servers of
//! NFS give.
//!
//! Invariant: the descriptor stands behind the last record that is kept here, so that a listing that goes on
//! where the last one ended misses none. At most one buffer of records is kept, and none where the cookies fit
//! lseek(2). A listing from another such cookie fails with EINVAL, as on SOURCE itself.

use std::ffi::{OsStr, OsString};

use crate::inode::identity::FileKind;

/// A name in a directory, as SOURCE lists it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed<'a> {
    /// Number on SOURCE.
    pub(crate) ino: u64,
    /// Where to go on after it.
    pub(crate) next_offset: u64,
    pub(crate) kind: FileKind,
    pub(crate) name: &'a OsStr,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct FarCookies {
    /// The cookie before the first of the records.
    at: u64,
    rest: Vec<(u64, u64, FileKind, OsString)>,
}

/// Whether lseek(2) takes it.
pub(crate) fn is_far(offset: u64) -> bool {
    i64::try_from(offset).is_err()
}

impl FarCookies {
    /// What is kept of the listing from `offset` on; none if it is not where the descriptor stands.
    pub(crate) fn take(&mut self, offset: u64) -> Option<Self> {
        let kept = std::mem::take(self);
        (is_far(offset) && kept.at == offset).then_some(kept)
    }

    /// The next listing begins at `at`, with what [`FarCookies::push`] adds.
    pub(crate) fn stop_at(&mut self, at: u64) {
        self.at = at;
    }

    pub(crate) fn push(&mut self, listed: &Listed<'_>) {
        let name = listed.name.to_owned();
        self.rest
            .push((listed.ino, listed.next_offset, listed.kind, name));
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Listed<'_>> {
        self.rest
            .iter()
            .map(|(ino, next_offset, kind, name)| Listed {
                ino: *ino,
                next_offset: *next_offset,
                kind: *kind,
                name,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_gives_what_is_kept_to_the_listing_that_goes_on_there_and_to_no_other() {
        let far = u64::MAX - 5;
        let mut kept = FarCookies::default();
        assert!(kept.take(0).is_none() && kept.take(7).is_none());
        for asked in [far, far + 1, 0] {
            kept.stop_at(far);
            kept.push(&Listed {
                ino: 3,
                next_offset: far + 1,
                kind: FileKind::Regular,
                name: OsStr::new("a"),
            });
            let taken = kept.take(asked);
            assert_eq!(
                taken.map_or(0, |taken| taken.records().count()),
                usize::from(asked == far)
            );
            assert_eq!(kept.records().count(), 0);
        }
    }
}
