//! A file system in memory, served on /dev/fuse by thrufs-wire and nothing else: the kernel itself
//! judges what is decoded and what is encoded.
//!
//! One thread, one message at a time, in the order of the kernel. Values that a client cannot
//! verify (times, owners) are the last ones set.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use parking_lot::Mutex;
use thrufs_wire::abi::{
    Attr, AttrOut, BmapOut, CopyFileRangeIn, CopyFileRangeOut, EntryOut, FileLock, GetxattrOut,
    InHeader, InitIn, InitOut, IoctlOut, Kstatfs, LkIn, LkOut, LseekOut, OpenOut, OpenOutFlags,
    PollFlags, PollOut, ReadIn, SetattrIn, StatfsOut, Statx, StatxOut, SxTime, WriteOut,
};
use thrufs_wire::reply::{DirBuffer, Pushed};
use thrufs_wire::request::SetTime;
use thrufs_wire::{
    Dialect, Encoded, InitFlags, Message, Notification, Opcode, Reply, Request, decode,
};

/// The root and all that a message needs beside 1 MiB of data.
pub(crate) const ROOT: u64 = 1;
const MAX_WRITE: u32 = 1 << 20;
/// Group of the root directory, for FUSE_CREATE_SUPP_GROUP.
pub(crate) const ROOT_GROUP: u32 = 4242;
/// `unique` of RETRIEVE's answer.
pub(crate) const RETRIEVED: u64 = 0x7261;
/// An extended attribute that is no value: reading it makes the server notify the kernel.
const NOTIFY: &[u8] = b"user.notify.";

/// An inode.
#[derive(Clone, Debug, Default)]
struct Node {
    attr: Attr,
    data: Vec<u8>,
    xattrs: BTreeMap<CString, Vec<u8>>,
}

/// Shared by tests and server.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The operation whose next message is stored.
    pub(crate) wanted: Option<Opcode>,
    /// The stored message.
    pub(crate) kept: Option<Vec<u8>>,
    /// All operations so far.
    pub(crate) seen: BTreeSet<Opcode>,
    /// Faults of the kernel or this server.
    pub(crate) faults: Vec<String>,
    /// Notifications that were sent.
    pub(crate) notified: u64,
    /// The page cache's content, by RETRIEVE.
    pub(crate) retrieved: Vec<u8>,
    /// POLLs that wait to be woken.
    pub(crate) waiting_polls: usize,
    /// INIT's argument.
    pub(crate) init: Option<InitIn>,
}

pub(crate) struct Server {
    device: File,
    dialect: Dialect,
    granted: InitFlags,
    nodes: BTreeMap<u64, Node>,
    names: BTreeMap<(u64, CString), u64>,
    locks: BTreeMap<u64, LkIn>,
    /// The READ that waits for its INTERRUPT.
    held: Option<u64>,
    /// The LOOKUP that waits for its RESEND.
    dropped: Option<u64>,
    resent: bool,
    poll: Option<u64>,
    shared: Arc<Mutex<Shared>>,
}

impl Server {
    pub(crate) fn new(device: File, granted: InitFlags, shared: Arc<Mutex<Shared>>) -> Self {
        let mut server = Self {
            device,
            dialect: Dialect::BEFORE_INIT,
            granted,
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            locks: BTreeMap::new(),
            held: None,
            dropped: None,
            resent: false,
            poll: None,
            shared,
        };
        let root = server.insert(libc::S_IFDIR | 0o777, 0, Vec::new());
        server.node(root).attr.gid = ROOT_GROUP;
        server
    }

    /// Serves until the mount is gone.
    pub(crate) fn run(mut self) {
        let mut buffer = vec![0; MAX_WRITE as usize + 4096];
        loop {
            let len = match self.device.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // ENOENT: the request was interrupted before it was read.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
                Err(error) => return self.fault(format!("read of the device: {error}")),
            };
            if let Err(error) = self.message(&buffer[..len]) {
                self.fault(format!("{error:#}"));
            }
        }
    }

    fn fault(&self, what: String) {
        self.shared.lock().faults.push(what);
    }

    fn message(&mut self, bytes: &[u8]) -> Result<()> {
        let message = match decode(self.dialect, bytes, bytes.len()) {
            Ok(message) => message,
            Err(refused) => {
                self.fault(refused.to_string());
                if let Some(unique) = refused.unanswered() {
                    self.send(&Reply::Error(refused.errno()).encode(unique))?;
                }
                return Ok(());
            }
        };
        let opcode = Opcode::from_raw(message.header.opcode).context("decoded")?;
        let mut shared = self.shared.lock();
        shared.seen.insert(opcode);
        if shared.wanted == Some(opcode) {
            shared.kept = Some(bytes.to_vec());
            shared.wanted = None;
        }
        drop(shared);
        self.request(opcode, &message, bytes)
    }

    fn send(&self, encoded: &Encoded<'_>) -> Result<()> {
        let written = (&self.device).write_vectored(&encoded.io_slices())?;
        ensure!(
            written == encoded.len(),
            "{written} of {} bytes",
            encoded.len()
        );
        Ok(())
    }

    fn notify(&self, notification: &Notification<'_>) -> Result<()> {
        ensure!(
            notification.is_known(self.dialect),
            "not granted: {notification:?}"
        );
        let sent = self.send(&notification.encode()?);
        sent.with_context(|| format!("{notification:?}"))
    }

    fn request(&mut self, opcode: Opcode, message: &Message<'_>, bytes: &[u8]) -> Result<()> {
        let unique = message.header.unique;
        let mut buffer = vec![0; 1 << 17];
        let reply = match self.operation(message, bytes, &mut buffer) {
            Ok(Some(reply)) => reply,
            Ok(None) => return Ok(()),
            Err(errno) => Reply::Error(errno),
        };
        ensure!(reply.answers(opcode), "{reply:?} to {opcode:?}");
        self.send(&reply.encode(unique))
            .with_context(|| format!("{reply:?} to {opcode:?}"))?;
        if let Request::Getxattr { name, .. } = message.request
            && let Some(what) = name.to_bytes().strip_prefix(NOTIFY)
        {
            self.asked_to_notify(message.header.nodeid, what)?;
            self.shared.lock().notified += 1;
        }
        Ok(())
    }

    /// The answer, or nothing if the kernel waits for none.
    #[allow(clippy::too_many_lines, reason = "a table: a row an operation")]
    fn operation<'b>(
        &mut self,
        message: &Message<'_>,
        bytes: &[u8],
        buffer: &'b mut [u8],
    ) -> Result<Option<Reply<'b>>, Errno> {
        let Message { header, request } = message;
        let nodeid = header.nodeid;
        let reply = match request {
            Request::Init(arg) => self.init(arg),
            Request::Forget(_) | Request::BatchForget(_) => return Ok(None),
            Request::Interrupt(arg) => return Ok(self.interrupt(arg.unique)),
            Request::NotifyReply { arg, data } => {
                let got = data.of(bytes).ok_or(Errno::EINVAL)?.to_vec();
                let complete = header.unique == RETRIEVED && got.len() == arg.size as usize;
                self.shared.lock().retrieved = if complete { got } else { Vec::new() };
                return Ok(None);
            }
            Request::Destroy | Request::Access(_) | Request::Flush(_) | Request::Fsync(_) => {
                Reply::Empty
            }
            Request::Syncfs(_) | Request::Release(_) | Request::Releasedir(_) => Reply::Empty,
            Request::Fsyncdir(_) => Reply::Empty,
            Request::Statfs => Reply::Statfs(statfs()),

            Request::Lookup { name } => return self.lookup(header, name),
            Request::Symlink { name, target, .. } => {
                let target = target.to_bytes().to_vec();
                Reply::Entry(self.make(header, name, libc::S_IFLNK | 0o777, target))
            }
            Request::Mknod { arg, name, .. } => {
                Reply::Entry(self.make(header, name, arg.mode, Vec::new()))
            }
            Request::Mkdir {
                arg,
                name,
                extensions,
            } => {
                let entry = self.make(header, name, libc::S_IFDIR | arg.mode, Vec::new());
                if let Some(gid) = extensions.groups().next() {
                    self.node(entry.nodeid).attr.gid = gid;
                }
                Reply::Entry(self.entry(entry.nodeid))
            }
            Request::Create { arg, name, .. } => {
                let entry = self.make(header, name, arg.mode, Vec::new());
                Reply::Create(entry, open(entry.nodeid))
            }
            Request::Tmpfile { arg, .. } => {
                let nodeid = self.insert(arg.mode, header.uid, Vec::new());
                self.node(nodeid).attr.nlink = 0;
                Reply::Create(self.entry(nodeid), open(nodeid))
            }
            Request::Link { arg, name } => {
                self.names
                    .insert((nodeid, CString::from(*name)), arg.oldnodeid);
                self.node(arg.oldnodeid).attr.nlink += 1;
                Reply::Entry(self.entry(arg.oldnodeid))
            }
            Request::Unlink { name } | Request::Rmdir { name } => {
                self.names
                    .remove(&(nodeid, CString::from(*name)))
                    .ok_or(Errno::ENOENT)?;
                Reply::Empty
            }
            Request::Rename {
                arg,
                name,
                new_name,
            } => self.rename((nodeid, name), (arg.newdir, new_name), 0)?,
            Request::Rename2 {
                arg,
                name,
                new_name,
            } => self.rename((nodeid, name), (arg.newdir, new_name), arg.flags)?,

            Request::Getattr(arg) => {
                let _either = arg.handle();
                Reply::Attr(AttrOut::new(self.node(nodeid).attr, Duration::ZERO))
            }
            Request::Statx(_) if self.granted.is_empty() => return Err(Errno::ENOSYS),
            Request::Statx(_) => Reply::Statx(self.statx(nodeid)),
            Request::Setattr(arg) => self.setattr(nodeid, arg),
            Request::Readlink => Reply::Data(copy(buffer, &self.node(nodeid).data)),
            Request::Bmap(arg) => Reply::Bmap(BmapOut {
                block: arg.block + 7,
            }),
            Request::Setxattr { name, value, .. } => {
                let name = CString::from(*name);
                self.node(nodeid).xattrs.insert(name, value.to_vec());
                Reply::Empty
            }
            Request::Getxattr { arg, name } => {
                let value = match self.node(nodeid).xattrs.get(*name) {
                    Some(value) => value.clone(),
                    None if name.to_bytes().starts_with(NOTIFY) => b"done".to_vec(),
                    None => return Err(Errno::ENODATA),
                };
                sized(buffer, &value, arg.size)?
            }
            Request::Listxattr(arg) => {
                let names = self.node(nodeid).xattrs.keys();
                let list: Vec<u8> = names.flat_map(|n| n.as_bytes_with_nul().to_vec()).collect();
                sized(buffer, &list, arg.size)?
            }
            Request::Removexattr { name } => {
                self.node(nodeid)
                    .xattrs
                    .remove(*name)
                    .ok_or(Errno::ENODATA)?;
                Reply::Empty
            }

            Request::Open(_) if self.is_slow(nodeid) => {
                // A READ of the page cache's would be asynchronous, and is never interrupted.
                let open_flags = OpenOutFlags::FOPEN_DIRECT_IO;
                Reply::Open(OpenOut {
                    open_flags,
                    ..open(nodeid)
                })
            }
            Request::Open(_) | Request::Opendir(_) => Reply::Open(open(nodeid)),
            Request::Read(arg) => return self.read(header, arg, buffer),
            Request::Write { arg, data } => {
                let data = data.of(bytes).ok_or(Errno::EINVAL)?;
                self.write(nodeid, arg.offset, data);
                Reply::Write(WriteOut::new(arg.size))
            }
            Request::Fallocate(arg) => {
                self.grow(nodeid, arg.offset + arg.length);
                Reply::Empty
            }
            Request::Lseek(arg) => Reply::Lseek(LseekOut {
                offset: arg.offset + 11,
            }),
            Request::CopyFileRange(arg) => {
                Reply::Write(WriteOut::new(self.copy(nodeid, arg) as u32))
            }
            Request::CopyFileRange64(arg) => {
                Reply::CopyFileRange(CopyFileRangeOut::new(self.copy(nodeid, arg)))
            }
            Request::Getlk(arg) => Reply::Lock(self.lock_in_the_way(nodeid, arg)),
            Request::Setlk(arg) | Request::Setlkw(arg) => {
                self.locks.insert(nodeid, *arg);
                Reply::Empty
            }
            Request::Ioctl { arg, .. } => {
                let flags = &0x0010_0080_u64.to_ne_bytes()[..];
                let size = flags.len().min(arg.out_size as usize);
                Reply::Ioctl(IoctlOut::default(), copy(buffer, &flags[..size]))
            }
            Request::Poll(arg) => {
                let revents = if self.node(nodeid).data.is_empty() {
                    0
                } else {
                    0x41
                };
                let waits = arg.flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
                if waits && revents == 0 {
                    self.poll = Some(arg.kh);
                    self.shared.lock().waiting_polls += 1;
                }
                Reply::Poll(PollOut {
                    revents,
                    padding: 0,
                })
            }
            Request::Readdir(arg) => self.list(nodeid, arg, false, buffer)?,
            Request::Readdirplus(arg) => self.list(nodeid, arg, true, buffer)?,
            Request::Setupmapping(_) | Request::Removemapping(_) => return Err(Errno::ENOSYS),
        };
        Ok(Some(reply))
    }

    fn init<'b>(&mut self, arg: &InitIn) -> Reply<'b> {
        self.shared.lock().init = Some(*arg);
        self.granted &= arg.capabilities();
        self.dialect = Dialect::new(arg.minor.min(46), self.granted);
        let out = InitOut {
            major: arg.major,
            minor: self.dialect.minor(),
            max_readahead: 0,
            max_background: 16,
            congestion_threshold: 12,
            max_write: MAX_WRITE,
            time_gran: 1,
            max_pages: 256,
            ..InitOut::default()
        };
        Reply::Init(out.with_capabilities(self.granted))
    }

    fn node(&mut self, nodeid: u64) -> &mut Node {
        self.nodes.entry(nodeid).or_default()
    }

    fn insert(&mut self, mode: u32, uid: u32, data: Vec<u8>) -> u64 {
        let nodeid = self.nodes.len() as u64 + ROOT;
        let attr = Attr {
            ino: nodeid,
            mode,
            nlink: 1,
            uid,
            blksize: 4096,
            size: data.len() as u64,
            ..Attr::default()
        };
        let node = Node {
            attr,
            data,
            ..Node::default()
        };
        self.nodes.insert(nodeid, node);
        nodeid
    }

    fn make(&mut self, header: &InHeader, name: &CStr, mode: u32, data: Vec<u8>) -> EntryOut {
        let nodeid = self.insert(mode, header.uid, data);
        self.names.insert((header.nodeid, name.to_owned()), nodeid);
        self.entry(nodeid)
    }

    fn entry(&mut self, nodeid: u64) -> EntryOut {
        let attr = self.node(nodeid).attr;
        EntryOut::new(nodeid, 1, attr, Duration::ZERO, Duration::ZERO)
    }

    fn lookup<'b>(&mut self, header: &InHeader, name: &CStr) -> Result<Option<Reply<'b>>, Errno> {
        match self.dropped {
            None if name == c"again" => {
                self.dropped = Some(header.unique);
                let mut shared = self.shared.lock();
                (shared.wanted, shared.kept) = (Some(Opcode::Lookup), None);
                drop(shared);
                return match self.notify(&Notification::Resend) {
                    Ok(()) => Ok(None),
                    Err(_not_granted) => Err(Errno::EIO),
                };
            }
            Some(first) if !self.resent => {
                self.resent = true;
                if !header.is_resent() || header.first_unique() != first {
                    self.fault(format!("{header:?} is not what was dropped"));
                }
            }
            _other_name => {}
        }
        let nodeid = self.names.get(&(header.nodeid, name.to_owned())).copied();
        let nodeid = nodeid.ok_or(Errno::ENOENT)?;
        Ok(Some(Reply::Entry(self.entry(nodeid))))
    }

    fn interrupt<'b>(&mut self, unique: u64) -> Option<Reply<'b>> {
        if self.held == Some(unique) {
            self.held = None;
            let sent = self.send(&Reply::INTERRUPTED.encode(unique));
            if let Err(error) = sent {
                self.fault(format!("EINTR: {error:#}"));
            }
        }
        None
    }

    fn read<'b>(
        &mut self,
        header: &InHeader,
        arg: &ReadIn,
        buffer: &'b mut [u8],
    ) -> Result<Option<Reply<'b>>, Errno> {
        if self.is_slow(header.nodeid) {
            self.held = Some(header.unique);
            return Ok(None);
        }
        let data = &self.node(header.nodeid).data;
        let start = data.len().min(arg.offset as usize);
        let end = data.len().min(start + arg.size as usize);
        Ok(Some(Reply::Data(copy(buffer, &data[start..end]))))
    }

    fn is_slow(&self, nodeid: u64) -> bool {
        self.names.get(&(ROOT, c"slow".to_owned())) == Some(&nodeid)
    }

    fn grow(&mut self, nodeid: u64, size: u64) {
        let node = self.node(nodeid);
        let size = node.attr.size.max(size);
        node.data.resize(size as usize, 0);
        node.attr.size = size;
    }

    fn write(&mut self, nodeid: u64, offset: u64, data: &[u8]) {
        self.grow(nodeid, offset + data.len() as u64);
        self.node(nodeid).data[offset as usize..][..data.len()].copy_from_slice(data);
    }

    fn copy(&mut self, nodeid: u64, arg: &CopyFileRangeIn) -> u64 {
        let source = self.node(nodeid).data.clone();
        let start = source.len().min(arg.off_in as usize);
        let len = (source.len() - start).min(arg.len as usize);
        self.write(arg.nodeid_out, arg.off_out, &source[start..start + len]);
        len as u64
    }

    fn rename<'b>(
        &mut self,
        from: (u64, &CStr),
        to: (u64, &CStr),
        flags: u32,
    ) -> Result<Reply<'b>, Errno> {
        let (from, to) = ((from.0, from.1.to_owned()), (to.0, to.1.to_owned()));
        if flags & libc::RENAME_NOREPLACE != 0 && self.names.contains_key(&to) {
            return Err(Errno::EEXIST);
        }
        let nodeid = self.names.remove(&from).ok_or(Errno::ENOENT)?;
        self.names.insert(to, nodeid);
        Ok(Reply::Empty)
    }

    fn setattr<'b>(&mut self, nodeid: u64, arg: &SetattrIn) -> Reply<'b> {
        let node = self.node(nodeid);
        let attr = &mut node.attr;
        attr.mode = arg.mode().unwrap_or(attr.mode);
        attr.uid = arg.uid().unwrap_or(attr.uid);
        attr.gid = arg.gid().unwrap_or(attr.gid);
        if let Some(size) = arg.size() {
            node.data.resize(size as usize, 0);
            attr.size = size;
        }
        if let Some(SetTime::At(time)) = arg.atime() {
            (attr.atime, attr.atimensec) = (time.seconds as u64, time.nanoseconds);
        }
        if let Some(SetTime::At(time)) = arg.mtime() {
            (attr.mtime, attr.mtimensec) = (time.seconds as u64, time.nanoseconds);
        }
        Reply::Attr(AttrOut::new(node.attr, Duration::ZERO))
    }

    fn statx(&mut self, nodeid: u64) -> StatxOut {
        let attr = self.node(nodeid).attr;
        let time = |tv_sec, tv_nsec| SxTime {
            tv_sec,
            tv_nsec,
            __reserved: 0,
        };
        let stat = Statx {
            mask: libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            blksize: attr.blksize,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.mode as u16,
            ino: attr.ino,
            size: attr.size,
            atime: time(attr.atime as i64, attr.atimensec),
            mtime: time(attr.mtime as i64, attr.mtimensec),
            btime: time(86_400, 5),
            ..Statx::default()
        };
        StatxOut::new(stat, Duration::ZERO)
    }

    fn lock_in_the_way(&self, nodeid: u64, asked: &LkIn) -> LkOut {
        let lk = match self.locks.get(&nodeid) {
            Some(lock) if lock.owner != asked.owner => lock.lk,
            _free => FileLock {
                r#type: libc::F_UNLCK as u32,
                ..FileLock::default()
            },
        };
        LkOut { lk }
    }

    fn list<'b>(
        &mut self,
        nodeid: u64,
        arg: &ReadIn,
        plus: bool,
        buffer: &'b mut [u8],
    ) -> Result<Reply<'b>, Errno> {
        let children = self.names.range((nodeid, CString::default())..);
        let children: Vec<(CString, u64)> = children
            .take_while(|((parent, _), _)| *parent == nodeid)
            .map(|((_, name), child)| (name.clone(), *child))
            .collect();
        let mut listing = DirBuffer::new(buffer, arg.size);
        for (index, (name, child)) in children.into_iter().enumerate().skip(arg.offset as usize) {
            let (next, kind) = (index as u64 + 1, self.node(child).attr.mode >> 12);
            let pushed = match plus {
                true => listing.push_plus(self.entry(child), next, kind, &name),
                false => listing.push(child, next, kind, &name),
            };
            match pushed {
                Ok(Pushed::Added) => {}
                Ok(Pushed::Full) => break,
                Err(_name) => return Err(Errno::EIO),
            }
        }
        Ok(listing.into_reply())
    }

    /// Reading the attribute `user.notify.WHAT` makes the server send a notification afterwards.
    fn asked_to_notify(&mut self, nodeid: u64, what: &[u8]) -> Result<()> {
        let (offset, size) = (0, 4096);
        match what {
            b"store" => self.notify(&Notification::Store {
                nodeid,
                offset,
                data: b"STORED",
            }),
            b"inval" => self.notify(&Notification::InvalInode {
                nodeid,
                offset: 0,
                len: 0,
            }),
            b"retrieve" => {
                let unique = RETRIEVED;
                self.notify(&Notification::Retrieve {
                    unique,
                    nodeid,
                    offset,
                    size,
                })
            }
            b"poll" => match self.poll.take() {
                Some(kh) => {
                    self.node(nodeid).data = b"ready".to_vec();
                    self.notify(&Notification::Poll { kh })
                }
                None => bail!("no POLL asked to be notified"),
            },
            b"names" => self.forget_names(),
            b"epoch" => self.notify(&Notification::IncEpoch),
            b"prune" => self.notify(&Notification::Prune {
                nodeids: &[nodeid, 999],
            }),
            other => bail!("user.notify.{}", String::from_utf8_lossy(other)),
        }
    }

    /// Makes the kernel drop every name of the root, whose inodes it then forgets together.
    fn forget_names(&self) -> Result<()> {
        let in_root = self.names.keys().filter(|(parent, _)| *parent == ROOT);
        for (parent, name) in in_root {
            let (parent, flags) = (*parent, Default::default());
            // ENOENT: the kernel has forgotten it.
            let _dropped = self.notify(&Notification::InvalEntry {
                parent,
                name,
                flags,
            });
        }
        Ok(())
    }
}

fn open(fh: u64) -> OpenOut {
    OpenOut {
        fh,
        ..OpenOut::default()
    }
}

fn copy<'b>(buffer: &'b mut [u8], data: &[u8]) -> &'b [u8] {
    let buffer = &mut buffer[..data.len()];
    buffer.copy_from_slice(data);
    buffer
}

/// A value or a list, or how long it is.
fn sized<'b>(buffer: &'b mut [u8], value: &[u8], size: u32) -> Result<Reply<'b>, Errno> {
    match size as usize {
        0 => Ok(Reply::XattrSize(GetxattrOut::new(value.len() as u32))),
        size if size < value.len() => Err(Errno::ERANGE),
        _room => Ok(Reply::Data(copy(buffer, value))),
    }
}

fn statfs() -> StatfsOut {
    let st = Kstatfs {
        blocks: 1000,
        bfree: 900,
        bavail: 800,
        files: 70,
        ffree: 60,
        bsize: 4096,
        namelen: 255,
        frsize: 512,
        ..Kstatfs::default()
    };
    StatfsOut { st }
}

/// The directory for the corpus of crates/wire, if this run records it.
pub(crate) fn record(dialect: &str, name: &str, message: &[u8]) -> Result<()> {
    let Some(folder) = std::env::var_os("THRUFS_RECORD") else {
        return Ok(());
    };
    let folder = PathBuf::from(folder).join(dialect);
    std::fs::create_dir_all(&folder)?;
    let path: &Path = &folder.join(name);
    std::fs::write(path, message).with_context(|| path.display().to_string())
}
