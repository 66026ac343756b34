//! What a mapping shows of a write(2) under way, and after it has returned: the kernel fills or
//! drops a page before it sends the WRITE, so a fault meanwhile can fetch the old bytes.

use anyhow::{bail, ensure};

use super::scenarios::warm;
use crate::tools::probe::client::{Answer, Client, Order, TimedOut};
use crate::tools::probe::context::Context;
use crate::tools::probe::server::{Action, Mounted, Options};

const PAGE: usize = 4096;

/// The byte that `look` ends with while `write` is held, or as soon as it is not, and the mapping's
/// byte after the write has returned.
fn seen(
    context: &Context<'_>,
    mounted: &Mounted,
    [writer, mapper]: [&mut Client; 2],
    write: &Order,
    look: impl IntoIterator<Item = Order>,
) -> anyhow::Result<[u8; 2]> {
    mounted.shared.once(Action::Hold);
    writer.start(write)?;
    ensure!(
        mounted.shared.wait_for(context.limit, |held, _| held == 1),
        "no WRITE came"
    );
    let mut looked = Vec::new();
    for order in look {
        mapper.start(&order)?;
        looked.push(None);
    }
    for answer in &mut looked {
        match mapper.finish("a look at the page of the held write") {
            Ok(seen) => *answer = Some(seen),
            // The look waits for the reply to the WRITE, and so is right.
            Err(error) if error.is::<TimedOut>() => break,
            Err(error) => return Err(error),
        }
    }
    mounted.shared.release();
    match writer.finish("the held write")? {
        Answer::Count(PAGE) => {}
        other => bail!("the held write: {other:?}"),
    }
    for answer in looked.iter_mut().filter(|answer| answer.is_none()) {
        *answer = Some(mapper.finish("a look that waited for the held write")?);
    }
    let after = mapper.call(Order::Load(0))?;
    match (looked.pop().flatten(), after) {
        (Some(Answer::Bytes(during)), Answer::Bytes(after))
            if during.len() == 1 && after.len() == 1 =>
        {
            Ok([during[0], after[0]])
        }
        other => bail!("the mapping gave no byte: {other:?}"),
    }
}

/// A write to the second page changes the mtime; one to the first page is held, and has filled it.
/// Then the kernel learns of the mtime, and the client reads the first page.
pub(super) fn dropped_under_write(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options {
        auto_inval_data: true,
        ..Options::default()
    })?;
    let (_ino, mut writer) = warm(context, &mounted, 2 * PAGE)?;
    let mut mapper = context.client(&mounted, "file")?;
    mapper.call(Order::Map(2 * PAGE))?;
    writer.call(Order::write(PAGE, PAGE, b'B'))?;
    let write = Order::write(0, PAGE, b'C');
    let look = [Order::Stat, Order::Load(0)];
    match seen(context, &mounted, [&mut writer, &mut mapper], &write, look)? {
        [b'C', b'C'] => Ok("ok".into()),
        [b'A', b'A'] => {
            let read = match mapper.bytes(0, 1)?.as_slice() {
                b"C" => "read(2) looks at the mtime and brings the written ones",
                _old => "read(2) as well",
            };
            Ok(format!(
                "STALE (the mapping has the bytes of before, also after write(2) has returned; {read})"
            ))
        }
        [b'A', b'C'] => Ok("STALE (until write(2) has returned)".into()),
        other => bail!("neither the old byte nor the new one: {other:?}"),
    }
}

/// A mount whose files are open with direct I/O, with a file of one page; None if the kernel does
/// not allow shared mappings of such a file.
pub(super) fn mapped_direct(context: &Context<'_>) -> anyhow::Result<Option<(Mounted, u64)>> {
    let mounted = context.mount(Options {
        direct_io: true,
        ..Options::default()
    })?;
    let flag = fuser::InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
    let offered = mounted.shared.offered.get();
    if !offered.is_some_and(|(offered, _)| offered.contains(flag)) {
        return Ok(None);
    }
    let ino = mounted.shared.add("file", vec![b'A'; PAGE]);
    Ok(Some((mounted, ino)))
}

/// A direct write, synchronous and by io_uring, to a mapped page that is read meanwhile.
pub(super) fn mapped_direct_write(context: &Context<'_>) -> anyhow::Result<String> {
    let mut answers = Vec::new();
    for (how, write) in [
        ("pwrite(2)", Order::write(0, PAGE, b'C')),
        ("io_uring", Order::WriteUring(PAGE, b'C')),
    ] {
        let Some((mounted, _ino)) = mapped_direct(context)? else {
            return Ok("not possible: no shared mappings with direct I/O".into());
        };
        let mut writer = context.client(&mounted, "file")?;
        let mut mapper = context.client(&mounted, "file")?;
        mapper.call(Order::Map(PAGE))?;
        mapper.call(Order::Load(0))?;
        let clients = [&mut writer, &mut mapper];
        let [_during, after] = seen(context, &mounted, clients, &write, [Order::Load(0)])?;
        answers.push(match after {
            b'C' => (false, format!("{how}: ok")),
            b'A' => (true, format!("{how}: STALE")),
            other => bail!("neither the old byte nor the new one: {other:?}"),
        });
    }
    let any = answers.iter().any(|(is_stale, _)| *is_stale);
    let details: Vec<String> = answers.into_iter().map(|(_, detail)| detail).collect();
    let answer = if any { "STALE" } else { "ok" };
    Ok(format!("{answer} ({})", details.join("; ")))
}
