//! The questions as data: the question, what the answer means to a user, and the known kernels.
//! Beside the scenario that asks, so that a table for people needs no second source.

mod lost;
mod scenarios;
mod stale;

use super::context::Context;
use scenarios::{
    failed_write_and_store, features, getxattr, ghost, half_readable, large_folios, limits,
    notify_in_write, refused_bytes,
};

/// A question and what its answers mean.
pub(crate) struct Question {
    pub(crate) id: &'static str,
    pub(crate) question: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) kernels: &'static str,
    pub(crate) ask: fn(&Context<'_>) -> anyhow::Result<String>,
}

/// All questions, in the order of the table.
pub(crate) const ALL: &[Question] = &[
    Question {
        id: "write-rule",
        question: "Which WRITEs does a write(2) to an uncached file become?",
        meaning: "D: an unaligned write costs one more request; one-page: 4 KiB a request",
        kernels: "D since 5.13 and 5.10.36; hold-all (deadlocks) before, since 2.6.26",
        ask: super::write_rule::ask,
    },
    Question {
        id: "limits",
        question: "How large are requests, and which protocol is spoken?",
        meaning: "a server's max_write above this has no effect",
        kernels: "max_pages since 4.20; the sysctl fs.fuse.max_pages_limit since 6.13",
        ask: limits,
    },
    Question {
        id: "large-folios",
        question: "Does the page cache of a FUSE file use large folios?",
        meaning: "no: every page of a large write is locked and copied singly",
        kernels: "not enabled for FUSE up to 7.3",
        ask: large_folios,
    },
    Question {
        id: "R1",
        question: "Is an mmap store lost that overtakes a WRITE of the same bytes?",
        meaning: "LOST: do not mix write(2) and shared mappings of the same bytes",
        kernels: "LOST from 5.13 up to 7.3",
        ask: lost::store,
    },
    Question {
        id: "R2",
        question: "Do the refused bytes of a failed extending write reappear?",
        meaning: "GHOST: after a failed write, reopen and truncate before extending the file",
        kernels: "ok up to 7.2, GHOST in 7.3",
        ask: ghost,
    },
    Question {
        id: "R3",
        question: "Does read(2) return bytes that a failed write(2) could not write?",
        meaning: "STALE: after a failed write, do not trust what is read until it is evicted",
        kernels: "ok up to 7.2, STALE in 7.3",
        ask: refused_bytes,
    },
    Question {
        id: "R4",
        question: "Does NOTIFY_INVAL_INODE from the WRITE handler hang?",
        meaning: "DEADLOCK: a server must notify from a thread that serves no request",
        kernels: "DEADLOCK from 5.13 up to 7.3",
        ask: notify_in_write,
    },
    Question {
        id: "R5",
        question: "What does a write return whose buffer is readable in its first part only?",
        meaning: "-EFAULT: where ext4 and tmpfs write the readable part",
        kernels: "-EFAULT up to 7.3",
        ask: half_readable,
    },
    Question {
        id: "R7",
        question: "Does FUSE_AUTO_INVAL_DATA bring back the bytes from before a write(2)?",
        meaning: "STALE: with a server that negotiates it, do not mix write(2) and mappings of a file",
        kernels: "STALE in 6.12, 6.18 and 7.3",
        ask: stale::dropped_under_write,
    },
    Question {
        id: "R8",
        question: "With FOPEN_DIRECT_IO, does a mapping show the bytes of before after a write?",
        meaning: "STALE: do not mix such writes with shared mappings of the same pages",
        kernels: "STALE for io_uring in 6.18; ok in 6.12, and in 7.3, which drops the pages again at the end",
        ask: stale::mapped_direct_write,
    },
    Question {
        id: "R9",
        question: "Does an appending write(2) lose bytes when the file's last page is written back meanwhile?",
        meaning: "LOST: do not append to a file by write(2) while a program stores to a mapping of it",
        kernels: "LOST from 6.17 up to 7.3",
        ask: lost::append,
    },
    Question {
        id: "R10",
        question: "With FOPEN_DIRECT_IO, does a store to a mapping undo a write(2) to other bytes of the page?",
        meaning: "LOST: a server with direct I/O should not allow shared mappings",
        kernels: "LOST in 6.18; no such mappings before 6.6",
        ask: lost::direct_write,
    },
    Question {
        id: "T8",
        question: "Does a failed write(2) lose mmap stores to the same page?",
        meaning: "LOST: msync before writing to a page that is mapped",
        kernels: "LOST up to 7.2, ok in 7.3",
        ask: failed_write_and_store,
    },
    Question {
        id: "getxattr",
        question: "Is GETXATTR(security.capability) sent with every write(2)?",
        meaning: "a server that has xattrs should negotiate HANDLE_KILLPRIV_V2",
        kernels: "HANDLE_KILLPRIV_V2 since 5.11",
        ask: getxattr,
    },
    Question {
        id: "features",
        question: "Which FUSE features does the kernel offer?",
        meaning: "what is missing here cannot be negotiated by any server",
        kernels: "passthrough 6.9, io_uring 6.14 (enable_uring), request timeouts 6.15",
        ask: features,
    },
];
