//! fsx (the crate): random operations on one file, checked against a copy in memory. SOURCE is a
//! tmpfs: one in 25 of the operations is an fsync or as slow, which a disk takes minutes for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::tested_fs::TestedFs;
use super::verdicts::Verdicts;
use crate::support::command::{tail, wait_for_exit};
use crate::support::install;
use crate::support::interrupt::spawn;
use crate::support::mount::{ALLOW_MMAP, Mount};
use crate::support::scratch::{Backing, Scratch};

const VERSION: &str = "0.3.2";

/// Operations of one run; more are several runs, each with a seed and a file of its own. This version
/// keeps every mapping that it reads from, so that a longer run becomes ever slower, and ends at some
/// 400,000 operations, when the kernel gives it no more (vm.max_map_count).
const LONGEST_RUN: u64 = 20_000;

/// Every operation that Linux and FUSE have, mapped ones as often as plain ones. None of no bytes: this
/// version then computes the last byte of a posix_fallocate that has none, and ends.
const CONFIG: &str = "\
[opsize]
min = 1
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 1
punch_hole = 2
sendfile = 2
posix_fadvise = 2
copy_file_range = 2
";

/// The cache modes beside the default one, which runs as `fsx`.
const MODES: [&str; 3] = ["never", "always", "metadata"];

/// Makes sure of the program.
pub(super) fn provide() -> Result<()> {
    files().map(|_| ())
}

/// The program and the file that says that it is there: what it takes to run it where nothing can be
/// installed.
pub fn files() -> Result<[PathBuf; 2]> {
    let program = install::tool("fsx", VERSION)?;
    Ok([program, install::stamp("fsx", VERSION)])
}

/// In every cache mode of thrufs, unless one is asked for; elsewhere once.
pub(super) fn run(place: &TestedFs, options: &Options) -> Result<Verdicts> {
    let options = &options.and_with(ALLOW_MMAP);
    let deadline = deadline(options);
    let once = |options: &Options, seed| {
        place.visit(Backing::Tmpfs, deadline, options, |dir| {
            let outcome = exercise(dir, seed, options);
            Ok(Verdicts::from([("fsx".to_owned(), outcome.into())]))
        })
    };
    if *place != TestedFs::Thrufs || options.says_cache_mode() {
        return once(options, 4);
    }
    // At the same time: each waits for its own daemon most of the time.
    std::thread::scope(|scope| {
        let modes = MODES.map(|mode| {
            let mut options = options.clone();
            options.with.push(format!("--cache={mode}"));
            let seed = u32::try_from(mode.len()).expect("a short word");
            (mode, scope.spawn(move || once(&options, seed)))
        });
        let mut verdicts = once(options, 4)?;
        verdicts.insert("two-mounts".to_owned(), on_two_mounts(options).into());
        for (mode, thread) in modes {
            let of_mode = thread.join().expect("exercise returns its errors")?;
            for (test, verdict) in of_mode {
                verdicts.insert(format!("{test}::{mode}"), verdict);
            }
        }
        Ok(verdicts)
    })
}

/// Four modes share two CPUs.
fn deadline(options: &Options) -> Duration {
    Duration::from_secs(100)
        + Duration::from_millis(6) * u32::try_from(options.operations()).unwrap_or(u32::MAX)
}

/// Operations from `seed` on, on files in `dir`.
pub fn exercise(dir: &Path, seed: u32, options: &Options) -> Result<()> {
    let fsx = install::tool("fsx", VERSION)?;
    let outside = tempfile::tempdir()?;
    let config = outside.path().join("fsx.toml");
    std::fs::write(&config, CONFIG)?;
    let (mut left, mut seed) = (options.operations(), seed);
    while left > 0 {
        let operations = left.min(LONGEST_RUN);
        let mut command = Command::new(&fsx);
        command.arg("-f").arg(&config);
        command.args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"]);
        command.arg(outside.path());
        let file = dir.join(format!("fsx-{seed}"));
        run_once(command.arg(&file), deadline(options))
            .with_context(|| format!("fsx with seed {seed}, {operations} operations"))?;
        // A failed one stays, to be looked at.
        std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
        left -= operations;
        // Further than the seeds of the modes are apart.
        seed += 100;
    }
    Ok(())
}

fn run_once(command: &mut Command, deadline: Duration) -> Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let output = log.reopen()?;
    let mut fsx = spawn(command.stdout(output.try_clone()?).stderr(output))?;
    let status = wait_for_exit(fsx.child(), "fsx", deadline);
    let said = String::from_utf8_lossy(&std::fs::read(log.path())?).into_owned();
    let status = status.with_context(|| tail(&said))?;
    ensure!(status.success(), "{status}\n{}", tail(&said));
    Ok(())
}

/// Two processes on two mounts of the same SOURCE that cache nothing.
fn on_two_mounts(options: &Options) -> Result<()> {
    let limit = deadline(options);
    let mode = ["--cache=never", ALLOW_MMAP];
    let first = Mount::new(Backing::Tmpfs, &mode)?.allow(limit);
    let second = Mount::of(Scratch::sharing(first.source(""))?, &mode)?.allow(limit);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| exercise(second.dir(), 11, options));
        exercise(first.dir(), 10, options)?;
        other.join().expect("exercise returns its errors")
    })?;
    second.unmount()?;
    first.unmount()
}
