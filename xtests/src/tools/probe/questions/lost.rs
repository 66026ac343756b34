//! Lost stores and writes: the server holds a WRITE, and a store through a mapping of the same page
//! is written back meanwhile. Held rather than raced, so that the answer is the same each time.

use anyhow::{bail, ensure};

use super::scenarios::warm;
use super::stale::mapped_direct;
use crate::tools::probe::client::{Answer, Client, Order, TimedOut};
use crate::tools::probe::context::Context;
use crate::tools::probe::server::{Action, Mounted, Options};

const PAGE: usize = 4096;

/// A file that is written to by one client and mapped by another.
struct Both<'a> {
    context: &'a Context<'a>,
    mounted: &'a Mounted,
    ino: u64,
    writer: Client,
    mapper: Client,
}

impl<'a> Both<'a> {
    /// `writer` has the file open; the mapper opens it as well.
    fn new(
        context: &'a Context<'a>,
        mounted: &'a Mounted,
        ino: u64,
        writer: Client,
    ) -> anyhow::Result<Self> {
        let mapper = context.client(mounted, "file")?;
        Ok(Self {
            context,
            mounted,
            ino,
            writer,
            mapper,
        })
    }

    /// Starts `write`, which the server holds.
    fn hold(&mut self, write: &Order) -> anyhow::Result<()> {
        self.mounted.shared.once(Action::Hold);
        self.writer.start(write)?;
        let came = |held, _: &[_]| held == 1;
        ensure!(
            self.mounted.shared.wait_for(self.context.limit, came),
            "no WRITE came"
        );
        Ok(())
    }

    /// Gives the mapper orders while `write` is held, and waits until the server has the resulting
    /// writeback. False: the kernel lets the writeback wait for the WRITE, or the time is over.
    fn write_back_beside(&mut self, write: &Order, orders: &[Order]) -> anyhow::Result<bool> {
        self.hold(write)?;
        for order in orders {
            self.mapper.start(order)?;
        }
        let ino = self.ino;
        let overtook = self
            .mounted
            .shared
            .wait_for(self.context.limit / 2, |_, log| {
                log.iter().any(|entry| entry.ino == ino && entry.from_cache)
            });
        self.mounted.shared.release();
        for order in orders {
            self.mapper.finish(&format!("{order:?}"))?;
        }
        Ok(overtook)
    }

    /// Waits for the held write, which must be complete.
    fn written(&mut self, len: usize) -> anyhow::Result<()> {
        let answer = self.writer.finish("the held write")?;
        ensure!(answer == Answer::Count(len), "the held write: {answer:?}");
        Ok(())
    }

    /// Drops the file's pages, and reads from the server.
    fn evicted(&mut self, offset: u64, len: usize) -> anyhow::Result<Vec<u8>> {
        self.mapper.call(Order::Evict)?;
        self.mapper.bytes(offset, len)
    }
}

fn order_of(overtook: bool) -> &'static str {
    if overtook {
        "writeback overtook the WRITE"
    } else {
        "the writeback waited"
    }
}

/// W(100@0) is held; a store to the same bytes is written back and overtakes it.
pub(super) fn store(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let (ino, writer) = warm(context, &mounted, 2 * PAGE)?;
    let mut both = Both::new(context, &mounted, ino, writer)?;
    both.mapper.call(Order::Map(PAGE))?;
    // A mapped page stays when caches are dropped meanwhile; without it the WRITE would fill a new
    // page, which stays locked until the reply.
    both.mapper.call(Order::Load(0))?;
    let write = Order::write(0, 100, b'W');
    let store = Order::store(0, b'M');
    let overtook = both.write_back_beside(&write, &[store, Order::SyncRange])?;
    both.written(100)?;
    let order = order_of(overtook);
    match both.evicted(0, 1)?.as_slice() {
        b"M" => Ok(format!("ok ({order})")),
        b"W" => Ok(format!("LOST ({order})")),
        other => bail!("neither the store nor the write is there: {other:?}"),
    }
}

/// A store dirties the page at the file's end; it is written back while an appending WRITE is held.
pub(super) fn append(context: &Context<'_>) -> anyhow::Result<String> {
    const END: usize = 100;
    const LEN: usize = 16;
    let mounted = context.mount(Options::default())?;
    let (ino, writer) = warm(context, &mounted, END)?;
    let mut both = Both::new(context, &mounted, ino, writer)?;
    let store = |value| Order::Store { offset: 0, value };
    both.mapper.call(Order::Map(PAGE))?;
    both.mapper.call(store(b'M'))?;
    let write = Order::write(END, LEN, b'W');
    let overtook = both.write_back_beside(&write, &[Order::SyncRange])?;
    both.written(LEN)?;
    let cached = both.mapper.bytes(END as u64, LEN)?;
    // The next store makes the page's content durable.
    both.mapper.call(store(b'N'))?;
    both.mapper.call(Order::SyncRange)?;
    let kept = both.evicted(END as u64, LEN)?;
    let word = |bytes: &[u8]| match bytes {
        [b'W', ..] if bytes == [b'W'; LEN] => "ok",
        _other => "LOST",
    };
    let answer = if [&cached, &kept].iter().any(|bytes| word(bytes) != "ok") {
        "LOST"
    } else {
        "ok"
    };
    Ok(format!(
        "{answer} ({}; read(2) after the write: {}; file after another store: {})",
        order_of(overtook),
        word(&cached),
        word(&kept)
    ))
}

/// A WRITE of 8 bytes is held; a store to 8 others of its page faults the page in, and is written
/// back when the write has returned.
pub(super) fn direct_write(context: &Context<'_>) -> anyhow::Result<String> {
    const AT: usize = 64;
    let Some((mounted, ino)) = mapped_direct(context)? else {
        return Ok("not possible: no shared mappings with direct I/O".into());
    };
    let writer = context.client(&mounted, "file")?;
    let mut both = Both::new(context, &mounted, ino, writer)?;
    both.mapper.call(Order::Map(PAGE))?;
    both.hold(&Order::write(AT, 8, b'W'))?;
    both.mapper.start(&Order::store(0, b'M'))?;
    let stored = match both.mapper.finish("the store") {
        Ok(stored) => Some(stored),
        // The fault waits for the reply to the WRITE, which keeps the order.
        Err(error) if error.is::<TimedOut>() => None,
        Err(error) => return Err(error),
    };
    mounted.shared.release();
    both.written(8)?;
    if stored.is_none() {
        both.mapper.finish("the store")?;
    }
    both.mapper.call(Order::SyncRange)?;
    let content = mounted.shared.content(ino);
    ensure!(content[0] == b'M', "the store is lost: {:?}", content[0]);
    match &content[AT..AT + 8] {
        b"WWWWWWWW" => Ok("ok".into()),
        b"AAAAAAAA" => Ok(
            "LOST (the writeback of the mapped page undoes the pwrite(2) of other bytes)".into(),
        ),
        other => bail!("neither the write nor the old bytes are there: {other:?}"),
    }
}
