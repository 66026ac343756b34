//! Memory of a virtual machine, as pieces for preadv(2) and pwritev2(2).
//!
//! Invariant: guest memory never becomes a slice, since the guest changes it at any time: bytes are copied
//! out or in by volatile accesses, or the kernel moves them. Every piece lies in the mapping that its list
//! holds, so a list outlives a front end that takes the memory away.
//!
//! Why not vm-memory alone: it reads and writes files at their own position, one piece a call.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress,
    VolatileSlice,
};

/// What the front end has shared of the guest's memory.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Pieces of one call at most (UIO_MAXIOV).
const PIECES_A_CALL: usize = 1024;

thread_local! {
    /// The pieces of this thread's call under way.
    static CALL: RefCell<Vec<libc::iovec>> = const { RefCell::new(Vec::new()) };
}

/// An address that is not in the memory that the front end has shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{len} bytes at guest address {address:#x} are not in the memory that is shared with the device"
)]
pub struct NotShared {
    /// Guest physical address.
    pub address: u64,
    /// Bytes from there.
    pub len: u32,
}

/// Pieces of guest memory, in order.
pub struct GuestBuffers {
    memory: Arc<GuestMemory>,
    pieces: Vec<libc::iovec>,
    len: usize,
    /// Where the last piece was found in `memory`.
    region: Region,
}

/// A part of a guest's memory that is mapped in one piece.
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
    base: *mut u8,
}

impl Region {
    const NONE: Self = Self {
        start: 0,
        len: 0,
        base: std::ptr::null_mut(),
    };

    /// Of `memory` with guest address `address`.
    fn of(memory: &GuestMemory, address: u64) -> Option<Self> {
        let region = memory.find_region(GuestAddress(address))?;
        let base = region.get_host_address(MemoryRegionAddress(0)).ok()?;
        Some(Self {
            start: region.start_addr().0,
            len: region.len(),
            base,
        })
    }

    /// The bytes at `address`, if all are here.
    fn piece(&self, address: u64, len: u64) -> Option<libc::iovec> {
        let from = address.checked_sub(self.start)?;
        let left = self.len.checked_sub(from)?;
        (len <= left).then(|| libc::iovec {
            iov_base: self.base.wrapping_add(from as usize).cast(),
            iov_len: len as usize,
        })
    }
}

// SAFETY: the pointers are into `memory`, which is shared between threads anyway, and are followed by
// volatile accesses and by the kernel alone.
unsafe impl Send for GuestBuffers {}
// SAFETY: as for `Send`.
unsafe impl Sync for GuestBuffers {}

/// The room of a list, for the next one.
#[derive(Default)]
pub struct Storage(Vec<libc::iovec>);

// SAFETY: it is empty: there is no pointer in it.
unsafe impl Send for Storage {}

impl GuestBuffers {
    /// An empty list in `storage`.
    pub fn new(memory: Arc<GuestMemory>, storage: Storage) -> Self {
        Self {
            memory,
            pieces: storage.0,
            len: 0,
            region: Region::NONE,
        }
    }

    /// Its room, for another list.
    pub fn into_storage(mut self) -> Storage {
        self.pieces.clear();
        Storage(self.pieces)
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }

    /// Adds `len` bytes at the guest's `address`. No bytes add nothing.
    ///
    /// # Errors
    /// Some of them are not in memory; the list is not to be used then.
    pub fn push(&mut self, address: u64, len: u32) -> Result<(), NotShared> {
        let error = NotShared { address, len };
        if len == 0 {
            return Ok(());
        }
        let total = self.len.checked_add(len as usize).ok_or(error)?;
        address.checked_add(u64::from(len)).ok_or(error)?;
        if self.region.piece(address, len.into()).is_none() {
            self.region = Region::of(&self.memory, address).ok_or(error)?;
        }
        if let Some(piece) = self.region.piece(address, len.into()) {
            self.pieces.push(piece);
            self.len = total;
            return Ok(());
        }
        for piece in self.memory.get_slices(GuestAddress(address), len as usize) {
            let piece = piece.map_err(|_unmapped| error)?;
            self.pieces.push(libc::iovec {
                iov_base: piece.ptr_guard_mut().as_ptr().cast(),
                iov_len: piece.len(),
            });
        }
        self.len = total;
        Ok(())
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes.
    pub fn all(&self) -> GuestRange<'_> {
        GuestRange {
            of: self,
            start: 0,
            len: self.len,
        }
    }
}

impl std::fmt::Debug for GuestBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestBuffers")
            .field("pieces", &self.pieces.len())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Storage").finish_non_exhaustive()
    }
}

/// Some bytes of a list.
#[derive(Clone, Copy, Debug)]
pub struct GuestRange<'a> {
    of: &'a GuestBuffers,
    start: usize,
    len: usize,
}

impl<'a> GuestRange<'a> {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Without the first `count` bytes.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        let count = count.min(self.len);
        Self {
            start: self.start + count,
            len: self.len - count,
            ..self
        }
    }

    /// The first `count` bytes, or all.
    #[must_use]
    pub fn first(self, count: usize) -> Self {
        Self {
            len: self.len.min(count),
            ..self
        }
    }

    /// A list of its own of these bytes, for another thread.
    pub fn to_buffers(self) -> GuestBuffers {
        GuestBuffers {
            memory: Arc::clone(&self.of.memory),
            pieces: self.pieces().collect(),
            len: self.len,
            region: Region::NONE,
        }
    }

    /// Copies as many bytes into `to` as both have, and returns how many.
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in self.first(to.len()).pieces() {
            done += slice_of(piece).copy_to(&mut to[done..]);
        }
        done
    }

    /// Copies as many bytes of `from` here as both have, and returns how many.
    pub fn copy_from(&self, from: &[u8]) -> usize {
        let mut done = 0;
        for piece in self.first(from.len()).pieces() {
            slice_of(piece).copy_from(&from[done..done + piece.iov_len]);
            done += piece.iov_len;
        }
        done
    }

    /// Whether every piece begins and ends at a multiple of `alignment`, as O_DIRECT wants it.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.pieces().all(|piece| {
            piece.iov_base.addr().is_multiple_of(alignment)
                && piece.iov_len.is_multiple_of(alignment)
        })
    }

    /// preadv2(2) into these bytes; may read fewer.
    ///
    /// # Errors
    /// That call's.
    pub fn read_at(&self, file: impl AsFd, offset: u64) -> io::Result<usize> {
        self.call(libc::SYS_preadv2, file, offset, 0)
    }

    /// preadv2(2) with RWF_NOWAIT: reads what is there without waiting, and may read fewer.
    ///
    /// # Errors
    /// EAGAIN if it would wait; EOPNOTSUPP if the file system cannot tell; else that call's.
    pub fn read_at_once(&self, file: impl AsFd, offset: u64) -> io::Result<usize> {
        self.call(libc::SYS_preadv2, file, offset, libc::RWF_NOWAIT)
    }

    /// pwritev2(2) of these bytes with `flags` (RWF_APPEND and so on); may write fewer.
    ///
    /// # Errors
    /// That call's.
    pub fn write_at(&self, file: impl AsFd, offset: u64, flags: i32) -> io::Result<usize> {
        self.call(libc::SYS_pwritev2, file, offset, flags)
    }

    /// preadv2(2) or pwritev2(2). Not by the C library's functions, which make each call a cancellation point.
    fn call(
        &self,
        number: libc::c_long,
        file: impl AsFd,
        offset: u64,
        flags: i32,
    ) -> io::Result<usize> {
        // -1 would be the file's own position.
        if offset > i64::MAX as u64 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let fd = libc::c_long::from(file.as_fd().as_raw_fd());
        // Two words where one does not hold it; else the second is ignored.
        let (low, high) = (offset as libc::c_ulong, (offset >> 32) as libc::c_ulong);
        let flags = libc::c_long::from(flags);
        CALL.with_borrow_mut(|call| {
            call.clear();
            call.extend(self.pieces().take(PIECES_A_CALL));
            let (pieces, count) = (call.as_ptr(), call.len());
            // SAFETY: the pieces are in mappings that the list holds, and nothing here takes their content
            // for anything but bytes that may change.
            let done = unsafe { libc::syscall(number, fd, pieces, count, low, high, flags) };
            usize::try_from(done).map_err(|_negative| io::Error::last_os_error())
        })
    }

    fn pieces(self) -> impl Iterator<Item = libc::iovec> + 'a {
        let (mut skip, mut left) = (self.start, self.len);
        self.of
            .pieces
            .iter()
            .map_while(move |piece| {
                if left == 0 {
                    return None;
                }
                let from = skip.min(piece.iov_len);
                skip -= from;
                let count = (piece.iov_len - from).min(left);
                left -= count;
                Some(libc::iovec {
                    iov_base: piece.iov_base.wrapping_byte_add(from),
                    iov_len: count,
                })
            })
            .filter(|piece| piece.iov_len > 0)
    }
}

fn slice_of<'a>(piece: libc::iovec) -> VolatileSlice<'a> {
    // SAFETY: a part of a piece that `GuestBuffers::push` took from its mapping; callers here drop it before
    // the list, which holds that.
    unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use vm_memory::Bytes;

    use super::*;

    const TWO: [(GuestAddress, usize); 2] = [
        (GuestAddress(0x1000), 0x1000),
        (GuestAddress(0x2000), 0x1000),
    ];

    fn buffers(pieces: &[(u64, u32)]) -> GuestBuffers {
        let memory = GuestMemory::from_ranges(&TWO).expect("memory");
        let mut buffers = GuestBuffers::new(Arc::new(memory), Storage::default());
        for (address, len) in pieces {
            buffers.push(*address, *len).expect("in memory");
        }
        buffers
    }

    #[test]
    fn push_of_what_is_not_in_memory_is_an_error() {
        let mut list = buffers(&[]);
        for (address, len) in [
            (0, 1),
            (0xfff, 2),
            (0x2fff, 2),
            (u64::MAX, 2),
            (0x1000, u32::MAX),
        ] {
            let error = list.push(address, len).expect_err("outside");
            assert!(error.to_string().contains("not in the memory"), "{error}");
        }
    }

    #[test]
    fn copy_crosses_pieces_and_regions_in_order() {
        let list = buffers(&[(0x1ffe, 4), (0x1000, 1), (0x1800, 3)]);
        assert_eq!(list.len(), 8);
        assert_eq!(list.all().copy_from(b"abcdefgh"), 8);
        let mut region = [0; 2];
        let read = list.memory.read(&mut region, GuestAddress(0x2000));
        assert_eq!((read.ok(), &region), (Some(2), b"cd"));
        let mut out = [0; 5];
        assert_eq!(list.all().after(2).copy_to(&mut out), 5);
        assert_eq!(&out, b"cdefg");
        assert_eq!(list.all().after(6).copy_to(&mut out), 2);
    }

    #[test]
    fn read_at_and_write_at_move_the_bytes_of_all_pieces() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("written");
        let list = buffers(&[(0x1fff, 2), (0x1000, 3), (0x1100, 100)]);
        let read = list.all().first(5).read_at(&file, 2);
        assert_eq!(read.expect("read"), 5);
        let written = list.all().after(1).first(4).write_at(&file, 20, 0);
        assert_eq!(written.expect("written"), 4);
        let mut out = [0; 4];
        file.read_exact_at(&mut out, 20).expect("there");
        assert_eq!(&out, b"3456");
    }

    /// An offset of -1 stands for the file's own position in these calls.
    #[test]
    fn calls_beyond_the_largest_offset_are_einval() {
        let file = tempfile::tempfile().expect("a file");
        let list = buffers(&[(0x1000, 1)]);
        let all = list.all();
        for offset in [u64::MAX, 1 << 63] {
            let done = [
                all.read_at(&file, offset),
                all.read_at_once(&file, offset),
                all.write_at(&file, offset, 0),
            ];
            for done in done {
                let errno = done.expect_err("no such offset").raw_os_error();
                assert_eq!(errno, Some(libc::EINVAL));
            }
        }
    }

    #[test]
    fn read_at_once_of_what_is_cached_is_as_read_at() {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        file.write_all(b"0123456789").expect("written");
        let list = buffers(&[(0x1fff, 2), (0x1000, 100)]);
        match list.all().read_at_once(&file, 3) {
            Ok(count) => assert_eq!(count, 7),
            Err(error) => {
                let refused = [libc::EOPNOTSUPP, libc::EAGAIN].map(Some);
                assert!(refused.contains(&error.raw_os_error()), "{error}");
            }
        }
    }

    #[test]
    fn to_buffers_of_a_part_has_its_bytes_and_outlives_the_list() {
        let list = buffers(&[(0x1ffe, 4), (0x1000, 1), (0x1800, 3)]);
        list.all().copy_from(b"abcdefgh");
        let part = list.all().after(3).first(3).to_buffers();
        drop(list);
        let mut out = [0; 8];
        assert_eq!(part.all().copy_to(&mut out), 3);
        assert_eq!(&out[..3], b"def");
    }

    #[test]
    fn is_aligned_looks_at_both_ends_of_each_piece() {
        assert!(
            buffers(&[(0x1000, 512), (0x1200, 1024)])
                .all()
                .is_aligned(512)
        );
        assert!(
            !buffers(&[(0x1000, 512), (0x1210, 512)])
                .all()
                .is_aligned(512)
        );
        assert!(
            !buffers(&[(0x1000, 100), (0x1200, 512)])
                .all()
                .is_aligned(512)
        );
    }
}
