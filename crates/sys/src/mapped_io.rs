//! File mappings as the source and target of system calls. Invariant: no Rust reference to mapped
//! bytes ever exists, since another process may change them at any time; bytes move by volatile
//! access or inside the kernel, between a [`Mapping`] and a copy. Not nix's `mmap` with slices,
//! which would promise the compiler that there is no other writer.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, MsFlags, ProtFlags};

/// A mapped range of a file, or of no file; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

/// A part of a mapping, as an element of an I/O vector.
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// The mapping.
    pub mapping: &'a Mapping,
    /// Offsets within the mapping.
    pub range: Range<usize>,
}

fn flags_of(shared: bool) -> MapFlags {
    if shared {
        MapFlags::MAP_SHARED
    } else {
        MapFlags::MAP_PRIVATE
    }
}

impl Mapping {
    /// Maps `len` bytes of `file` from its start, readable and (for `writable`) to be stored to.
    pub fn of_file(file: impl AsFd, len: usize, shared: bool, writable: bool) -> io::Result<Self> {
        let length = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let mut prot = ProtFlags::PROT_READ;
        if writable {
            prot |= ProtFlags::PROT_WRITE;
        }
        // SAFETY: a fresh address chosen by the kernel; no memory of ours is replaced.
        let start = unsafe { nix::sys::mman::mmap(None, length, prot, flags_of(shared), file, 0) }?;
        Ok(Self { start, len })
    }

    /// Maps `len` bytes of zeros that belong to no file.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh address chosen by the kernel; no memory of ours is replaced.
        let start =
            unsafe { nix::sys::mman::mmap_anonymous(None, length, prot, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { start, len })
    }

    /// The mapped length.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped (never: the kernel refuses it).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of this mapping. Fails when it does not lie inside.
    pub fn span(&self, range: Range<usize>) -> io::Result<Span<'_>> {
        if range.start > range.end || range.end > self.len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{range:?} is not inside the mapping of {} bytes", self.len),
            ));
        }
        Ok(Span {
            mapping: self,
            range,
        })
    }

    /// Forbids any access to the mapping from `offset` (page-aligned) to its end.
    pub fn forbid_from(&self, offset: usize) -> io::Result<()> {
        let span = self.span(offset..self.len)?;
        let start = span.pointer()?;
        // SAFETY: the span lies in this mapping; no reference into it exists.
        unsafe { nix::sys::mman::mprotect(start, span.len(), ProtFlags::PROT_NONE) }?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours and every Span borrows it, so nothing points into it now.
        let unmapped = unsafe { nix::sys::mman::munmap(self.start, self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

impl Span<'_> {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    fn pointer(&self) -> io::Result<NonNull<libc::c_void>> {
        self.mapping.span(self.range.clone())?;
        // SAFETY: `span` has just checked that the range lies in the mapping.
        Ok(unsafe { self.mapping.start.byte_add(self.range.start) })
    }

    /// Whether the page that the span begins in is in the file's page cache, mapped or not.
    pub fn is_cached(&self) -> io::Result<bool> {
        let page = rustix::param::page_size();
        let start = self.range.start / page * page;
        let first = self.mapping.span(start..start)?.pointer()?;
        let mut resident = 0_u8;
        // SAFETY: `first` is a page of this mapping, which lives; the kernel writes a byte a page.
        let rc = unsafe { libc::mincore(first.as_ptr(), 1, &raw mut resident) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(resident & 1 == 1)
    }

    pub(crate) fn iovec(&self) -> io::Result<libc::iovec> {
        Ok(libc::iovec {
            iov_base: self.pointer()?.as_ptr(),
            iov_len: self.len(),
        })
    }

    /// Copies the bytes out. Faults pages in; a page beyond the file's end kills with SIGBUS.
    pub fn load(&self) -> io::Result<Vec<u8>> {
        let start = self.pointer()?.cast::<u8>();
        let mut bytes = Vec::with_capacity(self.len());
        for index in 0..self.len() {
            // SAFETY: index is below the span's length, which `pointer` checked.
            let byte = unsafe { start.add(index) };
            // SAFETY: mapped and readable; volatile, because others may change it.
            bytes.push(unsafe { byte.read_volatile() });
        }
        Ok(bytes)
    }

    /// Stores `bytes` at the start of the span. The mapping must be writable, or it kills.
    pub fn store(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = self.pointer()?.cast::<u8>();
        for (index, value) in bytes.iter().enumerate() {
            // SAFETY: index is below the span's length, which was checked.
            let byte = unsafe { start.add(index) };
            // SAFETY: mapped and writable; volatile, because others may read it.
            unsafe { byte.write_volatile(*value) };
        }
        Ok(())
    }

    /// madvise(MADV_DONTNEED): the pages stay in the cache, this mapping must fault them again.
    pub fn forget_pages(&self) -> io::Result<()> {
        let start = self.pointer()?;
        let advice = MmapAdvise::MADV_DONTNEED;
        // SAFETY: inside this mapping; no reference to its content exists.
        unsafe { nix::sys::mman::madvise(start, self.len(), advice) }?;
        Ok(())
    }

    /// As [`Span::forget_pages`], for all pages that the span touches.
    pub fn forget_pages_within(&self) -> io::Result<()> {
        let page = rustix::param::page_size();
        let start = self.range.start / page * page;
        let end = self.range.end.next_multiple_of(page).min(self.mapping.len);
        self.mapping.span(start..end)?.forget_pages()
    }

    /// msync(MS_SYNC).
    pub fn sync(&self) -> io::Result<()> {
        let start = self.pointer()?;
        // SAFETY: inside this mapping; msync changes no memory.
        unsafe { nix::sys::mman::msync(start, self.len(), MsFlags::MS_SYNC) }?;
        Ok(())
    }

    /// The page frame number of the span's first page, by /proc/self/pagemap (0 without the right).
    pub fn page_frame(&self) -> io::Result<u64> {
        use std::os::unix::fs::FileExt;
        let page = self.pointer()?.addr().get() as u64 / page_size();
        let mut entry = [0; 8];
        std::fs::File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, page * 8)?;
        Ok(u64::from_ne_bytes(entry) & ((1 << 55) - 1))
    }
}

/// The size of a page.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::last_os_error())
}

fn iovecs(spans: &[Span<'_>]) -> io::Result<Vec<libc::iovec>> {
    spans.iter().map(Span::iovec).collect()
}

fn iovec_count(iovecs: &[libc::iovec]) -> io::Result<libc::c_int> {
    libc::c_int::try_from(iovecs.len()).map_err(|_too_many| io::ErrorKind::InvalidInput.into())
}

/// pwritev2(2) from mapped memory; `flags` are RWF_*.
pub fn pwritev2(file: impl AsFd, spans: &[Span<'_>], offset: u64, flags: i32) -> io::Result<usize> {
    let iovecs = iovecs(spans)?;
    let number = iovec_count(&iovecs)?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: every iovec lies in a mapping that `spans` borrows; the kernel only reads it.
    count(unsafe { libc::pwritev2(fd, iovecs.as_ptr(), number, offset.cast_signed(), flags) })
}

/// pwritev(2) from mapped memory: the system call that the first report of the deadlock used.
pub fn pwritev(file: impl AsFd, spans: &[Span<'_>], offset: u64) -> io::Result<usize> {
    let iovecs = iovecs(spans)?;
    let number = iovec_count(&iovecs)?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: every iovec lies in a mapping that `spans` borrows; the kernel only reads it.
    count(unsafe { libc::pwritev(fd, iovecs.as_ptr(), number, offset.cast_signed()) })
}

/// preadv(2) into mapped memory.
pub fn preadv(file: impl AsFd, spans: &[Span<'_>], offset: u64) -> io::Result<usize> {
    let iovecs = iovecs(spans)?;
    let number = iovec_count(&iovecs)?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: every iovec lies in a mapping that `spans` borrows, of which no reference exists.
    count(unsafe { libc::preadv(fd, iovecs.as_ptr(), number, offset.cast_signed()) })
}

/// vmsplice(2): puts the mapped pages themselves, not a copy, into a pipe.
pub fn vmsplice(pipe: impl AsFd, spans: &[Span<'_>]) -> io::Result<usize> {
    let iovecs = iovecs(spans)?;
    let fd = pipe.as_fd().as_raw_fd();
    // SAFETY: the iovecs lie in borrowed mappings; the kernel takes its own page references.
    count(unsafe { libc::vmsplice(fd, iovecs.as_ptr(), iovecs.len(), 0) })
}

/// process_vm_writev(2) of this process into itself: from one mapped span into another.
pub fn process_vm_copy(from: &Span<'_>, to: &Span<'_>) -> io::Result<usize> {
    let local = from.iovec()?;
    let remote = to.iovec()?;
    // SAFETY: getpid has no precondition.
    let pid = unsafe { libc::getpid() };
    // SAFETY: both iovecs lie in borrowed mappings of which no reference exists.
    count(unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) })
}
