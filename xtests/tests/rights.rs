//! What a caller gets through the mount is what the kernel has checked for that caller, also while
//! the name that it asks for comes and goes under SOURCE or through another mount.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{
    AtFlags, CWD, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fstat, openat,
};
use rustix::io::Errno;
use xtests::support::asked::number;
use xtests::support::calls::{chmod, open_rdwr, open_wronly, refused, truncate};
use xtests::support::checks::{equal, has_mode, holds};
use xtests::support::command::{output, said_on_stderr, succeed};
use xtests::support::wait::wait_until;
use xtests::support::{
    Backing, Mount, Outcome, Scratch, User, case, missing, on_backing, on_mount,
};

const ALICE: u32 = 23_001;
const BOB: u32 = 23_002;
const STAFF: u32 = 23_100;
const LONG_AGO: Timestamps = {
    let then = Timespec {
        tv_sec: 1_000_000,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: then,
        last_modification: then,
    }
};

/// Variable with how many rounds of two tries the racing tests do; their counts are printed
/// (`--nocapture`).
const ROUNDS: &str = "THRUFS_RACE_ROUNDS";

fn rounds() -> Result<u32> {
    number(ROUNDS, 1_000)
}

/// A directory in which every user may make and remove names.
fn open_directory(m: &Mount) -> Result<()> {
    std::fs::create_dir(m.source("d"))?;
    Ok(chmod(m.source("d"), 0o777)?)
}

/// What became of the opener's tries.
#[derive(Debug, Default)]
struct Tally {
    /// Files of BOB's with mode 0600 that ALICE has opened.
    wrong: u64,
    made: u64,
    opened: u64,
    /// Failures that open(2) may not have there, by name of the file and errno.
    unexpected: BTreeMap<(&'static str, i32), u64>,
    refused: u64,
    existed: u64,
}

impl Tally {
    /// ALICE opens or makes `name` in `dir`, and removes the name again, whose ever it is.
    fn one(&mut self, dir: &Path, name: &'static str, flags: OFlags, mode: u32) -> Result<()> {
        let path = dir.join(name);
        let flags = flags | OFlags::CREATE | OFlags::RDWR;
        match openat(CWD, &path, flags, Mode::from_raw_mode(mode)) {
            Ok(file) if fstat(&file)?.st_uid == ALICE => self.made += 1,
            Ok(_bobs) if name == SECRET => self.wrong += 1,
            Ok(_bobs) => self.opened += 1,
            Err(Errno::ACCESS) if name == SECRET => self.refused += 1,
            Err(Errno::EXIST) if flags.contains(OFlags::EXCL) => self.existed += 1,
            Err(errno) => {
                let failed = (name, errno.raw_os_error());
                *self.unexpected.entry(failed).or_default() += 1;
            }
        }
        // After which the kernel does not know the name.
        let _bob_was_faster = std::fs::remove_file(&path);
        Ok(())
    }
}

const SECRET: &str = "secret";
const SHARED: &str = "shared";

/// BOB makes and removes files in `theirs` as fast as he can, while ALICE opens the same names in
/// `ours` with O_CREAT.
fn race(ours: &Path, theirs: &Path, look_first: bool) -> Result<Tally> {
    let (rounds, done) = (rounds()?, AtomicBool::new(false));
    let bob = User::new(BOB, STAFF).with_umask(0);
    let alice = User::new(ALICE, STAFF).with_umask(0);
    let come_and_go = || {
        while !done.load(Ordering::Relaxed) {
            for (name, mode) in [(SECRET, 0o600), (SHARED, 0o666)] {
                let path = theirs.join(name);
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                let _alice_was_faster = openat(CWD, &path, flags, Mode::from_raw_mode(mode));
                let _alice_was_faster = std::fs::remove_file(&path);
            }
        }
        Ok(())
    };
    let open = || {
        let mut tally = Tally::default();
        for round in 0..rounds {
            for name in [SECRET, SHARED] {
                if look_first {
                    let _known_now = ours.join(name).symlink_metadata();
                }
                let exclusive = match round % 4 {
                    0 => OFlags::EXCL,
                    _ => OFlags::empty(),
                };
                let mode = if name == SECRET { 0o600 } else { 0o666 };
                tally.one(ours, name, exclusive, mode)?;
            }
        }
        Ok(tally)
    };
    std::thread::scope(|scope| {
        let bob = scope.spawn(|| bob.act(come_and_go));
        let tally = alice.act(open);
        done.store(true, Ordering::Relaxed);
        bob.join().expect("no panic")?;
        tally
    })
}

/// ALICE never gets what is BOB's alone, and always what she may have.
fn judge(tally: &Tally) -> Outcome {
    eprintln!("{tally:?}");
    equal("files of BOB's opened for ALICE", tally.wrong, 0)?;
    ensure!(tally.unexpected.is_empty(), "{:?}", tally.unexpected);
    Ok(())
}

/// How long they may take on a busy machine.
fn limit() -> Result<Duration> {
    Ok(Duration::from_secs(120) + Duration::from_millis(200) * rounds()?)
}

fn race_with_source(backing: Backing, options: &[&str]) -> Outcome {
    case(|| {
        let m = Mount::new(backing, options)?.allow(limit()?);
        open_directory(&m)?;
        let look_first = options.contains(&"--negative-timeout=10");
        judge(&race(&m.path("d"), &m.source("d"), look_first)?)?;
        m.unmount()
    })
}

/// CREATE of a name that exists by then was answered by opening the file with the daemon's rights,
/// and the kernel checks no mode after CREATE: with `--cache=never`, one in ten tries opened
/// another user's file of mode 0600.
#[test]
fn create_against_a_file_of_another_user_that_comes_and_goes_never_opens_it() -> Outcome {
    race_with_source(Backing::Here, &[])
}

#[test]
fn create_against_a_file_that_comes_and_goes_with_cache_never_never_opens_it() -> Outcome {
    race_with_source(Backing::Here, &["--cache=never"])
}

#[test]
fn create_of_a_name_remembered_as_missing_never_opens_another_users_file() -> Outcome {
    race_with_source(Backing::Here, &["--negative-timeout=10"])
}

#[test]
fn create_against_a_file_made_through_another_mount_never_opens_it() -> Outcome {
    case(|| {
        let ours = Mount::new(Backing::Here, &[])?.allow(limit()?);
        let theirs = Mount::of(Scratch::sharing(ours.source(""))?, &[])?.allow(limit()?);
        open_directory(&ours)?;
        judge(&race(&ours.path("d"), &theirs.path("d"), false)?)?;
        theirs.unmount()?;
        ours.unmount()
    })
}

/// SOURCE is a whole file system, so that its files are held by handle.
#[test]
fn create_against_a_file_held_by_handle_that_comes_and_goes_never_opens_it() -> Outcome {
    race_with_source(Backing::Tmpfs, &[])
}

/// For as long as a test takes, the kernel asks for nothing that it knows.
const REMEMBERING: &[&str] = &[
    "--attr-timeout=600",
    "--entry-timeout=600",
    "--dir-timeout=600",
];

/// A file of this owner and mode.
fn file(path: &Path, owner: u32, mode: u32) -> Result<()> {
    std::fs::write(path, "content")?;
    own(path, owner)?;
    Ok(chmod(path, mode)?)
}

fn own(path: &Path, owner: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(STAFF));
    let done = rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    Ok(done?)
}

/// A sticky directory with ALICE's file `f`, which the kernel of the mount knows; on SOURCE that name
/// is BOB's by now.
fn taken_name(m: &Mount) -> Result<()> {
    let dir = m.source("d");
    std::fs::create_dir(&dir)?;
    chmod(&dir, 0o1777)?;
    file(&dir.join("f"), ALICE, 0o644)?;
    file(&dir.join("mine"), ALICE, 0o644)?;
    ensure!(m.path("d/f").metadata()?.uid() == ALICE);
    file(&dir.join("bobs"), BOB, 0o600)?;
    Ok(std::fs::rename(dir.join("bobs"), dir.join("f"))?)
}

fn alice() -> User {
    User::new(ALICE, STAFF)
}

fn is_bobs(m: &Mount, name: &str) -> Result<bool> {
    Ok(m.source(name).metadata().is_ok_and(|f| f.uid() == BOB))
}

/// The kernel checked the caller by its own file, which had the name before, and the server removed
/// the other's with its own rights.
#[test]
fn unlink_in_a_sticky_directory_of_a_name_that_is_anothers_by_now_is_refused() -> Outcome {
    on_mount(REMEMBERING, |m| {
        taken_name(m)?;
        let removed = alice().act(|| Ok(rustix::fs::unlink(m.path("d/f"))))?;
        ensure!(removed == Err(Errno::PERM), "{removed:?}");
        ensure!(is_bobs(m, "d/f")?);
        alice().act(|| Ok(rustix::fs::unlink(m.path("d/mine"))?))
    })
}

#[test]
fn rename_of_and_over_a_name_that_is_anothers_by_now_in_a_sticky_directory_is_refused() -> Outcome {
    on_mount(REMEMBERING, |m| {
        taken_name(m)?;
        let rename = |from, to| {
            let (from, to) = (m.path(from), m.path(to));
            alice().act(|| Ok(rustix::fs::rename(from, to)))
        };
        ensure!(rename("d/f", "d/g")? == Err(Errno::PERM));
        // Second: Linux 6.18 looks a name up again before it replaces it, and knows then.
        ensure!(rename("d/mine", "d/f")? == Err(Errno::PERM));
        ensure!(is_bobs(m, "d/f")?);
        Ok(rename("d/mine", "d/other")??)
    })
}

/// A user that makes a user namespace has every capability in it, which is none over others' files.
#[test]
fn unlink_of_anothers_name_by_root_of_an_own_user_namespace_is_refused() -> Outcome {
    on_mount(REMEMBERING, |m| {
        taken_name(m)?;
        let as_root = |name: &str| {
            let mut rm = Command::new("setpriv");
            rm.args(["--reuid=23001", "--regid=23100", "--clear-groups"]);
            rm.args(["unshare", "--user", "--map-root-user", "rm", "-f"]);
            output(rm.arg(m.path(name)))
        };
        let made = as_root("d/mine")?;
        if !made.status.success() {
            return Err(missing(format!(
                "user namespaces: {}",
                said_on_stderr(&made)
            )));
        }
        let removed = as_root("d/f")?;
        let said = said_on_stderr(&removed);
        ensure!(said.contains("not permitted"), "{said}");
        ensure!(is_bobs(m, "d/f")?);
        Ok(())
    })
}

/// A command that does `program` as ALICE with CAP_FOWNER and CAP_CHOWN.
fn as_alice_with_capabilities(program: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=23001", "--regid=23100", "--clear-groups"]);
    command.args(["--inh-caps=+fowner,+chown", "--ambient-caps=+fowner,+chown"]);
    command.args(program);
    command
}

#[test]
fn changes_by_a_user_with_the_capability_succeed_on_anothers_file() -> Outcome {
    on_mount(&[], |m| {
        taken_name(m)?;
        for program in [
            &["chmod", "640"][..],
            &["touch", "-d", "2001-01-01"],
            &["chgrp", "23001"],
            &["rm"],
        ] {
            succeed(as_alice_with_capabilities(program).arg(m.path("d/f")))?;
        }
        ensure!(!m.source("d/f").exists());
        Ok(())
    })
}

/// Root of a container that has ALICE as 0 and BOB as 1, as rootless containers do.
#[test]
fn unlink_by_root_of_a_user_namespace_that_has_the_owner_succeeds() -> Outcome {
    on_mount(REMEMBERING, |m| {
        taken_name(m)?;
        let mut holder = Command::new("unshare");
        holder.args(["--user", "cat"]).stdin(Stdio::piped());
        let mut holder = holder.spawn().context("unshare")?;
        let pid = holder.id().to_string();
        let proc = Path::new("/proc").join(&pid);
        let own_namespace = std::fs::read_link("/proc/self/ns/user")?;
        wait_until("the user namespace", Duration::from_secs(20), || {
            Ok(std::fs::read_link(proc.join("ns/user"))? != own_namespace)
        })?;
        std::fs::write(proc.join("uid_map"), "0 23001 2")?;
        std::fs::write(proc.join("gid_map"), "0 23100 1")?;
        let mut rm = Command::new("nsenter");
        rm.args(["--target", &pid, "--user", "--setuid=0", "--setgid=0"]);
        rm.args(["rm", "-f"]);
        let removed = succeed(rm.arg(m.path("d/f")));
        drop(holder.stdin.take());
        holder.wait()?;
        removed?;
        ensure!(!m.source("d/f").exists());
        Ok(())
    })
}

/// The kernel found that ALICE owns the file, by attributes of before; and the server changed it with
/// its own rights. chown(2) by root clears set-uid, and with this ALICE had it set again on a file of
/// root's whose content is hers.
#[test]
fn setattr_by_one_that_was_the_owner_until_now_is_refused() -> Outcome {
    on_backing(Backing::Ext4(32), REMEMBERING, |m| {
        let path = m.path("f");
        file(&m.source("f"), ALICE, 0o644)?;
        let before = m.source("f").metadata()?;
        let open = alice().act(|| Ok(File::open(&path)?))?;
        ensure!(path.metadata()?.uid() == ALICE);
        own(&m.source("f"), BOB)?;
        alice().act(|| {
            let set_uid = Mode::from_raw_mode(0o4755);
            ensure!(rustix::fs::chmod(&path, set_uid) == Err(Errno::PERM));
            ensure!(rustix::fs::fchmod(&open, set_uid) == Err(Errno::PERM));
            let group = rustix::fs::chown(&path, None, Some(Gid::from_raw(STAFF)));
            ensure!(group == Err(Errno::PERM), "chown: {group:?}");
            ensure!(rustix::fs::futimens(&open, &LONG_AGO) == Err(Errno::PERM));
            let flags = rustix::fs::ioctl_setflags(&open, IFlags::NODUMP);
            ensure!(flags == Err(Errno::PERM), "chattr: {flags:?}");
            Ok(())
        })?;
        let after = m.source("f").metadata()?;
        ensure!(before.mode() == after.mode(), "{:o}", after.mode());
        ensure!(before.modified()? == after.modified()?);
        Ok(())
    })
}

#[test]
fn setattr_by_the_owner_succeeds() -> Outcome {
    on_backing(Backing::Ext4(32), &[], |m| {
        let path = m.path("f");
        file(&m.source("f"), ALICE, 0o644)?;
        alice().in_groups(&[STAFF + 1]).act(|| {
            let open = open_rdwr(&path)?;
            rustix::fs::chmod(&path, Mode::from_raw_mode(0o600))?;
            rustix::fs::chown(&path, None, Some(Gid::from_raw(STAFF + 1)))?;
            rustix::fs::futimens(&open, &LONG_AGO)?;
            rustix::fs::ioctl_setflags(&open, IFlags::NODUMP)?;
            Ok(())
        })?;
        let after = m.source("f").metadata()?;
        equal(
            "group and time",
            (after.gid(), after.mtime()),
            (STAFF + 1, 1_000_000),
        )?;
        has_mode(m.source("f"), 0o600)
    })
}

#[test]
fn setxattr_of_an_acl_by_one_that_was_the_owner_until_now_is_refused() -> Outcome {
    let options = [REMEMBERING, &["--posix-acl"]].concat();
    on_mount(&options, |m| {
        file(&m.source("f"), ALICE, 0o600)?;
        let mut setfacl = Command::new("setfacl");
        succeed(setfacl.args(["-m", "u:23003:r"]).arg(m.source("f")))?;
        ensure!(m.path("f").metadata()?.uid() == ALICE);
        const ACL: &str = "system.posix_acl_access";
        let mut acl = [0; 256];
        let len = rustix::fs::getxattr(m.source("f"), ACL, &mut acl[..])?;
        own(&m.source("f"), BOB)?;
        let set = || rustix::fs::setxattr(m.path("f"), ACL, &acl[..len], XattrFlags::empty());
        equal("setxattr", alice().act(|| Ok(set()))?, Err(Errno::PERM))
    })
}

/// ALICE opens BOB's files, and the kernel knows their modes; then they are taken from her on SOURCE.
fn taken_away(m: &Mount) -> Result<()> {
    file(&m.source("f"), BOB, 0o666)?;
    std::fs::create_dir(m.source("dir"))?;
    own(&m.source("dir"), BOB)?;
    alice().act(|| {
        open_rdwr(m.path("f"))?;
        std::fs::read_dir(m.path("dir"))?;
        Ok(())
    })?;
    chmod(m.source("f"), 0o600)?;
    Ok(chmod(m.source("dir"), 0o700)?)
}

/// The kernel checked the mode that it had cached, for a second with `--cache=auto` and for a day with
/// `always`, and the server opened the file.
#[test]
fn open_of_what_has_become_anothers_alone_on_source_is_refused_at_once() -> Outcome {
    on_mount(REMEMBERING, |m| {
        taken_away(m)?;
        alice().act(|| {
            for flags in [OFlags::RDONLY, OFlags::WRONLY | OFlags::TRUNC, OFlags::RDWR] {
                let got = openat(CWD, m.path("f"), flags, Mode::empty()).err();
                ensure!(got == Some(Errno::ACCESS), "{flags:?}: {got:?}");
            }
            Ok(())
        })?;
        holds(m.source("f"), b"content")?;
        open_wronly(m.path("f"))?;
        User::new(BOB, STAFF).act(|| Ok(File::open(m.path("f")).map(drop)?))
    })
}

#[test]
fn truncate_of_what_has_become_anothers_alone_on_source_is_refused_at_once() -> Outcome {
    on_mount(REMEMBERING, |m| {
        taken_away(m)?;
        let done = alice().act(|| Ok(truncate(&m.path("f"), 0)))?;
        refused(done, libc::EACCES)?;
        holds(m.source("f"), b"content")?;
        Ok(truncate(&m.path("f"), 0)?)
    })
}

#[test]
fn opendir_of_what_has_become_anothers_alone_on_source_is_refused_at_once() -> Outcome {
    let options = [REMEMBERING, &["--without=FUSE_NO_OPENDIR_SUPPORT"]].concat();
    on_mount(&options, |m| {
        taken_away(m)?;
        let got = alice().act(|| Ok(std::fs::read_dir(m.path("dir"))))?;
        refused(got, libc::EACCES)?;
        std::fs::read_dir(m.path("dir"))?;
        Ok(())
    })
}

/// With `--cache=always` only READDIR comes, while the kernel has nothing cached.
#[test]
fn listing_of_what_has_become_anothers_alone_on_source_is_refused_at_once() -> Outcome {
    let options = [REMEMBERING, &["--cache=always"]].concat();
    on_mount(&options, |m| {
        taken_away(m)?;
        let list = || Ok(std::fs::read_dir(m.path("dir"))?.collect::<std::io::Result<Vec<_>>>());
        let got = alice().act(|| list().or_else(|refused: std::io::Error| Ok(Err(refused))))?;
        refused(got, libc::EACCES)?;
        Ok(list()?.map(drop)?)
    })
}

/// There is no name for the kernel to look up again.
#[test]
fn open_by_number_of_what_has_become_anothers_alone_on_source_is_refused() -> Outcome {
    on_mount(REMEMBERING, |m| {
        taken_away(m)?;
        let file = openat(CWD, m.path("f"), OFlags::PATH, Mode::empty())?;
        let by_number = format!("/proc/self/fd/{}", file.as_raw_fd());
        let got = alice().act(|| Ok(File::open(&by_number)))?;
        refused(got, libc::EACCES)?;
        File::open(&by_number)?;
        Ok(())
    })
}

/// The kernel is told when it asks again, and until then what the new mode allows is not refused.
#[test]
fn open_of_what_has_another_mode_on_source_succeeds_where_that_allows_it() -> Outcome {
    on_mount(REMEMBERING, |m| {
        let staff = STAFF + 1;
        file(&m.source("f"), BOB, 0o664)?;
        let alice = alice().in_groups(&[staff]);
        let open = || alice.act(|| Ok(File::options().read(true).open(m.path("f")).map(drop)));
        open()??;
        rustix::fs::chown(m.source("f"), None, Some(Gid::from_raw(staff)))?;
        chmod(m.source("f"), 0o640)?;
        open()??;
        own(&m.source("f"), ALICE)?;
        chmod(m.source("f"), 0o400)?;
        open()??;
        own(&m.source("f"), BOB)?;
        chmod(m.source("f"), 0o644)?;
        // By its number there is no name to look up again.
        let path = openat(CWD, m.path("f"), OFlags::PATH, Mode::empty())?;
        let by_number = format!("/proc/self/fd/{}", path.as_raw_fd());
        alice.act(|| Ok(File::open(&by_number).map(drop)?))
    })
}

/// execve(2) opens for reading what the caller may perhaps not read.
#[test]
fn execve_of_what_has_become_unreadable_on_source_succeeds() -> Outcome {
    on_mount(REMEMBERING, |m| {
        std::fs::copy("/bin/true", m.source("f"))?;
        own(&m.source("f"), BOB)?;
        chmod(m.source("f"), 0o755)?;
        let run = || {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid=23001", "--regid=23001", "--clear-groups"]);
            // setpriv itself still has root's capabilities.
            setpriv.args(["sh", "-c", "exec \"$0\""]);
            succeed(setpriv.arg(m.path("f")))
        };
        run()?;
        chmod(m.source("f"), 0o711)?;
        run()?;
        chmod(m.source("f"), 0o700)?;
        ensure!(run().is_err());
        Ok(())
    })
}
