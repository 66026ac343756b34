//! The inodes that the kernel knows.
//!
//! Invariant 4: an inode is here exactly as long as the kernel holds it, that is, while the
//! lookups it was told of exceed those it has forgotten. Both counts move under one lock, so a
//! LOOKUP that finds an inode and the FORGET that would remove it cannot miss each other.
//!
//! A nodeid belongs to one inode until the kernel has forgotten it. A file that has the backing inode
//! number of a file that is gone and still known gets a nodeid that is made up. Why not the old one
//! with another generation: the kernel then marks its old inode bad, and a caller that is just opening it
//! gets EIO (fuse_iget).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use rustix::fs::Statx;

use super::identity::{FileKind, InodeKey};
use super::{Inode, InodeRef, ROOT_INO};
use crate::journal::Journal;
use crate::ledger::{self, ForgetPlace, Ledger};

/// Numbers that we make up have the top bit set: file systems count from below.
const SYNTHETIC: u64 = 1 << 63;

#[derive(Debug, Default)]
struct Maps {
    by_ino: HashMap<u64, Arc<Inode>>,
    /// The inode that has the key now; one that is gone may be in `by_ino` still.
    by_key: HashMap<InodeKey, u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct InodeTable {
    /// A leaf lock: no system call is made and no other lock taken while it is held.
    maps: RwLock<Maps>,
    root: Arc<Inode>,
    /// Inodes that the kernel has forgotten so far.
    forgotten: AtomicU64,
    /// Inodes that are held by a descriptor, the root apart.
    by_fd: AtomicUsize,
    /// Where those are noted, for the next server; none where nothing outlives this one. Written under the lock.
    ledger: Option<Arc<Ledger>>,
    /// Notes lookups of the request that is being served.
    journal: Option<Arc<Journal>>,
}

impl InodeTable {
    /// A table with the root only, which the kernel never forgets.
    pub(crate) fn new(root_key: InodeKey, kind: FileKind, held: InodeRef) -> Self {
        let root = Arc::new(Inode::new(ROOT_INO, root_key, kind, held));
        let mut maps = Maps::default();
        maps.by_key.insert(root_key, ROOT_INO);
        Self {
            maps: RwLock::new(maps),
            root,
            forgotten: AtomicU64::new(0),
            by_fd: AtomicUsize::new(0),
            ledger: None,
            journal: None,
        }
    }

    /// Inodes are noted in `ledger` from now on, and lookups in `journal`.
    pub(crate) fn note_in(&mut self, ledger: Arc<Ledger>, journal: Arc<Journal>) {
        self.ledger = Some(ledger);
        self.journal = Some(journal);
    }

    /// For so many more, which are taken in next.
    pub(crate) fn make_room(&self, more: usize) {
        let mut maps = self.maps.write();
        maps.by_ino.reserve(more);
        maps.by_key.reserve(more);
    }

    /// Takes in the inode with the number `ino`, of which the kernel holds so many lookups from a server that died;
    /// none if there is one of that number or key.
    pub(crate) fn take_over(
        &self,
        (ino, nlookup): (u64, u64),
        key: InodeKey,
        kind: FileKind,
        fd: OwnedFd,
    ) -> Option<Arc<Inode>> {
        let mut maps = self.maps.write();
        let Maps { by_ino, by_key } = &mut *maps;
        let (Entry::Vacant(by_ino), Entry::Vacant(by_key)) = (by_ino.entry(ino), by_key.entry(key))
        else {
            return None;
        };
        let inode = Inode::new(ino, key, kind, InodeRef::Fd(fd));
        inode.nlookup.store(nlookup, Ordering::Relaxed);
        // What it may have read, the one that died knew.
        inode.is_read.store(true, Ordering::Relaxed);
        let inode = Arc::new(inode);
        self.by_fd.fetch_add(1, Ordering::Relaxed);
        by_ino.insert(Arc::clone(&inode));
        by_key.insert(ino);
        Some(inode)
    }

    /// A lookup that the kernel will hear of. To be called under the lock.
    fn count(&self, inode: &Inode) {
        inode.nlookup.fetch_add(1, Ordering::Relaxed);
        if let (Some(ledger), InodeRef::Fd(fd)) = (&self.ledger, &inode.held) {
            ledger.count_lookup(fd.as_raw_fd());
        }
        self.note_lookup(inode);
    }

    /// The first lookup of an inode. To be called under the lock.
    fn note_new(&self, inode: &Inode) {
        if let (Some(ledger), InodeRef::Fd(fd)) = (&self.ledger, &inode.held) {
            let entry = ledger::Entry::Inode {
                ino: inode.ino,
                key: inode.key,
                kind: inode.kind,
                nlookup: 1,
                may_be_mapped: false,
                told: 0,
            };
            ledger.set(fd.as_raw_fd(), entry);
        }
        self.note_lookup(inode);
    }

    /// The kernel is told these attributes of `inode` now.
    pub(crate) fn tell(&self, inode: &Inode, stat: &Statx) {
        inode.tell(stat);
        self.note_told(inode);
    }

    /// As [`Inode::tell_anew`].
    pub(crate) fn tell_anew(&self, inode: &Inode) {
        inode.tell_anew();
        self.note_told(inode);
    }

    fn note_told(&self, inode: &Inode) {
        let (Some(ledger), InodeRef::Fd(fd)) = (&self.ledger, &inode.held) else {
            return;
        };
        loop {
            let told = inode.told();
            ledger.note_told(fd.as_raw_fd(), told);
            // Another thread may have told meanwhile, and noted that before.
            if inode.told() == told {
                return;
            }
        }
    }

    /// The next server learns that `inode` may be mapped past the daemon.
    pub(crate) fn note_mapped(&self, inode: &Inode) {
        if let (Some(ledger), InodeRef::Fd(fd)) = (&self.ledger, &inode.held) {
            ledger.note_mapped(fd.as_raw_fd());
        }
    }

    /// At once, and not when the lock is given back: a death in between leaves a lookup that nothing forgets.
    fn note_lookup(&self, inode: &Inode) {
        if let Some(journal) = &self.journal {
            journal.counted(inode.ino);
        }
    }

    /// The inode with this nodeid; none if the kernel was never told of it or has forgotten it.
    pub(crate) fn get(&self, ino: u64) -> Option<Arc<Inode>> {
        if ino == ROOT_INO {
            return Some(self.root.clone());
        }
        self.maps.read().by_ino.get(&ino).cloned()
    }

    /// SOURCE's own key.
    pub(crate) fn root_key(&self) -> InodeKey {
        self.root.key
    }

    /// How many inodes the kernel holds, the root included.
    pub(crate) fn len(&self) -> usize {
        self.maps.read().by_ino.len() + 1
    }

    /// How many of them cost a descriptor for as long as they are known.
    pub(crate) fn held_by_fd(&self) -> usize {
        self.by_fd.load(Ordering::Relaxed)
    }

    /// How many inodes the kernel has forgotten since the start.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// The numbers of all inodes but the root.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.maps.read().by_ino.keys().copied().collect()
    }

    /// Up to `count` numbers after the first `from`, in the table's order, which changes with what comes
    /// and goes.
    pub(crate) fn some_numbers(&self, from: usize, count: usize) -> Vec<u64> {
        let maps = self.maps.read();
        maps.by_ino.keys().skip(from).take(count).copied().collect()
    }

    /// The inode with this key, counted as one more lookup, unless `held` shows that its number
    /// was given to another file.
    fn find(&self, key: &InodeKey, held: &InodeRef) -> Option<Arc<Inode>> {
        let maps = self.maps.read();
        let ino = *maps.by_key.get(key)?;
        if ino == ROOT_INO {
            return Some(self.root.clone());
        }
        let inode = maps.by_ino.get(&ino)?;
        if inode.held.is_successor(held) {
            return None;
        }
        self.count(inode);
        Some(inode.clone())
    }

    /// The inode with this key, counted as one more lookup; made from `held` if it is new.
    pub(crate) fn look_up(&self, key: InodeKey, kind: FileKind, held: InodeRef) -> Arc<Inode> {
        if let Some(inode) = self.find(&key, &held) {
            return inode;
        }
        let mut maps = self.maps.write();
        let known = maps.by_key.get(&key).copied();
        if let Some(inode) = known.and_then(|ino| maps.by_ino.get(&ino))
            && !inode.held.is_successor(&held)
        {
            self.count(inode);
            return inode.clone();
        }
        let ino = maps.number_for(&key, &self.root.key);
        if let InodeRef::Fd(_) = held {
            self.by_fd.fetch_add(1, Ordering::Relaxed);
        }
        let inode = Arc::new(Inode::new(ino, key, kind, held));
        self.note_new(&inode);
        maps.by_ino.insert(ino, inode.clone());
        maps.by_key.insert(key, ino);
        inode
    }

    /// The inode with this nodeid and its key, if a descriptor holds it for as long as it is here. Not to be
    /// upgraded: that could outlast the FORGET.
    pub(crate) fn held(&self, ino: u64) -> Option<(InodeKey, Weak<Inode>)> {
        let maps = self.maps.read();
        let inode = maps.by_ino.get(&ino)?;
        match inode.held {
            InodeRef::Fd(_) => Some((inode.key, Arc::downgrade(inode))),
            InodeRef::Handle { .. } => None,
        }
    }

    /// Counts one more lookup of the inode `known`, unless the kernel has forgotten it.
    pub(crate) fn look_up_again(&self, ino: u64, known: &Weak<Inode>) -> Option<Arc<Inode>> {
        let maps = self.maps.read();
        let inode = maps.by_ino.get(&ino)?;
        if Arc::as_ptr(inode) != known.as_ptr() {
            return None;
        }
        self.count(inode);
        Some(Arc::clone(inode))
    }

    /// The number under which the client sees, or would see, the inode with this key.
    pub(crate) fn number_of(&self, key: &InodeKey) -> u64 {
        if *key == self.root.key {
            return self.root.key.ino;
        }
        let maps = self.maps.read();
        let known = maps.by_key.get(key).copied();
        known.unwrap_or_else(|| maps.number_for(key, &self.root.key))
    }

    /// The number of the inode with this key, if the kernel holds it.
    pub(crate) fn known_number(&self, key: &InodeKey) -> Option<u64> {
        self.maps.read().by_key.get(key).copied()
    }

    /// The inode with this key, if the kernel holds it; never the root.
    pub(crate) fn known(&self, key: &InodeKey) -> Option<Arc<Inode>> {
        let maps = self.maps.read();
        maps.by_ino.get(maps.by_key.get(key)?).cloned()
    }

    /// The kernel gives `count` lookups of `ino` back. More than it holds counts as all of them.
    /// Returns the inode if these were the last: to be dropped under no lock, since closing a
    /// descriptor may do work in the backing file system.
    pub(crate) fn forget(
        &self,
        ino: u64,
        count: u64,
        place: Option<ForgetPlace>,
    ) -> Option<Arc<Inode>> {
        if ino == ROOT_INO {
            return None;
        }
        let mut maps = self.maps.write();
        let Some(inode) = maps.by_ino.get(&ino) else {
            tracing::debug!(
                ino,
                count,
                "FORGET of an inode that the kernel does not hold"
            );
            return None;
        };
        let left = inode.nlookup.load(Ordering::Relaxed).saturating_sub(count);
        inode.nlookup.store(left, Ordering::Relaxed);
        if let (Some(ledger), InodeRef::Fd(fd)) = (&self.ledger, &inode.held) {
            ledger.forget(fd.as_raw_fd(), left, place);
        }
        if left > 0 {
            return None;
        }
        let gone = maps.by_ino.remove(&ino)?;
        // Unless another file has the number now.
        if maps.by_key.get(&gone.key) == Some(&ino) {
            maps.by_key.remove(&gone.key);
        }
        drop(maps);
        if let InodeRef::Fd(_) = gone.held {
            self.by_fd.fetch_sub(1, Ordering::Relaxed);
        }
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        Some(gone)
    }
}

impl Maps {
    /// The backing file system's own number on SOURCE's device, unless another inode has it; else one made
    /// up from the key, the same each time unless that is taken too. A number of another device that is free now may
    /// be in use again when the kernel has forgotten one file and looks up the other: then two
    /// files would have shown the same number.
    fn number_for(&self, key: &InodeKey, root: &InodeKey) -> u64 {
        let free = |ino: u64| {
            ino > ROOT_INO && ino != root.ino && ino != u64::MAX && !self.by_ino.contains_key(&ino)
        };
        if key.dev == root.dev && free(key.ino) {
            return key.ino;
        }
        let mut ino = SYNTHETIC | mix(mix(key.dev ^ key.mnt_id.rotate_left(32)) ^ key.ino);
        while !free(ino) {
            ino = SYNTHETIC | ino.wrapping_add(1);
        }
        ino
    }
}

/// Spreads the bits of a number evenly (the finalizer of SplitMix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use thrufs_sys::file_handle::FileHandle;

    use super::*;
    use crate::inode::mount_fd::{MountFd, MountFds};

    fn held() -> InodeRef {
        InodeRef::Fd(File::open("/dev/null").unwrap().into())
    }

    fn key(dev: u64, ino: u64) -> InodeKey {
        InodeKey {
            dev,
            ino,
            mnt_id: 1,
        }
    }

    fn table() -> InodeTable {
        InodeTable::new(key(1, 2), FileKind::Directory, held())
    }

    fn look_up(table: &InodeTable, key: InodeKey) -> Arc<Inode> {
        table.look_up(key, FileKind::Regular, held())
    }

    #[test]
    fn look_up_of_one_device_keeps_the_backing_number() {
        let table = table();
        assert_eq!(look_up(&table, key(1, 77)).ino, 77);
        assert_eq!(table.number_of(&key(1, 78)), 78);
    }

    /// A LOOKUP that finds an inode's number by name must not count for a later inode that was given it.
    #[test]
    fn look_up_again_of_a_forgotten_inode_counts_for_no_successor() {
        let table = table();
        let first = look_up(&table, key(1, 77));
        let (found, known) = table.held(first.ino).unwrap();
        assert_eq!(found, key(1, 77));
        let again = table.look_up_again(first.ino, &known).unwrap();
        assert_eq!(again.nlookup.load(Ordering::Relaxed), 2);
        drop((first, again));
        assert!(table.forget(77, 2, None).is_some());
        let second = look_up(&table, key(1, 77));
        assert!(table.look_up_again(77, &known).is_none());
        assert_eq!(second.nlookup.load(Ordering::Relaxed), 1);
        assert!(table.held(78).is_none());
    }

    #[test]
    fn look_up_of_a_taken_number_makes_one_up_and_repeats_it() {
        let table = table();
        look_up(&table, key(1, 77));
        let other = look_up(&table, key(2, 77));
        assert_ne!(other.ino, 77);
        table.forget(other.ino, 1, None);
        assert_eq!(look_up(&table, key(2, 77)).ino, other.ino);
    }

    #[test]
    fn look_up_on_another_device_never_uses_a_number_again() {
        // Two tmpfs below SOURCE count alike; forgetting one file must not free its number.
        let table = table();
        let first = look_up(&table, key(2, 77)).ino;
        table.forget(first, 1, None);
        assert_ne!(look_up(&table, key(3, 77)).ino, first);
    }

    #[test]
    fn look_up_of_reserved_numbers_makes_one_up() {
        let table = table();
        for ino in [0, 1, 2, u64::MAX] {
            assert!(look_up(&table, key(9, ino)).ino & SYNTHETIC != 0);
        }
    }

    #[test]
    fn forget_of_all_lookups_removes_the_inode() {
        let table = table();
        let inode = look_up(&table, key(1, 5));
        look_up(&table, key(1, 5));
        table.forget(inode.ino, 1, None);
        assert!(table.get(5).is_some());
        table.forget(inode.ino, 1, None);
        assert!(table.get(5).is_none());
        assert_eq!(table.len(), 1);
    }

    /// A mount and a handle of it; the number `generation` stands for the inode's.
    fn by_handle(mount: &Arc<MountFd>, generation: u8) -> InodeRef {
        InodeRef::Handle {
            mount: Arc::clone(mount),
            fid: FileHandle::from_parts(1, &[generation]).unwrap(),
        }
    }

    fn mount() -> Arc<MountFd> {
        let mounts = MountFds::default();
        let top = || Ok(Some(File::open("/").unwrap().into()));
        mounts.get(1, top).unwrap().unwrap()
    }

    /// It had the nodeid of the file that is gone with another generation, and the kernel, which knew that
    /// still, answered open(2) with EIO.
    #[test]
    fn look_up_of_a_reused_inode_number_is_another_nodeid_while_the_old_one_is_known() {
        let (table, mount, key) = (table(), mount(), key(1, 77));
        let look_up = |generation| {
            let held = by_handle(&mount, generation);
            table.look_up(key, FileKind::Regular, held).ino
        };
        assert_eq!(look_up(1), 77);
        let second = look_up(2);
        let third = look_up(3);
        assert!(second & SYNTHETIC != 0 && third & SYNTHETIC != 0 && second != third);
        assert_eq!((look_up(3), table.number_of(&key)), (third, third));
        // Each is forgotten by itself.
        assert!(table.forget(77, 1, None).is_some());
        assert!(table.forget(second, 1, None).is_some());
        assert_eq!((look_up(3), table.len()), (third, 2));
        assert!(table.forget(third, 3, None).is_some());
        // And SOURCE's number is used again.
        assert_eq!((table.number_of(&key), look_up(3)), (77, 77));
    }

    #[test]
    fn held_by_fd_counts_inodes_with_a_descriptor() {
        let (table, mount) = (table(), mount());
        look_up(&table, key(1, 5));
        look_up(&table, key(1, 5));
        table.look_up(key(1, 6), FileKind::Regular, by_handle(&mount, 1));
        assert_eq!((table.len(), table.held_by_fd()), (3, 1));
        table.forget(5, 2, None);
        table.forget(6, 1, None);
        assert_eq!((table.len(), table.held_by_fd()), (1, 0));
    }

    #[test]
    fn forget_of_the_root_or_too_many_is_harmless() {
        let table = table();
        table.forget(ROOT_INO, 99, None);
        assert!(table.get(ROOT_INO).is_some());
        look_up(&table, key(1, 5));
        table.forget(5, 99, None);
        table.forget(5, 1, None);
        assert!(table.get(5).is_none());
    }

    #[test]
    fn look_up_against_forget_in_threads_loses_no_count() {
        let table = table();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..2_000 {
                        let inode = look_up(&table, key(1, 5));
                        table.forget(inode.ino, 1, None);
                    }
                });
            }
        });
        assert_eq!(table.len(), 1);
    }
}
