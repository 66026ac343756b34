//! One operation under way: its message, its answer and its data in the guest's memory, and the requests it consists
//! of.
//!
//! The data are pages that do not lie next to each other, in an indirect table, as Linux has them.

use std::time::Instant;

use anyhow::{Result, ensure};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{
    CreateIn, ForgetIn, GetattrIn, InHeader, OpenIn, ReadIn, ReleaseIn, WriteIn,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};
use xtests::support::guest::{Descriptor, NEXT};
use zerocopy::IntoBytes;

use super::cell::{NAMES, Work, name};

/// Beyond what [`xtests::support::guest`] uses.
const FIRST: u64 = 384 << 20;
const TABLE: usize = 0;
const MESSAGE: usize = 8 << 10;
const ANSWER: usize = 12 << 10;
const DATA: usize = 16 << 10;
/// Bytes of a slot.
const LEN: usize = DATA + (1 << 20);
const PAGE: usize = 4096;
const HEADER: usize = 40;
const OUT_HEADER: usize = 16;
const ROOT: u64 = 1;

/// What requests are about.
pub(super) struct Files {
    /// Of the large file.
    pub(super) nodeid: u64,
    pub(super) fh: u64,
    /// Of those with names.
    pub(super) nodeids: Vec<u64>,
}

/// See the module.
pub(super) struct Slot<'m> {
    pub(super) number: usize,
    memory: VolatileSlice<'m>,
    work: Work,
    pub(super) began: Instant,
    /// The offset, or any number.
    place: u64,
    /// The request that is under way, of the operation's.
    step: usize,
    /// The length that its answer must have.
    expected: usize,
    /// Of what this operation has made or opened.
    nodeid: u64,
    fh: u64,
    made: u64,
    /// Descriptors of data requests; they stay.
    count: usize,
}

impl<'m> Slot<'m> {
    pub(super) fn new(memory: &'m GuestMemoryMmap, number: usize, work: Work) -> Result<Self> {
        let at = FIRST + (number * LEN) as u64;
        let mut slot = Self {
            number,
            memory: memory.get_slice(GuestAddress(at), LEN)?,
            work,
            began: Instant::now(),
            place: 0,
            step: 0,
            expected: 0,
            nodeid: 0,
            fh: 0,
            made: 0,
            count: 0,
        };
        if let Work::Data { write, size, .. } = work {
            slot.count = slot.describe_data(write, size)?;
            // So that no run is slowed down by memory that is not there yet.
            for page in (0..size).step_by(PAGE) {
                let byte: u8 = slot
                    .memory
                    .load(DATA + page, std::sync::atomic::Ordering::Relaxed)?;
                slot.memory
                    .store(byte, DATA + page, std::sync::atomic::Ordering::Relaxed)?;
            }
        }
        Ok(slot)
    }

    fn address(&self, at: usize) -> u64 {
        FIRST + (self.number * LEN + at) as u64
    }

    /// Of the indirect table.
    pub(super) fn table_address(&self) -> u64 {
        self.address(TABLE)
    }

    /// Page `index` of `count`, which does not lie behind the one before.
    fn page(index: usize, count: usize) -> usize {
        // Each once: 5 and a power of two have no common divisor.
        match count.is_power_of_two() {
            true => DATA + index * 5 % count * PAGE,
            false => DATA + index * PAGE,
        }
    }

    fn describe(&self, index: usize, descriptor: Descriptor, is_last: bool) -> Result<()> {
        let linked = match is_last {
            true => descriptor,
            false => Descriptor {
                flags: descriptor.flags | NEXT,
                next: index as u16 + 1,
                ..descriptor
            },
        };
        Ok(self
            .memory
            .write_slice(&linked.bytes(), TABLE + 16 * index)?)
    }

    fn describe_data(&self, write: bool, size: usize) -> Result<usize> {
        let pages = size.div_ceil(PAGE);
        let readable = |at, len: usize| Descriptor::readable(self.address(at), len as u32);
        let writable = |at, len: usize| Descriptor::writable(self.address(at), len as u32);
        let mut all = vec![readable(MESSAGE, HEADER), readable(MESSAGE + HEADER, 40)];
        let len = |page: usize| PAGE.min(size - page * PAGE);
        let data = (0..pages).map(|page| (Self::page(page, pages), len(page)));
        match write {
            true => {
                all.extend(data.map(|(at, len)| readable(at, len)));
                all.extend([
                    writable(ANSWER, OUT_HEADER),
                    writable(ANSWER + OUT_HEADER, 8),
                ]);
            }
            false => {
                all.push(writable(ANSWER, OUT_HEADER));
                all.extend(data.map(|(at, len)| writable(at, len)));
            }
        }
        for (index, descriptor) in all.iter().enumerate() {
            self.describe(index, *descriptor, index + 1 == all.len())?;
        }
        Ok(all.len())
    }

    /// Another operation begins.
    pub(super) fn begin(&mut self, place: u64) {
        self.place = place;
        self.step = 0;
        self.began = Instant::now();
    }

    /// Writes the request that is next into memory. Returns the number of its descriptors.
    pub(super) fn write(&mut self, files: &Files, unique: u64) -> Result<usize> {
        let place = self.place as usize % NAMES;
        let known = files.nodeids[place];
        match (self.work, self.step) {
            (Work::Data { write, size, .. }, _) => self.write_data(files, unique, write, size),
            (Work::Lookup, _) => {
                let name = format!("{}\0", name(place));
                let to = (Opcode::Lookup, ROOT);
                self.small(unique, to, &[name.as_bytes()], Some(128))
            }
            (Work::Getattr, _) => {
                let (to, arg) = ((Opcode::Getattr, known), GetattrIn::default());
                self.small(unique, to, &[arg.as_bytes()], Some(104))
            }
            (Work::Open, 0) => {
                let arg = OpenIn {
                    flags: libc::O_RDWR.cast_unsigned(),
                    ..OpenIn::default()
                };
                let to = (Opcode::Open, known);
                self.small(unique, to, &[arg.as_bytes()], Some(16))
            }
            (Work::Open, _) => self.write_release(unique, known),
            (Work::Create, 0) => self.write_create(unique),
            (Work::Create, 1) => self.write_release(unique, self.nodeid),
            (Work::Create, 2) => {
                let (to, name) = ((Opcode::Unlink, ROOT), self.made_name());
                self.small(unique, to, &[name.as_bytes()], Some(0))
            }
            (Work::Create, _) => {
                let (to, arg) = ((Opcode::Forget, self.nodeid), ForgetIn { nlookup: 1 });
                self.small(unique, to, &[arg.as_bytes()], None)
            }
        }
    }

    fn write_release(&mut self, unique: u64, nodeid: u64) -> Result<usize> {
        let arg = ReleaseIn {
            fh: self.fh,
            ..ReleaseIn::default()
        };
        let to = (Opcode::Release, nodeid);
        self.small(unique, to, &[arg.as_bytes()], Some(0))
    }

    fn write_create(&mut self, unique: u64) -> Result<usize> {
        self.made += 1;
        let arg = CreateIn {
            flags: libc::O_RDWR.cast_unsigned(),
            mode: libc::S_IFREG | 0o644,
            umask: 0o22,
            ..CreateIn::default()
        };
        let (to, name) = ((Opcode::Create, ROOT), self.made_name());
        let args = [arg.as_bytes(), name.as_bytes()];
        self.small(unique, to, &args, Some(144))
    }

    fn made_name(&self) -> String {
        format!("made-{}-{}\0", self.number, self.made)
    }

    fn header(unique: u64, (opcode, nodeid): (Opcode, u64), args: usize) -> InHeader {
        InHeader {
            len: (HEADER + args) as u32,
            opcode: opcode.as_raw(),
            unique,
            nodeid,
            uid: 0,
            gid: 0,
            pid: 1,
            total_extlen: 0,
            padding: 0,
        }
    }

    fn write_data(
        &mut self,
        files: &Files,
        unique: u64,
        write: bool,
        size: usize,
    ) -> Result<usize> {
        let (opcode, args, expected) = match write {
            true => (Opcode::Write, 40 + size, OUT_HEADER + 8),
            false => (Opcode::Read, 40, OUT_HEADER + size),
        };
        let header = Self::header(unique, (opcode, files.nodeid), args);
        self.memory.write_slice(header.as_bytes(), MESSAGE)?;
        let (fh, offset, size) = (files.fh, self.place, size as u32);
        let at = MESSAGE + HEADER;
        match write {
            true => {
                let arg = WriteIn {
                    fh,
                    offset,
                    size,
                    ..WriteIn::default()
                };
                self.memory.write_slice(arg.as_bytes(), at)?;
            }
            false => {
                let arg = ReadIn {
                    fh,
                    offset,
                    size,
                    ..ReadIn::default()
                };
                self.memory.write_slice(arg.as_bytes(), at)?;
            }
        }
        self.expected = expected;
        self.memory.write_slice(&[0; OUT_HEADER], ANSWER)?;
        Ok(self.count)
    }

    fn small(
        &mut self,
        unique: u64,
        to: (Opcode, u64),
        args: &[&[u8]],
        room: Option<usize>,
    ) -> Result<usize> {
        let len = args.iter().map(|arg| arg.len()).sum::<usize>();
        let header = Self::header(unique, to, len);
        self.memory.write_slice(header.as_bytes(), MESSAGE)?;
        let mut at = MESSAGE + HEADER;
        for arg in args {
            self.memory.write_slice(arg, at)?;
            at += arg.len();
        }
        let message = Descriptor::readable(self.address(MESSAGE), (HEADER + len) as u32);
        self.describe(0, message, room.is_none())?;
        let Some(room) = room else {
            self.expected = 0;
            return Ok(1);
        };
        self.expected = OUT_HEADER + room;
        self.memory.write_slice(&[0; OUT_HEADER], ANSWER)?;
        let answer = Descriptor::writable(self.address(ANSWER), self.expected as u32);
        self.describe(1, answer, true)?;
        Ok(2)
    }

    /// The request that was under way is answered. Returns whether the operation is over.
    ///
    /// # Errors
    /// The answer is an error, or of another length.
    pub(super) fn advance(&mut self) -> Result<bool> {
        if self.expected > 0 {
            let order = std::sync::atomic::Ordering::Relaxed;
            let len: u32 = self.memory.load(ANSWER, order)?;
            let error: u32 = self.memory.load(ANSWER + 4, order)?;
            let expected = self.expected;
            ensure!(
                error == 0 && len as usize == expected,
                "{:?}: error {}, {len} bytes instead of {expected}",
                self.work,
                error.cast_signed()
            );
        }
        let word = |at: usize| self.memory.read_obj::<u64>(ANSWER + OUT_HEADER + at);
        match (self.work, self.step) {
            (Work::Open, 0) => self.fh = word(0)?,
            (Work::Create, 0) => (self.nodeid, self.fh) = (word(0)?, word(128)?),
            _nothing_new => {}
        }
        let last = match self.work {
            Work::Data { .. } | Work::Lookup | Work::Getattr => 0,
            Work::Open => 1,
            Work::Create => 3,
        };
        self.step += 1;
        Ok(self.step > last)
    }

    /// Sets the bytes of a WRITE, or those that a READ is to replace.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> Result<()> {
        let pages = bytes.len().div_ceil(PAGE);
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            self.memory.write_slice(page, Self::page(index, pages))?;
        }
        Ok(())
    }

    /// The bytes of a READ or WRITE.
    pub(super) fn data(&self) -> Result<Vec<u8>> {
        let Work::Data { size, .. } = self.work else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; size];
        let pages = size.div_ceil(PAGE);
        for (index, page) in bytes.chunks_mut(PAGE).enumerate() {
            self.memory.read_slice(page, Self::page(index, pages))?;
        }
        Ok(bytes)
    }
}
