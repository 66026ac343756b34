//! Random operations on a scratch directory and on a model of it in memory: names, contents, link
//! counts, errors and the kernel's count of lookups must agree after every step.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::{BTreeMap, HashMap};

use common::{ROOT, Served, at, caller};
use proptest::prelude::*;
use thrufs_fs::{Errno, FileKind, Result};

/// One step. Directories and names are small numbers, so that they meet often.
#[derive(Clone, Debug)]
enum Step {
    Create(usize, u8),
    Mkdir(usize, u8),
    Symlink(usize, u8),
    Link(usize, u8, usize, u8),
    Unlink(usize, u8),
    Rmdir(usize, u8),
    Rename(usize, u8, usize, u8, u32),
    Write(usize, u8, u16, u16, u8),
    Truncate(usize, u8, u16),
    Read(usize, u8),
    List(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let dir = || 0..4_usize;
    let name = || 0..6_u8;
    let flags = prop_oneof![
        4 => Just(0),
        1 => Just(libc::RENAME_NOREPLACE),
        1 => Just(libc::RENAME_EXCHANGE),
    ];
    prop_oneof![
        4 => (dir(), name()).prop_map(|(d, n)| Step::Create(d, n)),
        2 => (dir(), name()).prop_map(|(d, n)| Step::Mkdir(d, n)),
        1 => (dir(), name()).prop_map(|(d, n)| Step::Symlink(d, n)),
        2 => (dir(), name(), dir(), name()).prop_map(|(d, n, e, m)| Step::Link(d, n, e, m)),
        2 => (dir(), name()).prop_map(|(d, n)| Step::Unlink(d, n)),
        1 => (dir(), name()).prop_map(|(d, n)| Step::Rmdir(d, n)),
        3 => (dir(), name(), dir(), name(), flags)
            .prop_map(|(d, n, e, m, f)| Step::Rename(d, n, e, m, f)),
        4 => (dir(), name(), 0..20_000_u16, 0..9_000_u16, any::<u8>())
            .prop_map(|(d, n, o, l, b)| Step::Write(d, n, o, l, b)),
        2 => (dir(), name(), 0..20_000_u16).prop_map(|(d, n, s)| Step::Truncate(d, n, s)),
        3 => (dir(), name()).prop_map(|(d, n)| Step::Read(d, n)),
        1 => dir().prop_map(Step::List),
    ]
}

type Id = usize;

/// What a file system is, without the bytes of a disk.
#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Link(String),
    Directory(BTreeMap<String, Id>),
}

#[derive(Debug)]
struct Model {
    nodes: HashMap<Id, Node>,
    next: Id,
}

impl Model {
    fn new() -> Self {
        Self {
            nodes: HashMap::from([(0, Node::Directory(BTreeMap::new()))]),
            next: 1,
        }
    }

    fn directory(&self, id: Id) -> &BTreeMap<String, Id> {
        match &self.nodes[&id] {
            Node::Directory(entries) => entries,
            other => panic!("{id} is {other:?}"),
        }
    }

    fn entries(&mut self, id: Id) -> &mut BTreeMap<String, Id> {
        match self.nodes.get_mut(&id).unwrap() {
            Node::Directory(entries) => entries,
            other => panic!("{id} is {other:?}"),
        }
    }

    /// Directories in a fixed order; a step's number means the one at that place.
    fn directories(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self
            .nodes
            .iter()
            .filter(|(_, node)| matches!(node, Node::Directory(_)))
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    fn find(&self, dir: Id, name: &str) -> Result<Id> {
        self.directory(dir).get(name).copied().ok_or(Errno::ENOENT)
    }

    fn add(&mut self, dir: Id, name: &str, node: Node) -> Result<Id> {
        if self.find(dir, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.entries(dir).insert(name.into(), id);
        Ok(id)
    }

    fn nlink(&self, id: Id) -> usize {
        let names = |node: &Node| match node {
            Node::Directory(entries) => entries.values().filter(|child| **child == id).count(),
            Node::File(_) | Node::Link(_) => 0,
        };
        self.nodes.values().map(names).sum()
    }

    /// Whether `id` is `dir` or above it.
    fn is_above(&self, id: Id, dir: Id) -> bool {
        id == dir
            || match &self.nodes[&id] {
                Node::Directory(entries) => {
                    entries.values().any(|child| self.is_above(*child, dir))
                }
                Node::File(_) | Node::Link(_) => false,
            }
    }

    fn drop_if_unnamed(&mut self, id: Id) {
        if self.nlink(id) == 0 {
            self.nodes.remove(&id);
        }
    }

    fn unlink(&mut self, dir: Id, name: &str) -> Result<()> {
        let id = self.find(dir, name)?;
        if matches!(self.nodes[&id], Node::Directory(_)) {
            return Err(Errno::EISDIR);
        }
        self.entries(dir).remove(name);
        self.drop_if_unnamed(id);
        Ok(())
    }

    fn rmdir(&mut self, dir: Id, name: &str) -> Result<()> {
        let id = self.find(dir, name)?;
        match &self.nodes[&id] {
            Node::Directory(entries) if entries.is_empty() => {}
            Node::Directory(_) => return Err(Errno::ENOTEMPTY),
            Node::File(_) | Node::Link(_) => return Err(Errno::ENOTDIR),
        }
        self.entries(dir).remove(name);
        self.nodes.remove(&id);
        Ok(())
    }
}

/// The model and the file system side by side, with what the kernel would hold.
struct Pair {
    served: Served,
    model: Model,
    /// Lookups that the "kernel" holds, by nodeid.
    held: HashMap<u64, u64>,
}

impl Pair {
    fn new() -> Self {
        Self {
            served: Served::new(),
            model: Model::new(),
            held: HashMap::new(),
        }
    }

    fn hold(&mut self, ino: u64) -> u64 {
        *self.held.entry(ino).or_default() += 1;
        ino
    }

    /// Nodeid of a model directory, looked up from the root as a kernel would.
    fn ino_of(&mut self, id: Id) -> u64 {
        let path = self
            .path_to(0, id)
            .expect("every directory hangs in the tree");
        path.iter().fold(ROOT, |ino, name| {
            let entry = self.served.lookup(ino, name).unwrap();
            self.hold(entry.ino)
        })
    }

    fn path_to(&self, from: Id, to: Id) -> Option<Vec<String>> {
        if from == to {
            return Some(Vec::new());
        }
        let Node::Directory(entries) = &self.model.nodes[&from] else {
            return None;
        };
        entries.iter().find_map(|(name, child)| {
            let mut path = self.path_to(*child, to)?;
            path.insert(0, name.clone());
            Some(path)
        })
    }

    fn dir(&mut self, number: usize) -> (Id, u64) {
        let ids = self.model.directories();
        let id = ids[number % ids.len()];
        (id, self.ino_of(id))
    }

    /// A regular file by name, opened; none where the model has none there.
    fn open(&mut self, dir: usize, name: &str) -> Option<(Id, u64, u64)> {
        let (id, parent) = self.dir(dir);
        let found = self.served.lookup(parent, name);
        let file = match self.model.find(id, name) {
            Err(error) => {
                assert_eq!(found.unwrap_err(), error);
                return None;
            }
            Ok(file) => file,
        };
        let entry = found.unwrap();
        self.hold(entry.ino);
        match &self.model.nodes[&file] {
            Node::File(content) => {
                assert_eq!(entry.attr.kind(), FileKind::Regular);
                assert_eq!(entry.attr.stat.stx_size, content.len() as u64);
                assert_eq!(entry.attr.stat.stx_nlink as usize, self.model.nlink(file));
                let opened = self.served.open(entry.ino, libc::O_RDWR).unwrap();
                Some((file, entry.ino, opened.fh))
            }
            Node::Link(target) => {
                assert_eq!(
                    self.served.fs.readlink(entry.ino).unwrap(),
                    target.as_bytes()
                );
                assert_eq!(self.served.open(entry.ino, libc::O_RDWR), Err(Errno::ELOOP));
                None
            }
            Node::Directory(_) => {
                assert_eq!(entry.attr.kind(), FileKind::Directory);
                None
            }
        }
    }

    fn content(&mut self, file: Id) -> &mut Vec<u8> {
        match self.model.nodes.get_mut(&file).unwrap() {
            Node::File(content) => content,
            other => panic!("{other:?} has no content"),
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Create(d, n) => self.create(d, n),
            Step::Mkdir(d, n) => {
                let ((id, parent), name) = (self.dir(d), name(n));
                let new = self.served.new_node(parent, &name, libc::S_IFDIR | 0o755);
                let made = self.served.fs.mkdir(&new).map(|made| made.into_entry().ino);
                let want = self.model.add(id, &name, Node::Directory(BTreeMap::new()));
                self.agree(made, want.map(drop));
            }
            Step::Symlink(d, n) => {
                let ((id, parent), name) = (self.dir(d), name(n));
                let new = self.served.new_node(parent, &name, 0o777);
                let made = self.served.fs.symlink(&new, "../elsewhere".as_ref());
                let want = self.model.add(id, &name, Node::Link("../elsewhere".into()));
                self.agree(made.map(|made| made.into_entry().ino), want.map(drop));
            }
            Step::Link(d, n, e, m) => self.link(d, n, e, m),
            Step::Unlink(d, n) => {
                let ((id, parent), name) = (self.dir(d), name(n));
                let done = self.served.unlink(at(parent, &name));
                assert_eq!(done, self.model.unlink(id, &name));
            }
            Step::Rmdir(d, n) => {
                let ((id, parent), name) = (self.dir(d), name(n));
                let done = self.served.rmdir(at(parent, &name));
                assert_eq!(done, self.model.rmdir(id, &name));
            }
            Step::Rename(d, n, e, m, flags) => self.rename((d, n), (e, m), flags),
            Step::Write(d, n, offset, len, byte) => self.write(d, n, offset, len, byte),
            Step::Truncate(d, n, size) => {
                let Some((file, ino, fh)) = self.open(d, &name(n)) else {
                    return;
                };
                self.served
                    .truncate(ino, Some(fh), u64::from(size))
                    .unwrap();
                self.content(file).resize(usize::from(size), 0);
                self.served.fs.release(ino, fh);
            }
            Step::Read(d, n) => {
                let Some((file, ino, fh)) = self.open(d, &name(n)) else {
                    return;
                };
                let read = self.served.read(ino, fh, 0, 64 * 1024).unwrap();
                assert_eq!(&read, self.content(file));
                self.served.fs.release(ino, fh);
            }
            Step::List(d) => {
                let (id, ino) = self.dir(d);
                let names: Vec<String> = self.model.directory(id).keys().cloned().collect();
                assert_eq!(self.served.names(ino).unwrap(), names);
            }
        }
    }

    /// Same outcome; what was made is one more lookup.
    fn agree(&mut self, made: Result<u64>, want: Result<()>) {
        assert_eq!(made.as_ref().map(drop).map_err(|error| *error), want);
        if let Ok(ino) = made {
            self.hold(ino);
        }
    }

    fn create(&mut self, d: usize, n: u8) {
        let ((id, parent), name) = (self.dir(d), name(n));
        let made = self.served.create(parent, &name);
        let want = self.model.add(id, &name, Node::File(Vec::new()));
        if let Ok((entry, opened)) = &made {
            self.served.fs.release(entry.ino, opened.fh);
        }
        self.agree(made.map(|(entry, _)| entry.ino), want.map(drop));
    }

    fn link(&mut self, d: usize, n: u8, e: usize, m: u8) {
        let ((from, from_ino), (to, to_ino)) = (self.dir(d), self.dir(e));
        let (old, new) = (name(n), name(m));
        let Ok(id) = self.model.find(from, &old) else {
            return;
        };
        if matches!(self.model.nodes[&id], Node::Directory(_)) {
            return;
        }
        let entry = self.served.lookup(from_ino, &old).unwrap();
        self.hold(entry.ino);
        let made = self
            .served
            .fs
            .link(entry.ino, at(to_ino, &new))
            .map(|made| made.into_entry().ino);
        let want = match self.model.find(to, &new) {
            Ok(_) => Err(Errno::EEXIST),
            Err(_) => {
                self.model.entries(to).insert(new, id);
                Ok(())
            }
        };
        self.agree(made, want);
    }

    /// Renames that POSIX leaves open or forbids (into itself, over a directory) are skipped.
    fn rename(&mut self, (d, n): (usize, u8), (e, m): (usize, u8), flags: u32) {
        let ((from, from_ino), (to, to_ino)) = (self.dir(d), self.dir(e));
        let (old, new) = (name(n), name(m));
        let source = self.model.find(from, &old);
        let target = self.model.find(to, &new).ok();
        if let Ok(id) = source {
            let loops =
                self.model.is_above(id, to) || target.is_some_and(|t| self.model.is_above(t, from));
            let is_dir = |id: Id| matches!(self.model.nodes[&id], Node::Directory(_));
            let kinds_differ = target.is_some_and(|t| is_dir(t) || is_dir(id));
            if loops || target == Some(id) || (flags != libc::RENAME_EXCHANGE && kinds_differ) {
                return;
            }
        }
        let done = self
            .served
            .fs
            .rename(at(from_ino, &old), at(to_ino, &new), flags, &caller());
        let want = match (source, target) {
            (Err(error), _) => Err(error),
            (Ok(_), Some(_)) if flags == libc::RENAME_NOREPLACE => Err(Errno::EEXIST),
            (Ok(_), None) if flags == libc::RENAME_EXCHANGE => Err(Errno::ENOENT),
            (Ok(id), target) => {
                self.model.entries(from).remove(&old);
                self.model.entries(to).insert(new, id);
                match target {
                    Some(target) if flags == libc::RENAME_EXCHANGE => {
                        self.model.entries(from).insert(old, target);
                    }
                    Some(target) => self.model.drop_if_unnamed(target),
                    None => {}
                }
                Ok(())
            }
        };
        assert_eq!(done, want);
    }

    fn write(&mut self, d: usize, n: u8, offset: u16, len: u16, byte: u8) {
        let Some((file, ino, fh)) = self.open(d, &name(n)) else {
            return;
        };
        let data = vec![byte; usize::from(len)];
        let count = self
            .served
            .write(ino, fh, u64::from(offset), &data)
            .unwrap();
        assert_eq!(count, data.len());
        let end = usize::from(offset) + data.len();
        let content = self.content(file);
        if !data.is_empty() {
            content.resize(content.len().max(end), 0);
            content[usize::from(offset)..end].copy_from_slice(&data);
        }
        self.served.fs.release(ino, fh);
    }
}

fn name(n: u8) -> String {
    format!("n{n}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn random_steps_agree_with_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.apply(step);
        }
        // Invariant 4, and no handle left open.
        prop_assert_eq!(pair.served.fs.known_inodes(), pair.held.len() + 1);
        for (ino, count) in &pair.held {
            pair.served.fs.forget(*ino, *count);
        }
        prop_assert_eq!(pair.served.fs.known_inodes(), 1);
        prop_assert_eq!(pair.served.fs.open_handles(), 0);
    }
}
