//! What only the loop of thrufs's own on /dev/fuse carries (`--transport=device`), compared with SOURCE.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags};
use xtests::support::calls::chmod;
use xtests::support::command::{describe, wait_for_exit};
use xtests::support::threads::in_threads;
use xtests::support::wait::{wait_for, wait_until};
use xtests::support::{Backing, Mount, Outcome, Scratch, User, on_backing, on_daemon, on_mount};

const DEADLINE: Duration = Duration::from_secs(20);
const DEVICE: &str = "--transport=device";

fn statx(path: &Path) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(rustix::fs::statx(CWD, path, flags, mask)?)
}

/// Everything that statx(2) says but for device, mount and attributes, which the kernel does not take from
/// the server (`fuse_do_statx`).
fn fields(stat: &Statx) -> String {
    let mask = stat.stx_mask & (StatxFlags::BASIC_STATS | StatxFlags::BTIME).bits();
    let times = [
        stat.stx_atime,
        stat.stx_btime,
        stat.stx_ctime,
        stat.stx_mtime,
    ];
    let times = times.map(|time| (time.tv_sec, time.tv_nsec));
    format!(
        "mask {mask:#x} mode {:o} nlink {} owner {}:{} ino {} size {} blocks {} of {} rdev {}:{} times {times:?}",
        stat.stx_mode,
        stat.stx_nlink,
        stat.stx_uid,
        stat.stx_gid,
        stat.stx_ino,
        stat.stx_size,
        stat.stx_blocks,
        stat.stx_blksize,
        stat.stx_rdev_major,
        stat.stx_rdev_minor,
    )
}

#[test]
fn statx_of_every_type_equals_the_backing_with_the_time_of_birth() -> Outcome {
    on_mount(&[DEVICE], |m| {
        std::fs::write(m.path("file"), vec![1; 10_000])?;
        std::fs::create_dir(m.path("dir"))?;
        std::os::unix::fs::symlink("target", m.path("link"))?;
        let mode = Mode::from_raw_mode(0o640);
        for (name, kind, dev) in [
            ("fifo", rustix::fs::FileType::Fifo, 0),
            ("socket", rustix::fs::FileType::Socket, 0),
            (
                "char",
                rustix::fs::FileType::CharacterDevice,
                rustix::fs::makedev(1, 300),
            ),
            (
                "block",
                rustix::fs::FileType::BlockDevice,
                rustix::fs::makedev(7, 70_000),
            ),
        ] {
            rustix::fs::mknodat(CWD, m.path(name), kind, mode, dev)?;
        }
        for name in ["file", "dir", "link", "fifo", "socket", "char", "block"] {
            let (shown, real) = (statx(&m.path(name))?, statx(&m.source(name))?);
            ensure!(
                real.stx_mask & StatxFlags::BTIME.bits() != 0,
                "SOURCE has no times of birth"
            );
            let (shown, real) = (fields(&shown), fields(&real));
            ensure!(shown == real, "{name}: {shown}\non SOURCE {real}");
        }
        Ok(())
    })
}

/// By an open file whose name is gone.
#[test]
fn statx_of_an_unlinked_open_file_has_its_time_of_birth() -> Outcome {
    on_mount(&[DEVICE], |m| {
        let file = File::create_new(m.path("file"))?;
        let before = statx(&m.path("file"))?;
        std::fs::remove_file(m.path("file"))?;
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let after = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, mask)?;
        let born = |stat: &Statx| (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
        ensure!(born(&before) == born(&after) && after.stx_nlink == 0);
        Ok(())
    })
}

/// Each took 2 GiB, as the answer to COPY_FILE_RANGE has 32 bits.
#[test]
fn copy_file_range_of_8_gib_that_source_shares_is_one_request() -> Outcome {
    const SIZE: usize = 8 << 30;
    on_backing(Backing::Btrfs(256), &[DEVICE], |m| {
        m.require_mount()?;
        let from = File::create_new(m.source("from"))?;
        from.set_len(SIZE as u64)?;
        // The first bytes and the last.
        from.write_all_at(b"first", 0)?;
        from.write_all_at(b"last", SIZE as u64 - 4)?;
        from.sync_all()?;
        let (from, to) = (File::open(m.path("from"))?, File::create_new(m.path("to"))?);
        let (mut offset_from, mut offset_to, mut calls) = (0, 0, 0);
        while offset_to < SIZE as u64 {
            let left = SIZE - usize::try_from(offset_to)?;
            let (from, to) = ((&from, &mut offset_from), (&to, &mut offset_to));
            let copied = rustix::fs::copy_file_range(from.0, Some(from.1), to.0, Some(to.1), left)?;
            ensure!(copied > 0, "nothing copied at {offset_to}");
            calls += 1;
        }
        let requests = m.requests("COPY_FILE_RANGE")?;
        ensure!(
            (calls, requests) == (1, 1),
            "{calls} calls, {requests} requests"
        );
        let copy = File::open(m.source("to"))?;
        let mut bytes = [0; 5];
        copy.read_exact_at(&mut bytes, 0)?;
        ensure!(&bytes == b"first" && copy.metadata()?.len() == SIZE as u64);
        copy.read_exact_at(&mut bytes[..4], SIZE as u64 - 4)?;
        ensure!(&bytes[..4] == b"last");
        ensure!(copy.metadata()?.blocks() < 1024, "not shared, nor sparse");
        Ok(())
    })
}

fn open_without_a_name(dir: &Path, exclusive: OFlags, mode: u32) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | exclusive;
    let file = rustix::fs::open(dir, flags, Mode::from_raw_mode(mode));
    Ok(file.context("open(2) with O_TMPFILE")?.into())
}

fn link(file: &File, to: &Path) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let name = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::linkat(CWD, name, CWD, to, AtFlags::SYMLINK_FOLLOW)
}

#[test]
fn tmpfile_is_written_read_and_linked_as_natively() -> Outcome {
    for held in ["never", "prefer"] {
        let held = format!("--inode-file-handles={held}");
        on_mount(&[DEVICE, &held], |m| {
            let mut file = open_without_a_name(m.dir(), OFlags::empty(), 0o640)?;
            ensure!(file.metadata()?.nlink() == 0);
            file.write_all(b"no name yet")?;
            ensure!(std::fs::read_dir(m.dir())?.count() == 0);
            link(&file, &m.path("named"))?;
            ensure!(file.metadata()?.nlink() == 1);
            ensure!(std::fs::read(m.source("named"))? == b"no name yet");
            let mut again = String::new();
            file.rewind()?;
            file.read_to_string(&mut again)?;
            ensure!(again == "no name yet");
            ensure!(File::open(m.path("named"))?.metadata()?.ino() == file.metadata()?.ino());
            let exclusive = open_without_a_name(m.dir(), OFlags::EXCL, 0o600)?;
            let refused = link(&exclusive, &m.path("never"));
            ensure!(refused == Err(rustix::io::Errno::NOENT), "{refused:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Owner, group and mode of files without a name, over directories, callers, modes and umasks: as natively.
#[test]
fn tmpfile_by_any_user_in_any_directory_belongs_to_whom_it_does_natively() -> Outcome {
    on_mount(&[DEVICE], |m| {
        let callers = || {
            [
                User::new(0, 0),
                User::new(4001, 5001),
                User::new(4001, 4001).in_groups(&[5001]),
                User::new(4002, 4002).with_umask(0o077),
            ]
        };
        for (dir, mode) in [("plain", 0o777), ("set-gid", 0o2777), ("sticky", 0o3777)] {
            for root in [m.dir(), &m.source("")] {
                // Each on its own side, since the owner of a directory does not depend on it.
                let path = root.join(dir);
                if !path.exists() {
                    std::fs::create_dir(&path)?;
                    chown(&path, Some(4001), Some(5001))?;
                    chmod(&path, mode)?;
                }
            }
            for caller in callers() {
                for mode in [0o640, 0o666, 0o2770, 0o6777] {
                    let made = |path: &Path| {
                        let file =
                            caller.act(|| open_without_a_name(path, OFlags::empty(), mode))?;
                        let stat = file.metadata()?;
                        Ok::<_, anyhow::Error>((stat.mode(), stat.uid(), stat.gid()))
                    };
                    let (shown, real) = (made(&m.path(dir))?, made(&m.source(dir))?);
                    ensure!(
                        shown == real,
                        "{dir}, {caller:?}, {mode:o}: {shown:?}, natively {real:?}"
                    );
                }
            }
        }
        Ok(())
    })
}

/// A file without a name that its last handle lets go takes nothing with it, and leaves nothing.
#[test]
fn tmpfile_that_is_closed_frees_its_inode() -> Outcome {
    on_backing(Backing::Tmpfs, &[DEVICE], |m| {
        let inodes = || rustix::fs::statvfs(m.source("")).map(|stat| stat.f_ffree);
        let before = inodes()?;
        for _ in 0..100 {
            let mut file = open_without_a_name(m.dir(), OFlags::empty(), 0o600)?;
            file.write_all(&[1; 4096])?;
        }
        wait_for("the inodes to be free again", DEADLINE, || {
            Ok((inodes()? >= before).then_some(()))
        })
    })
}

/// Runs `program` on a mount whose SOURCE has stopped to answer, and kills it.
fn interrupted(m: &Mount, program: &mut Command) -> Outcome {
    let before = m.waiting()?;
    let mut child = program.stdout(Stdio::null()).spawn()?;
    wait_until("its request to be read", DEADLINE, || {
        Ok(m.waiting()? > before)
    })?;
    kill(pid_of(&child), Signal::SIGTERM)?;
    let ended = wait_for_exit(&mut child, &describe(program), DEADLINE)?;
    ensure!(ended.signal() == Some(libc::SIGTERM), "{ended:?}");
    Ok(())
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// What waited for a SOURCE that hangs, say on a server that is gone, could not be killed.
#[test]
fn request_of_a_killed_caller_ends_while_source_hangs_and_leaves_nothing() -> Outcome {
    on_daemon(&["--cache=never"], |lower| {
        std::fs::create_dir(lower.path("dir"))?;
        std::fs::write(lower.path("dir/file"), "content")?;
        let scratch = Scratch::sharing(lower.dir().to_owned())?;
        let upper = Mount::of(scratch, &[DEVICE, "--cache=never", "--thread-pool-size=16"])?;
        let open = File::open(upper.path("dir/file"))?;
        let count = || -> Result<_> {
            let status = upper.status()?;
            Ok((status["inodes"].as_u64(), status["handles"].as_u64()))
        };
        upper.drop_caches()?;
        let before = count()?;
        lower.while_stopped(|| {
            let path = |name: &str| upper.path(name);
            interrupted(&upper, Command::new("stat").arg(path("absent")))?;
            interrupted(&upper, Command::new("cat").arg(path("dir/file")))?;
            interrupted(&upper, Command::new("ls").arg(path("dir")))?;
            interrupted(&upper, Command::new("cat").stdin(open.try_clone()?))?;
            Ok(())
        })?;
        ensure!(std::fs::read(upper.path("dir/file"))? == b"content");
        upper.drop_caches()?;
        wait_until("what was given out to be taken back", DEADLINE, || {
            Ok(count()? == before)
        })?;
        drop(open);
        upper.unmount()
    })
}

/// While they wait for SOURCE, for a lock, or for nothing; the moments are the same in each run.
#[test]
fn callers_killed_at_any_moment_a_thousand_times_leave_nothing() -> Outcome {
    const EACH: u64 = 250;
    let options = [
        DEVICE,
        "--cache=never",
        "--locks=host",
        "--fault=read:delay=3",
    ];
    on_daemon(&options, |m| {
        std::fs::create_dir(m.path("dir"))?;
        for name in ["dir/file", "dir/locked"] {
            std::fs::write(m.path(name), "content")?;
        }
        let held = File::open(m.path("dir/locked"))?;
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive)?;
        let programs: [(&str, &[&str], &str); 4] = [
            ("cat", &[], "dir/file"),
            ("ls", &["-l"], "dir"),
            ("stat", &[], "absent"),
            ("flock", &["--shared", "--verbose"], "dir/locked"),
        ];
        in_threads(programs.len(), |index| {
            let (name, options, path) = programs[index];
            for round in 0..EACH {
                let mut program = Command::new(name);
                program.args(options).arg(m.path(path));
                if name == "flock" {
                    program.arg("true");
                }
                let mut child = (program.stdout(Stdio::null()).stderr(Stdio::null())).spawn()?;
                // Up to 8 ms, about as long as each of them takes.
                let moment = (round * 4 + index as u64) * 2_654_435_761 % 8_000;
                std::thread::sleep(Duration::from_micros(moment));
                // It may have ended.
                let _gone = kill(pid_of(&child), Signal::SIGINT);
                wait_for_exit(&mut child, name, DEADLINE)?;
            }
            Ok(())
        })?;
        drop(held);
        let exclusively = File::open(m.path("dir/locked"))?;
        rustix::fs::flock(
            &exclusively,
            rustix::fs::FlockOperation::NonBlockingLockExclusive,
        )?;
        drop(exclusively);
        m.drop_caches()?;
        wait_until("what was given out to be taken back", DEADLINE, || {
            let status = m.status()?;
            let left = (status["inodes"].as_u64(), status["handles"].as_u64());
            Ok(left == (Some(1), Some(0)) && m.waiting()? == 0)
        })
    })
}

/// Natively a signal that has a handler does not end a wait for a disk.
#[test]
fn read_of_a_caller_with_a_handled_signal_runs_to_its_end() -> Outcome {
    on_daemon(&[DEVICE, "--fault=read:nth=1:delay=1000"], |m| {
        std::fs::write(m.source("file"), "content")?;
        let script = format!(
            "trap 'echo handled' USR1; read -r line <'{}' || :; echo $line",
            m.path("file").display()
        );
        let child = Command::new("bash")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()?;
        wait_until("READ to be under way", DEADLINE, || Ok(m.waiting()? > 0))?;
        kill(pid_of(&child), Signal::SIGUSR1)?;
        let said = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&said.stdout);
        ensure!(
            said.contains("content") && said.contains("handled"),
            "{said:?}"
        );
        Ok(())
    })
}

/// A mount that was hardly used has one thread; a request that waits for SOURCE makes another one read.
#[test]
fn status_counts_the_threads_that_read() -> Outcome {
    on_daemon(&[DEVICE, "--fault=read:delay=300"], |m| {
        let names = ["a", "b", "c", "d"];
        for name in names {
            std::fs::write(m.source(name), "content")?;
        }
        let readers = || Ok::<_, anyhow::Error>(m.status()?["readers"].clone());
        let before = readers()?;
        ensure!(before["threads"].as_u64() >= Some(1), "{before}");
        std::thread::scope(|scope| {
            // Of one file one READ would do for all.
            let reads = names.map(|name| scope.spawn(move || std::fs::read(m.path(name))));
            reads.into_iter().all(|read| read.join().is_ok())
        });
        let after = readers()?;
        ensure!(
            after["threads"].as_u64() > before["threads"].as_u64(),
            "{before} {after}"
        );
        ensure!(
            after["started"].as_u64() > before["started"].as_u64(),
            "{before} {after}"
        );
        Ok(())
    })
}
