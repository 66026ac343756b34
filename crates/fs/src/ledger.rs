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
//! what is said of them into a ledger of its own (`ledger/take_in.rs`). The words of an entry: `ledger/entry.rs`; FORGETs:
//! `ledger/forgets.rs`.
//!
//! Why no lock: it could be held by a thread that died. Each word is stored at once, and each entry is written by the
//! one thread that owns its descriptor or its request; only lookups are counted by several, by addition.

mod entry;
mod forgets;
mod form;
mod session;
pub(crate) mod take_in;

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thrufs_sys::shared_buffers::SharedBuffers;
use thrufs_sys::shared_words::SharedWords;

pub(crate) use entry::Entry;
use entry::{COUNT_OR_FH, ENTRY, FREE, INODE, MAPPED, TOLD, WHAT, values_of};
pub use form::Damaged;
use form::FORM;

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
/// Lookups that one answer gives out at most: a listing of 128 KiB (READDIRPLUS) has less than 850 names.
pub(crate) const LOOKUPS: usize = 1024;
/// Where those stand for each request.
const GIVEN: usize = HEADER + REQUESTS * REQUEST;
/// Where it stands for each buffer of messages how far the FORGETs in it are counted.
const FORGETS: usize = GIVEN + REQUESTS * LOOKUPS;
const BUFFERS: usize = 512;
/// Words for each.
const FORGET: usize = 8;
/// Where the descriptors begin.
const ENTRIES: usize = FORGETS + FORGET * BUFFERS;

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

    /// Where messages are read into.
    pub fn messages(&self) -> &Arc<SharedBuffers> {
        &self.messages
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
        let highest = &self.words.words()[END];
        // Most often so: all threads read the word then, and none takes its line from another.
        if highest.load(Ordering::Relaxed) < end {
            highest.fetch_max(end, Ordering::Relaxed);
        }
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
            all.push((number, Entry::from_words(values_of(words))?));
        }
        Ok(all)
    }

    /// Whether something is said of descriptor `number`.
    pub fn names(&self, number: i32) -> bool {
        let words = self.entry(number);
        words.is_some_and(|words| words[WHAT].load(Ordering::Relaxed) != FREE)
    }

    /// The numbers of descriptors of which something is said, whatever that is.
    pub fn descriptors(&self) -> Vec<i32> {
        self.numbers()
            .filter(|number| self.names(*number))
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::identity::{FileKind, InodeKey};

    pub(super) fn entries() -> [Entry; 4] {
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
