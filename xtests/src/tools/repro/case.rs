//! The family of cases as data: which bytes are copied where, the state of the source's pages, the
//! system call, and what a second process does meanwhile. Data, so that the listing, the worker and
//! the oracle cannot disagree. In every case that checks content exactly, source and target bytes
//! are disjoint (or identical), since POSIX leaves an overlapping copy open.

/// The page size that the offsets are written for; on larger pages the shapes are still valid.
pub(crate) const PAGE: usize = 4096;
/// Length of each of the two files.
pub(crate) const FILE_LEN: usize = 64 * PAGE;

/// The state of the source mapping's pages when the write begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Touched just before.
    Present,
    /// In the page cache, not in the page table (MADV_DONTNEED).
    NotMapped,
    /// Not in the page cache either (POSIX_FADV_DONTNEED): the fault must send a READ.
    NotCached,
    /// As `NotCached`, by /proc/sys/vm/drop_caches.
    DropCaches,
}

/// The system call that copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Pwritev,
    Pwritev2(i32),
    Direct,
    Uring,
    UringFixed,
    Splice,
    Vmsplice,
    ProcessVm,
    CopyFileRange,
    Sendfile,
}

/// What a second process does to the same file while the first one writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Nothing,
    /// The same copy with the two files exchanged.
    Reverse,
    Read,
    Truncate,
    Fallocate,
    Readahead,
    Msync,
    SyncFileRange,
}

/// One copy within the two files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    /// (offset, length) in the source file, in order.
    pub(crate) source: &'static [(usize, usize)],
    pub(crate) source_is_other_file: bool,
    pub(crate) target: usize,
    pub(crate) pages: Pages,
    pub(crate) way: Way,
    pub(crate) other: Other,
}

/// What a case does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// The program of the mailing list, call by call.
    Seed,
    Copy(Copy),
    /// copy_file_range onto a range that overlaps its source.
    Overlap,
    /// Appends by one thread, stores and writeback of the file's last page by another.
    AppendBesideStore,
    /// Writes by one thread, stores to other bytes of the page by another.
    WriteBesideStore,
}

/// A case, selected by its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) work: Work,
}

impl Case {
    /// How many processes work on it.
    pub(crate) fn processes(&self) -> usize {
        match self.work {
            Work::Copy(Copy { other, .. }) if other != Other::Nothing => 2,
            Work::Seed
            | Work::Copy(_)
            | Work::Overlap
            | Work::AppendBesideStore
            | Work::WriteBesideStore => 1,
        }
    }
}

/// Two pages, then bytes of the second page, to an unaligned place that covers that page.
const SECOND_PAGE: &[(usize, usize)] = &[(20 * PAGE, 4090), (2 * PAGE, 90)];
const PLAIN: Copy = Copy {
    source: SECOND_PAGE,
    source_is_other_file: false,
    target: 2 * PAGE + 100,
    pages: Pages::NotMapped,
    way: Way::Pwritev,
    other: Other::Nothing,
};

/// Its source evicted before.
const NOT_CACHED: Copy = Copy {
    pages: Pages::NotCached,
    ..PLAIN
};

const fn case(name: &'static str, about: &'static str, copy: Copy) -> Case {
    Case {
        name,
        about,
        work: Work::Copy(copy),
    }
}

const fn by(name: &'static str, about: &'static str, way: Way) -> Case {
    case(name, about, Copy { way, ..PLAIN })
}

const fn beside(name: &'static str, about: &'static str, other: Other) -> Case {
    case(
        name,
        about,
        Copy {
            other,
            ..NOT_CACHED
        },
    )
}

/// All cases, in the order in which they run.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "seed",
        about: "pwritev at 8192-12 from two mapped pages of the same file (the first report)",
        work: Work::Seed,
    },
    case(
        "present",
        "source pages present",
        Copy {
            pages: Pages::Present,
            ..PLAIN
        },
    ),
    case(
        "not-mapped",
        "source pages cached, MADV_DONTNEED before the write",
        PLAIN,
    ),
    case(
        "not-cached",
        "source pages evicted before the write",
        NOT_CACHED,
    ),
    case(
        "drop-caches",
        "drop_caches before the write",
        Copy {
            pages: Pages::DropCaches,
            ..PLAIN
        },
    ),
    case(
        "same-page",
        "to the page it reads from, other bytes",
        Copy {
            source: &[(2 * PAGE, 100)],
            target: 2 * PAGE + 200,
            ..NOT_CACHED
        },
    ),
    case(
        "onto-itself",
        "two pages and a bit onto themselves",
        Copy {
            source: &[(2 * PAGE + 50, 2 * PAGE)],
            target: 2 * PAGE + 50,
            ..NOT_CACHED
        },
    ),
    case(
        "many-pages",
        "16 pages, whose last bytes come from the first page written",
        Copy {
            source: &[(40 * PAGE, 15 * PAGE + 500), (2 * PAGE, 90)],
            ..NOT_CACHED
        },
    ),
    case(
        "page-end",
        "a source that ends where the target begins",
        Copy {
            source: &[(2 * PAGE, 3 * PAGE - 1)],
            target: 5 * PAGE - 1,
            ..NOT_CACHED
        },
    ),
    case(
        "many-vectors",
        "seven vectors that cross pages, backwards through the file",
        Copy {
            source: &[
                (30 * PAGE - 9, 18),
                (29 * PAGE - 9, 2000),
                (28 * PAGE - 1, 2),
                (27 * PAGE - 9, PAGE),
                (26 * PAGE - 1, 1),
                (2 * PAGE, 99),
                (25 * PAGE - 9, 3 * PAGE),
            ],
            ..NOT_CACHED
        },
    ),
    case(
        "other-file",
        "from a mapping of another file of the mount",
        Copy {
            source_is_other_file: true,
            ..NOT_CACHED
        },
    ),
    by(
        "pwritev2-dsync",
        "pwritev2 with RWF_DSYNC",
        Way::Pwritev2(libc::RWF_DSYNC),
    ),
    by(
        "pwritev2-sync",
        "pwritev2 with RWF_SYNC",
        Way::Pwritev2(libc::RWF_SYNC),
    ),
    by(
        "pwritev2-nowait",
        "pwritev2 with RWF_NOWAIT",
        Way::Pwritev2(libc::RWF_NOWAIT),
    ),
    case(
        "direct",
        "O_DIRECT from a mapping of the same file",
        Copy {
            source: &[(20 * PAGE, 4 * PAGE)],
            target: 2 * PAGE,
            way: Way::Direct,
            ..PLAIN
        },
    ),
    by("io-uring", "IORING_OP_WRITE from the mapping", Way::Uring),
    by(
        "io-uring-fixed",
        "IORING_OP_WRITE_FIXED from a registered mapping",
        Way::UringFixed,
    ),
    by("splice", "splice file to pipe to file", Way::Splice),
    by(
        "vmsplice",
        "vmsplice the mapped pages, then splice to the file",
        Way::Vmsplice,
    ),
    by(
        "process-vm-writev",
        "process_vm_writev from mapping to mapping",
        Way::ProcessVm,
    ),
    by(
        "copy-file-range",
        "copy_file_range within a file, ranges that share a page",
        Way::CopyFileRange,
    ),
    Case {
        name: "copy-file-range-overlap",
        about: "copy_file_range onto an overlapping range",
        work: Work::Overlap,
    },
    by("sendfile", "sendfile within a file", Way::Sendfile),
    case(
        "abba",
        "from a mapping of the other file; a second process does the reverse",
        Copy {
            source_is_other_file: true,
            other: Other::Reverse,
            ..NOT_CACHED
        },
    ),
    beside(
        "beside-read",
        "while another process reads the same pages",
        Other::Read,
    ),
    beside(
        "beside-truncate",
        "while another process truncates and extends",
        Other::Truncate,
    ),
    beside(
        "beside-fallocate",
        "while another process calls fallocate",
        Other::Fallocate,
    ),
    beside(
        "beside-readahead",
        "while another process calls readahead",
        Other::Readahead,
    ),
    beside(
        "beside-msync",
        "while another process stores and calls msync",
        Other::Msync,
    ),
    beside(
        "beside-sync-file-range",
        "while another process stores and calls sync_file_range",
        Other::SyncFileRange,
    ),
    Case {
        name: "append-beside-store",
        about: "appends to a page that another thread stores to, through a mapping, and has written back",
        work: Work::AppendBesideStore,
    },
    Case {
        name: "write-beside-store",
        about: "pwrite(2)s to a page that another thread stores to, through a mapping",
        work: Work::WriteBesideStore,
    },
];

/// The case of this name.
pub(crate) fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

/// The byte that `file` (0 or 1) holds at `offset` before a case begins. Neighbouring pages and the
/// two files differ, so that a misplaced byte is noticed.
pub(crate) fn pattern(file: usize, offset: usize) -> u8 {
    let mixed = (offset as u64 + 1 + ((file as u64) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Never 0: zero means "nothing was written here".
    ((mixed >> 56) as u8).max(1)
}
