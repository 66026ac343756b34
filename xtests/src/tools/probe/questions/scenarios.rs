//! How each question is asked: a scenario between a server that misbehaves once and one or two
//! clients. A scenario reports what it saw, never what a kernel of this version should have shown.

use anyhow::{bail, ensure};
use fuser::InitFlags;

use crate::tools::probe::client::{Answer, Client, Order, TimedOut};
use crate::tools::probe::context::Context;
use crate::tools::probe::server::{Action, Mounted, Options};

/// A file of 'A's that the client has read once, so that its pages are uptodate.
pub(super) fn warm(
    context: &Context<'_>,
    mounted: &Mounted,
    len: usize,
) -> anyhow::Result<(u64, Client)> {
    let ino = mounted.shared.add("file", vec![b'A'; len]);
    let mut client = context.client(mounted, "file")?;
    let read = client.bytes(0, len)?;
    ensure!(
        read == vec![b'A'; len],
        "the server's own bytes come back wrong"
    );
    Ok((ino, client))
}

pub(super) fn limits(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let ino = mounted.shared.add("file", vec![b'A'; 8 << 20]);
    let mut client = context.client(&mounted, "file")?;
    client.call(Order::write(0, 4 << 20, b'B'))?;
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

pub(super) fn large_folios(context: &Context<'_>) -> anyhow::Result<String> {
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

/// A refused write beyond the end, then the file grows in another way.
pub(super) fn ghost(context: &Context<'_>) -> anyhow::Result<String> {
    // Another page than the refused bytes: both ways drop the pages that they write to, and so
    // would hide the defect.
    const GROWN: u64 = 8 * 4096;
    let mut answers = Vec::new();
    for (how, action) in [
        ("failed", Action::Fail(libc::EIO)),
        ("short", Action::Shorten(10)),
    ] {
        for direct in [false, true] {
            let mounted = context.mount(Options::default())?;
            let (_ino, mut client) = warm(context, &mounted, 100)?;
            mounted.shared.once(action.clone());
            client.call(Order::write(100, 1000, b'G'))?;
            let extended = if direct {
                client.call(Order::WriteDirect {
                    offset: GROWN,
                    len: 512,
                    value: b'X',
                })?
            } else {
                client.call(Order::CopyRange {
                    from: 0,
                    to: GROWN,
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

pub(super) fn refused_bytes(context: &Context<'_>) -> anyhow::Result<String> {
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
        client.call(Order::write(0, 100, b'B'))?;
        let same = client.bytes(0, 8192)? == mounted.shared.content(ino);
        let seen = if same { "ok" } else { "STALE" };
        answers.push((seen, format!("{how}: {seen}")));
    }
    Ok(summary("STALE", &answers))
}

pub(super) fn notify_in_write(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    mounted.shared.add("file", vec![b'A'; 1 << 20]);
    let mut client = context.client(&mounted, "file")?;
    mounted.shared.once(Action::Invalidate);
    match client.call(Order::write(10, 100, b'B')) {
        Ok(Answer::Count(100)) => Ok("ok".into()),
        Ok(other) => bail!("write: {other:?}"),
        Err(error) if error.is::<TimedOut>() => {
            let own = crate::tools::repro::examine::threads(std::process::id());
            let all = own
                .into_iter()
                .chain(crate::tools::repro::examine::threads(client.pid()));
            let stuck = all.filter(|thread| thread.waits_for_page()).count();
            let waiting = mounted.waiting().unwrap_or(0);
            // The freed client shows that this call hung, and that no answer was lost.
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

pub(super) fn half_readable(context: &Context<'_>) -> anyhow::Result<String> {
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

pub(super) fn failed_write_and_store(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let (_ino, mut client) = warm(context, &mounted, 8192)?;
    client.call(Order::Map(4096))?;
    client.call(Order::store(200, b'M'))?;
    mounted.shared.once(Action::Fail(libc::EIO));
    client.call(Order::write(0, 100, b'B'))?;
    match client.bytes(200, 1)?.as_slice() {
        b"M" => Ok("ok".into()),
        b"A" => Ok("LOST".into()),
        other => bail!("neither the store nor the old byte is there: {other:?}"),
    }
}

pub(super) fn getxattr(context: &Context<'_>) -> anyhow::Result<String> {
    let mut counts = Vec::new();
    for killpriv_v2 in [false, true] {
        let mounted = context.mount(Options {
            killpriv_v2,
            ..Options::default()
        })?;
        let (ino, mut client) = warm(context, &mounted, 8192)?;
        for _ in 0..10 {
            client.call(Order::write(0, 100, b'B'))?;
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

pub(super) fn features(context: &Context<'_>) -> anyhow::Result<String> {
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
