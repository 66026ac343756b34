//! What the server asks the kernel, and its supervisor, for each request: counted, not timed. Why
//! not fewer is in the table of `crates/fs/src/ops.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use xtests::support::calls::{chmod, open_rdwr, open_wronly, set_times};
use xtests::support::checks::equal;
use xtests::support::command::succeed;
use xtests::support::install::find;
use xtests::support::mount::NEVER;
use xtests::support::syscall_trace::{Served, SyscallTrace};
use xtests::support::{Backing, Mount, Outcome, User, missing, on_backing, on_daemon};

const USER: u32 = 4001;
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const SYMLINK: u32 = 6;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const RENAME: u32 = 12;
const OPEN: u32 = 14;
const RELEASE: u32 = 18;
const CREATE: u32 = 35;
const READDIRPLUS: u32 = 44;
/// In each row.
const FILES: usize = 24;

/// tar sets the times of each, as root owner and mode as well.
const ARCHIVED: usize = 350;

/// A question to the supervisor, by the server.
fn questions(served: &[Served]) -> usize {
    let calls = served.iter().flat_map(|request| &request.calls);
    calls.filter(|call| *call == "sendmsg").count()
}

fn count(served: &[Served], opcode: u32) -> usize {
    served.iter().filter(|one| one.opcode == opcode).count()
}

/// An archive in SOURCE of directories and files with modes, owners and times.
fn archive(m: &Mount, tar: &Path) -> Result<PathBuf> {
    let (tree, archive) = (m.scratch().path().join("tree"), m.source("archive.tar"));
    for index in 0..ARCHIVED {
        let directory = tree.join(format!("d{}", index / 50));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(format!("f{index}")), b"content")?;
    }
    let mut create = Command::new(tar);
    succeed(create.current_dir(tree).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive)
}

/// Unpacks it in the directory `name` of the mount, as `user`, and returns what the server did.
fn unpack(m: &Mount, name: &str, user: Option<&User>) -> Result<Vec<Served>> {
    let tar = find("tar").ok_or_else(|| missing("tar (tar)"))?;
    let archive = archive(m, &tar)?;
    std::fs::create_dir(m.path(name))?;
    let (uid, gid) = (user.map(|user| user.uid), user.map(|user| user.gid));
    chown(m.path(name), uid, gid)?;
    let mut extract = Command::new(tar);
    extract.current_dir("/").arg("-xf").arg(archive).arg("-C");
    extract.arg(m.path(name));
    let trace = SyscallTrace::start(m)?;
    match user {
        Some(user) => user.act(|| succeed(&mut extract))?,
        None => succeed(&mut extract)?,
    };
    trace.requests()
}

/// Each chown(2), chmod(2) and utimes(2) of tar was a question about its groups and capabilities to the
/// supervisor, which took most of its time.
#[test]
fn setattr_of_what_tar_unpacks_asks_nothing_about_the_caller() -> Outcome {
    on_daemon(&[NEVER], |m| {
        for (name, user) in [("root", None), ("user", Some(User::new(USER, USER)))] {
            let served = unpack(m, name, user.as_ref())?;
            let setattrs = count(&served, SETATTR);
            ensure!(setattrs >= ARCHIVED, "{name}: {setattrs} SETATTRs");
            let asked = questions(&served);
            eprintln!("{name}: {asked} questions in {setattrs} SETATTRs");
            equal(name, asked, 0)?;
        }
        // Where the answer decides there is one, which shows that they are counted.
        let file = m.path("set-gid");
        std::fs::write(&file, b"content")?;
        chmod(&file, 0o2640)?;
        let trace = SyscallTrace::start(m)?;
        chown(&file, Some(USER), None)?;
        chown(&file, Some(USER), None)?;
        let asked = questions(&trace.requests()?);
        ensure!(asked > 0, "no question about a set-gid bit");
        Ok(())
    })
}

/// The thread that looks at open files for changes under SOURCE was woken by each OPEN: two context switches for
/// each file that grep(1) reads.
#[test]
fn open_of_one_file_after_the_other_wakes_no_thread_each_time() -> Outcome {
    const OPENS: u64 = 1000;
    on_daemon(&["--cache=auto", NEVER], |m| {
        let server = m.server_pid()?;
        let switches = || -> Result<u64> {
            let tasks = std::fs::read_dir(format!("/proc/{server}/task"))?;
            for task in tasks {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                if status.starts_with("Name:\tthrufs-external\n") {
                    let field = status
                        .lines()
                        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                    return Ok(field.context("no number of switches")?.trim().parse()?);
                }
            }
            anyhow::bail!("process {server} has no such thread")
        };
        std::fs::write(m.source("f"), b"content")?;
        let before = switches()?;
        for _ in 0..OPENS {
            File::open(m.path("f"))?;
        }
        let woken = switches()? - before;
        ensure!(woken < OPENS / 2, "{woken} times for {OPENS} OPENs");
        Ok(())
    })
}

/// One row of the table.
struct Row {
    name: &'static str,
    opcode: u32,
    calls: &'static [&'static str],
    user: Option<u32>,
    /// Before it is traced, for each path below the mount.
    prepare: fn(&Mount, &str) -> Result<()>,
    act: fn(&Path) -> Result<()>,
}

/// A file on SOURCE that belongs to the user.
fn new_file(m: &Mount, name: &str) -> Result<()> {
    std::fs::write(m.source(name), b"content")?;
    Ok(chown(m.source(name), Some(USER), Some(USER))?)
}

/// The same, looked up.
fn known_file(m: &Mount, name: &str) -> Result<()> {
    new_file(m, name)?;
    stat(&m.path(name))
}

fn known_directory(m: &Mount, name: &str) -> Result<()> {
    std::fs::create_dir(m.source(name))?;
    stat(&m.path(name))
}

fn nothing(_: &Mount, _: &str) -> Result<()> {
    Ok(())
}

fn stat(path: &Path) -> Result<()> {
    Ok(std::fs::symlink_metadata(path).map(drop)?)
}

fn stat_of_nothing(path: &Path) -> Result<()> {
    ensure!(!path.try_exists()?, "{} exists", path.display());
    Ok(())
}

/// Asks the server, however fresh the kernel's attributes are.
fn stat_anew(path: &Path) -> Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    Ok(statx(CWD, path, flags, StatxFlags::BASIC_STATS).map(drop)?)
}

fn create(path: &Path) -> Result<()> {
    Ok(File::create_new(path).map(drop)?)
}

fn open(path: &Path) -> Result<()> {
    Ok(File::open(path).map(drop)?)
}

fn make_private(path: &Path) -> Result<()> {
    Ok(chmod(path, 0o600)?)
}

fn unlink(path: &Path) -> Result<()> {
    Ok(std::fs::remove_file(path)?)
}

type Calls = &'static [&'static str];

const fn row(
    name: &'static str,
    opcode: u32,
    calls: Calls,
    prepare: fn(&Mount, &str) -> Result<()>,
    act: fn(&Path) -> Result<()>,
) -> Row {
    Row {
        name,
        opcode,
        calls,
        user: None,
        prepare,
        act,
    }
}

impl Row {
    const fn by_user(mut self) -> Self {
        self.user = Some(USER);
        self
    }
}

/// In the order of the table in `crates/fs/src/ops.rs`.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("LOOKUP of a new inode", LOOKUP, &["openat2", "statx"], new_file, stat),
    row("LOOKUP of a known inode", LOOKUP, &["statx"], known_file, stat),
    row("LOOKUP of nothing", LOOKUP, &["openat2"], nothing, stat_of_nothing),
    row("GETATTR", GETATTR, &["statx"], known_file, stat_anew),
    row("SETATTR of the mode", SETATTR, &["fchmodat", "statx"], known_file, make_private),
    row("SETATTR of the owner", SETATTR, &["statx", "fchownat", "statx"], known_file,
        |path| Ok(chown(path, Some(USER + 1), Some(USER + 1))?)),
    row("SETATTR of the times", SETATTR, &["utimensat", "statx"], known_file,
        |path| Ok(set_times(path, (5, 0), (5, 0))?)),
    row("CREATE", CREATE, &["openat", "openat", "statx"], nothing, create),
    row("OPEN", OPEN, &["openat", "statx"], known_file, open),
    row("RELEASE", RELEASE, &["close"], known_file, open),
    row("MKDIR", MKDIR, &["mkdirat", "openat2", "statx"], nothing,
        |path| Ok(std::fs::create_dir(path)?)),
    row("SYMLINK", SYMLINK, &["symlinkat", "openat2", "statx"], nothing,
        |path| Ok(std::os::unix::fs::symlink("target", path)?)),
    row("UNLINK", UNLINK, &["statx", "unlinkat"], known_file, unlink),
    row("RMDIR", RMDIR, &["statx", "unlinkat"], known_directory,
        |path| Ok(std::fs::remove_dir(path)?)),
    row("RENAME", RENAME, &["statx", "renameat2"], known_file,
        |path| Ok(std::fs::rename(path, path.with_extension("new"))?)),
    row("OPEN by a user", OPEN, &["openat", "statx"], known_file, open).by_user(),
    row("UNLINK by a user", UNLINK, &["statx", "statx", "unlinkat"], known_file, unlink).by_user(),
    row("SETATTR of the mode by a user", SETATTR,
        &["setfsgid", "setfsuid", "capset", "fchmodat", "setfsuid", "setfsgid", "statx"],
        known_file, make_private).by_user(),
    row("CREATE by a user", CREATE,
        &["setfsgid", "setfsuid", "capset", "openat", "setfsuid", "setfsgid", "openat", "statx"],
        nothing, create).by_user(),
];

/// What most requests of this kind called.
fn usual(served: &[Served], opcode: u32) -> Result<Vec<String>> {
    let mut seen: BTreeMap<&[String], usize> = BTreeMap::new();
    for request in served.iter().filter(|request| request.opcode == opcode) {
        *seen.entry(&request.calls).or_default() += 1;
    }
    let all: usize = seen.values().sum();
    let most = seen.iter().max_by_key(|(_, times)| **times);
    let (calls, times) = most.with_context(|| format!("no request with opcode {opcode}"))?;
    ensure!(
        times * 2 > all && all >= FILES / 2,
        "no usual ones: {seen:?}"
    );
    Ok(calls.to_vec())
}

fn measure(m: &Mount, row: &Row, directory: &str) -> Result<Vec<String>> {
    std::fs::create_dir(m.source(directory))?;
    chmod(m.source(directory), 0o777)?;
    let names: Vec<String> = (0..FILES).map(|i| format!("{directory}/f{i}")).collect();
    for name in &names {
        (row.prepare)(m, name)?;
    }
    let act = || names.iter().try_for_each(|name| (row.act)(&m.path(name)));
    let trace = SyscallTrace::start(m)?;
    match row.user {
        Some(uid) => User::new(uid, uid).act(act)?,
        None => act()?,
    }
    usual(&trace.requests()?, row.opcode)
}

/// A thread's first request of a user, and a tick of the clock, cost a call more: so what most cost counts.
#[test]
fn each_operation_makes_the_system_calls_of_its_row_and_no_more() -> Outcome {
    // So that each row's LOOKUPs are of its own names; and held by descriptor: a handle is opened anew when the
    // machine takes longer than a moment from one request to the next.
    let timeouts = ["--entry-timeout=0", "--dir-timeout=1000"];
    let options = [
        "--cache=auto",
        timeouts[0],
        timeouts[1],
        "--inode-file-handles=never",
        NEVER,
    ];
    on_backing(Backing::Tmpfs, &options, |m| {
        m.require_mount()?;
        let mut wrong = Vec::new();
        for (index, row) in ROWS.iter().enumerate() {
            let calls = measure(m, row, &format!("d{index}")).context(row.name)?;
            eprintln!("{}: {}", row.name, calls.join(" "));
            if calls != row.calls {
                wrong.push(format!("{}: {calls:?}, not {:?}", row.name, row.calls));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
}

/// How many calls of this name the READDIRPLUS of a listing made.
fn listing(m: &Mount, directory: &Path) -> Result<BTreeMap<String, usize>> {
    let trace = SyscallTrace::start(m)?;
    for entry in std::fs::read_dir(directory)? {
        // Upon which the kernel goes on with READDIRPLUS.
        let _attributes = entry?.metadata()?;
    }
    let served = trace.requests()?;
    let listings = served
        .into_iter()
        .filter(|request| request.opcode == READDIRPLUS);
    let mut counts = BTreeMap::new();
    for call in listings.flat_map(|request| request.calls) {
        *counts.entry(call).or_default() += 1;
    }
    Ok(counts)
}

#[test]
fn readdirplus_makes_two_system_calls_for_a_new_inode_and_one_for_a_known_one() -> Outcome {
    let options = ["--cache=auto", "--inode-file-handles=never"];
    on_backing(Backing::Tmpfs, &options, |m| {
        m.require_mount()?;
        std::fs::create_dir(m.source("d"))?;
        for index in 0..FILES {
            std::fs::write(m.source(&format!("d/f{index}")), b"content")?;
        }
        for (names, opened) in [("new", FILES), ("known", 0)] {
            let counts = listing(m, &m.path("d"))?;
            eprintln!("{names}: {counts:?}");
            let of = |call: &str| counts.get(call).copied().unwrap_or(0);
            let got = (of("openat2"), of("statx"), of("close"));
            equal(format!("{FILES} {names} names"), got, (opened, FILES, 0))?;
        }
        Ok(())
    })
}

/// To read, to write, and for both: only then may a mapping have changed the file.
const WAYS: [fn(PathBuf) -> std::io::Result<File>; 3] = [File::open, open_wronly, open_rdwr];

/// Counted by the server: FLUSHes of one close(2) each, in the order of [`WAYS`].
fn flushes(m: &Mount) -> Result<[u64; 3]> {
    std::fs::write(m.source("f"), b"content")?;
    let mut counts = [0; 3];
    for (count, open) in counts.iter_mut().zip(WAYS) {
        let before = m.requests("FLUSH")?;
        drop(open(m.path("f"))?);
        *count = m.requests("FLUSH")? - before;
    }
    Ok(counts)
}

#[test]
fn close_of_what_no_mapping_can_have_changed_sends_no_flush() -> Outcome {
    // SOURCE has nothing to tell at close(2) of what the kernel has written itself.
    for (option, expected) in [(NEVER, [0, 0, 1]), ("--passthrough=always", [0, 0, 0])] {
        on_daemon(&["--cache=auto", option], |m| {
            equal(option, flushes(m)?, expected)
        })?;
    }
    Ok(())
}

/// Which drops the caller's POSIX locks on SOURCE.
#[test]
fn close_of_any_file_sends_a_flush_with_locks_on_source() -> Outcome {
    on_daemon(&["--locks=host"], |m| {
        equal("FLUSHes", flushes(m)?, [1, 1, 1])
    })
}
