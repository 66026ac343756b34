//! Kernel passthrough: what goes past the daemon is as on SOURCE itself, and what the daemon does for it.

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use xtests::support::calls::{map_shared, open, open_wronly};
use xtests::support::checks::{equal, holds};
use xtests::support::command::output;
use xtests::support::process::{descriptors, resident, while_stopped};
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, on_backing, on_mount};

/// The longest timeouts that there are.
const PASSED: &[&str] = &["--passthrough=auto", "--cache=always"];
const PAGE: usize = 4096;
/// Larger than what is read through the daemon.
const LARGE: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

/// A number of `kernel_passthrough` in the status.
fn passed(m: &Mount, field: &str) -> Result<u64> {
    let status = m.status()?;
    let number = status["kernel_passthrough"][field].as_u64();
    number.with_context(|| format!("no {field} in the status"))
}

/// OPENs that went through the daemon for a reason with this word.
fn through_daemon(m: &Mount, word: &str) -> Result<u64> {
    let status = m.status()?;
    let reasons = status["kernel_passthrough"]["through_daemon"].as_array();
    let found = reasons.into_iter().flatten().find(|reason| {
        let text = reason["reason"].as_str();
        text.is_some_and(|text| text.contains(word))
    });
    Ok(found
        .and_then(|reason| reason["opens"].as_u64())
        .unwrap_or(0))
}

#[test]
fn server_with_files_passed_through_has_no_sys_admin() -> Outcome {
    on_mount(PASSED, |m| {
        let pid = m.server_pid()?;
        let file = open(&m.path("f"), 0)?;
        file.write_all_at(&[1; LARGE], 0)?;
        ensure!(passed(m, "files")? == 1 && passed(m, "opens")? == 1);
        ensure!(m.requests("WRITE")? == 0, "WRITEs came");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            let held = status.lines().find_map(|line| line.strip_prefix(set));
            let held = u64::from_str_radix(held.context("no capabilities")?.trim(), 16)?;
            ensure!(held & 1 << 21 == 0, "{set} {held:x}");
        }
        Ok(())
    })
}

#[test]
fn open_of_a_small_file_for_reading_goes_through_the_daemon_and_its_pages_stay() -> Outcome {
    on_mount(PASSED, |m| {
        m.require_mount()?;
        std::fs::write(m.source("small"), "small")?;
        std::fs::write(m.source("large"), vec![2; LARGE])?;
        for _ in 0..3 {
            ensure!(std::fs::read(m.path("small"))? == b"small");
            ensure!(std::fs::read(m.path("large"))? == vec![2; LARGE]);
        }
        ensure!(m.requests("READ")? == 1, "{} READs", m.requests("READ")?);
        ensure!(through_daemon(m, "small")? == 3);
        ensure!(passed(m, "opens")? == 3);
        // What is open through the daemon stays so, and a writer with it.
        let mut small = File::open(m.path("small"))?;
        let mut writer = File::options().append(true).open(m.path("small"))?;
        writer.write_all(b"er")?;
        let mut content = String::new();
        small.read_to_string(&mut content)?;
        ensure!(content == "smaller", "{content}");
        ensure!(through_daemon(m, "already")? == 1);
        Ok(())
    })
}

/// Giving a file to the kernel costs about as much as a WRITE.
#[test]
fn open_of_a_small_file_for_writing_is_passed_through_once_it_was_written_much() -> Outcome {
    on_mount(PASSED, |m| {
        m.require_mount()?;
        std::fs::write(m.source("small"), "small")?;
        let write = |name: &str| -> Outcome { Ok(open_wronly(m.path(name))?.write_all(b"other")?) };
        for _ in 0..4 {
            write("small")?;
        }
        equal("opens passed through", passed(m, "opens")?, 0)?;
        write("small")?;
        equal("opens passed through", passed(m, "opens")?, 1)?;
        equal("WRITEs", m.requests("WRITE")?, 4)?;
        std::fs::write(m.path("new"), "new")?;
        equal("opens passed through", passed(m, "opens")?, 2)?;
        holds(m.source("small"), "other")
    })
}

#[test]
fn create_where_new_files_are_small_goes_through_the_daemon_until_a_large_one_is_made() -> Outcome {
    on_mount(PASSED, |m| {
        m.require_mount()?;
        let make = |name: String, size: usize| -> Result<()> {
            Ok(std::fs::write(m.path(&name), vec![1; size])?)
        };
        make("first".into(), LARGE)?;
        ensure!(passed(m, "opens")? == 1);
        for number in 0..200 {
            make(format!("small-{number}"), PAGE)?;
        }
        // RELEASE is sent after close(2) has returned.
        let last = |m: &Mount| -> Result<bool> { Ok(m.requests("RELEASE")? == 201) };
        wait_until("the RELEASEs", SOON, || last(m))?;
        let (small, many) = (
            through_daemon(m, "where new files are small")?,
            passed(m, "opens")?,
        );
        ensure!(
            small > 100 && small + many == 201,
            "{small} small, {many} passed through"
        );
        make("large".into(), LARGE)?;
        wait_until("its RELEASE", SOON, || Ok(m.requests("RELEASE")? == 202))?;
        make("after-it".into(), PAGE)?;
        equal(
            "passed through after a large one",
            passed(m, "opens")?,
            many + 1,
        )?;
        for name in ["small-199", "large"] {
            ensure!(
                std::fs::read(m.source(name))? == std::fs::read(m.path(name))?,
                "{name}"
            );
        }
        Ok(())
    })
}

fn times(meta: &Metadata) -> [(i64, i64); 2] {
    [
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    ]
}

/// Waits until a change gets another timestamp than one before had.
fn let_a_tick_pass(scratch: &Path) -> Result<()> {
    let stamp = || -> Result<_> {
        let file = scratch.join("tick");
        std::fs::write(&file, "")?;
        Ok(times(&file.metadata()?))
    };
    let before = stamp()?;
    wait_until("the clock of files to go on", SOON, || {
        Ok(stamp()? != before)
    })
}

/// A mapping of a file that is passed through is one of the backing file, of which FUSE is told nothing: with
/// `--cache=always` make(1) would not see for a day that a file has changed (xfstests generic/080 and 215).
#[test]
fn store_through_a_mapping_shows_in_mtime_and_ctime_as_on_source() -> Outcome {
    // tmpfs gives a mapped file no new times at all.
    on_backing(Backing::Ext4(30), PASSED, |m| {
        let check = |name: &str, at: &str, before: [(i64, i64); 2]| -> Outcome {
            let (here, there) = (m.path(name).metadata()?, m.source(name).metadata()?);
            ensure!(times(&here) == times(&there), "{at}: not as on SOURCE");
            ensure!(times(&here)[0] > before[0], "{at}: the old mtime");
            ensure!(times(&here)[1] > before[1], "{at}: the old ctime");
            Ok(())
        };
        for created in [false, true] {
            let name = if created { "created" } else { "found" };
            if !created {
                std::fs::write(m.source(name), [1; PAGE])?;
                // The kernel has the attributes from before the OPEN.
                m.path(name).metadata()?;
            }
            let file = open(&m.path(name), 0)?;
            file.set_len(PAGE as u64)?;
            let mapping = map_shared(&file, PAGE)?;
            let mut before = times(&m.path(name).metadata()?);
            for what in ["msync", "fsync"] {
                let_a_tick_pass(m.scratch().path())?;
                mapping.write(0, what.as_bytes())?;
                match what {
                    "msync" => mapping.sync()?,
                    _fsync => file.sync_all()?,
                }
                check(name, what, before)?;
                before = times(&m.path(name).metadata()?);
            }
            // The mapping outlives the last handle.
            drop(file);
            let_a_tick_pass(m.scratch().path())?;
            mapping.write(0, b"closed")?;
            drop(mapping);
            check(name, "munmap after close", before)?;
        }
        Ok(())
    })
}

#[test]
fn write_after_fcntl_clears_o_append_goes_where_it_says() -> Outcome {
    on_mount(PASSED, |m| {
        let path = m.path("f");
        std::fs::write(&path, vec![b'.'; LARGE])?;
        // Beside a handle that is passed through.
        let other = open(&path, 0)?;
        let file = File::options().read(true).append(true).open(&path)?;
        (&file).write_all(b"end")?;
        ensure!(other.metadata()?.len() == LARGE as u64 + 3);
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
        file.write_all_at(b"begin", 0)?;
        let mut begin = [0; 8];
        other.read_exact_at(&mut begin, 0)?;
        ensure!(&begin == b"begin...", "{begin:?}");
        ensure!(other.metadata()?.len() == LARGE as u64 + 3, "it appended");
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
        file.write_all_at(b"more", 0)?;
        ensure!(
            other.metadata()?.len() == LARGE as u64 + 7,
            "it did not append"
        );
        // And on one that was opened without.
        fcntl(&other, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
        other.write_all_at(b"!", 0)?;
        ensure!(file.metadata()?.len() == LARGE as u64 + 8);
        let back = std::fs::read(m.source("f"))?;
        ensure!(back.starts_with(b"begin...") && back.ends_with(b"endmore!"));
        Ok(())
    })
}

/// Each appender is one of two processes, and a third stores to the file's last page: the loss of appended bytes
/// that cached files have (the kernel's writeback clears what is past the size).
#[test]
fn append_beside_a_store_through_a_mapping_loses_nothing() -> Outcome {
    on_mount(PASSED, |m| {
        for round in 0..20 {
            let name = format!("f{round}");
            let mapped = open(&m.path(&name), 0)?;
            mapped.write_all_at(&[1; 16], 0)?;
            let mapping = map_shared(&mapped, PAGE)?;
            let mut appender = File::options().append(true).open(m.path(&name))?;
            for count in 2..=255_u8 {
                appender.write_all(&[count; 16])?;
                mapping.write(0, &[count])?;
                if count % 16 == 0 {
                    mapping.sync()?;
                }
            }
            appender.sync_all()?;
            let back = std::fs::read(m.source(&name))?;
            let right = (1..=255_u8).flat_map(|count| [count; 16]);
            let lost = back.iter().zip(right).skip(1).any(|(a, b)| *a != b);
            ensure!(back.len() == 255 * 16 && !lost, "{name}: bytes are lost");
        }
        Ok(())
    })
}

/// O_DIRECT reaches SOURCE, as without thrufs: the kernel opens the backing file with the client's flags.
#[test]
fn open_with_o_direct_is_as_on_source() -> Outcome {
    on_backing(Backing::Ext4(30), PASSED, |m| {
        let results = |path: &Path| -> Result<[Option<i32>; 2]> {
            std::fs::write(path, vec![3; LARGE])?;
            let file = open(path, libc::O_DIRECT)?;
            let unaligned = file.write_all_at(&[4; 100], 1).err();
            fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
            let read = file.read_exact_at(&mut [0; 100], 3).err();
            Ok([unaligned, read].map(|error| error.and_then(|error| error.raw_os_error())))
        };
        let (here, there) = (results(&m.path("here"))?, results(&m.source("there"))?);
        ensure!(here[0] == there[0], "{here:?} for {there:?}");
        Ok(())
    })
}

/// What is removed frees its space, although the kernel was given the file.
#[test]
fn removed_file_that_was_passed_through_frees_its_space() -> Outcome {
    on_backing(Backing::Tmpfs, PASSED, |m| {
        m.require_mount()?;
        let free = || -> Result<u64> {
            Ok(nix::sys::statvfs::statvfs(m.source("").as_path())?.blocks_free())
        };
        let before = free()?;
        for by_mount in [true, false] {
            std::fs::write(m.path("f"), vec![5; 4 * LARGE])?;
            let path = if by_mount { m.path("f") } else { m.source("f") };
            std::fs::remove_file(path)?;
            wait_until("the space to be free", SOON, || Ok(free()? == before))?;
        }
        // Open while its name goes.
        let file = File::create(m.path("g"))?;
        file.write_all_at(&[6; LARGE], 0)?;
        std::fs::remove_file(m.path("g"))?;
        file.write_all_at(&[7; LARGE], LARGE as u64)?;
        ensure!(file.metadata()?.len() == 2 * LARGE as u64);
        drop(file);
        wait_until("the space to be free", SOON, || Ok(free()? == before))?;
        wait_until("no file to be held", SOON, || Ok(passed(m, "files")? == 0))
    })
}

/// A supervisor that is stopped keeps no open(2) waiting, and is asked again when it goes on.
#[test]
fn open_while_the_supervisor_does_not_answer_goes_through_the_daemon() -> Outcome {
    on_mount(PASSED, |m| {
        let supervisor = m.pid()?;
        std::fs::write(m.path("f"), vec![1; LARGE])?;
        let opens = passed(m, "opens")?;
        let files = while_stopped(supervisor, || {
            let mut files = Vec::new();
            for index in 0..20 {
                let file = open(&m.path(&format!("g{index}")), 0)?;
                file.write_all_at(&[index; LARGE], 0)?;
                files.push(file);
            }
            Ok(files)
        })?;
        ensure!(through_daemon(m, "in time")? == 20);
        ensure!(passed(m, "opens")? == opens);
        for (index, file) in files.iter().enumerate() {
            let mut back = vec![0; LARGE];
            file.read_exact_at(&mut back, 0)?;
            ensure!(back == vec![index as u8; LARGE]);
        }
        drop(files);
        let mut index = 0;
        wait_until("a file to be passed through", SOON, || {
            index += 1;
            // Where new files are small, none is.
            File::create(m.path(&format!("h{index}")))?.set_len(LARGE as u64)?;
            Ok(passed(m, "opens")? > opens)
        })
    })
}

/// The supervisor holds no more of the kernel than of files that are open, and does not grow.
#[test]
fn supervisor_of_many_files_holds_those_that_are_open_and_stays_small() -> Outcome {
    on_mount(PASSED, |m| {
        let supervisor = m.pid()?;
        std::fs::write(m.path("first"), "")?;
        let (fds, before) = (descriptors(supervisor)?, resident(supervisor)?);
        for round in 0..4 {
            // New ones, which are given to the kernel at once where new files are large.
            let names = (0..500).map(|index| m.path(&format!("f{round}-{index}")));
            let files = names.map(File::create).collect::<Result<Vec<_>, _>>()?;
            files
                .iter()
                .try_for_each(|file| file.set_len(LARGE as u64))?;
            ensure!(passed(m, "files")? >= 500, "round {round}");
            ensure!(
                descriptors(supervisor)? == fds,
                "descriptors are left behind"
            );
            drop(files);
        }
        wait_until("no file to be held", SOON, || Ok(passed(m, "files")? == 0))?;
        let grown = resident(supervisor)?.saturating_sub(before);
        ensure!(grown < 4 << 20, "{grown} bytes more");
        Ok(())
    })
}

/// What write(2), fallocate(2) and the like give at a limit, here and on SOURCE: `body` on both.
fn same_as_on_source(m: &Mount, what: &str, body: impl Fn(&Path) -> Result<String>) -> Outcome {
    let (here, there) = (m.path(what), m.source(&format!("{what}.native")));
    let (here, there) = (body(&here)?, body(&there)?);
    ensure!(here == there, "{what}: {here} for {there}");
    Ok(())
}

fn told(result: nix::Result<usize>) -> String {
    format!("{result:?}")
}

#[test]
fn limits_on_a_passed_through_file_are_as_on_source() -> Outcome {
    on_backing(Backing::Ext4(30), PASSED, |m| {
        same_as_on_source(m, "fsize", |path| {
            let script =
                "trap '' XFSZ; ulimit -f 100; exec dd if=/dev/zero of=\"$0\" bs=64k count=10 2>&1";
            let mut shell = Command::new("bash");
            let said = output(shell.args(["-c", script]).arg(path))?;
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            let error = text
                .lines()
                .next()
                .unwrap_or_default()
                .replace(&*path.to_string_lossy(), "");
            Ok(format!(
                "{:?} {error} {}",
                said.status.code(),
                path.metadata()?.len()
            ))
        })?;
        same_as_on_source(m, "o_sync", |path| {
            let file = open(path, libc::O_SYNC)?;
            Ok(told(nix::sys::uio::pwrite(&file, &[1; 3 * PAGE], 100)))
        })?;
        // Last: SOURCE is full.
        same_as_on_source(m, "full", |path| {
            let file = open(path, 0)?;
            let mut at = 0;
            let error = loop {
                match file.write_at(&[6; LARGE], at) {
                    Ok(count) => at += count as u64,
                    Err(error) => break error,
                }
            };
            ensure!(file.metadata()?.len() == at, "a size that was not written");
            drop(file);
            std::fs::remove_file(path)?;
            Ok(format!("{error}"))
        })
    })
}

#[test]
fn calls_on_a_passed_through_file_are_as_on_source() -> Outcome {
    on_backing(Backing::Ext4(30), PASSED, |m| {
        same_as_on_source(m, "fallocate", |path| {
            let file = open(path, 0)?;
            file.write_all_at(&[2; LARGE], 0)?;
            let mut told = String::new();
            let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let calls = [
                (0, LARGE, LARGE),
                (punch, PAGE, 2 * PAGE),
                (libc::FALLOC_FL_ZERO_RANGE, 10, 100),
                (libc::FALLOC_FL_KEEP_SIZE, 4 * LARGE, PAGE),
            ];
            for (mode, offset, len) in calls {
                let flags = nix::fcntl::FallocateFlags::from_bits_retain(mode);
                let done = nix::fcntl::fallocate(&file, flags, offset as i64, len as i64);
                told += &format!("{done:?} {} ", file.metadata()?.len());
            }
            let mut content = Vec::new();
            File::open(path)?.read_to_end(&mut content)?;
            let zeros = content.iter().filter(|byte| **byte == 0).count();
            Ok(format!("{told} {zeros} of {}", content.len()))
        })?;
        same_as_on_source(m, "copy", |path| {
            let from = open(path, 0)?;
            from.write_all_at(&[3; LARGE], 0)?;
            let to = open(&path.with_extension("to"), 0)?;
            let copied = nix::fcntl::copy_file_range(&from, None, &to, None, LARGE / 2);
            let mut content = Vec::new();
            File::open(path.with_extension("to"))?.read_to_end(&mut content)?;
            Ok(format!("{copied:?} {}", content == vec![3; LARGE / 2]))
        })?;
        same_as_on_source(m, "splice", |path| {
            let file = open(path, 0)?;
            let (reader, mut writer) = std::io::pipe()?;
            writer.write_all(&[4; 2 * PAGE])?;
            let flags = nix::fcntl::SpliceFFlags::empty();
            let mut at = 10;
            let in_ = nix::fcntl::splice(&reader, None, &file, Some(&mut at), 2 * PAGE, flags);
            let mut at = 20;
            let out = nix::fcntl::splice(&file, Some(&mut at), &writer, None, PAGE, flags);
            Ok(format!("{in_:?} {out:?} {}", file.metadata()?.len()))
        })?;
        same_as_on_source(m, "seek", |path| {
            let file = open(path, 0)?;
            file.write_all_at(&[5; PAGE], 10 * PAGE as u64)?;
            let hole = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData);
            let end = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekEnd);
            Ok(format!("{hole:?} {end:?}"))
        })
    })
}

#[test]
fn file_that_is_passed_through_shows_what_others_change_at_once() -> Outcome {
    on_mount(PASSED, |m| {
        m.require_mount()?;
        std::fs::write(m.path("f"), vec![1; LARGE])?;
        let file = open(&m.path("f"), 0)?;
        let mapping = map_shared(&file, PAGE)?;
        ensure!(mapping.read(0..1)? == [1]);
        let theirs = open(&m.source("f"), 0)?;
        theirs.write_all_at(&[2; LARGE], 0)?;
        theirs.write_all_at(&[3; PAGE], LARGE as u64)?;
        let mut back = vec![0; LARGE + PAGE];
        file.read_exact_at(&mut back, 0)?;
        ensure!(back[..LARGE] == vec![2; LARGE] && back[LARGE..] == [3; PAGE]);
        ensure!(mapping.read(0..1)? == [2]);
        ensure!(file.metadata()?.len() == (LARGE + PAGE) as u64);
        Ok(())
    })
}

/// Names of a process's threads.
fn threads(pid: nix::unistd::Pid) -> Result<Vec<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    let name = |task: std::io::Result<std::fs::DirEntry>| -> Result<String> {
        Ok(std::fs::read_to_string(task?.path().join("comm"))?
            .trim_end()
            .to_owned())
    };
    tasks.map(name).collect()
}

/// The thread that registers files has the server's capabilities, and CAP_SYS_ADMIN; where the server has those of a
/// user namespace alone, there is none.
#[test]
fn supervisor_s_thread_has_the_server_s_capabilities_and_sys_admin() -> Outcome {
    on_mount(PASSED, |m| {
        let capabilities = |path: String| -> Result<u64> {
            let status = std::fs::read_to_string(path)?;
            let held = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
            Ok(u64::from_str_radix(held.context("CapPrm")?.trim(), 16)?)
        };
        let (supervisor, server) = (m.pid()?, m.server_pid()?);
        let servers = capabilities(format!("/proc/{server}/status"))?;
        let held = || -> Result<Vec<u64>> {
            let mut held = Vec::new();
            for task in std::fs::read_dir(format!("/proc/{supervisor}/task"))? {
                let path = task?.path();
                if std::fs::read_to_string(path.join("comm"))?.trim_end() == "backing-ids" {
                    held.push(capabilities(path.join("status").display().to_string())?);
                }
            }
            Ok(held)
        };
        // A thread begins with all that the supervisor has, and gives it up before it reads a message.
        let what = format!("one thread with {servers:x} and SYS_ADMIN");
        wait_until(&what, SOON, || Ok(held()? == [servers | 1 << 21]))
    })?;
    let maps = ["--uid-map=:0:100000:65536:", "--gid-map=:0:100000:65536:"];
    on_mount(&[PASSED, &maps].concat(), |m| {
        let threads = threads(m.pid()?)?;
        ensure!(!threads.contains(&"backing-ids".to_owned()), "{threads:?}");
        let status = m.status()?;
        let off = status["kernel_passthrough"]["off"].as_str();
        ensure!(
            off.is_some_and(|off| off.contains("user namespace")),
            "{off:?}"
        );
        Ok(())
    })
}

/// A file that was open for reading and writing, and may have been mapped, has attributes that no timeout holds; when
/// it is closed, and no mapping lasts, it becomes a file like any other.
#[test]
fn open_of_a_file_that_was_mapped_asks_for_no_attributes_when_the_mapping_is_gone() -> Outcome {
    on_mount(PASSED, |m| {
        m.require_prune()?;
        let asked = || -> Result<u64> {
            let before = m.requests("GETATTR")?;
            for _ in 0..10 {
                drop(File::open(m.path("f"))?);
            }
            Ok(m.requests("GETATTR")? - before)
        };
        let file = open(&m.path("f"), 0)?;
        file.write_all_at(&[1; LARGE], 0)?;
        let mapping = map_shared(&file, PAGE)?;
        drop(file);
        wait_until("the id to end", SOON, || Ok(passed(m, "files")? == 0))?;
        ensure!(asked()? >= 10, "attributes of a mapped file are cached");
        drop(mapping);
        drop(open(&m.path("f"), 0)?);
        wait_until("the attributes to be cached", SOON, || Ok(asked()? <= 1))
    })
}
