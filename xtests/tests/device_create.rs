//! A virtiofs device: what it makes for a guest's callers, compared with what the host's kernel makes for a
//! process with the same user and groups: owners, groups, modes, set-gid directories, default ACLs.
//!
//! The front end sends what a guest's kernel lets through: what the native call refuses is not sent.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use thrufs_wire::Opcode;
use thrufs_wire::abi::{CreateIn, EntryOut, MkdirIn, MknodIn};
use xtests::support::guest::calls::{ROOT, booted, groups_extension, lookup, lookup_in};
use xtests::support::guest::{Answer, Device, Guest, Options};
use xtests::support::{Backing, Outcome, Scratch, User, case, missing};
use zerocopy::IntoBytes;

fn create(guest: &mut Guest, name: &str, caller: u32) -> Result<EntryOut> {
    guest.caller = caller;
    let arg = CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: 0o100_444,
        umask: 0o022,
        ..CreateIn::default()
    };
    let name = format!("{name}\0");
    let args = [arg.as_bytes(), name.as_bytes()];
    let answer = guest.call(1, Opcode::Create, ROOT, &args, 144)?;
    guest.caller = 0;
    answer.value()
}

#[test]
fn create_by_a_device_of_root_is_the_caller_s_and_writable_whatever_the_mode() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&[], Options::default())?;
        for caller in [0, 1001] {
            let name = format!("f{caller}");
            guest.caller = caller;
            let entry = create(&mut guest, &name, caller)?;
            ensure!(entry.attr.uid == caller && entry.attr.mode & 0o777 == 0o444);
            let stat = std::fs::metadata(device.shared(&name))?;
            ensure!((stat.uid(), stat.gid()) == (caller, caller), "{stat:?}");
        }
        Ok(())
    })
}

/// In a pod without capabilities, where unshare(2) is refused, every create failed with EINVAL.
#[test]
fn create_by_a_device_of_a_user_is_that_user_s_with_one_warning() -> Outcome {
    case(|| {
        let device = Device::new_as_user(65_000, &[])?;
        let mut guest = device.connect(Options::default())?;
        guest.init()?;
        for caller in [0, 1001] {
            let name = format!("f{caller}");
            create(&mut guest, &name, caller)?;
            let stat = std::fs::metadata(device.shared(&name))?;
            ensure!((stat.uid(), stat.gid()) == (65_000, 65_000), "{stat:?}");
        }
        let warning = "belong to the user of this process";
        let log = device.log_with(warning)?;
        ensure!(log.matches(warning).count() == 1, "{log}");
        Ok(())
    })
}

/// A caller, its own group, and one more that it is in.
const UID: u32 = 1001;
const OWN: u32 = 1001;
const ALSO: u32 = 2000;
const FOREIGN: u32 = 3000;

const ACL_DEFAULT: &str = "system.posix_acl_default";
const ACL_ACCESS: &str = "system.posix_acl_access";

/// A directory in which something is made.
#[derive(Clone, Copy, Debug)]
struct Parent {
    uid: u32,
    gid: u32,
    mode: u32,
    has_acl: bool,
}

/// What is made in it.
#[derive(Clone, Copy, Debug)]
enum Node {
    /// CREATE.
    File(u32),
    /// MKNOD.
    Fifo(u32),
    /// MKDIR.
    Directory(u32),
    /// SYMLINK.
    Symlink,
    /// TMPFILE.
    Unnamed(u32),
}

const NODES: &[Node] = &[
    Node::File(0o644),
    Node::File(0o444),
    Node::File(0o2755),
    Node::File(0o2745),
    Node::File(0o6777),
    Node::Fifo(0o2770),
    Node::Directory(0o755),
    Node::Directory(0o1777),
    Node::Symlink,
    Node::Unnamed(0o640),
    Node::Unnamed(0o2750),
];

fn parents() -> Vec<Parent> {
    let mut all = Vec::new();
    for (uid, gid) in [
        (0, 0),
        (0, FOREIGN),
        (0, ALSO),
        (0, OWN),
        (UID, OWN),
        (UID, ALSO),
        (UID, FOREIGN),
    ] {
        for mode in [0o777, 0o755, 0o770, 0o2777, 0o2770, 0o3777] {
            for has_acl in [false, true] {
                all.push(Parent {
                    uid,
                    gid,
                    mode,
                    has_acl,
                });
            }
        }
    }
    all
}

/// rwx for owner and one more user, r-x for the group, nothing for others.
fn default_acl() -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (0x01_u16, 7_u16, NO_ID),
        (0x02, 7, 1002),
        (0x04, 5, NO_ID),
        (0x10, 7, NO_ID),
        (0x20, 0, NO_ID),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

impl Parent {
    /// Makes it.
    fn make(&self, path: &Path) -> Outcome {
        std::fs::create_dir_all(path)?;
        chown(path, Some(self.uid), Some(self.gid))?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(self.mode))?;
        if self.has_acl {
            let set = rustix::fs::setxattr(path, ACL_DEFAULT, &default_acl(), XattrFlags::empty());
            set.map_err(|error| missing(format!("ACLs on the file system ({error})")))?;
        }
        Ok(())
    }
}

/// What there is to see of a file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    uid: u32,
    gid: u32,
    mode: u32,
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Seen {
    fn at(path: &Path) -> Result<Self> {
        let stat = path.symlink_metadata()?;
        let acl = |name| -> Option<Vec<u8>> {
            let mut value = vec![0; 1024];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
            value.truncate(len);
            Some(value)
        };
        Ok(Self {
            uid: stat.uid(),
            gid: stat.gid(),
            mode: stat.mode(),
            access: acl(ACL_ACCESS),
            default: acl(ACL_DEFAULT),
        })
    }

    /// Without ACLs, which a file without a name has no path for.
    fn without_acls(uid: u32, gid: u32, mode: u32) -> Self {
        Self {
            uid,
            gid,
            mode,
            access: None,
            default: None,
        }
    }
}

/// Makes `node` in `dir` as the calling thread; none where the kernel refuses.
fn make_natively(dir: &OwnedFd, name: &str, node: Node) -> Result<Option<OwnedFd>> {
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    let unnamed = OFlags::TMPFILE | OFlags::RDWR;
    let opened = |flags, name, mode| {
        rustix::fs::openat(
            dir,
            name,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
        )
        .map(Some)
    };
    let done = match node {
        Node::File(mode) => opened(create, name, mode),
        Node::Unnamed(mode) => opened(unnamed, ".", mode),
        Node::Fifo(mode) => {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0).map(|()| None)
        }
        Node::Directory(mode) => {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode)).map(|()| None)
        }
        Node::Symlink => rustix::fs::symlinkat("target", dir, name).map(|()| None),
    };
    match done {
        Ok(file) => Ok(Some(match file {
            Some(file) => file,
            None => dir.try_clone()?,
        })),
        Err(rustix::io::Errno::ACCESS) => Ok(None),
        Err(error) => Err(error).context(format!("{node:?}")),
    }
}

/// The same by the guest, with the group of the directory if the caller is in it.
fn make_by_guest(
    guest: &mut Guest,
    (dir, name): (u64, &str),
    (node, umask): (Node, u32),
    groups: &[u32],
) -> Result<Answer> {
    let extension = match groups {
        [] => Vec::new(),
        some => groups_extension(some),
    };
    let name = format!("{name}\0");
    let name = name.as_bytes();
    let create = |mode| CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: libc::S_IFREG | mode,
        umask,
        ..CreateIn::default()
    };
    match node {
        Node::File(mode) => {
            let arg = create(mode);
            let args = [arg.as_bytes(), name];
            guest.call_extended(Opcode::Create, dir, &args, &extension)
        }
        Node::Unnamed(mode) => {
            let arg = create(mode);
            let args = [arg.as_bytes(), b"/\0"];
            guest.call_extended(Opcode::Tmpfile, dir, &args, &extension)
        }
        Node::Fifo(mode) => {
            let arg = MknodIn {
                mode: libc::S_IFIFO | mode,
                umask,
                ..MknodIn::default()
            };
            guest.call_extended(Opcode::Mknod, dir, &[arg.as_bytes(), name], &extension)
        }
        Node::Directory(mode) => {
            let arg = MkdirIn { mode, umask };
            guest.call_extended(Opcode::Mkdir, dir, &[arg.as_bytes(), name], &extension)
        }
        Node::Symlink => {
            guest.call_extended(Opcode::Symlink, dir, &[name, b"target\0"], &extension)
        }
    }
}

/// What is made natively and by the guest in two directories that are alike.
struct Compared<'a> {
    guest: &'a mut Guest,
    shared: PathBuf,
    parent: Parent,
    at: usize,
}

impl Compared<'_> {
    /// Returns whether the native call was let.
    fn make(&mut self, user: &User, node: Node, name: &str) -> Result<bool> {
        let (ours, theirs) = (format!("native{}", self.at), format!("guest{}", self.at));
        let (ours, theirs) = (self.shared.join(ours), self.shared.join(theirs));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&ours, flags, Mode::empty())?;
        let Some(made) = user.act(|| make_natively(&dir, name, node))? else {
            return Ok(false);
        };
        let nodeid = lookup(self.guest, &format!("guest{}", self.at))?.nodeid;
        let is_in = user.groups.contains(&self.parent.gid) && user.gid != self.parent.gid;
        let groups = [self.parent.gid];
        let groups = if is_in { &groups[..] } else { &[] };
        self.guest.caller = user.uid;
        self.guest.group = Some(user.gid);
        let place = (nodeid, name);
        let answer = make_by_guest(self.guest, place, (node, user.umask), groups)?;
        (self.guest.caller, self.guest.group) = (0, None);
        let told = || format!("{:?}, {node:?} by {user:?}", self.parent);
        let entry: EntryOut = answer.value().with_context(told)?;
        let attr = entry.attr;
        let (native, made) = match node {
            Node::Unnamed(_) => {
                let stat = rustix::fs::fstat(&made)?;
                (
                    Seen::without_acls(stat.st_uid, stat.st_gid, stat.st_mode),
                    Seen::without_acls(attr.uid, attr.gid, attr.mode),
                )
            }
            _named => (Seen::at(&ours.join(name))?, Seen::at(&theirs.join(name))?),
        };
        ensure!(native == made, "{}: {native:?} natively, {made:?}", told());
        ensure!(
            (attr.uid, attr.gid, attr.mode) == (native.uid, native.gid, native.mode),
            "{}: the answer has {attr:?}",
            told()
        );
        Ok(true)
    }
}

/// Of a set-gid directory, a device that makes files with all capabilities kept a set-gid bit that the host's
/// kernel takes from a caller that is not in the directory's group.
#[test]
fn what_a_guest_makes_has_owner_group_mode_and_acl_as_natively() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Here)?;
        let shared = format!("--shared-dir={}", scratch.source().display());
        let (_device, mut guest) = booted(&["--posix-acl", &shared], Options::default())?;
        let users = [
            User::new(UID, OWN).in_groups(&[ALSO]),
            User::new(UID, OWN).in_groups(&[ALSO]).with_umask(0o077),
            User::new(UID, ALSO).with_umask(0),
            User::new(0, 0),
        ];
        let (mut made, mut refused) = (0, 0);
        for (at, parent) in parents().into_iter().enumerate() {
            for place in ["native", "guest"] {
                parent.make(&scratch.source().join(format!("{place}{at}")))?;
            }
            let mut compared = Compared {
                guest: &mut guest,
                shared: scratch.source(),
                parent,
                at,
            };
            for (number, user) in users.iter().enumerate() {
                for (of, node) in NODES.iter().enumerate() {
                    match compared.make(user, *node, &format!("n{number}-{of}"))? {
                        true => made += 1,
                        false => refused += 1,
                    }
                }
            }
        }
        eprintln!("{made} made, {refused} refused");
        ensure!(
            made > 2500 && refused > 100,
            "{made} made, {refused} refused"
        );
        Ok(())
    })
}

#[test]
fn extension_that_is_cut_is_einval_and_makes_nothing() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&[], Options::default())?;
        let arg = MkdirIn {
            mode: 0o755,
            umask: 0,
        };
        let whole = groups_extension(&[1, 2, 3]);
        let lies = |at: usize, value: u32| {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            bytes
        };
        let cases = [
            ("half of it", whole[..8].to_vec()),
            ("a size beyond the end", lies(0, 4096)),
            ("a size of nothing", lies(0, 0)),
            ("an unknown type", lies(4, 77)),
            ("more groups than there are", lies(8, 30)),
            ("groups beyond 32 bits of bytes", lies(8, u32::MAX)),
        ];
        for (what, extension) in cases {
            let args = [arg.as_bytes(), b"d\0"];
            let answer = guest.call_extended(Opcode::Mkdir, ROOT, &args, &extension)?;
            ensure!(answer.error == libc::EINVAL, "{what}: {answer:?}");
        }
        ensure!(!device.shared("d").exists());
        let args = [arg.as_bytes(), b"d\0"];
        let answer = guest.call_extended(Opcode::Mkdir, ROOT, &args, &whole)?;
        ensure!(answer.error == 0, "{answer:?}");
        Ok(())
    })
}

/// CREATE of what is there already opens nothing: ESTALE sends the guest's kernel to look again.
#[test]
fn create_of_a_name_that_has_come_to_be_there_is_estale_and_exclusive_eexist() -> Outcome {
    case(|| {
        let (device, mut guest) = booted(&[], Options::default())?;
        std::fs::write(device.shared("f"), "content")?;
        let name = CString::new("f")?;
        for (flags, wanted) in [(0, libc::ESTALE), (libc::O_EXCL, libc::EEXIST)] {
            let arg = CreateIn {
                flags: (libc::O_RDWR | flags).cast_unsigned(),
                mode: libc::S_IFREG | 0o644,
                ..CreateIn::default()
            };
            let args = [arg.as_bytes(), name.as_bytes_with_nul()];
            let answer = guest.call(1, Opcode::Create, ROOT, &args, 144)?;
            ensure!(answer.error == wanted, "{answer:?}");
        }
        ensure!(lookup_in(&mut guest, ROOT, b"f")?.error == 0);
        ensure!(std::fs::read(device.shared("f"))? == b"content");
        Ok(())
    })
}
