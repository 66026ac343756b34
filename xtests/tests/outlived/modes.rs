//! What other options leave to the next server: kernel passthrough its backing ids, `--locks=host` the locks and those
//! who wait for them, READDIRPLUS the lookups of a whole listing.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xtests::support::calls::{map_shared, open_rdwr};
use xtests::support::checks::equal;
use xtests::support::lock_holder::{self, Kind, LockHolder};
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case};

use super::mix::survive;
use super::{
    SOON, SURVIVE, check_nothing_is_left, create_exclusively, deaths, kill_server, mounted,
};

/// Larger than what is read through the daemon.
const LARGE: usize = 1 << 20;
const PAGE: usize = 4096;

/// Files that the kernel passes through, as the status has it.
fn passed_through(m: &Mount) -> Result<u64> {
    let status = m.status()?;
    let files = status["kernel_passthrough"]["files"].as_u64();
    files.context("no files passed through in the status")
}

#[test]
fn file_that_is_passed_through_is_so_after_a_death_and_its_id_ends_with_it() -> Outcome {
    case(|| {
        let m = mounted(Backing::Ext4(64), &["--passthrough=always"])?;
        let file = create_exclusively(&m.path("f"))?;
        file.write_all_at(&vec![0; LARGE], 0)?;
        let removed = create_exclusively(&m.path("removed"))?;
        removed.write_all_at(b"unlinked", 0)?;
        std::fs::remove_file(m.path("removed"))?;
        for death in 1..=3 {
            kill_server(&m)?;
            file.write_all_at(&vec![death; LARGE], 0)?;
            // With another id it could not be opened.
            let again = open_rdwr(m.path("f"))?;
            let mut content = vec![0; LARGE];
            again.read_exact_at(&mut content, 0)?;
            ensure!(content == vec![death; LARGE], "after death {death}");
            let mut content = [0; 8];
            removed.read_exact_at(&mut content, 0)?;
            equal("content", &content, b"unlinked")?;
            equal("files passed through", passed_through(&m)?, 2)?;
            let requests = (m.requests("READ")?, m.requests("WRITE")?);
            equal("READs and WRITEs", requests, (0, 0))?;
        }
        equal("deaths", deaths(&m)?, 3)?;
        drop((file, removed));
        wait_until("the ids to end", SOON, || Ok(passed_through(&m)? == 0))?;
        check_nothing_is_left(&m)?;
        m.unmount()
    })
}

fn modified(meta: &Metadata) -> (i64, i64) {
    (meta.mtime(), meta.mtime_nsec())
}

/// No request tells of a store through the mapping, which outlives the handle: the next server has to know that there
/// may be one, or the kernel would believe the old attributes for a day.
#[test]
fn store_through_a_mapping_of_a_passed_through_file_shows_after_a_death() -> Outcome {
    case(|| {
        let options = ["--passthrough=always", "--cache=always"];
        let m = mounted(Backing::Ext4(64), &options)?;
        let path = m.path("f");
        let file = create_exclusively(&path)?;
        file.set_len(PAGE as u64)?;
        let mapping = map_shared(&file, PAGE)?;
        drop(file);
        kill_server(&m)?;
        let before = modified(&path.metadata()?);
        wait_until("another time", SOON, || {
            mapping.write(0, b"stored")?;
            mapping.sync()?;
            Ok(modified(&m.source("f").metadata()?) != before)
        })?;
        let (here, there) = (path.metadata()?, m.source("f").metadata()?);
        equal("mtime", modified(&here), modified(&there))?;
        drop(mapping);
        m.unmount()
    })
}

#[test]
fn mix_with_files_passed_through_is_right_when_servers_die() -> Outcome {
    case(|| {
        survive(&["--passthrough=always", "--cache=auto"])?;
        survive(&["--passthrough=auto", "--cache=always"])
    })
}

const KINDS: [Kind; 3] = [Kind::Posix, Kind::Ofd, Kind::Flock];
const XTESTS: &str = env!("CARGO_BIN_EXE_xtests");

fn lock(kind: Kind, extra: &[&str], file: &Path) -> Result<LockHolder> {
    LockHolder::start(Path::new(XTESTS), kind, extra, file)
}

fn is_locked(kind: Kind, file: &Path) -> Result<bool> {
    lock_holder::is_locked(Path::new(XTESTS), kind, file)
}

#[test]
fn lock_on_source_and_the_one_who_waits_for_it_outlive_the_server() -> Outcome {
    case(|| {
        let m = mounted(Backing::Here, &["--locks=host"])?;
        let (path, source) = (m.path("f"), m.source("f"));
        File::create(&path)?;
        for kind in KINDS {
            let mut first = lock(kind, &[], &path)?;
            equal("first", first.says()?.as_str(), "locked")?;
            let mut waiter = lock(kind, &["--wait"], &path)?;
            wait_until("the SETLKW", SOON, || Ok(m.waiting()? > 0))?;
            for _death in 0..2 {
                kill_server(&m)?;
                ensure!(is_locked(kind, &path)?, "{kind:?}: not by the mount");
                ensure!(is_locked(kind, &source)?, "{kind:?}: not on SOURCE");
            }
            first.release()?;
            equal("waiter", waiter.says()?.as_str(), "locked")?;
            kill_server(&m)?;
            ensure!(is_locked(kind, &source)?, "{kind:?}: not the waiter's");
            waiter.release()?;
            wait_until("no lock", SOON, || Ok(!is_locked(kind, &source)?))?;
        }
        equal("deaths", deaths(&m)?, 9)?;
        check_nothing_is_left(&m)?;
        m.unmount()
    })
}

#[test]
fn mix_with_locks_on_source_is_right_when_servers_die() -> Outcome {
    case(|| survive(&["--locks=host"]))
}

#[test]
fn mix_with_the_writeback_cache_is_right_when_servers_die() -> Outcome {
    case(|| survive(&["--writeback"]))
}

/// The kernel names no caller but in requests that make something.
#[test]
fn mix_with_idmap_is_right_when_servers_die() -> Outcome {
    case(|| survive(&["--idmap"]))
}

/// The listing comes again: what the dead server had looked up for it is given back, and looked up once.
#[test]
fn death_in_the_middle_of_readdirplus_leaves_no_lookup_behind() -> Outcome {
    const NAMES: usize = 300;
    case(|| {
        for nth in [1, NAMES / 2, NAMES] {
            let scratch = Scratch::new(Backing::Here)?;
            for name in 0..NAMES {
                File::create(scratch.source().join(name.to_string()))?;
            }
            let fault = format!("--fault=lookup:nth={nth}:kill");
            let m = Mount::of(scratch, &[&SURVIVE[..], &[&fault]].concat())?;
            m.require_mount()?;
            let mut found = 0;
            for entry in std::fs::read_dir(m.dir())? {
                ensure!(entry?.metadata()?.is_file());
                found += 1;
            }
            equal("names", found, NAMES)?;
            equal("deaths", deaths(&m)?, 1)?;
            ensure!(m.requests("READDIRPLUS")? > 0, "no READDIRPLUS");
            check_nothing_is_left(&m).with_context(|| fault)?;
            m.unmount()?;
        }
        Ok(())
    })
}
