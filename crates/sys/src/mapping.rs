//! A shared file mapping that is read and written through plain copies, and handed to pwritev(2)
//! as the source.
//!
//! Invariant: no `&[u8]` to mapped memory ever leaves this file. Other processes change the pages
//! at any time, which a Rust reference forbids; copies through raw pointers, and a kernel that
//! reads the pages itself, do not mind. A crate for memory maps hands out slices.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use crate::region::Region;

/// `len` bytes of a file, mapped MAP_SHARED from offset 0, readable and writable.
#[derive(Debug)]
pub struct SharedMapping(Region);

impl SharedMapping {
    /// Maps the first `len` bytes of `file`.
    ///
    /// # Errors
    /// What mmap(2) says (ENODEV: the file system does not allow shared mappings of this file).
    pub fn new(file: impl AsFd, len: NonZeroUsize) -> io::Result<Self> {
        Region::of_file(file, len).map(Self)
    }

    /// Copies `range` of the mapping out.
    ///
    /// # Errors
    /// `range` is not inside the mapping.
    pub fn read(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        let source = self.at(&range)?;
        let mut data = vec![0_u8; range.len()];
        // SAFETY: `at` has checked that the range lies in the mapping, and `data` is as long and
        // cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(source, data.as_mut_ptr(), data.len()) };
        Ok(data)
    }

    /// Stores `data` at `offset` of the mapping.
    ///
    /// # Errors
    /// The bytes do not fit into the mapping.
    pub fn write(&self, offset: usize, data: &[u8]) -> io::Result<()> {
        let target = self.at(&(offset..offset.saturating_add(data.len())))?;
        // SAFETY: `at` has checked that the bytes lie in the mapping, which is writable and
        // cannot overlap `data`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), target, data.len()) };
        Ok(())
    }

    /// pwritev(2) to `file` at `offset`, reading straight from `ranges` of this mapping: the
    /// kernel takes the page faults in the middle of the write. One call, no retry when short.
    ///
    /// # Errors
    /// A range outside of the mapping, or what pwritev(2) says.
    pub fn pwritev_to(
        &self,
        file: impl AsFd,
        ranges: &[Range<usize>],
        offset: i64,
    ) -> io::Result<usize> {
        let (iovecs, count) = self.iovecs(ranges)?;
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: every iovec was checked to lie in the mapping, which outlives the call; the
        // kernel only reads from them.
        let written = unsafe { libc::pwritev(fd, iovecs.as_ptr(), count, offset) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// preadv(2) from `file` at `offset` straight into `ranges` of this mapping: the kernel takes
    /// the page faults in the middle of the read. One call, no retry when short.
    ///
    /// # Errors
    /// A range outside of the mapping, or what preadv(2) says.
    pub fn preadv_from(
        &self,
        file: impl AsFd,
        ranges: &[Range<usize>],
        offset: i64,
    ) -> io::Result<usize> {
        let (iovecs, count) = self.iovecs(ranges)?;
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: every iovec was checked to lie in the mapping, to whose bytes no reference
        // exists, and which outlives the call.
        let read = unsafe { libc::preadv(fd, iovecs.as_ptr(), count, offset) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// msync(MS_SYNC) of the whole mapping.
    ///
    /// # Errors
    /// What msync(2) says (EIO: a page could not be written).
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is exactly the mapping.
        unsafe {
            nix::sys::mman::msync(
                self.0.start(),
                self.0.len(),
                nix::sys::mman::MsFlags::MS_SYNC,
            )
        }?;
        Ok(())
    }

    /// madvise(MADV_DONTNEED): the next access, also one by the kernel, faults every page again.
    ///
    /// # Errors
    /// What madvise(2) says.
    pub fn discard(&self) -> io::Result<()> {
        let advice = nix::sys::mman::MmapAdvise::MADV_DONTNEED;
        // SAFETY: the range is exactly the mapping; the bytes of a shared one stay in the file.
        unsafe { nix::sys::mman::madvise(self.0.start(), self.0.len(), advice) }?;
        Ok(())
    }

    /// `ranges` as a vectored call takes them, and how many they are: each lies in the mapping.
    fn iovecs(&self, ranges: &[Range<usize>]) -> io::Result<(Vec<libc::iovec>, libc::c_int)> {
        let count = libc::c_int::try_from(ranges.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut iovecs = Vec::with_capacity(ranges.len());
        for range in ranges {
            iovecs.push(libc::iovec {
                iov_base: self.at(range)?.cast(),
                iov_len: range.len(),
            });
        }
        Ok((iovecs, count))
    }

    /// The address of `range`, which must lie in the mapping.
    fn at(&self, range: &Range<usize>) -> io::Result<*mut u8> {
        if range.start > range.end || range.end > self.0.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "bytes {range:?} are not inside a mapping of {} bytes",
                    self.0.len()
                ),
            ));
        }
        // SAFETY: start <= end <= len, so the result is inside the mapping or one past its end.
        Ok(unsafe { self.0.start().as_ptr().cast::<u8>().add(range.start) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn two_pages() -> (std::fs::File, SharedMapping) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mapping = SharedMapping::new(&file, NonZeroUsize::new(8192).unwrap()).unwrap();
        (file, mapping)
    }

    #[test]
    fn write_to_the_mapping_shows_in_the_file() {
        let (file, mapping) = two_pages();
        mapping.write(4094, b"over").unwrap();
        let mut data = [0; 4];
        file.read_exact_at(&mut data, 4094).unwrap();
        assert_eq!(&data, b"over");
        assert_eq!(mapping.read(4094..4098).unwrap(), b"over");
    }

    #[test]
    fn pwritev_to_reads_from_both_ranges() {
        let (file, mapping) = two_pages();
        mapping.write(0, b"ab").unwrap();
        mapping.write(4096, b"cd").unwrap();
        assert_eq!(
            mapping
                .pwritev_to(&file, &[0..2, 4096..4098], 8190)
                .unwrap(),
            4
        );
        let mut data = [0; 4];
        file.read_exact_at(&mut data, 8190).unwrap();
        assert_eq!(&data, b"abcd");
    }

    #[test]
    fn preadv_from_fills_a_discarded_mapping() {
        let (file, mapping) = two_pages();
        mapping.write(0, b"abcd").unwrap();
        mapping.sync().unwrap();
        mapping.discard().unwrap();
        assert_eq!(
            mapping
                .preadv_from(&file, &[8000..8002, 5000..5002], 0)
                .unwrap(),
            4
        );
        assert_eq!(mapping.read(8000..8002).unwrap(), b"ab");
        assert_eq!(mapping.read(5000..5002).unwrap(), b"cd");
    }

    #[test]
    fn access_outside_of_the_mapping_is_refused() {
        let (file, mapping) = two_pages();
        assert!(mapping.read(8190..8193).is_err());
        assert!(mapping.write(8192, b"x").is_err());
        assert!(mapping.write(usize::MAX, b"x").is_err());
        #[expect(clippy::reversed_empty_ranges, reason = "that is what must be refused")]
        let backwards = 5..3;
        assert!(mapping.read(backwards).is_err());
        assert!(
            mapping
                .pwritev_to(&file, std::slice::from_ref(&(0..9000)), 0)
                .is_err()
        );
    }
}
