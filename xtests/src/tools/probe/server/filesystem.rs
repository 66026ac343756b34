//! The server's requests: each is recorded and answered from memory. Only WRITE misbehaves, in
//! [`Server::write`], since every question is about what a WRITE does to the page cache.

use std::ffi::OsStr;

use fuser::{
    Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, ReplyXattr, Request, WriteFlags,
};

use super::{Server, TTL, attr};

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let version = config.kernel_abi();
        let _only_init_sets_it = self
            .shared
            .offered
            .set((config.capabilities(), (version.0, version.1)));
        // Larger than the kernel grants, so that the kernel's limit shows.
        let _granted = config.set_max_write(1 << 20);
        if self.options.killpriv_v2 {
            // Not offered before 5.11: then the probe counts GETXATTR again.
            let _offered = config.add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
        }
        if self.options.direct_io {
            let wanted = InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP | InitFlags::FUSE_ASYNC_DIO;
            // Not offered before 6.6, which the question checks.
            let _offered = config.add_capabilities(wanted);
        }
        if self.options.auto_inval_data {
            config
                .add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA)
                .map_err(|_| std::io::Error::other("no FUSE_AUTO_INVAL_DATA before Linux 3.8"))?;
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.shared.find(name).and_then(|ino| self.shared.attr(ino)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.shared.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the trait's signature")]
    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size
            && let Some(file) = self.shared.state.lock().files.get_mut(&ino.0)
        {
            file.content.resize(size as usize, 0);
        }
        self.getattr(_req, ino, None, reply);
    }

    #[allow(clippy::too_many_arguments, reason = "the trait's signature")]
    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let ino = self.shared.add(&name.to_string_lossy(), Vec::new());
        let (attr, flags) = (
            attr(ino, 0, FileType::RegularFile),
            FopenFlags::FOPEN_KEEP_CACHE,
        );
        reply.created(&TTL, &attr, Generation(0), FileHandle(0), flags);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if let Some(ino) = self.shared.find(name)
            && let Some(file) = self.shared.state.lock().files.get_mut(&ino)
        {
            file.name.clear();
        }
        reply.ok();
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = if self.options.direct_io {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::FOPEN_KEEP_CACHE
        };
        reply.opened(FileHandle(0), flags);
    }

    #[allow(clippy::too_many_arguments, reason = "the trait's signature")]
    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.shared
            .record("READ", ino, offset, size as usize, false);
        reply.data(&self.shared.part(ino.0, offset, size as usize));
    }

    #[allow(clippy::too_many_arguments, reason = "the trait's signature")]
    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _open: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let from_cache = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let mut data = data.to_vec();
        // Taken before the request is recorded: a held WRITE is logged when it is known to be held.
        let action = self.shared.action(from_cache);
        if action.is_some() || !from_cache {
            self.shared
                .record("WRITE", ino, offset, data.len(), from_cache);
        }
        if let Some(action) = action
            && let Err(errno) = self.shared.act(&action, ino, offset, &mut data)
        {
            reply.error(Errno::from_i32(errno));
            return;
        }
        if self.shared.apply(ino.0, offset as usize, &data) {
            if from_cache {
                // After the write is applied: a waiter may read the content.
                self.shared.record("WRITE", ino, offset, data.len(), true);
            }
            reply.written(data.len() as u32);
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the trait's signature")]
    fn copy_file_range(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        out: INodeNo,
        _out_fh: FileHandle,
        out_offset: u64,
        len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let part = self.shared.part(ino.0, offset, len as usize);
        self.shared.apply(out.0, out_offset as usize, &part);
        reply.written(part.len() as u32);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        self.shared.record("GETXATTR", ino, 0, 0, false);
        reply.error(Errno::ENODATA);
    }

    fn flush(&self, _r: &Request, _i: INodeNo, _f: FileHandle, _o: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _r: &Request, _i: INodeNo, _f: FileHandle, _d: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}
