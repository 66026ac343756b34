//! What the page cache holds before a write: the folios of one file and the file's size.
//!
//! Invariant: folios never overlap, and each is aligned to its own size, as in the page cache.
//! Folios are listed only where they differ from the state assumed elsewhere, so that "everything
//! is uptodate" needs no list. Page granularity alone would not do: with large folios a write of
//! whole pages can still be partial, and the rules ask about folios.

use std::collections::BTreeMap;

use serde::Serialize;

/// The page size of every count in this crate. The rules scale with it, the measured table does
/// not.
pub const PAGE_SIZE: u64 = 4096;

/// What the cache knows about one folio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FolioState {
    /// Not in the page cache.
    Absent,
    /// In the cache, not uptodate: some bytes were copied into it by earlier partial writes.
    Partial,
    /// Every byte is at least as new as the server's.
    Uptodate,
    /// Uptodate, with bytes that the server has yet to see (a store through a shared mapping).
    Dirty,
    /// Dirty and not uptodate: only where write-through meets writeback_cache on one inode.
    DirtyPartial,
}

impl FolioState {
    /// Whether a read may be answered from the folio.
    pub fn is_uptodate(self) -> bool {
        matches!(self, Self::Uptodate | Self::Dirty)
    }

    /// The state after every byte has been read from the server or copied from the writer.
    pub(crate) fn completed(self) -> Self {
        match self {
            Self::Absent | Self::Partial | Self::Uptodate => Self::Uptodate,
            Self::Dirty | Self::DirtyPartial => Self::Dirty,
        }
    }

    /// The state after some bytes have been copied in.
    pub(crate) fn touched(self) -> Self {
        match self {
            Self::Absent | Self::Partial => Self::Partial,
            Self::Uptodate | Self::Dirty | Self::DirtyPartial => self,
        }
    }
}

/// One folio: `pages` pages from page `index` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Folio {
    /// First page of the folio.
    pub index: u64,
    /// Number of pages, a power of two; 1 unless the file system enables large folios.
    pub pages: u64,
    /// What the cache knows about it.
    pub state: FolioState,
}

impl Folio {
    /// First byte of the folio in the file.
    pub fn start(&self) -> u64 {
        self.index * PAGE_SIZE
    }

    /// First byte after the folio.
    pub fn end(&self) -> u64 {
        (self.index + self.pages) * PAGE_SIZE
    }
}

/// A folio that cannot be in a page cache beside the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The size is no power of two, or the first page is not a multiple of it.
    #[error(
        "folio of {pages} pages at page {index}: a folio has a power of two of pages and starts at a multiple of it"
    )]
    Misaligned {
        /// First page asked for.
        index: u64,
        /// Pages asked for.
        pages: u64,
    },
    /// Another folio holds one of its pages.
    #[error(
        "folio of {pages} pages at page {index} overlaps the folio at page {other}: list each page once"
    )]
    Overlap {
        /// First page asked for.
        index: u64,
        /// Pages asked for.
        pages: u64,
        /// First page of the folio that is there.
        other: u64,
    },
}

/// The page cache of one file, and the file's size as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheState {
    /// i_size: bytes at or after it need no READ, they are zero.
    pub file_size: u64,
    /// The state of pages below `file_size` that are not listed.
    elsewhere: FolioState,
    /// Largest folio that a write creates, in pages. 1 for every FUSE up to 7.3.
    new_folio_pages: u64,
    folios: BTreeMap<u64, Folio>,
}

impl CacheState {
    /// Nothing cached of a file of `file_size` bytes.
    pub fn cold(file_size: u64) -> Self {
        Self {
            file_size,
            elsewhere: FolioState::Absent,
            new_folio_pages: 1,
            folios: BTreeMap::new(),
        }
    }

    /// Every page of a file of `file_size` bytes cached and uptodate.
    pub fn uptodate(file_size: u64) -> Self {
        Self {
            elsewhere: FolioState::Uptodate,
            ..Self::cold(file_size)
        }
    }

    /// Lets writes create folios of up to `pages` pages (rounded down to a power of two, at least
    /// 1).
    #[must_use]
    pub fn with_large_folios(mut self, pages: u64) -> Self {
        self.new_folio_pages = previous_power_of_two(pages);
        self
    }

    /// Adds a folio.
    ///
    /// # Errors
    /// When it is not aligned to its size or shares a page with a folio listed before.
    pub fn insert(&mut self, folio: Folio) -> Result<(), CacheError> {
        let Folio { index, pages, .. } = folio;
        let fits = index
            .checked_add(pages)
            .is_some_and(|end| end <= u64::MAX / PAGE_SIZE);
        if !pages.is_power_of_two() || index % pages != 0 || !fits {
            return Err(CacheError::Misaligned { index, pages });
        }
        if let Some(other) = self.listed_in(index, index + pages) {
            return Err(CacheError::Overlap {
                index,
                pages,
                other,
            });
        }
        self.folios.insert(index, folio);
        Ok(())
    }

    /// The folio that holds `page`, or the single absent page there.
    pub fn folio_at(&self, page: u64) -> Folio {
        self.listed_at(page).unwrap_or_else(|| Folio {
            index: page,
            pages: 1,
            state: self.unlisted(page),
        })
    }

    /// The folio that a write of `bytes` from `page` on gets: the one there, or a new one, which
    /// starts at `page` and is no larger than its alignment, the write, and its neighbours allow
    /// (`__filemap_get_folio` with `fgf_set_order`).
    pub(crate) fn folio_for_write(&self, page: u64, bytes: u64) -> Folio {
        let there = self.folio_at(page);
        if self.listed_at(page).is_some() || there.state != FolioState::Absent {
            return there;
        }
        let wanted = previous_power_of_two(bytes / PAGE_SIZE).min(self.new_folio_pages);
        let aligned = if page == 0 {
            wanted
        } else {
            wanted.min(1 << page.trailing_zeros())
        };
        let mut pages = aligned;
        while pages > 1 && !self.all_absent(page, page + pages) {
            pages /= 2;
        }
        Folio {
            index: page,
            pages,
            state: FolioState::Absent,
        }
    }

    /// Replaces the record of the folio, which must be one returned for its page.
    pub(crate) fn update(&mut self, folio: Folio) {
        self.folios.insert(folio.index, folio);
    }

    fn unlisted(&self, page: u64) -> FolioState {
        if page * PAGE_SIZE < self.file_size {
            self.elsewhere
        } else {
            FolioState::Absent
        }
    }

    fn listed_at(&self, page: u64) -> Option<Folio> {
        let (_, folio) = self.folios.range(..=page).next_back()?;
        (page < folio.index + folio.pages).then_some(*folio)
    }

    fn listed_in(&self, from: u64, to: u64) -> Option<u64> {
        let before = self.listed_at(from).map(|folio| folio.index);
        before.or_else(|| self.folios.range(from..to).next().map(|(index, _)| *index))
    }

    fn all_absent(&self, from: u64, to: u64) -> bool {
        self.listed_in(from, to).is_none()
            && (from..to).all(|page| self.unlisted(page) == FolioState::Absent)
    }
}

fn previous_power_of_two(n: u64) -> u64 {
    1 << n.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_overlapping_folio_is_refused_with_the_other_named() {
        let mut cache = CacheState::cold(0);
        cache
            .insert(Folio {
                index: 4,
                pages: 4,
                state: FolioState::Uptodate,
            })
            .unwrap();
        let refused = cache.insert(Folio {
            index: 6,
            pages: 2,
            state: FolioState::Partial,
        });
        assert_eq!(
            refused,
            Err(CacheError::Overlap {
                index: 6,
                pages: 2,
                other: 4
            })
        );
        let refused = cache.insert(Folio {
            index: 2,
            pages: 4,
            state: FolioState::Partial,
        });
        assert_eq!(refused, Err(CacheError::Misaligned { index: 2, pages: 4 }));
    }

    #[test]
    fn new_folio_size_follows_alignment_length_and_neighbours() {
        let mut cache = CacheState::cold(0).with_large_folios(16);
        assert_eq!(cache.folio_for_write(0, 64 * PAGE_SIZE).pages, 16);
        assert_eq!(cache.folio_for_write(4, 64 * PAGE_SIZE).pages, 4);
        assert_eq!(cache.folio_for_write(16, 5 * PAGE_SIZE).pages, 4);
        cache
            .insert(Folio {
                index: 2,
                pages: 1,
                state: FolioState::Partial,
            })
            .unwrap();
        assert_eq!(cache.folio_for_write(0, 64 * PAGE_SIZE).pages, 2);
    }
}
