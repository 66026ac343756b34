//! What the kernel holds stays usable when its last name is removed, and what it has forgotten pins
//! nothing: no descriptor of the daemon's, no space on SOURCE.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, XattrFlags};
use xtests::support::asked::{ROUNDS, number};
use xtests::support::calls::{open_wronly, refused};
use xtests::support::checks::holds;
use xtests::support::command::succeed;
use xtests::support::threads::in_threads;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, missing, on_backing};

const SOON: Duration = Duration::from_secs(20);

/// How inodes are held: by descriptor, and by handle on file systems that open the handle of an inode
/// without a name (tmpfs) and that do not (ext4).
const WAYS: [(Backing, &str); 3] = [
    (Backing::Here, "--inode-file-handles=never"),
    (Backing::Tmpfs, "--inode-file-handles=prefer"),
    (Backing::Ext4(32), "--inode-file-handles=prefer"),
];

fn in_each_way(options: &[&str], body: impl Fn(&Mount) -> Outcome) -> Outcome {
    WAYS.iter().try_for_each(|(backing, handles)| {
        let options = [options, &[handles]].concat();
        on_backing(*backing, &options, &body)
    })
}

/// The same, with a file that is known all the time: the daemon then has what it needs for a mount.
fn beside_another(options: &[&str], body: impl Fn(&Mount) -> Outcome) -> Outcome {
    in_each_way(options, |m| {
        std::fs::write(m.path("first"), "first")?;
        let _known = hold(&m.path("first"))?;
        body(m)
    })
}

/// A descriptor that is no open file.
fn hold(path: &Path) -> Result<File> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let held = File::options().read(true).custom_flags(flags).open(path);
    held.with_context(|| path.display().to_string())
}

/// The name by which what `held` stands for is opened.
fn link(held: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

/// Where the files of a test are made: in the mount, or on SOURCE before the mount has seen them.
fn made(m: &Mount, on_source: bool, name: &str) -> PathBuf {
    if on_source {
        m.source(name)
    } else {
        m.path(name)
    }
}

/// A way to take a name away.
type Remove = fn(&Mount, &str) -> std::io::Result<()>;

fn unlink(m: &Mount, name: &str) -> std::io::Result<()> {
    std::fs::remove_file(m.path(name))
}

fn rename_a_file_over(m: &Mount, name: &str) -> std::io::Result<()> {
    std::fs::write(m.path("other"), "other")?;
    std::fs::rename(m.path("other"), m.path(name))
}

fn rmdir(m: &Mount, name: &str) -> std::io::Result<()> {
    std::fs::remove_dir(m.path(name))
}

fn rename_a_directory_over(m: &Mount, name: &str) -> std::io::Result<()> {
    std::fs::create_dir(m.path("otherdir"))?;
    std::fs::rename(m.path("otherdir"), m.path(name))
}

fn remove(m: &Mount, name: &str, remove: Remove) -> Outcome {
    remove(m, name).with_context(|| format!("remove {name}"))
}

fn use_file(held: &File) -> Outcome {
    let stat = held.metadata().context("fstat")?;
    ensure!((stat.nlink(), stat.len()) == (0, 7), "{stat:?}");
    let link = link(held);
    ensure!(std::fs::read(&link).context("read")? == b"content");
    let file = open_wronly(&link).context("open to write")?;
    file.write_all_at(b"written", 7)?;
    file.set_len(10)?;
    drop(file);
    ensure!(std::fs::read(&link).context("read again")? == b"contentwri");
    rustix::fs::setxattr(&link, c"user.x", b"value", XattrFlags::empty()).context("setxattr")?;
    let mut value = [0; 9];
    let length = rustix::fs::getxattr(&link, c"user.x", &mut value).context("getxattr")?;
    ensure!(&value[..length] == b"value");
    ensure!(held.metadata()?.len() == 10);
    Ok(())
}

/// What was removed while only an O_PATH descriptor was on it was ESTALE, where inodes are held by handle.
#[test]
fn file_that_is_removed_while_held_can_be_used_as_before() -> Outcome {
    beside_another(&["--xattr"], |m| {
        for on_source in [false, true] {
            for (index, way) in [unlink as Remove, rename_a_file_over].iter().enumerate() {
                let name = format!("f{on_source}{index}");
                std::fs::write(made(m, on_source, &name), "content")?;
                let held = hold(&m.path(&name))?;
                remove(m, &name, *way)?;
                use_file(&held).with_context(|| name)?;
            }
        }
        Ok(())
    })
}

#[test]
fn directory_that_is_removed_while_held_can_be_used_as_before() -> Outcome {
    beside_another(&[], |m| {
        for on_source in [false, true] {
            for (index, way) in [rmdir as Remove, rename_a_directory_over]
                .iter()
                .enumerate()
            {
                let name = format!("d{on_source}{index}");
                std::fs::create_dir(made(m, on_source, &name))?;
                let held = hold(&m.path(&name))?;
                remove(m, &name, *way)?;
                ensure!(held.metadata().context("fstat")?.is_dir());
                let names = std::fs::read_dir(link(&held)).context("opendir")?.count();
                ensure!(names == 0, "{names} names in it");
                let error = std::fs::create_dir(link(&held).join("sub")).unwrap_err();
                ensure!(error.kind() == ErrorKind::NotFound, "mkdir in it: {error}");
            }
        }
        Ok(())
    })
}

#[test]
fn symlink_and_fifo_that_are_removed_while_held_keep_their_attributes() -> Outcome {
    beside_another(&[], |m| {
        symlink("target", m.path("l"))?;
        succeed(Command::new("mkfifo").arg(m.path("p")))?;
        let (link, fifo) = (hold(&m.path("l"))?, hold(&m.path("p"))?);
        let before = fifo.metadata()?.ino();
        remove(m, "l", unlink)?;
        remove(m, "p", unlink)?;
        let target = rustix::fs::readlinkat(&link, c"", Vec::new()).context("readlink")?;
        ensure!(target.as_bytes() == b"target");
        let stat = fifo.metadata().context("fstat of a FIFO")?;
        ensure!((stat.nlink(), stat.ino()) == (0, before));
        Ok(())
    })
}

#[test]
fn current_directory_that_is_removed_can_be_used_as_before() -> Outcome {
    beside_another(&[], |m| {
        std::fs::create_dir(m.path("d"))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", "cd \"$0\" && rmdir \"$0\" && stat -c %F . && ls -a"]);
        let said = succeed(shell.arg(m.path("d")))?;
        ensure!(said == "directory\n", "{said:?}");
        Ok(())
    })
}

#[test]
fn bind_mount_of_a_file_that_is_removed_can_be_used_as_before() -> Outcome {
    beside_another(&["--xattr"], |m| {
        std::fs::write(m.path("f"), "content")?;
        let bound = m.scratch().path().join("bound");
        File::create(&bound)?;
        let mut bind = Command::new("mount");
        succeed(bind.arg("--bind").args([&m.path("f"), &bound]))?;
        let used = remove(m, "f", unlink).and_then(|()| use_file(&hold(&bound)?));
        succeed(Command::new("umount").arg(&bound))?;
        used
    })
}

/// Kills it when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_by_itself = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn program_that_is_removed_while_it_runs_can_still_be_read() -> Outcome {
    beside_another(&[], |m| {
        let program = m.path("cat");
        std::fs::copy("/bin/cat", &program)?;
        let mut running = Command::new(&program);
        running.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running(running.spawn()?);
        remove(m, "cat", unlink)?;
        let exe = format!("/proc/{}/exe", running.0.id());
        ensure!(std::fs::read(exe).context("read its file")? == std::fs::read("/bin/cat")?);
        // Pages of it that were dropped are read again.
        let mut stdin = running.0.stdin.take().context("a pipe")?;
        stdin.write_all(b"through")?;
        drop(stdin);
        let said = std::io::read_to_string(running.0.stdout.take().context("a pipe")?)?;
        ensure!(said == "through", "{said:?}");
        Ok(())
    })
}

/// Two names at once: neither is the last when it is looked at.
#[test]
fn file_whose_names_are_removed_at_once_while_held_can_be_used_as_before() -> Outcome {
    beside_another(&["--xattr"], |m| {
        for round in 0..20 {
            let names = ["a", "b"].map(|name| m.path(&format!("{name}{round}")));
            std::fs::write(&names[0], "content")?;
            std::fs::create_dir(m.path(&format!("d{round}")))?;
            let other = m.path(&format!("d{round}/b"));
            std::fs::hard_link(&names[0], &other)?;
            let held = hold(&names[0])?;
            std::thread::scope(|scope| {
                let one = scope.spawn(|| std::fs::remove_file(&names[0]));
                std::fs::remove_file(&other)?;
                one.join().expect("no panic")
            })?;
            use_file(&held)?;
        }
        Ok(())
    })
}

/// Device and inode number of what the daemon has open.
fn open_inodes(m: &Mount) -> Result<BTreeSet<(u64, u64)>> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", m.server_pid()?))?;
    // One that has been closed meanwhile is none.
    Ok(open.flatten().flat_map(|open| inode(open.path())).collect())
}

fn inode(path: impl AsRef<Path>) -> Result<(u64, u64)> {
    let stat = std::fs::metadata(path)?;
    Ok((stat.dev(), stat.ino()))
}

/// Everything that opens something on SOURCE.
fn mixed_load(m: &Mount) -> Outcome {
    for round in 0..30 {
        let (file, dir) = (m.path(&format!("f{round}")), m.path(&format!("d{round}")));
        let open = File::create(&file)?;
        (&open).write_all(&[7; 9000])?;
        open.sync_all()?;
        rustix::fs::flock(&open, rustix::fs::FlockOperation::LockExclusive)?;
        rustix::fs::setxattr(&file, c"user.x", b"value", XattrFlags::empty())?;
        std::fs::create_dir(&dir)?;
        std::fs::copy(&file, dir.join("copy"))?;
        std::fs::hard_link(&file, dir.join("link"))?;
        symlink("copy", dir.join("symlink"))?;
        let (held, held_dir) = (hold(&dir.join("copy"))?, hold(&dir)?);
        std::fs::rename(&file, dir.join("copy"))?;
        std::fs::read_dir(&dir)?.try_for_each(|entry| entry?.metadata().map(drop))?;
        std::fs::remove_dir_all(&dir)?;
        held.metadata()?;
        held_dir.metadata()?;
    }
    Ok(())
}

/// The first regular file that was looked up on a mount stayed open as long as the daemon ran, where inodes
/// are held by handle.
#[test]
fn mixed_load_leaves_no_file_of_the_client_open_in_the_daemon() -> Outcome {
    in_each_way(&["--xattr", "--locks=host", "--durability=dsync"], |m| {
        m.require_mount()?;
        let before = open_inodes(m)?;
        mixed_load(m)?;
        wait_until("all that the load used to be closed", SOON, || {
            let mut now = open_inodes(m)?;
            // SOURCE itself may be open by handle of its mount.
            now.remove(&inode(m.source(""))?);
            Ok(now.is_subset(&before))
        })
    })
}

/// And nothing keeps busy what is mounted below SOURCE, nor pins what was first met there.
#[test]
fn mount_below_source_that_was_used_keeps_no_file_open() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Tmpfs)?;
        let below = scratch.source().join("below");
        std::fs::create_dir(&below)?;
        scratch.mount_tmpfs(&below)?;
        std::fs::write(scratch.path().join("alone"), "alone")?;
        std::fs::write(scratch.source().join("alone"), "covered")?;
        let alone = [scratch.path().join("alone"), scratch.source().join("alone")];
        succeed(Command::new("mount").arg("--bind").args(&alone))?;
        scratch.adopt(&alone[1]);
        let m = Mount::of(scratch, &["--inode-file-handles=prefer"])?;
        m.require_mount()?;
        std::fs::write(m.path("below/first"), vec![7; 1 << 20])?;
        holds(m.path("alone"), b"alone")?;
        let first = inode(m.source("below/first"))?;
        // Held while it is known, of necessity: that mount has no directory.
        let alone = inode(m.source("alone"))?;
        ensure!(open_inodes(&m)?.contains(&alone));
        wait_until("the first file to be closed", SOON, || {
            Ok(!open_inodes(&m)?.contains(&first))
        })?;
        std::fs::remove_file(m.path("below/first"))?;
        wait_until("its space to be free", SOON, || {
            let free = rustix::fs::statvfs(m.source("below"))?;
            Ok(free.f_bfree + 8 > free.f_blocks)
        })?;
        wait_until("the file mounted alone to be forgotten", SOON, || {
            m.drop_caches()?;
            Ok(!open_inodes(&m)?.contains(&alone))
        })?;
        m.unmount()
    })
}

/// Tries of a test that is about a race, unless more are requested.
fn rounds() -> Result<usize> {
    number(ROUNDS, 100)
}

#[derive(Clone, Copy)]
enum Filled {
    ByWrite,
    /// By write(2) and fallocate(2) in turn.
    ByBoth,
}

/// Fills most of SOURCE, removes that and fills it again at once.
fn refill(m: &Mount, by: Filled) -> Outcome {
    let free = rustix::fs::statvfs(m.source(""))?;
    let size = usize::try_from(free.f_bavail * free.f_frsize)? / 10 * 7;
    let content = vec![7; size];
    let mut old = None;
    let mut failures = Vec::new();
    let rounds = rounds()?;
    for round in 0..rounds {
        let new = m.path(&format!("f{round}"));
        let file = File::create(&new)?;
        if let Some(old) = old.replace(new) {
            std::fs::remove_file(old)?;
        }
        let done = match by {
            Filled::ByBoth if round % 2 == 1 => {
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size as u64)
                    .map_err(Into::into)
            }
            Filled::ByBoth | Filled::ByWrite => file.write_all_at(&content, 0),
        };
        if let Err(error) = done {
            failures.push(format!("round {round}: {error}"));
        }
    }
    println!("{} of {rounds} rounds failed", failures.len());
    ensure!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

/// A SOURCE of 4 MiB on tmpfs.
fn small_tmpfs() -> Result<Scratch> {
    let scratch = Scratch::new(Backing::Tmpfs)?;
    let mut mount = Command::new("mount");
    succeed(mount.args(["-o", "remount,size=4m"]).arg(scratch.source()))?;
    Ok(scratch)
}

/// FORGET comes after the answer to UNLINK, and until then the daemon keeps the file.
#[test]
fn write_after_remove_on_a_full_tmpfs_succeeds_as_natively() -> Outcome {
    for handles in ["--inode-file-handles=prefer", "--inode-file-handles=never"] {
        case(|| {
            let m = Mount::of(small_tmpfs()?, &[handles])?.allow(Duration::from_secs(600));
            refill(&m, Filled::ByBoth)?;
            m.unmount()
        })?;
    }
    Ok(())
}

/// An ext4 that frees blocks at once: with a journal a native write(2) can find none either until that is
/// committed.
fn small_ext4() -> Result<Scratch> {
    let scratch = Scratch::new(Backing::Here)?;
    let image = scratch.path().join("small");
    File::create(&image)?.set_len(8 << 20)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-O", "^has_journal"]).arg(&image);
    succeed(&mut mkfs).map_err(|error| missing(format!("{error:#}")))?;
    let mut mount = Command::new("mount");
    mount.args(["-o", "loop"]).arg(&image).arg(scratch.source());
    succeed(&mut mount).map_err(|error| missing(format!("{error:#}")))?;
    scratch.adopt(&scratch.source());
    Ok(scratch)
}

#[test]
fn write_after_remove_on_a_full_ext4_succeeds_as_natively() -> Outcome {
    case(|| {
        let options = ["--inode-file-handles=prefer"];
        let m = Mount::of(small_ext4()?, &options)?.allow(Duration::from_secs(600));
        // fallocate(2) of ext4 finds no space in 1 of 100 rounds on a busy machine, natively too.
        refill(&m, Filled::ByWrite)?;
        m.unmount()
    })
}

/// A removed file that is still used takes its space, and who finds none is told within reason.
#[test]
fn write_on_a_source_that_is_full_of_a_held_file_is_enospc() -> Outcome {
    case(|| {
        let m = Mount::of(small_tmpfs()?, &["--inode-file-handles=prefer"])?;
        std::fs::write(m.path("held"), vec![7; 3 << 20])?;
        let held = hold(&m.path("held"))?;
        std::fs::remove_file(m.path("held"))?;
        refused(std::fs::write(m.path("f"), vec![7; 3 << 20]), libc::ENOSPC)?;
        holds(link(&held), vec![7; 3 << 20])?;
        drop(held);
        std::fs::write(m.path("f"), vec![7; 3 << 20])?;
        m.unmount()
    })
}

const FEW: [&str; 2] = ["--inode-file-handles=prefer", "--rlimit-nofile=256"];

/// Removed files without a user need no descriptors, however many they are.
#[test]
fn removal_of_many_files_needs_few_descriptors() -> Outcome {
    on_backing(Backing::Tmpfs, &FEW, |m| {
        for dir in 0..4 {
            std::fs::create_dir(m.source(&format!("d{dir}")))?;
            for file in 0..1000 {
                File::create(m.source(&format!("d{dir}/f{file}")))?;
            }
        }
        in_threads(4, |dir| {
            Ok(std::fs::remove_dir_all(m.path(&format!("d{dir}")))?)
        })?;
        let log = m.log();
        ensure!(!log.contains("were removed"), "the log says: {log}");
        Ok(())
    })
}

/// Clients that use more removed files than there are descriptors for can go on removing.
#[test]
fn removal_of_more_held_files_than_descriptors_succeeds() -> Outcome {
    on_backing(Backing::Tmpfs, &FEW, |m| {
        m.require_mount()?;
        let mut held = Vec::new();
        for index in 0..200 {
            let path = m.path(&format!("f{index}"));
            std::fs::write(&path, "content")?;
            held.push(hold(&path)?);
            std::fs::remove_file(&path)?;
        }
        // The first ones are pinned, and there is room for all else.
        for held in &held[..40] {
            ensure!(std::fs::read(link(held)).context("read")? == b"content");
        }
        let log = m.log();
        ensure!(log.contains("were removed"), "the log says: {log}");
        drop(held);
        std::fs::write(m.path("f"), "content")?;
        wait_until("the pins to go", SOON, || Ok(m.daemon_descriptors()? < 60))
    })
}
