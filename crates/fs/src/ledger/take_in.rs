//! The ledger of a process that takes the mount over from another: what that one's says, by the numbers that the
//! descriptors have here.
//!
//! Inodes are most of it, so their descriptors are fetched while the server before still serves ([`Ahead`]), and are
//! looked at here. When that has stopped, what is left to fetch is what has come since, and open files.
//!
//! Invariant: a descriptor that was fetched ahead is told by what it is found to be on, never by its number or by what
//! the ledger said at the time: both may have changed before it was sent. It keeps its inode, so the key cannot come to
//! mean another one.
//!
//! Why not open files as well: which open file a number means could not be told, and a second descriptor keeps a file
//! open that its client has closed.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{OFlags, fcntl_getfl};

use super::forgets::{COUNTED, MESSAGE};
use super::{
    ANSWER, BUFFERS, DEATHS, Damaged, Entry, INIT, INIT_LEN, LIVES, Ledger, UPGRADES, WHAT,
    values_of,
};
use crate::inode::identity::{FileKind, InodeKey, identity};
use crate::journal::copy_requests;

/// The messages that come once (linux/fuse.h).
const FORGET_OPCODE: u32 = 2;
const BATCH_FORGET_OPCODE: u32 = 42;

/// Descriptors of inodes that a process has of the server before, while that one serves.
#[derive(Debug, Default)]
pub struct Ahead {
    by_key: HashMap<InodeKey, (FileKind, OwnedFd)>,
}

impl Ahead {
    /// The numbers there of inodes of which none is here. What a server that serves is just changing may be missing.
    pub fn lacks(&self, old: &Ledger) -> Vec<i32> {
        let lacks = |number: &i32| {
            let key = old.inode_now(*number);
            key.is_some_and(|key| !self.by_key.contains_key(&key))
        };
        old.numbers().filter(lacks).collect()
    }

    /// Keeps `fd`, if it is what an inode is held by.
    pub fn keep(&mut self, fd: OwnedFd) {
        let is_path = fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::PATH));
        if let (true, Ok((key, kind))) = (is_path, identity(&fd)) {
            self.by_key.insert(key, (kind, fd));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The one for `entry`, once.
    fn take(&mut self, entry: &Entry) -> Option<OwnedFd> {
        let Entry::Inode { key, kind, .. } = entry else {
            return None;
        };
        let (found, fd) = self.by_key.remove(key)?;
        (found == *kind).then_some(fd)
    }
}

impl Ledger {
    /// The inode that descriptor `number` holds, of a server that is writing here meanwhile: none where what is said makes
    /// no sense, as in the middle of a change.
    fn inode_now(&self, number: i32) -> Option<InodeKey> {
        let words = self.entry(number)?;
        // Before the others: what was set before it is seen.
        words[WHAT].load(Ordering::Acquire);
        match Entry::from_words(values_of(words)) {
            Ok(Entry::Inode { key, .. }) => Some(key),
            Ok(_) | Err(_) => None,
        }
    }

    /// Takes in all that `old` says, whose servers serve no more. Descriptors that are not `ahead` here `fetch` fetches, by
    /// the numbers that they have there. A message begins at `start` in its buffer. To be called while this ledger is
    /// empty. Returns the numbers here that were looked at, and are what this ledger says, sorted.
    ///
    /// # Errors
    /// Those of `fetch`; a descriptor was not handed over, there is no room for one or for a message, or `old` is damaged
    /// ([`Damaged`]).
    pub fn take_in(
        &self,
        old: &Self,
        mut ahead: Ahead,
        fetch: impl FnOnce(&[i32]) -> io::Result<HashMap<i32, OwnedFd>>,
        start: usize,
    ) -> io::Result<Vec<i32>> {
        old.finish_forgets();
        let entries: Vec<_> = old
            .entries()?
            .into_iter()
            .map(|(number, entry)| (number, entry, ahead.take(&entry)))
            .collect();
        // Of what was forgotten since: before others come, which it would leave no room for.
        drop(ahead);
        let lacking: Vec<i32> = entries
            .iter()
            .filter(|(_, _, fd)| fd.is_none())
            .map(|(number, _, _)| *number)
            .collect();
        let mut fetched = fetch(&lacking)?;
        let mut looked_at = Vec::with_capacity(entries.len());
        for (number, entry, fd) in entries {
            looked_at.extend(fd.as_ref().map(AsRawFd::as_raw_fd));
            let fd = fd.or_else(|| fetched.remove(&number));
            let fd = fd.ok_or(Damaged("a descriptor was not handed over"))?;
            if !self.set(fd.as_raw_fd(), entry) {
                return Err(Damaged("it has more descriptors than may be open here").into());
            }
            // Its owner is what is said of it here.
            let _number = fd.into_raw_fd();
        }
        looked_at.sort_unstable();
        self.take_the_rest_in(old, start)?;
        Ok(looked_at)
    }

    /// What is said of no descriptor.
    fn take_the_rest_in(&self, old: &Self, start: usize) -> Result<(), Damaged> {
        copy_requests(old, self);
        let (from, to) = (old.words.words(), self.words.words());
        let copy = |at: usize| to[at].store(from[at].load(Ordering::Relaxed), Ordering::Relaxed);
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
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::ops::RangeInclusive;
    use std::path::Path;

    use rustix::fs::Mode;

    use super::super::tests::entries;
    use super::super::{Begun, ForgetPlace};
    use super::*;

    fn path_fd(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn something() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn none(numbers: &[i32]) -> io::Result<HashMap<i32, OwnedFd>> {
        assert!(numbers.is_empty(), "{numbers:?}");
        Ok(HashMap::new())
    }

    /// What a server that holds `fd` says of it.
    fn inode(fd: &OwnedFd) -> Entry {
        let (key, kind) = identity(fd).unwrap();
        Entry::Inode {
            ino: 1000 + key.ino,
            key,
            kind,
            nlookup: 3,
            may_be_mapped: false,
            told: 0,
        }
    }

    #[test]
    fn take_in_has_all_by_the_new_numbers_and_an_error_without_one() {
        let (old, new) = (Ledger::for_tests(110), Ledger::for_tests(4096));
        for (number, entry) in (97..).zip(entries()) {
            assert!(old.set(number, entry));
        }
        let sent = |numbers: RangeInclusive<i32>| -> HashMap<i32, OwnedFd> {
            numbers.map(|number| (number, something())).collect()
        };
        let take_in = |into: &Ledger, sent: HashMap<i32, OwnedFd>| {
            let fetch = |numbers: &[i32]| {
                assert_eq!(numbers, [97, 98, 99, 100]);
                Ok(sent)
            };
            into.take_in(&old, Ahead::default(), fetch, 0)
        };
        assert!(take_in(&Ledger::for_tests(4096), sent(98..=100)).is_err());
        assert!(take_in(&Ledger::for_tests(3), sent(97..=100)).is_err());
        let sent = sent(97..=100);
        let numbers = sent.iter().map(|(there, fd)| (*there, fd.as_raw_fd()));
        let moved: HashMap<i32, i32> = numbers.collect();
        let looked_at = take_in(&new, sent).unwrap();
        assert!(looked_at.is_empty(), "none was looked at");
        let mut wanted: Vec<(i32, Entry)> = (97..)
            .zip(entries())
            .map(|(there, entry)| (moved[&there], entry))
            .collect();
        wanted.sort_by_key(|(number, _)| *number);
        assert_eq!(new.entries().unwrap(), wanted);
    }

    #[test]
    fn take_in_has_what_is_said_of_no_descriptor_and_forgets_that_were_counted() {
        let (old, new) = (Ledger::for_tests(110), Ledger::for_tests(4096));
        assert!(old.set(97, entries()[0]));
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
        let files = old.files().map(|file| file.try_clone_to_owned().unwrap());
        let seen = Ledger::of_files(files).unwrap();
        let fetch = |numbers: &[i32]| {
            assert_eq!(numbers, [97]);
            Ok(HashMap::from([(97, something())]))
        };
        new.take_in(&seen, Ahead::default(), fetch, 16).unwrap();
        let Entry::Inode { nlookup, .. } = new.entries().unwrap()[0].1 else {
            panic!("another entry");
        };
        assert_eq!((nlookup, new.init().unwrap().as_slice()), (2, &b"init"[..]));
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

    /// While the server before serves: one is forgotten, and one comes, with its number.
    #[test]
    fn take_in_of_what_came_ahead_fetches_what_has_changed_since_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let (old, new) = (Ledger::for_tests(100), Ledger::for_tests(4096));
        let fds: Vec<OwnedFd> = (0..4)
            .map(|name| {
                let path = scratch.path().join(name.to_string());
                File::create(&path).unwrap();
                path_fd(&path)
            })
            .collect();
        for (number, fd) in (50..).zip(&fds[..3]) {
            assert!(old.set(number, inode(fd)));
        }
        // An open file is not for before.
        assert!(old.set(60, entries()[1]));
        let mut ahead = Ahead::default();
        assert_eq!(ahead.lacks(&old), [50, 51, 52]);
        for fd in &fds[..3] {
            ahead.keep(fd.try_clone().unwrap());
        }
        assert!(ahead.lacks(&old).is_empty() && ahead.len() == 3);
        old.clear(51);
        assert!(old.set(51, inode(&fds[3])));
        assert_eq!(ahead.lacks(&old), [51]);
        let fetch = |numbers: &[i32]| {
            assert_eq!(numbers, [51, 60]);
            Ok(HashMap::from([
                (51, fds[3].try_clone().unwrap()),
                (60, something()),
            ]))
        };
        let looked_at = new.take_in(&old, ahead, fetch, 0).unwrap();
        let is_of = |name: usize| {
            let all = new.entries().unwrap();
            let found = all
                .into_iter()
                .find(|(_, entry)| *entry == inode(&fds[name]));
            found.expect("it is there").0
        };
        let mut wanted = vec![is_of(0), is_of(2)];
        wanted.sort_unstable();
        assert_eq!((new.descriptors().len(), looked_at), (4, wanted));
        for name in [0, 2, 3] {
            let here = thrufs_sys::inherited::adopt(is_of(name)).unwrap();
            assert_eq!(identity(&here).unwrap(), identity(&fds[name]).unwrap());
        }
    }

    /// A number may mean another file by the time that its descriptor is sent.
    #[test]
    fn keep_of_what_holds_no_inode_is_of_no_use_and_goes_by_what_it_is_on() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = scratch.path().join(name);
            File::create(&path).unwrap();
            path
        };
        let (a, b) = (path("a"), path("b"));
        let old = Ledger::for_tests(100);
        assert!(old.set(50, inode(&path_fd(&a))));
        let mut ahead = Ahead::default();
        ahead.keep(File::open(&a).unwrap().into());
        assert!(ahead.is_empty(), "it is no O_PATH descriptor");
        ahead.keep(path_fd(&b));
        assert_eq!(ahead.lacks(&old), [50]);
        let fetch = |numbers: &[i32]| {
            assert_eq!(numbers, [50]);
            Ok(HashMap::from([(50, path_fd(&a))]))
        };
        let looked_at = Ledger::for_tests(4096).take_in(&old, ahead, fetch, 0);
        assert!(looked_at.unwrap().is_empty());
    }

    #[test]
    fn take_in_of_requests_copies_those_under_way_alone() {
        let (old, new) = (Ledger::for_tests(1), Ledger::for_tests(1));
        for (slot, unique) in [(3, 8), (4, 0)] {
            old.request(slot)[0].store(unique, Ordering::Relaxed);
            // Lookups that it gives out: `COUNTED` of the journal.
            old.request(slot)[3].store(1, Ordering::Relaxed);
            old.lookups(slot)[0].store(77, Ordering::Relaxed);
        }
        new.take_in(&old, Ahead::default(), none, 0).unwrap();
        let copied = |slot| {
            let words = [&new.request(slot)[0], &new.lookups(slot)[0]];
            words.map(|word| word.load(Ordering::Relaxed))
        };
        assert_eq!((copied(3), copied(4)), ([8, 77], [0, 0]));
    }
}
