//! What a server leaves to the next one when it dies: which inodes the kernel holds, which files are open, what INIT
//! was, and which requests are under way. The descriptors themselves are in the table that both share
//! (`thrufs_sys::fork`), so a descriptor's number is the place of what is said of it.
//!
//! Invariants: what is told to the kernel is here before the kernel hears of it, and what is closed is gone from here
//! before its number can mean another file. An entry counts when its first word is stored, which is last. The next
//! server believes nothing: each entry has a checksum, and its descriptor must be open on the inode that it
//! names ([`crate::survival`]).
//!
//! A process that is no child of the first one, of a newer version say, gets the descriptors by other numbers, and copies
//! what is said of them into a ledger of its own ([`Ledger::take_in`]).
//!
//! Why no lock: it could be held by a thread that died. Each word is stored at once, and each entry is written by the
//! one thread that owns its descriptor or its request; only lookups are counted by several, by addition.

mod session;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thrufs_sys::shared_buffers::SharedBuffers;
use thrufs_sys::shared_words::SharedWords;

use crate::inode::ROOT_INO;
use crate::inode::identity::{FileKind, InodeKey};

/// "thrufs" and the version of this form, in the first word.
const FORM: u64 = 0x7468_7275_6673_0003;
/// Words before the requests: the form, the length of INIT in bytes, the numbers that descriptors have had, servers so
/// far, those of them that died, times that another version took over, bytes of a message's buffer, and who serves;
/// INIT and its answer.
const HEADER: usize = 128;
const INIT_LEN: usize = 1;
const END: usize = 2;
const LIVES: usize = 3;
const DEATHS: usize = 4;
const UPGRADES: usize = 5;
const MESSAGE_SIZE: usize = 6;
const TURN: usize = 7;
const INIT: Range<usize> = 8..96;
const ANSWER: Range<usize> = 96..112;
/// Requests that are noted at a time. Each session thread has one, and there are at most 256; each death may leave
/// some that are never asked for again.
pub(crate) const REQUESTS: usize = 1024;
/// Words for each.
const REQUEST: usize = 16;
/// Words for each descriptor.
const ENTRY: usize = 8;
/// Lookups that one answer gives out at most: a listing of 128 KiB (READDIRPLUS) has less than 850 names.
pub(crate) const LOOKUPS: usize = 1024;
/// Where those stand for each request.
const GIVEN: usize = HEADER + REQUESTS * REQUEST;
/// Where it stands for each buffer of messages how far the FORGETs in it are counted.
const FORGETS: usize = GIVEN + REQUESTS * LOOKUPS;
const BUFFERS: usize = 512;
/// Words for each: `unique` of the message, how many of its FORGETs are counted, and for the one that is just being
/// counted its descriptor, plus one, what is left of its lookups, and its number in the message.
const FORGET: usize = 8;
const MESSAGE: usize = 0;
const COUNTED: usize = 1;
const UNDER_WAY: usize = 2;
const LEFT: usize = 3;
const NUMBER: usize = 4;
/// The messages that come once (linux/fuse.h).
const FORGET_OPCODE: u32 = 2;
const BATCH_FORGET_OPCODE: u32 = 42;
/// Where the descriptors begin.
const ENTRIES: usize = FORGETS + FORGET * BUFFERS;

/// Words of an entry: see [`Entry`].
const WHAT: usize = 0;
const INO: usize = 1;
const DEV: usize = 2;
const BACKING_INO: usize = 3;
const MNT_ID: usize = 4;
/// Where inodes have the mount.
const BACKING_ID: usize = MNT_ID;
const OWNER: usize = MNT_ID;
/// Where files have their flags.
const TOLD: usize = FLAGS;
const COUNT_OR_FH: usize = 5;
const FLAGS: usize = 6;
const SUM: usize = 7;

const FREE: u64 = 0;
const INODE: u64 = 1;
const FILE: u64 = 2;
const DIRECTORY: u64 = 3;
/// An inode whose file may be mapped past the daemon.
const MAPPED: u64 = 4;
/// The type of an inode stands above these.
const KIND_SHIFT: u32 = 8;
const LOCKS: u64 = 5;

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    words: SharedWords,
    descriptors: usize,
    messages: Arc<SharedBuffers>,
}

/// Which server this one is, and which servers there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Servers before.
    pub(crate) lives: u64,
    /// Those of them that died.
    pub(crate) deaths: u64,
}

/// Whether servers with this ledger serve, where another process takes the mount over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// They do.
    Serving,
    /// Not any more, unless they are told to go on.
    HandingOver,
    /// Not yet.
    TakingOver,
}

/// What is said of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// O_PATH on an inode that the kernel holds.
    Inode {
        ino: u64,
        key: InodeKey,
        kind: FileKind,
        nlookup: u64,
        /// See [`crate::handle_sort`].
        may_be_mapped: bool,
        /// What the kernel was told of mode and owner, in a word of [`crate::inode`].
        told: u64,
    },
    /// An open file, with the flags of its OPEN; `file` is its device and number. The kernel passes it through by its
    /// backing id, if it has one.
    File {
        fh: u64,
        ino: u64,
        file: (u64, u64),
        flags: i32,
        backing_id: Option<i32>,
    },
    /// An open directory.
    Directory { fh: u64, ino: u64, file: (u64, u64) },
    /// A file that holds the locks of one owner, who asked for them by the handle `fh`.
    Locks {
        fh: u64,
        ino: u64,
        file: (u64, u64),
        owner: u64,
        /// By flock(2), or by fcntl(2).
        is_flock: bool,
        pid: u32,
    },
}

/// Where a FORGET stands, which comes once: message `unique` in this buffer, counted from 1.
#[derive(Clone, Copy, Debug)]
pub struct ForgetPlace {
    /// The shared buffer.
    pub buffer: usize,
    /// Of the message.
    pub unique: u64,
    /// In the message.
    pub number: u64,
}

/// The ledger is not one that a server wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger of the server that died is damaged: {0}")]
pub struct Damaged(pub(crate) &'static str);

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(io::ErrorKind::InvalidData, damaged)
    }
}

impl Ledger {
    /// An empty one, for descriptors with numbers below `descriptors`. Memory is taken for those that come. Messages are
    /// read into `messages`: a FORGET comes once, so the next server finds there what this one had read.
    ///
    /// # Errors
    /// Of memfd_create(2) and mmap(2).
    pub fn new(descriptors: usize, messages: Arc<SharedBuffers>) -> io::Result<Self> {
        let len = descriptors
            .checked_mul(ENTRY)
            .and_then(|words| words.checked_add(ENTRIES));
        let words = SharedWords::new(len.ok_or(io::ErrorKind::InvalidInput)?)?;
        words.words()[0].store(FORM, Ordering::Relaxed);
        words.words()[MESSAGE_SIZE].store(messages.size() as u64, Ordering::Relaxed);
        Ok(Self {
            words,
            descriptors,
            messages,
        })
    }

    /// That of servers of another process, by its [`Self::files`].
    ///
    /// # Errors
    /// It is of a form that this version does not read ([`Damaged`]), or none; of mmap(2).
    pub fn of_files([words, messages]: [OwnedFd; 2]) -> io::Result<Self> {
        let words = SharedWords::of_file(words)?;
        let all = words.words();
        if all.len() < ENTRIES || all[0].load(Ordering::Relaxed) != FORM {
            return Err(Damaged("it is of another version").into());
        }
        let size = usize::try_from(all[MESSAGE_SIZE].load(Ordering::Relaxed)).unwrap_or(0);
        let descriptors = (all.len() - ENTRIES) / ENTRY;
        Ok(Self {
            messages: Arc::new(SharedBuffers::of_file(messages, size)?),
            descriptors,
            words,
        })
    }

    /// What [`Self::of_files`] takes.
    pub fn files(&self) -> [BorrowedFd<'_>; 2] {
        [self.words.file(), self.messages.file()]
    }

    /// Whose turn it is to serve.
    pub fn turn(&self) -> Turn {
        match self.words.words()[TURN].load(Ordering::Acquire) {
            1 => Turn::HandingOver,
            2 => Turn::TakingOver,
            _serving => Turn::Serving,
        }
    }

    /// From now on, also for servers that are started later.
    pub fn set_turn(&self, turn: Turn) {
        let word = match turn {
            Turn::Serving => 0,
            Turn::HandingOver => 1,
            Turn::TakingOver => 2,
        };
        self.words.words()[TURN].store(word, Ordering::Release);
    }

    /// A server begins, after one that `died` or not.
    pub(crate) fn begin(&self, died: bool) -> Begun {
        let words = self.words.words();
        let died = u64::from(died);
        Begun {
            lives: words[LIVES].fetch_add(1, Ordering::Relaxed),
            deaths: words[DEATHS].fetch_add(died, Ordering::Relaxed) + died,
        }
    }

    /// Another version has taken over.
    pub fn count_upgrade(&self) {
        self.words.words()[UPGRADES].fetch_add(1, Ordering::Relaxed);
    }

    /// How often another version has taken over.
    pub(crate) fn upgrades(&self) -> u64 {
        self.words.words()[UPGRADES].load(Ordering::Relaxed)
    }

    /// Takes in all that `old` says, whose servers serve no more and have handed their descriptors over, which have
    /// these numbers here by those that they had there. A message begins at `start` in its buffer. To be called while this
    /// ledger is empty.
    ///
    /// # Errors
    /// A descriptor was not handed over, there is no room for one or for a message, or `old` is damaged.
    pub fn take_in(
        &self,
        old: &Self,
        moved: &HashMap<i32, i32>,
        start: usize,
    ) -> Result<(), Damaged> {
        old.finish_forgets();
        for (number, entry) in old.entries()? {
            let here = moved.get(&number).copied();
            let here = here.ok_or(Damaged("a descriptor was not handed over"))?;
            if !self.set(here, entry) {
                return Err(Damaged("it has more descriptors than may be open here"));
            }
        }
        let (from, to) = (old.words.words(), self.words.words());
        let copy = |at: usize| to[at].store(from[at].load(Ordering::Relaxed), Ordering::Relaxed);
        (HEADER..FORGETS).for_each(copy);
        [INIT_LEN, LIVES, DEATHS, UPGRADES]
            .into_iter()
            .chain(INIT)
            .chain(ANSWER)
            .for_each(copy);
        (0..old.messages.count().min(BUFFERS))
            .try_for_each(|buffer| self.take_forgets(old, buffer, start))
    }

    /// Takes in the message of this buffer, if it is one that comes once, and how far it is counted.
    fn take_forgets(&self, old: &Self, buffer: usize, start: usize) -> Result<(), Damaged> {
        let Some(from) = old.messages.take(buffer) else {
            return Ok(());
        };
        let word = |at: usize| {
            from.get(start + at..)?
                .first_chunk()
                .copied()
                .map(u32::from_ne_bytes)
        };
        let len = word(0).and_then(|len| usize::try_from(len).ok());
        let message = len.and_then(|len| from.get(start..)?.get(..len));
        let (Some(message), Some(FORGET_OPCODE | BATCH_FORGET_OPCODE)) = (message, word(4)) else {
            return Ok(());
        };
        let no_room = Damaged("a message has no room");
        let mut to = self.messages.take(buffer).ok_or(no_room)?;
        to.get_mut(start..start + message.len())
            .ok_or(no_room)?
            .copy_from_slice(message);
        if let (Some(from), Some(to)) = (old.forgets(buffer), self.forgets(buffer)) {
            for at in [MESSAGE, COUNTED] {
                to[at].store(from[at].load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Where messages are read into.
    pub fn messages(&self) -> &Arc<SharedBuffers> {
        &self.messages
    }

    /// How many of the FORGETs are counted in the message `unique`, which is in this buffer.
    pub fn forgets_counted(&self, buffer: usize, unique: u64) -> u64 {
        match self.forgets(buffer) {
            Some(words) if words[MESSAGE].load(Ordering::Acquire) == unique => {
                words[COUNTED].load(Ordering::Acquire)
            }
            _another => 0,
        }
    }

    /// The inode that descriptor `number` holds has `left` lookups after the FORGET at `place`. To be called while
    /// nothing else counts: a server that dies in here leaves to the next what there is to do.
    pub(crate) fn forget(&self, number: i32, left: u64, place: Option<ForgetPlace>) {
        let Some((words, place)) =
            place.and_then(|place| Some((self.forgets(place.buffer)?, place)))
        else {
            return self.set_left(number, left);
        };
        if words[MESSAGE].load(Ordering::Relaxed) != place.unique {
            // In this order: a message without a count has none that is counted.
            words[MESSAGE].store(0, Ordering::Release);
            words[COUNTED].store(0, Ordering::Release);
            words[MESSAGE].store(place.unique, Ordering::Release);
        }
        words[LEFT].store(left, Ordering::Release);
        words[NUMBER].store(place.number, Ordering::Release);
        let under_way = u64::from(number.cast_unsigned()) + 1;
        words[UNDER_WAY].store(under_way, Ordering::Release);
        self.set_left(number, left);
        words[COUNTED].store(place.number, Ordering::Release);
        words[UNDER_WAY].store(0, Ordering::Release);
    }

    /// Does what servers that died have left to do of their FORGETs.
    pub(crate) fn finish_forgets(&self) {
        for words in (0..BUFFERS).filter_map(|buffer| self.forgets(buffer)) {
            let under_way = words[UNDER_WAY].load(Ordering::Acquire);
            let number = under_way.checked_sub(1).map(i32::try_from);
            if let Some(Ok(number)) = number {
                self.set_left(number, words[LEFT].load(Ordering::Acquire));
                let counted = words[NUMBER].load(Ordering::Acquire);
                words[COUNTED].store(counted, Ordering::Release);
            }
            words[UNDER_WAY].store(0, Ordering::Release);
        }
    }

    fn set_left(&self, number: i32, left: u64) {
        match (left, self.entry(number)) {
            (0, _) => self.clear(number),
            (left, Some(words)) => words[COUNT_OR_FH].store(left, Ordering::Release),
            (_, None) => {}
        }
    }

    fn forgets(&self, buffer: usize) -> Option<&[AtomicU64]> {
        let start = FORGETS + FORGET * buffer;
        (buffer < BUFFERS).then(|| &self.words.words()[start..start + FORGET])
    }

    /// Notes the INIT that is answered next, and the answer; none that is longer than any kernel's.
    pub fn note_init(&self, message: &[u8], answer: &[u8]) {
        let words = self.words.words();
        if message.len() > INIT.len() * size_of::<u64>() {
            return;
        }
        store_bytes(&words[ANSWER], answer);
        store_bytes(&words[INIT], message);
        words[INIT_LEN].store(message.len() as u64, Ordering::Release);
    }

    /// How INIT was answered, with bytes of 0 after it.
    pub fn init_answer(&self) -> Vec<u8> {
        bytes_of(&self.words.words()[ANSWER])
    }

    /// The INIT that was answered.
    ///
    /// # Errors
    /// There was none, or this is no ledger.
    pub fn init(&self) -> Result<Vec<u8>, Damaged> {
        let words = self.words.words();
        if words[0].load(Ordering::Relaxed) != FORM {
            return Err(Damaged("it has another form"));
        }
        let len = usize::try_from(words[INIT_LEN].load(Ordering::Acquire)).unwrap_or(usize::MAX);
        if len == 0 {
            return Err(Damaged("INIT was not answered"));
        }
        let mut message = bytes_of(&words[INIT]);
        if len > message.len() {
            return Err(Damaged("INIT is too long"));
        }
        message.truncate(len);
        Ok(message)
    }

    /// The words of request number `at`.
    pub(crate) fn request(&self, at: usize) -> &[AtomicU64] {
        let start = HEADER + at % REQUESTS * REQUEST;
        &self.words.words()[start..start + REQUEST]
    }

    /// The inodes of which request number `at` gives lookups out.
    pub(crate) fn lookups(&self, at: usize) -> &[AtomicU64] {
        let start = GIVEN + at % REQUESTS * LOOKUPS;
        &self.words.words()[start..start + LOOKUPS]
    }

    fn entry(&self, number: i32) -> Option<&[AtomicU64]> {
        let number = usize::try_from(number).ok()?;
        let start = ENTRIES + number * ENTRY;
        (number < self.descriptors).then(|| &self.words.words()[start..start + ENTRY])
    }

    /// Says `entry` of descriptor `number`. False if it is beyond those that there is room for.
    pub(crate) fn set(&self, number: i32, entry: Entry) -> bool {
        let Some(words) = self.entry(number) else {
            return false;
        };
        let end = u64::from(number.cast_unsigned()) + 1;
        self.words.words()[END].fetch_max(end, Ordering::Relaxed);
        let values = entry.to_words();
        for (word, value) in words.iter().zip(values).skip(1) {
            word.store(value, Ordering::Relaxed);
        }
        words[WHAT].store(values[WHAT], Ordering::Release);
        true
    }

    /// One more lookup of the inode that descriptor `number` holds.
    pub(crate) fn count_lookup(&self, number: i32) {
        if let Some(words) = self.entry(number) {
            words[COUNT_OR_FH].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The file of the inode that descriptor `number` holds may be mapped past the daemon from now on.
    pub(crate) fn note_mapped(&self, number: i32) {
        if let Some(words) = self.entry(number) {
            let order = Ordering::Release;
            let what = words[WHAT].load(Ordering::Relaxed);
            let mapped = what & !0xff | MAPPED;
            // One that is forgotten, or noted already, stays as it is.
            if what & 0xff == INODE {
                let _is = words[WHAT].compare_exchange(what, mapped, order, Ordering::Relaxed);
            }
        }
    }

    /// The kernel was told this of the inode that descriptor `number` holds. While that is open: nothing else is said of it.
    pub(crate) fn note_told(&self, number: i32, told: u64) {
        if let Some(words) = self.entry(number) {
            words[TOLD].store(told, Ordering::Release);
        }
    }

    /// Nothing is said of descriptor `number` any more: before it is closed.
    pub(crate) fn clear(&self, number: i32) {
        if let Some(words) = self.entry(number) {
            words[WHAT].store(FREE, Ordering::Release);
        }
    }

    /// The numbers of which something may be said. Above them the memory is not touched.
    fn numbers(&self) -> Range<i32> {
        let end = self.words.words()[END].load(Ordering::Relaxed);
        let end = usize::try_from(end).map_or(self.descriptors, |end| end.min(self.descriptors));
        // The limit of descriptors is a 32-bit number.
        0..i32::try_from(end).unwrap_or(i32::MAX)
    }

    /// All that is said, by the number of the descriptor.
    ///
    /// # Errors
    /// An entry is not one that a server wrote.
    pub(crate) fn entries(&self) -> Result<Vec<(i32, Entry)>, Damaged> {
        let mut all = Vec::new();
        for number in self.numbers() {
            let Some(words) = self.entry(number) else {
                continue;
            };
            if words[WHAT].load(Ordering::Acquire) == FREE {
                continue;
            }
            let values = std::array::from_fn(|at| words[at].load(Ordering::Relaxed));
            all.push((number, Entry::from_words(values)?));
        }
        Ok(all)
    }

    /// The numbers of descriptors of which something is said, whatever that is.
    pub fn descriptors(&self) -> Vec<i32> {
        let is_used = |number: &i32| {
            let words = self.entry(*number);
            words.is_some_and(|words| words[WHAT].load(Ordering::Relaxed) != FREE)
        };
        self.numbers().filter(is_used).collect()
    }

    #[cfg(test)]
    pub(crate) fn for_tests(descriptors: usize) -> Self {
        let messages = SharedBuffers::new(1, 1 << 12).expect("memory");
        Self::new(descriptors, Arc::new(messages)).expect("memory")
    }

    /// Those that make a difference to the next server, and more for nothing.
    #[cfg(test)]
    pub(crate) fn words_that_count(&self) -> impl Iterator<Item = &AtomicU64> {
        let some = [
            0..HEADER,
            HEADER..HEADER + 4 * REQUEST,
            GIVEN..GIVEN + 8,
            FORGETS..FORGETS + 4 * FORGET,
            ENTRIES..ENTRIES + self.descriptors * ENTRY,
        ];
        let words = self.words.words();
        some.into_iter().flat_map(|range| &words[range])
    }

    #[cfg(test)]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.words.words()
    }
}

/// As many as there is room for.
fn store_bytes(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(size_of::<u64>())) {
        let mut bytes = [0; size_of::<u64>()];
        bytes[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
    }
}

fn bytes_of(words: &[AtomicU64]) -> Vec<u8> {
    let bytes = |word: &AtomicU64| word.load(Ordering::Relaxed).to_ne_bytes();
    words.iter().flat_map(bytes).collect()
}

impl Entry {
    fn to_words(self) -> [u64; ENTRY] {
        let mut words = match self {
            Self::Inode {
                ino,
                key,
                kind,
                nlookup,
                may_be_mapped,
                told,
            } => {
                let what = if may_be_mapped { MAPPED } else { INODE };
                let what = kind.to_word() << KIND_SHIFT | what;
                [what, ino, key.dev, key.ino, key.mnt_id, nlookup, told, 0]
            }
            Self::File {
                fh,
                ino,
                file: (dev, number),
                flags,
                backing_id,
            } => {
                let flags = u64::from(flags.cast_unsigned());
                // The kernel's begin at 1.
                let id = backing_id.map_or(0, |id| u64::from(id.cast_unsigned()));
                [FILE, ino, dev, number, id, fh, flags, 0]
            }
            Self::Directory {
                fh,
                ino,
                file: (dev, number),
            } => [DIRECTORY, ino, dev, number, 0, fh, 0, 0],
            Self::Locks {
                fh,
                ino,
                file: (dev, number),
                owner,
                is_flock,
                pid,
            } => {
                let by = u64::from(is_flock) << 32 | u64::from(pid);
                [LOCKS, ino, dev, number, owner, fh, by, 0]
            }
        };
        words[SUM] = sum(&words);
        words
    }

    fn from_words(words: [u64; ENTRY]) -> Result<Self, Damaged> {
        if words[SUM] != sum(&words) {
            return Err(Damaged("a checksum is wrong"));
        }
        let (ino, file) = (words[INO], (words[DEV], words[BACKING_INO]));
        let fh = words[COUNT_OR_FH];
        match words[WHAT] {
            what if is_inode(&words) => {
                if ino <= ROOT_INO || words[COUNT_OR_FH] == 0 {
                    return Err(Damaged("an inode has no number or no lookup"));
                }
                let key = InodeKey {
                    dev: words[DEV],
                    ino: words[BACKING_INO],
                    mnt_id: words[MNT_ID],
                };
                Ok(Self::Inode {
                    ino,
                    key,
                    kind: FileKind::of_word(what >> KIND_SHIFT)
                        .ok_or(Damaged("an inode has no type"))?,
                    nlookup: words[COUNT_OR_FH],
                    may_be_mapped: what & 0xff == MAPPED,
                    told: words[TOLD],
                })
            }
            FILE => {
                let flags =
                    u32::try_from(words[FLAGS]).map_err(|_| Damaged("flags are too many"))?;
                let flags = flags.cast_signed();
                let backing_id = match i32::try_from(words[BACKING_ID]) {
                    Ok(0) => None,
                    Ok(id) => Some(id),
                    Err(_) => return Err(Damaged("a backing id is none")),
                };
                Ok(Self::File {
                    fh,
                    ino,
                    file,
                    flags,
                    backing_id,
                })
            }
            DIRECTORY => Ok(Self::Directory { fh, ino, file }),
            LOCKS => Ok(Self::Locks {
                fh,
                ino,
                file,
                owner: words[OWNER],
                is_flock: match words[FLAGS] >> 32 {
                    0 => false,
                    1 => true,
                    _other => return Err(Damaged("locks are of no kind")),
                },
                // The lower half.
                pid: words[FLAGS] as u32,
            }),
            _other => Err(Damaged("an entry is of no kind")),
        }
    }
}

fn is_inode(words: &[u64; ENTRY]) -> bool {
    matches!(words[WHAT] & 0xff, INODE | MAPPED)
}

/// Of what does not change while the entry is there.
fn sum(words: &[u64; ENTRY]) -> u64 {
    let mut fixed = *words;
    fixed[SUM] = 0;
    if is_inode(words) {
        fixed[WHAT] = words[WHAT] & !0xff | INODE;
        (fixed[COUNT_OR_FH], fixed[TOLD]) = (0, 0);
    }
    fixed.iter().fold(FORM, |sum, word| {
        // The multiplier of SplitMix64.
        (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

impl FileKind {
    const ALL: [Self; 7] = [
        Self::Regular,
        Self::Directory,
        Self::Symlink,
        Self::Fifo,
        Self::Socket,
        Self::CharDevice,
        Self::BlockDevice,
    ];

    fn to_word(self) -> u64 {
        let at = Self::ALL.iter().position(|kind| *kind == self);
        // All are in the list.
        at.unwrap_or(Self::ALL.len()) as u64
    }

    fn of_word(word: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(word).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> [Entry; 4] {
        let key = InodeKey {
            dev: 1 << 40,
            ino: 77,
            mnt_id: 5,
        };
        [
            Entry::Inode {
                ino: 77,
                key,
                kind: FileKind::Symlink,
                nlookup: 3,
                may_be_mapped: false,
                told: 0,
            },
            Entry::File {
                fh: 1 << 40,
                ino: 77,
                file: (5, 6),
                flags: libc::O_RDWR | libc::O_APPEND,
                backing_id: Some(7),
            },
            Entry::Directory {
                fh: 9,
                ino: 1,
                file: (5, 7),
            },
            Entry::Locks {
                fh: 9,
                ino: 77,
                file: (5, 6),
                owner: u64::MAX,
                is_flock: true,
                pid: 1000,
            },
        ]
    }

    #[test]
    fn entries_are_what_was_set_and_not_cleared() {
        let ledger = Ledger::for_tests(100);
        for (number, entry) in (96..).zip(entries()) {
            assert!(ledger.set(number, entry));
        }
        assert!(!ledger.set(100, entries()[0]) && !ledger.set(-1, entries()[0]));
        ledger.count_lookup(96);
        ledger.note_told(96, u64::MAX);
        ledger.clear(97);
        let found = ledger.entries().unwrap();
        assert_eq!(found.len(), 3);
        let Entry::Inode { nlookup, told, .. } = found[0].1 else {
            panic!("{found:?}");
        };
        assert_eq!((found[0].0, nlookup, told), (96, 4, u64::MAX));
        assert_eq!(found[1..], [(98, entries()[2]), (99, entries()[3])]);
        assert_eq!(ledger.descriptors(), [96, 98, 99]);
        // What is no inode's is left as it is.
        (96..100).for_each(|number| ledger.note_mapped(number));
        let found = ledger.entries().unwrap();
        let Entry::Inode { may_be_mapped, .. } = found[0].1 else {
            panic!("{found:?}");
        };
        assert!(may_be_mapped);
        assert_eq!(found[1..], [(98, entries()[2]), (99, entries()[3])]);
    }

    #[test]
    fn finish_forgets_does_what_a_death_has_left() {
        let ledger = Ledger::for_tests(8);
        let place = |number| {
            Some(ForgetPlace {
                buffer: 0,
                unique: 8,
                number,
            })
        };
        assert!(ledger.set(3, entries()[0]) && ledger.set(4, entries()[0]));
        ledger.forget(3, 2, place(1));
        assert_eq!(
            (ledger.forgets_counted(0, 8), ledger.forgets_counted(0, 10)),
            (1, 0)
        );
        // A death before the count, and what is noted of it.
        let words = ledger.forgets(0).unwrap();
        ledger.set_left(3, 5);
        words[COUNTED].store(0, Ordering::Relaxed);
        words[UNDER_WAY].store(4, Ordering::Relaxed);
        ledger.finish_forgets();
        assert_eq!(ledger.forgets_counted(0, 8), 1);
        ledger.forget(4, 0, place(2));
        let left = ledger.entries().unwrap();
        let Entry::Inode { nlookup, .. } = left[0].1 else {
            panic!("{left:?}");
        };
        assert_eq!((left.len(), nlookup), (1, 2));
        ledger.finish_forgets();
        assert_eq!(ledger.entries().unwrap(), left);
    }

    #[test]
    fn take_in_has_all_by_the_new_numbers_and_an_error_without_one() {
        let (old, new) = (Ledger::for_tests(110), Ledger::for_tests(50));
        for (number, entry) in (97..).zip(entries()) {
            assert!(old.set(number, entry));
        }
        old.note_init(b"init", b"answer");
        old.request(3)[0].store(8, Ordering::Relaxed);
        // A FORGET of inode 77 that is counted, and whose words say another number of the message.
        let mut message = [0_u8; 48];
        message[..4].copy_from_slice(&48_u32.to_ne_bytes());
        message[4..8].copy_from_slice(&FORGET_OPCODE.to_ne_bytes());
        old.messages.take(0).unwrap()[16..64].copy_from_slice(&message);
        let place = ForgetPlace {
            buffer: 0,
            unique: 8,
            number: 1,
        };
        old.forget(97, 2, Some(place));
        assert_eq!((old.begin(false).lives, old.begin(true).deaths), (0, 1));
        let files = || old.files().map(|file| file.try_clone_to_owned().unwrap());
        let seen = Ledger::of_files(files()).unwrap();
        let moved = HashMap::from([(97, 7), (98, 9), (99, 8), (100, 10)]);
        let fewer = HashMap::from([(97, 7), (98, 9), (100, 10)]);
        assert!(Ledger::for_tests(50).take_in(&seen, &fewer, 16).is_err());
        assert!(Ledger::for_tests(9).take_in(&seen, &moved, 16).is_err());
        new.take_in(&seen, &moved, 16).unwrap();
        let all = new.entries().unwrap();
        let Entry::Inode { nlookup, .. } = all[0].1 else {
            panic!("{all:?}");
        };
        assert_eq!((all[0].0, nlookup), (7, 2));
        assert_eq!(
            all[1..],
            [(8, entries()[2]), (9, entries()[1]), (10, entries()[3])]
        );
        assert_eq!(new.init().unwrap(), b"init");
        assert_eq!(new.request(3)[0].load(Ordering::Relaxed), 8);
        assert_eq!(new.messages.take(0).unwrap()[16..64], message);
        assert_eq!(new.forgets_counted(0, 8), 1);
        assert_eq!(
            new.begin(false),
            Begun {
                lives: 2,
                deaths: 1
            }
        );
    }

    #[test]
    fn of_files_of_another_version_is_refused() {
        let ledger = Ledger::for_tests(1);
        let files = || {
            ledger
                .files()
                .map(|file| file.try_clone_to_owned().unwrap())
        };
        assert!(Ledger::of_files(files()).is_ok());
        ledger.words()[0].store(FORM + 1, Ordering::Relaxed);
        let error = Ledger::of_files(files()).unwrap_err();
        assert!(error.to_string().contains("another version"), "{error}");
        let [words, messages] = files();
        assert!(Ledger::of_files([messages, words]).is_err());
    }

    #[test]
    fn init_is_what_was_noted_and_an_error_before() {
        let ledger = Ledger::for_tests(1);
        assert!(ledger.init().is_err());
        ledger.note_init(b"thirteen byte", b"answer");
        assert_eq!(ledger.init().unwrap(), b"thirteen byte");
        assert!(ledger.init_answer().starts_with(b"answer\0\0"));
        ledger.words()[INIT_LEN].store(u64::MAX, Ordering::Relaxed);
        assert!(ledger.init().is_err());
    }

    /// Each word of each entry, each bit of it.
    #[test]
    fn entries_with_any_bit_wrong_are_damaged_but_for_what_changes() {
        let ledger = Ledger::for_tests(8);
        for entry in entries() {
            assert!(ledger.set(3, entry));
            let is_inode = matches!(entry, Entry::Inode { .. });
            for at in 0..ENTRY {
                for bit in 0..64 {
                    if at == WHAT || is_inode && matches!(at, COUNT_OR_FH | TOLD) {
                        continue;
                    }
                    let word = &ledger.words()[ENTRIES + 3 * ENTRY + at];
                    let before = word.fetch_xor(1 << bit, Ordering::Relaxed);
                    assert!(ledger.entries().is_err(), "{entry:?} word {at} bit {bit}");
                    word.store(before, Ordering::Relaxed);
                }
            }
            assert_eq!(ledger.entries().unwrap(), [(3, entry)]);
        }
    }
}
