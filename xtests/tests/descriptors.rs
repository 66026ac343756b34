//! Memory and descriptors are bounded by configuration, not by the size of the tree.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use xtests::support::calls::refused;
use xtests::support::checks::equal;
use xtests::support::command::succeed;
use xtests::support::mount::NEVER;
use xtests::support::threads::in_threads;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, User, case, on_backing, on_daemon, on_mount};

const SOON: Duration = Duration::from_secs(10);

/// Bytes that a daemon may have in memory without any file known: measured 5 MiB, with 8 session threads
/// that have each served a READ and a WRITE of 1 MiB 24.
const BASE: u64 = 40 << 20;
/// Bytes for each inode known: measured 250.
const PER_INODE: u64 = 400;

/// Descriptors of a daemon that serves a tree of any size: threads, devices, mount descriptors.
const FEW: usize = 200;

fn make(source: &Path, files: usize) -> Result<()> {
    for index in 0..files {
        let dir = source.join(format!("d{}", index / 1000));
        if index % 1000 == 0 {
            std::fs::create_dir(&dir)?;
        }
        File::create(dir.join(format!("f{index}")))?;
    }
    Ok(())
}

fn walk(dir: &Path) -> Result<usize> {
    let mut seen = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let stat = path.symlink_metadata()?;
        ensure!(stat.ino() != 0);
        seen += if stat.is_dir() { walk(&path)? } else { 1 };
    }
    Ok(seen)
}

/// The most that the daemon ever had, with so many files known.
fn check_memory(m: &Mount, files: usize) -> Outcome {
    let (memory, bound) = (m.daemon_peak_memory()?, BASE + PER_INODE * files as u64);
    println!("{files} files: at most {memory} bytes in memory");
    ensure!(
        memory < bound,
        "{memory} bytes in memory for {files} known files, not {bound}"
    );
    Ok(())
}

fn walked(m: &Mount, files: usize) -> Outcome {
    make(&m.source(""), files)?;
    let seen = walk(m.dir())?;
    ensure!(seen == files, "{seen} of {files} files");
    let open = m.daemon_descriptors()?;
    ensure!(open < FEW, "{open} descriptors for {files} known files");
    check_memory(m, files)?;
    // All of them can still be used.
    for index in (0..files).step_by(files / 100) {
        std::fs::write(m.path(&format!("d{}/f{index}", index / 1000)), "x")?;
    }
    Ok(())
}

#[test]
fn walk_of_a_hundred_thousand_files_needs_few_descriptors() -> Outcome {
    case(|| {
        // 20 seconds on a quiet machine; two busy processors have taken more than two minutes.
        let m = Mount::new(Backing::Here, &["--inode-file-handles=prefer"])?
            .allow(Duration::from_secs(900));
        m.require_mount()?;
        walked(&m, 100_000)?;
        m.unmount()
    })
}

/// And the page cache is filled meanwhile, by which the kernel forgets what it likes.
#[test]
#[ignore = "long: cargo test --release -p xtests --test descriptors -- --ignored"]
fn walk_of_a_million_files_and_four_gib_leave_memory_bounded() -> Outcome {
    const FILES: usize = 1_000_000;
    case(|| {
        let options = ["--inode-file-handles=prefer", "--cache=always"];
        let m = Mount::new(Backing::Here, &options)?.allow(Duration::from_secs(3600));
        m.require_mount()?;
        walked(&m, FILES)?;
        println!("{} inodes are known", known_inodes(&m)?);
        much(&m, 4096)?;
        println!("{} inodes are known", known_inodes(&m)?);
        check_memory(&m, FILES)?;
        m.unmount()
    })
}

#[test]
fn create_beyond_the_descriptor_limit_succeeds() -> Outcome {
    on_mount(
        &["--rlimit-nofile=1024", "--inode-file-handles=prefer"],
        |m| {
            for index in 0..3000 {
                std::fs::write(m.path(&format!("f{index}")), "x")?;
            }
            ensure!(walk(m.dir())? == 3000);
            Ok(())
        },
    )
}

/// With handles, since an inode that is known longer than it is open would cost a descriptor else.
#[test]
fn close_of_many_files_closes_them_on_source() -> Outcome {
    on_daemon(&["--inode-file-handles=prefer"], |m| {
        let before = m.daemon_descriptors()?;
        let files: Vec<File> = (0..500)
            .map(|index| File::create(m.path(&format!("f{index}"))))
            .collect::<Result<_, _>>()?;
        ensure!(
            m.daemon_descriptors()? >= before + 500,
            "open files without descriptors"
        );
        drop(files);
        let deadline = Duration::from_secs(5);
        wait_until("the files to be released", deadline, || {
            Ok(m.daemon_descriptors()? <= before + 5)
        })
    })
}

/// Of the daemon's descriptors some are kept back, so that it can answer while others are used up.
#[test]
fn open_beyond_the_daemon_s_descriptors_is_enfile_and_the_rest_is_served() -> Outcome {
    on_daemon(&["--rlimit-nofile=256"], |m| {
        std::fs::write(m.path("f"), "content")?;
        let mut files = Vec::new();
        let error = loop {
            match File::open(m.path("f")) {
                Ok(file) => files.push(file),
                Err(error) => break error,
            }
            ensure!(files.len() < 256, "more files than descriptors");
        };
        ensure!(error.raw_os_error() == Some(libc::ENFILE), "{error}");
        ensure!(files.len() > 150, "only {} files", files.len());
        refused(File::create(m.path("g")), libc::ENFILE)?;
        ensure!(!m.source("g").exists(), "refused, and made nevertheless");
        // All that needs no open file goes on, and close(2) is no error.
        std::fs::rename(m.path("f"), m.path("h"))?;
        ensure!(m.path("h").metadata()?.len() == 7);
        std::fs::create_dir(m.path("d"))?;
        std::fs::remove_dir(m.path("d"))?;
        for file in files.drain(..) {
            nix::unistd::close(file)?;
        }
        wait_until("a descriptor to be free", SOON, || {
            Ok(std::fs::read(m.path("h")).is_ok())
        })
    })
}

/// Pages that a READ or WRITE passes through are the kernel's, not the daemon's.
#[test]
fn reading_and_writing_much_leaves_memory_bounded() -> Outcome {
    on_backing(Backing::Tmpfs, &[NEVER], |m| {
        much(m, 256)?;
        check_memory(m, 0)
    })
}

/// Writes and reads so much, by two programs.
fn much(m: &Mount, mib: usize) -> Outcome {
    m.require_mount()?;
    in_threads(2, |half| {
        let mut block = vec![7; 1 << 20];
        let file = File::create_new(m.path(&format!("f{half}")))?;
        (0..mib / 2).try_for_each(|at| file.write_all_at(&block, (at as u64) << 20))?;
        // So that reading it is READs; all other caches stay.
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        (0..mib / 2).try_for_each(|at| Ok(file.read_exact_at(&mut block, (at as u64) << 20)?))
    })?;
    let sent = m.requests("READ")? as usize;
    ensure!(
        sent >= mib,
        "{sent} READs for {mib} MiB: they came from a cache"
    );
    Ok(())
}

/// What the kernel knows of the tree, as the daemon counts it.
fn known_inodes(m: &Mount) -> Result<usize> {
    let status = m.status()?;
    let inodes = status["inodes"].as_u64();
    Ok(usize::try_from(inodes.context("no inodes in the status")?)?)
}

#[test]
fn walk_beyond_max_inodes_has_the_kernel_forget() -> Outcome {
    on_mount(&["--max-inodes=2000"], |m| {
        m.require_prune()?;
        make(&m.source(""), 20_000)?;
        // In use: it stays, and stays right.
        std::fs::write(m.path("open"), "content")?;
        let open = File::open(m.path("open"))?;
        ensure!(walk(m.dir())? == 20_001);
        wait_until("inodes to be forgotten", SOON, || {
            Ok(known_inodes(m)? <= 2000)
        })?;
        let mut text = [0; 7];
        open.read_exact_at(&mut text, 0)?;
        ensure!(&text == b"content");
        ensure!(walk(m.dir())? == 20_001, "another walk sees something else");
        wait_until("inodes to be forgotten again", SOON, || {
            Ok(known_inodes(m)? <= 2000)
        })
    })
}

/// A descriptor for each inode, and far fewer descriptors than files: without forgetting, the walk would
/// end with ENFILE.
#[test]
fn walk_with_a_descriptor_for_each_inode_goes_beyond_the_limit() -> Outcome {
    on_mount(
        &["--inode-file-handles=never", "--rlimit-nofile=4096"],
        |m| {
            m.require_prune()?;
            make(&m.source(""), 8000)?;
            ensure!(walk(m.dir())? == 8000);
            wait_until("descriptors to be free", SOON, || {
                Ok(m.daemon_descriptors()? < 2500)
            })?;
            std::fs::write(m.path("d0/f0"), "x")?;
            Ok(())
        },
    )
}

/// Opens, or holds by O_PATH, one file after the other until that fails.
fn hold_all(m: &Mount, flags: i32, held: &mut Vec<File>) -> Result<std::io::Error> {
    for index in 0..600 {
        let path = m.path(&format!("d0/f{index}"));
        match File::options().read(true).custom_flags(flags).open(path) {
            Ok(file) => held.push(file),
            Err(error) => return Ok(error),
        }
    }
    bail!("600 files are open with 256 descriptors")
}

#[test]
fn descriptors_that_one_user_uses_up_leave_root_a_share() -> Outcome {
    for handles in ["--inode-file-handles=never", "--inode-file-handles=prefer"] {
        on_daemon(&[handles, "--rlimit-nofile=256"], |m| {
            make(&m.source(""), 600)?;
            let mut held = Vec::new();
            User::new(1000, 1000).act(|| {
                let error = hold_all(m, 0, &mut held)?;
                ensure!(error.raw_os_error() == Some(libc::ENFILE), "{error}");
                if handles.ends_with("never") {
                    let error = hold_all(m, libc::O_PATH, &mut held)?;
                    ensure!(error.raw_os_error() == Some(libc::ENFILE), "{error}");
                }
                Ok(())
            })?;
            ensure!(held.len() > 80, "only {} files", held.len());
            let of_root: Vec<File> = (0..10)
                .map(|_| File::open(m.path("d0/f0")))
                .collect::<std::io::Result<_>>()
                .context("root opens a file")?;
            ensure!(std::fs::read_dir(m.path("d0"))?.count() == 600);
            std::fs::write(m.path("new"), "x")?;
            drop((of_root, held));
            Ok(())
        })?;
    }
    Ok(())
}

/// With a descriptor for each inode there are fewer descriptors than files: the kernel forgets some while others
/// are looked up. On a busy machine, and with one session thread always, that came too late: ENFILE.
fn listing_of_more_files_than_descriptors(threads: &[&str]) -> Outcome {
    let options = ["--inode-file-handles=never", "--rlimit-nofile=256"];
    on_mount(&[&options, threads].concat(), |m| {
        m.require_prune()?;
        make(&m.source(""), 600)?;
        let listed = succeed(Command::new("ls").arg("-l").arg(m.path("d0")))?;
        // And the line with the total.
        ensure!(listed.lines().count() == 601, "{listed}");
        let seen = User::new(1000, 1000).act(|| walk(m.dir()))?;
        ensure!(seen == 600, "{seen} files");
        // More clients than session threads, all of which wait.
        in_threads(12, |_| equal("files", walk(m.dir())?, 600))?;
        for index in 0..300 {
            std::fs::create_dir(m.path(&format!("new{index}")))?;
            std::fs::write(m.path(&format!("new{index}/f")), "x")?;
        }
        Ok(())
    })
}

#[test]
fn listing_of_more_files_than_descriptors_shows_all() -> Outcome {
    listing_of_more_files_than_descriptors(&[])
}

#[test]
fn listing_of_more_files_than_descriptors_with_one_thread_shows_all() -> Outcome {
    listing_of_more_files_than_descriptors(&["--thread-pool-size=1"])
}

/// A table of descriptors that grows under several threads waits for an RCU grace period: find(1) on a new mount of
/// 2,000 files took 0.1 s, nine tenths of which it waited.
#[test]
fn server_has_room_for_many_descriptors_from_the_start() -> Outcome {
    case(|| {
        for sandbox in [
            &["--sandbox=namespace"][..],
            &["--sandbox=none", "--seccomp=none"],
        ] {
            let m = Mount::new(Backing::Here, sandbox)?;
            let path = format!("/proc/{}/status", m.server_pid()?);
            let status = std::fs::read_to_string(path)?;
            let slots = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
            let slots: u64 = slots.context("FDSize")?.trim().parse()?;
            ensure!(slots >= 16_384, "{sandbox:?}: {slots} slots");
            m.unmount()?;
        }
        Ok(())
    })
}
