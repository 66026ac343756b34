//! What a caller gets through the mount is what the kernel has checked for that caller, also while
//! the name that it asks for comes and goes under SOURCE or through another mount.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use xtests::support::{Backing, Mount, Outcome, Scratch, User, case};

const ALICE: u32 = 23_001;
const BOB: u32 = 23_002;
const STAFF: u32 = 23_100;

/// Variable with how many rounds of two tries the racing tests do; their counts are printed
/// (`--nocapture`).
const ROUNDS: &str = "THRUFS_RACE_ROUNDS";

fn rounds() -> Result<u32> {
    match std::env::var(ROUNDS) {
        Ok(number) => number.parse().context(ROUNDS),
        Err(_unset) => Ok(1_000),
    }
}

/// A directory in which everybody may make and remove names.
fn open_directory(m: &Mount) -> Result<()> {
    std::fs::create_dir(m.source("d"))?;
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    Ok(std::fs::set_permissions(m.source("d"), everybody)?)
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
                *self
                    .unexpected
                    .entry((name, errno.raw_os_error()))
                    .or_default() += 1;
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
fn judge(m: &Mount, tally: &Tally) -> Outcome {
    let status = m.status()?;
    let opcodes = status["opcodes"].as_array().context("no opcodes")?;
    let create = opcodes.iter().find(|entry| entry["opcode"] == "CREATE");
    let create = create.context("no CREATE")?;
    eprintln!(
        "{tally:?}; {} CREATE, {} failed",
        create["requests"], create["errors"]
    );
    ensure!(
        tally.wrong == 0,
        "{} of BOB's files opened for ALICE",
        tally.wrong
    );
    ensure!(tally.unexpected.is_empty(), "{:?}", tally.unexpected);
    Ok(())
}

/// How long they may take on a busy machine.
fn limit() -> Result<Duration> {
    Ok(Duration::from_secs(120) + Duration::from_millis(20) * rounds()?)
}

fn race_with_source(options: &[&str]) -> Outcome {
    case(|| {
        let m = Mount::new(Backing::Here, options)?.allow(limit()?);
        open_directory(&m)?;
        let look_first = options.contains(&"--negative-timeout=10");
        judge(&m, &race(&m.path("d"), &m.source("d"), look_first)?)?;
        m.unmount()
    })
}

/// CREATE of a name that exists by then was answered by opening the file with the daemon's rights,
/// and the kernel checks no mode after CREATE: with `--cache=never`, one in ten tries opened
/// another user's file of mode 0600.
#[test]
fn create_against_a_file_of_another_user_that_comes_and_goes_never_opens_it() -> Outcome {
    race_with_source(&[])
}

#[test]
fn create_against_a_file_that_comes_and_goes_with_cache_never_never_opens_it() -> Outcome {
    race_with_source(&["--cache=never"])
}

#[test]
fn create_of_a_name_remembered_as_missing_never_opens_another_users_file() -> Outcome {
    race_with_source(&["--negative-timeout=10"])
}

#[test]
fn create_against_a_file_made_through_another_mount_never_opens_it() -> Outcome {
    case(|| {
        let ours = Mount::new(Backing::Here, &[])?.allow(limit()?);
        let theirs = Mount::of(Scratch::sharing(ours.source(""))?, &[])?.allow(limit()?);
        open_directory(&ours)?;
        judge(&ours, &race(&ours.path("d"), &theirs.path("d"), false)?)?;
        theirs.unmount()?;
        ours.unmount()
    })
}
