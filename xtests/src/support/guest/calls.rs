//! What tests of a device do again and again: boot a guest, and single requests with their arguments filled in.

use anyhow::{Context, Result, ensure};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{
    EntryOut, ExtHeader, FUSE_EXT_GROUPS, FlushIn, ForgetOne, GetattrIn, OpenIn, OpenOut, ReadIn,
    ReleaseIn, Secctx, SuppGroups, WriteIn, WriteOut,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Answer, Device, Guest, Options};

/// The root's nodeid.
pub const ROOT: u64 = 1;
/// Bytes of the largest request.
pub const MIB: usize = 1 << 20;

/// A device with these options and a guest after INIT.
pub fn booted(options: &[&str], guest: Options) -> Result<(Device, Guest)> {
    let device = Device::new(options)?;
    let mut guest = device.connect(guest)?;
    guest.init()?;
    Ok((device, guest))
}

/// Queues that take the largest request without an indirect table.
pub fn large(queues: usize) -> Options {
    Options {
        queues,
        size: 1024,
        ..Options::default()
    }
}

/// The error of a GETATTR.
pub fn getattr(guest: &mut Guest, queue: usize, nodeid: u64) -> Result<i32> {
    let arg = GetattrIn::default();
    let answer = guest.call(queue, Opcode::Getattr, nodeid, &[arg.as_bytes()], 104)?;
    Ok(answer.error)
}

/// LOOKUP in the root.
pub fn lookup(guest: &mut Guest, name: &str) -> Result<EntryOut> {
    lookup_in(guest, ROOT, name.as_bytes())?.value()
}

/// LOOKUP in a directory.
pub fn lookup_in(guest: &mut Guest, parent: u64, name: &[u8]) -> Result<Answer> {
    guest.call(1, Opcode::Lookup, parent, &[name, b"\0"], 128)
}

/// Looks `name` up and opens it for reading and writing: nodeid and handle.
pub fn open(guest: &mut Guest, name: &str) -> Result<(u64, u64)> {
    let nodeid = lookup(guest, name)?.nodeid;
    Ok((nodeid, open_node(guest, nodeid, libc::O_RDWR)?))
}

/// OPEN of what was looked up.
pub fn open_node(guest: &mut Guest, nodeid: u64, flags: i32) -> Result<u64> {
    let arg = OpenIn {
        flags: flags.cast_unsigned(),
        ..OpenIn::default()
    };
    let answer = guest.call(1, Opcode::Open, nodeid, &[arg.as_bytes()], 16)?;
    Ok(answer.value::<OpenOut>()?.fh)
}

/// OPENDIR.
pub fn opendir(guest: &mut Guest, nodeid: u64) -> Result<u64> {
    let arg = OpenIn::default();
    let answer = guest.call(1, Opcode::Opendir, nodeid, &[arg.as_bytes()], 16)?;
    Ok(answer.value::<OpenOut>()?.fh)
}

/// The error of a FLUSH, and of the RELEASE after it.
pub fn close(guest: &mut Guest, nodeid: u64, fh: u64) -> Result<(i32, i32)> {
    let flush = FlushIn {
        fh,
        ..FlushIn::default()
    };
    let flushed = guest.call(1, Opcode::Flush, nodeid, &[flush.as_bytes()], 0)?;
    let release = ReleaseIn {
        fh,
        ..ReleaseIn::default()
    };
    let released = guest.call(1, Opcode::Release, nodeid, &[release.as_bytes()], 0)?;
    Ok((flushed.error, released.error))
}

/// BATCH_FORGET of one lookup of each.
pub fn forget_all(guest: &mut Guest, nodeids: &[u64]) -> Result<()> {
    for some in nodeids.chunks(1000) {
        let count = thrufs_wire::abi::BatchForgetIn {
            count: some.len() as u32,
            ..thrufs_wire::abi::BatchForgetIn::default()
        };
        let all: Vec<_> = some
            .iter()
            .map(|nodeid| ForgetOne {
                nodeid: *nodeid,
                nlookup: 1,
            })
            .collect();
        let parts = [count.as_bytes(), all.as_bytes()];
        ensure!(guest.call(0, Opcode::BatchForget, 0, &parts, 0)?.used == 0);
    }
    Ok(())
}

/// The argument of a READ, READDIR or READDIRPLUS.
pub fn read_in(fh: u64, offset: u64, size: usize) -> ReadIn {
    ReadIn {
        fh,
        offset,
        size: size as u32,
        ..ReadIn::default()
    }
}

/// The argument of a WRITE.
pub fn write_in(fh: u64, offset: u64, size: usize) -> WriteIn {
    WriteIn {
        fh,
        offset,
        size: size as u32,
        ..WriteIn::default()
    }
}

/// READ of up to `size` bytes.
pub fn read(
    guest: &mut Guest,
    (nodeid, fh): (u64, u64),
    offset: u64,
    size: usize,
) -> Result<Answer> {
    let arg = read_in(fh, offset, size);
    guest.call(1, Opcode::Read, nodeid, &[arg.as_bytes()], size)
}

/// WRITE. Returns how many bytes were written.
pub fn write(
    guest: &mut Guest,
    (nodeid, fh): (u64, u64),
    offset: u64,
    data: &[u8],
) -> Result<usize> {
    let arg = write_in(fh, offset, data.len());
    let answer = guest.call(1, Opcode::Write, nodeid, &[arg.as_bytes(), data], 8)?;
    Ok(answer.value::<WriteOut>()?.size as usize)
}

/// Bytes that differ from their neighbours.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 % 251) as u8).collect()
}

/// A record of a listing.
#[derive(Clone, Debug)]
pub struct Record {
    /// What READDIRPLUS has of it.
    pub entry: EntryOut,
    /// Where to go on after it.
    pub next_offset: u64,
    /// Name.
    pub name: Vec<u8>,
}

/// READDIRPLUS from `offset` on: as many records as fit.
pub fn readdirplus(
    guest: &mut Guest,
    (nodeid, fh): (u64, u64),
    offset: u64,
) -> Result<Vec<Record>> {
    const ROOM: usize = 32 << 10;
    let arg = read_in(fh, offset, ROOM);
    let answer = guest.call(1, Opcode::Readdirplus, nodeid, &[arg.as_bytes()], ROOM)?;
    ensure!(answer.error == 0, "READDIRPLUS: errno {}", answer.error);
    records(&answer.data, true)
}

/// READDIR, likewise. The entries are blank.
pub fn readdir(guest: &mut Guest, (nodeid, fh): (u64, u64), offset: u64) -> Result<Vec<Record>> {
    const ROOM: usize = 4 << 10;
    let arg = read_in(fh, offset, ROOM);
    let answer = guest.call(1, Opcode::Readdir, nodeid, &[arg.as_bytes()], ROOM)?;
    ensure!(answer.error == 0, "READDIR: errno {}", answer.error);
    records(&answer.data, false)
}

fn records(mut data: &[u8], plus: bool) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let entry = match plus {
            true => {
                let (entry, rest) = EntryOut::read_from_prefix(data).ok().context("an entry")?;
                data = rest;
                entry
            }
            false => EntryOut::default(),
        };
        let (dirent, rest) = thrufs_wire::abi::Dirent::read_from_prefix(data)
            .ok()
            .context("a record")?;
        let len = dirent.namelen as usize;
        let name = rest.get(..len).context("a name")?.to_vec();
        data = rest.get(len.next_multiple_of(8)..).context("padding")?;
        found.push(Record {
            entry,
            next_offset: dirent.off,
            name,
        });
    }
    Ok(found)
}

/// FUSE_EXT_GROUPS of a request that creates.
pub fn groups_extension(groups: &[u32]) -> Vec<u8> {
    let count = SuppGroups {
        nr_groups: groups.len() as u32,
    };
    let body = [count.as_bytes(), groups.as_bytes()].concat();
    extension(FUSE_EXT_GROUPS, &body)
}

/// Labels of a request that creates, by name and value.
pub fn labels_extension(labels: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in labels {
        let header = Secctx {
            size: value.len() as u32,
            padding: 0,
        };
        body.extend(header.as_bytes());
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(*value);
        body.resize(body.len().next_multiple_of(8), 0);
    }
    extension(labels.len() as u32, &body)
}

fn extension(r#type: u32, body: &[u8]) -> Vec<u8> {
    let size = (size_of::<ExtHeader>() + body.len()).next_multiple_of(8);
    let header = ExtHeader {
        size: size as u32,
        r#type,
    };
    let mut all = [header.as_bytes(), body].concat();
    all.resize(size, 0);
    all
}
