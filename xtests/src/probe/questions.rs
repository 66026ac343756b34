//! The questions, each a scenario between a server that misbehaves once and one or two clients.
//! Answers are what was seen; what they mean and which kernels are known stands beside them.

use anyhow::{bail, ensure};
use fuser::InitFlags;

use super::Context;
use super::client::{Answer, Order, TimedOut};
use super::server::{Action, Mounted, Options};

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
        ask: lost_store,
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

/// A file of 'A's that the client has read once, so that its pages are uptodate.
fn warm(
    context: &Context<'_>,
    mounted: &Mounted,
    len: usize,
) -> anyhow::Result<(u64, super::client::Client)> {
    let ino = mounted.shared.add("file", vec![b'A'; len]);
    let mut client = context.client(mounted, "file")?;
    let read = client.bytes(0, len)?;
    ensure!(
        read == vec![b'A'; len],
        "the server's own bytes come back wrong"
    );
    Ok((ino, client))
}

fn limits(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let ino = mounted.shared.add("file", vec![b'A'; 8 << 20]);
    let mut client = context.client(&mounted, "file")?;
    client.call(Order::Write {
        offset: 0,
        len: 4 << 20,
        value: b'B',
    })?;
    client.call(Order::Evict)?;
    client.call(Order::Fetch {
        offset: 4 << 20,
        len: 1 << 20,
    })?;
    let largest = |opcode| {
        let log = mounted.shared.log(ino);
        log.iter()
            .filter(|entry| entry.opcode == opcode)
            .map(|entry| entry.size)
            .max()
            .unwrap_or(0)
    };
    let pages = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit");
    let pages = pages.map_or("not there".into(), |text| text.trim().to_owned());
    let version = mounted
        .shared
        .offered
        .get()
        .map_or((0, 0), |(_, version)| *version);
    Ok(format!(
        "largest WRITE {}, largest READ {}; max_pages_limit {pages}; protocol {}.{}",
        largest("WRITE"),
        largest("READ"),
        version.0,
        version.1
    ))
}

fn large_folios(context: &Context<'_>) -> anyhow::Result<String> {
    const COMPOUND: u64 = (1 << 15) | (1 << 16);
    let len = 1 << 20;
    let mounted = context.mount(Options::default())?;
    mounted.shared.add("file", vec![b'A'; len]);
    let mut client = context.client(&mounted, "file")?;
    client.call(Order::Fetch { offset: 0, len })?;
    client.call(Order::Map(len))?;
    let mut large = 0;
    for page in (0..len).step_by(4096) {
        match client.call(Order::PageFlags(page))? {
            Answer::Flags(flags) => large += usize::from(flags & COMPOUND != 0),
            Answer::Errno(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                return Ok(format!("unknown: no /proc/kpageflags ({error})"));
            }
            other => bail!("page flags: {other:?}"),
        }
    }
    Ok(if large == 0 {
        "no".into()
    } else {
        format!("yes, {large} of 256 pages")
    })
}

/// W(100@0) is held; a store to the same bytes is written back and overtakes it.
fn lost_store(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let (ino, mut writer) = warm(context, &mounted, 8192)?;
    let mut mapper = context.client(&mounted, "file")?;
    mapper.call(Order::Map(4096))?;
    mounted.shared.once(Action::Hold);
    writer.start(&Order::Write {
        offset: 0,
        len: 100,
        value: b'W',
    })?;
    ensure!(
        mounted.shared.wait_for(context.limit, |held, _| held == 1),
        "no WRITE came"
    );
    mapper.start(&Order::Store {
        offset: 0,
        value: b'M',
    })?;
    mapper.start(&Order::SyncRange)?;
    // A kernel that keeps the order lets the writeback wait, so this may run out.
    let overtook = mounted.shared.wait_for(context.limit / 2, |_, log| {
        log.iter().any(|entry| entry.ino == ino && entry.from_cache)
    });
    mounted.shared.release();
    writer.finish("the held write")?;
    mapper.finish("the store")?;
    mapper.finish("sync_file_range")?;
    mapper.call(Order::Evict)?;
    let stored = mapper.bytes(0, 1)?;
    let order = if overtook {
        "writeback overtook the WRITE"
    } else {
        "the writeback waited"
    };
    match stored.as_slice() {
        b"M" => Ok(format!("ok ({order})")),
        b"W" => Ok(format!("LOST ({order})")),
        other => bail!("neither the store nor the write is there: {other:?}"),
    }
}

fn ghost(context: &Context<'_>) -> anyhow::Result<String> {
    let mut answers = Vec::new();
    for (how, action) in [
        ("failed", Action::Fail(libc::EIO)),
        ("short", Action::Shorten(10)),
    ] {
        for direct in [false, true] {
            let mounted = context.mount(Options::default())?;
            let (_ino, mut client) = warm(context, &mounted, 100)?;
            mounted.shared.once(action.clone());
            client.call(Order::Write {
                offset: 100,
                len: 1000,
                value: b'G',
            })?;
            let extended = if direct {
                client.call(Order::WriteDirect {
                    offset: 3584,
                    len: 512,
                    value: b'X',
                })?
            } else {
                client.call(Order::CopyRange {
                    from: 0,
                    to: 3584,
                    len: 100,
                })?
            };
            ensure!(
                matches!(extended, Answer::Count(_)),
                "extending the file: {extended:?}"
            );
            let gap = client.bytes(200, 800)?;
            let seen = if gap.contains(&b'G') { "GHOST" } else { "ok" };
            let by = if direct {
                "O_DIRECT"
            } else {
                "copy_file_range"
            };
            answers.push((seen, format!("{how} write, {by}: {seen}")));
        }
    }
    Ok(summary("GHOST", &answers))
}

/// The answer first, then the details.
fn summary(bad: &str, answers: &[(&str, String)]) -> String {
    let any = answers.iter().any(|(seen, _)| *seen == bad);
    let details: Vec<_> = answers.iter().map(|(_, detail)| detail.as_str()).collect();
    format!("{} ({})", if any { bad } else { "ok" }, details.join("; "))
}

fn refused_bytes(context: &Context<'_>) -> anyhow::Result<String> {
    let actions = [
        ("EIO", Action::Fail(libc::EIO)),
        ("ENOSPC", Action::Fail(libc::ENOSPC)),
        ("short", Action::Shorten(50)),
    ];
    let mut answers = Vec::new();
    for (how, action) in actions {
        let mounted = context.mount(Options::default())?;
        let (ino, mut client) = warm(context, &mounted, 8192)?;
        mounted.shared.once(action);
        client.call(Order::Write {
            offset: 0,
            len: 100,
            value: b'B',
        })?;
        let same = client.bytes(0, 8192)? == mounted.shared.content(ino);
        let seen = if same { "ok" } else { "STALE" };
        answers.push((seen, format!("{how}: {seen}")));
    }
    Ok(summary("STALE", &answers))
}

fn notify_in_write(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    mounted.shared.add("file", vec![b'A'; 1 << 20]);
    let mut client = context.client(&mounted, "file")?;
    mounted.shared.once(Action::Invalidate);
    match client.call(Order::Write {
        offset: 10,
        len: 100,
        value: b'B',
    }) {
        Ok(Answer::Count(100)) => Ok("ok".into()),
        Ok(other) => bail!("write: {other:?}"),
        Err(error) if error.is::<TimedOut>() => {
            let own = crate::repro::examine::threads(std::process::id());
            let all = own
                .into_iter()
                .chain(crate::repro::examine::threads(client.pid()));
            let stuck = all.filter(|thread| thread.waits_for_page()).count();
            let waiting = mounted.waiting().unwrap_or(0);
            // The freed client shows that it was this, and no lost answer.
            mounted.abort()?;
            let freed = client.finish("the write after the abort")?;
            Ok(format!(
                "DEADLOCK ({waiting} request outstanding, {stuck} thread on a page lock; after \
                 the abort: {freed:?})"
            ))
        }
        Err(error) => Err(error),
    }
}

fn half_readable(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let (_ino, mut client) = warm(context, &mounted, 16384)?;
    let mut words = Vec::new();
    // Readable within the first page only, and readable up to a page's end.
    for readable in [100, 4096] {
        words.push(
            match client.call(Order::WriteHalfReadable {
                len: 8192,
                readable,
            })? {
                Answer::Errno(libc::EFAULT) => "-EFAULT".to_owned(),
                Answer::Count(count) => format!("a short write of {count}"),
                other => bail!("write: {other:?}"),
            },
        );
    }
    Ok(format!(
        "{} with 100 readable bytes, {} with a page",
        words[0], words[1]
    ))
}

fn failed_write_and_store(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let (_ino, mut client) = warm(context, &mounted, 8192)?;
    client.call(Order::Map(4096))?;
    client.call(Order::Store {
        offset: 200,
        value: b'M',
    })?;
    mounted.shared.once(Action::Fail(libc::EIO));
    client.call(Order::Write {
        offset: 0,
        len: 100,
        value: b'B',
    })?;
    match client.bytes(200, 1)?.as_slice() {
        b"M" => Ok("ok".into()),
        b"A" => Ok("LOST".into()),
        other => bail!("neither the store nor the old byte is there: {other:?}"),
    }
}

fn getxattr(context: &Context<'_>) -> anyhow::Result<String> {
    let mut counts = Vec::new();
    for killpriv_v2 in [false, true] {
        let mounted = context.mount(Options { killpriv_v2 })?;
        let (ino, mut client) = warm(context, &mounted, 8192)?;
        for _ in 0..10 {
            client.call(Order::Write {
                offset: 0,
                len: 100,
                value: b'B',
            })?;
        }
        let log = mounted.shared.log(ino);
        counts.push(
            log.iter()
                .filter(|entry| entry.opcode == "GETXATTR")
                .count(),
        );
    }
    let every = if counts[0] >= 10 { "yes" } else { "no" };
    Ok(format!(
        "{every}: {} for 10 writes, {} with HANDLE_KILLPRIV_V2",
        counts[0], counts[1]
    ))
}

fn features(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let Some((offered, _)) = mounted.shared.offered.get() else {
        bail!("the server has seen no INIT");
    };
    let asked = [
        ("passthrough", InitFlags::FUSE_PASSTHROUGH),
        ("io_uring", InitFlags::FUSE_OVER_IO_URING),
        ("request timeouts", InitFlags::FUSE_REQUEST_TIMEOUT),
        ("max_pages", InitFlags::FUSE_MAX_PAGES),
        ("killpriv v2", InitFlags::FUSE_HANDLE_KILLPRIV_V2),
        ("mmap with direct_io", InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP),
        ("idmapped mounts", InitFlags::FUSE_ALLOW_IDMAP),
        ("resend", InitFlags::FUSE_HAS_RESEND),
        ("expire", InitFlags::FUSE_HAS_EXPIRE_ONLY),
    ];
    let words = asked.map(|(name, flag)| {
        format!(
            "{name} {}",
            if offered.contains(flag) { "yes" } else { "no" }
        )
    });
    let uring = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    let uring = uring.map_or("not there".into(), |text| text.trim().to_owned());
    Ok(format!("{}; enable_uring {uring}", words.join(", ")))
}
