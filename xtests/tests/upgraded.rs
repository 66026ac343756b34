//! `thrufs upgrade` and `thrufs set`: another server takes a mount over that is in use, without an error and without a
//! wrong byte; and where it does not come up, the former one goes on.

use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use xtests::support::asked::{ROUNDS, number};
use xtests::support::calls::{errno, open_append, open_rdwr};
use xtests::support::checks::{equal, holds};
use xtests::support::command::{output, said};
use xtests::support::load::{Load, create_exclusively, under_load};
use xtests::support::lock_holder::{Kind, LockHolder, is_locked};
use xtests::support::mount::thrufs;
use xtests::support::process::{children, descriptors};
use xtests::support::random::Random;
use xtests::support::surviving::{self, SURVIVE};
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, missing};

/// For what comes, on a machine however busy.
const SOON: Duration = Duration::from_secs(60);
/// For all upgrades of a test.
const LONG: Duration = Duration::from_secs(600);
/// Upgrades of each mount under load, and those in which a server is killed, unless another number is asked for.
const UPGRADES: u64 = 20;
/// Workers of the load.
const WORKERS: usize = 6;

/// With time for hand-overs.
fn mounted(backing: Backing, options: &[&str]) -> Result<Mount> {
    Ok(surviving::mounted(backing, options)?.allow(LONG))
}

/// Runs a subcommand on the mount.
fn ask(m: &Mount, subcommand: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(thrufs()?);
    output(command.arg(subcommand).arg(m.dir()).args(arguments))
}

/// The same, which must succeed. Returns the milliseconds for which requests waited.
fn succeed(m: &Mount, subcommand: &str, arguments: &[&str]) -> Result<u64> {
    let output = ask(m, subcommand, arguments)?;
    let text = said(&output);
    ensure!(output.status.success(), "{subcommand}: {text}\n{}", m.log());
    let waited = text
        .split("waited for ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    Ok(waited.with_context(|| text.clone())?.parse()?)
}

fn count(m: &Mount, field: &str) -> Result<u64> {
    let status = m.status()?;
    let count = status[field].as_u64();
    count.with_context(|| format!("no {field} in the status"))
}

/// The process that starts servers, of which each upgrade has another.
fn zygote(m: &Mount) -> Result<Pid> {
    let pid = i32::try_from(count(m, "server_pid")?)?;
    Pid::from_raw(pid).context("a process id is not 0")
}

fn open_descriptors(m: &Mount) -> Result<usize> {
    descriptors(nix::unistd::Pid::from_raw(zygote(m)?.as_raw_pid()))
}

/// Waits until the kernel holds nothing.
fn wait_for_rest(m: &Mount) -> Outcome {
    wait_until("all to be forgotten", SOON, || {
        m.drop_caches()?;
        Ok((count(m, "handles")?, count(m, "inodes")?) == (0, 1))
    })
    .with_context(|| {
        m.status()
            .map(|status| status.to_string())
            .unwrap_or_default()
    })
}

/// Percentiles that an operator is told.
fn figures(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    match times.last() {
        Some(most) => format!("median {}, p99 {}, max {most}", at(50), at(99)),
        None => "none".to_owned(),
    }
}

#[test]
fn upgrade_under_load_is_noticed_by_no_caller() -> Outcome {
    case(|| {
        for (sandbox, cache) in [
            ("--sandbox=namespace", "--cache=auto"),
            ("--sandbox=none", "--cache=never"),
        ] {
            let m = mounted(Backing::Ext4(256), &["--xattr", sandbox, cache])?;
            wait_for_rest(&m)?;
            let before = open_descriptors(&m)?;
            let wanted = number(ROUNDS, UPGRADES)?;
            let (mut pauses, is_over) = (Vec::new(), AtomicBool::new(false));
            let (rounds, calls) = std::thread::scope(|scope| {
                let caller = scope.spawn(|| calls_until(&m, &is_over));
                let rounds = under_load(m.dir(), WORKERS, |load| {
                    for done in 1..=wanted {
                        load.wait_for(3)?;
                        pauses.push(succeed(&m, "upgrade", &[])?);
                        equal("upgrades", count(&m, "upgrades")?, done)?;
                    }
                    Ok(())
                });
                is_over.store(true, Ordering::Relaxed);
                let calls = caller.join().map_err(|_| anyhow!("the caller panicked"))?;
                Ok::<_, anyhow::Error>((rounds?, calls?))
            })
            .with_context(|| format!("{sandbox} {cache}\n{}", m.log()))?;
            eprintln!(
                "{sandbox} {cache}: {} upgrades, {rounds} checks; ms of pause: {}; us of a call beside it: {}",
                pauses.len(),
                figures(pauses),
                figures(calls)
            );
            equal("deaths", count(&m, "deaths")?, 0)?;
            wait_for_rest(&m)?;
            wait_until("the descriptors to be as before", SOON, || {
                Ok(open_descriptors(&m)? <= before)
            })
            .with_context(|| format!("{} of {before}", open_descriptors(&m).unwrap_or(0)))?;
            m.unmount()?;
        }
        Ok(())
    })
}

/// The microseconds of each of many calls on a mount.
fn calls_until(m: &Mount, is_over: &AtomicBool) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    let file = m.path("called");
    std::fs::write(&file, "content")?;
    while !is_over.load(Ordering::Relaxed) {
        let start = Instant::now();
        holds(&file, "content")?;
        times.push(u64::try_from(start.elapsed().as_micros())?);
    }
    std::fs::remove_file(file)?;
    Ok(times)
}

#[test]
fn upgrade_keeps_an_unlinked_file_a_lock_its_waiter_and_a_read_that_waits() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Here)?;
        std::fs::write(scratch.source().join("slow"), "content")?;
        // Longer than a server that stops is waited for.
        let options = [&SURVIVE[..], &["--fault=read:delay=1500"]].concat();
        let m = Mount::of(scratch, &options)?;
        m.require_mount()?;
        let removed = create_exclusively(&m.path("removed"))?;
        removed.write_all_at(b"before", 0)?;
        std::fs::remove_file(m.path("removed"))?;
        std::fs::write(m.path("locked"), "")?;
        let (holder, waiter) = (open_rdwr(m.path("locked"))?, open_rdwr(m.path("locked"))?);
        rustix::fs::flock(&holder, FlockOperation::LockExclusive)?;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| rustix::fs::flock(&waiter, FlockOperation::LockExclusive));
            let reading = scope.spawn(|| std::fs::read(m.path("slow")));
            wait_until("the READ", SOON, || Ok(m.requests("READ")? > 0))?;
            let pause = succeed(&m, "upgrade", &[])?;
            eprintln!("with a READ that waits: {pause} ms of pause");
            removed.write_all_at(b" and after", 6)?;
            equal("size", removed.metadata()?.len(), 16)?;
            let read = reading
                .join()
                .map_err(|_| anyhow!("the reader panicked"))??;
            equal("content", read.as_slice(), b"content")?;
            let other = open_rdwr(m.path("locked"))?;
            let busy = rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive);
            equal("lock", busy, Err(rustix::io::Errno::WOULDBLOCK))?;
            rustix::fs::flock(&holder, FlockOperation::Unlock)?;
            let locked = waiting.join().map_err(|_| anyhow!("the waiter panicked"))?;
            Ok::<(), anyhow::Error>(locked?)
        })?;
        let mut content = String::new();
        (&removed).read_to_string(&mut content)?;
        equal("content", content.as_str(), "before and after")?;
        drop((removed, holder, waiter));
        wait_for_rest(&m)?;
        equal("deaths", count(&m, "deaths")?, 0)?;
        m.unmount()
    })
}

/// In the kernel, or by a SETLKW that the server keeps waiting (`--locks=host`).
#[test]
fn upgrade_keeps_each_kind_of_lock_and_the_process_that_waits_for_it() -> Outcome {
    case(|| {
        let xtests = Path::new(env!("CARGO_BIN_EXE_xtests"));
        for locks in ["--locks=local", "--locks=host"] {
            let m = mounted(Backing::Here, &[locks])?;
            let path = m.path("f");
            std::fs::write(&path, "")?;
            let number = path.metadata()?.ino();
            for kind in [Kind::Posix, Kind::Ofd, Kind::Flock] {
                let mut first = LockHolder::start(xtests, kind, &[], &path)?;
                equal("first", first.says()?.as_str(), "locked")?;
                let mut waiter = LockHolder::start(xtests, kind, &["--wait"], &path)?;
                wait_until("the one who waits", SOON, || match locks {
                    "--locks=host" => Ok(m.waiting()? > 0),
                    _local => waits_in_the_kernel(number),
                })?;
                for _upgrade in 0..2 {
                    succeed(&m, "upgrade", &[])?;
                    ensure!(is_locked(xtests, kind, &path)?, "{locks} {kind:?}: free");
                }
                first.release()?;
                equal("waiter", waiter.says()?.as_str(), "locked")?;
                ensure!(is_locked(xtests, kind, &path)?, "{locks} {kind:?}: lost");
                waiter.release()?;
                wait_until("no lock", SOON, || Ok(!is_locked(xtests, kind, &path)?))?;
            }
            equal("deaths", count(&m, "deaths")?, 0)?;
            wait_for_rest(&m)?;
            m.unmount()?;
        }
        Ok(())
    })
}

/// Whether a lock of the file with this number is waited for, which the kernel's list has after an arrow.
fn waits_in_the_kernel(number: u64) -> Result<bool> {
    let locks = std::fs::read_to_string("/proc/locks")?;
    let file = format!(":{number} ");
    let mut lines = locks.lines();
    Ok(lines.any(|line| line.contains("->") && line.contains(&file)))
}

/// The ids ended with the server that had asked for them, and each later OPEN of such a file was one whose reads fail.
#[test]
fn upgrade_keeps_a_file_that_is_passed_through() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Ext4(64))?;
        let content = vec![7; 8 << 20];
        std::fs::write(scratch.source().join("large"), &content)?;
        let survive = ["--transport=device", "--survive=always"];
        let m = Mount::of(scratch, &[&survive[..], &["--passthrough=auto"]].concat())?;
        m.require_mount()?;
        let file = open_rdwr(m.path("large"))?;
        let mut head = [0; 4];
        for _upgrade in 0..2 {
            succeed(&m, "upgrade", &[])?;
            file.read_exact_at(&mut head, 0)?;
            equal(
                "content",
                std::fs::read(m.path("large"))?.len(),
                content.len(),
            )?;
        }
        drop(file);
        equal(
            "content",
            std::fs::read(m.path("large"))?.len(),
            content.len(),
        )?;
        m.unmount()
    })
}

/// All that there was to do for each inode was done while requests waited.
#[test]
fn upgrade_with_many_inodes_fetches_them_while_the_former_server_serves() -> Outcome {
    const CHAINS: usize = 30;
    const DEPTH: usize = 100;
    case(|| {
        let m = mounted(Backing::Here, &["--log-level=debug"])?;
        let names: Vec<String> = (0..CHAINS)
            .map(|chain| format!("{chain}{}", "/d".repeat(DEPTH - 1)))
            .collect();
        // The last directory of each chain keeps all above it known, whatever the machine drops.
        let mut held = Vec::new();
        for name in &names {
            std::fs::create_dir_all(m.source(name))?;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            held.push(rustix::fs::open(m.path(name), flags, Mode::empty())?);
        }
        let open = create_exclusively(&m.path("open"))?;
        for upgrade in 1..=2 {
            wait_until("the others to be forgotten", SOON, || {
                // And the root.
                Ok(count(&m, "inodes")? == (CHAINS * DEPTH + 2) as u64)
            })?;
            let pause = succeed(&m, "upgrade", &[])?;
            eprintln!("with {} inodes: {pause} ms of pause", CHAINS * DEPTH);
            let log = m.log();
            let ahead: Vec<usize> = log.lines().filter_map(came_ahead).collect();
            equal("upgrades in the log", ahead.len(), upgrade)?;
            // Of the chains, and the file.
            equal(
                "inodes that came ahead",
                ahead[upgrade - 1],
                CHAINS * DEPTH + 1,
            )?;
            for name in &names {
                let file = m.path(name).join("f");
                std::fs::write(&file, "content")?;
                holds(&file, "content")?;
                std::fs::remove_file(file)?;
            }
        }
        open.write_all_at(b"written", 0)?;
        drop((open, held));
        wait_for_rest(&m)?;
        m.unmount()
    })
}

/// What a line of the log says of that; other lines may quote it.
fn came_ahead(line: &str) -> Option<usize> {
    let mut words = line.split_whitespace().skip(2);
    let is_of_turn = words.next()? == "thrufs::daemon::turn:";
    let number = words.next().filter(|_| is_of_turn)?;
    let said = line.ends_with(" inodes are here while the former server serves");
    number.parse().ok().filter(|_| said)
}

/// A mount that the directory which it serves contains: the server sees through to what it covers.
#[test]
fn upgrade_of_a_mount_below_its_source_serves_on() -> Outcome {
    case(|| {
        let m = mounted(Backing::Here, &[])?;
        std::fs::create_dir_all(m.source("a/b"))?;
        std::fs::write(m.source("a/f"), "content")?;
        let leftover = m.source("a/b");
        let mut inner = Command::new(thrufs()?);
        inner
            .arg("mount")
            .args(SURVIVE)
            .arg(m.source(""))
            .arg(&leftover);
        let started = output(&mut inner)?;
        ensure!(started.status.success(), "{}", said(&started));
        let _unmounted = xtests::support::mount_table::Leftover(leftover.clone());
        let upgraded = output(Command::new(thrufs()?).arg("upgrade").arg(&leftover))?;
        ensure!(upgraded.status.success(), "{}", said(&upgraded));
        holds(leftover.join("a/f"), "content")?;
        equal("entries", std::fs::read_dir(leftover.join("a"))?.count(), 2)?;
        equal(
            "entries",
            std::fs::read_dir(leftover.join("a/b"))?.count(),
            0,
        )?;
        let unmounted = output(Command::new(thrufs()?).arg("umount").arg(&leftover))?;
        ensure!(unmounted.status.success(), "{}", said(&unmounted));
        m.unmount()
    })
}

/// A program in the place of a new version.
fn script(m: &Mount, name: &str, text: &str) -> Result<PathBuf> {
    let path = m.scratch().path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(path)
}

/// The binary under test with `change` made to it, as another build.
fn another_build(m: &Mount, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<PathBuf> {
    let path = m.scratch().path().join(name);
    let mut bytes = std::fs::read(thrufs()?)?;
    change(&mut bytes);
    std::fs::write(&path, bytes)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(path)
}

/// One that has another form of the ledger, and says the same of itself otherwise.
fn of_another_ledger(m: &Mount) -> Result<PathBuf> {
    // `FORM` of crates/fs/src/ledger.rs, where the program has it.
    let form = *b"\x03\0sfurht";
    let mut found = 0;
    let path = another_build(m, "another-ledger", |bytes| {
        for at in 0..bytes.len() - form.len() {
            if bytes[at..].starts_with(&form) {
                bytes[at] = 0x7f;
                found += 1;
            }
        }
    })?;
    match found {
        0 => Err(missing(
            "a program that has the form of the ledger in one word",
        )),
        _some => Ok(path),
    }
}

/// Has it take over, which fails with these words, and checks that the mount goes on with its former server.
fn check_refused(m: &Mount, binary: &Path, wanted: &str) -> Outcome {
    let shown = binary.display();
    let before = (zygote(m)?, count(m, "handles")?);
    let argument = format!("--binary={shown}");
    let refused = ask(m, "upgrade", &[&argument])?;
    let text = said(&refused);
    ensure!(
        !refused.status.success() && text.contains(wanted),
        "{shown}: {text}\n{}",
        m.log()
    );
    holds(m.path("f"), "content")?;
    let after = (zygote(m)?, count(m, "handles")?);
    equal("server and handles", after, before)?;
    equal("upgrades", count(m, "upgrades")?, 0)?;
    equal("deaths", count(m, "deaths")?, 0)
}

#[test]
fn upgrade_to_what_does_not_come_up_leaves_the_former_server() -> Outcome {
    case(|| {
        for sandbox in ["--sandbox=namespace", "--sandbox=none"] {
            let m = mounted(Backing::Here, &[sandbox])?;
            std::fs::write(m.path("f"), "content")?;
            let open: Vec<_> = (0..100)
                .map(|number| create_exclusively(&m.path(&format!("open-{number}"))))
                .collect::<std::io::Result<_>>()?;
            check_refused(&m, Path::new("/bin/false"), "is no thrufs")?;
            check_refused(&m, Path::new("/no/such/binary"), "No such file")?;
            check_refused(&m, m.dir(), "")?;
            let hello = r#"printf '{"Hello":{"form":99,"version":"99.0"}}' >&0; exec cat <&0"#;
            let other = script(&m, "another-version", hello)?;
            check_refused(&m, &other, "99.0")?;
            // Not the inodes come along; and those do, and the open files do not, when the former server has stopped already.
            let thrufs = thrufs()?;
            for limit in [64, 180] {
                let few = format!("ulimit -n {limit}; exec {} \"$@\"", thrufs.display());
                let few = script(&m, "few-descriptors", &few)?;
                check_refused(&m, &few, "descriptors")?;
            }
            check_refused(&m, &of_another_ledger(&m)?, "another version")?;
            succeed(&m, "upgrade", &[])?;
            equal("upgrades", count(&m, "upgrades")?, 1)?;
            for (number, file) in open.iter().enumerate() {
                file.write_all_at(b"x", 0)?;
                equal(
                    "size",
                    m.path(&format!("open-{number}")).metadata()?.len(),
                    1,
                )?;
            }
            drop(open);
            m.unmount()?;
        }
        Ok(())
    })
}

/// Another build, from which the former one takes over again; THRUFS_TEST_OTHER names one that was made elsewhere.
#[test]
fn upgrade_to_another_build_and_back_keeps_what_is_open() -> Outcome {
    case(|| {
        let m = mounted(Backing::Here, &[])?;
        let other = match std::env::var_os("THRUFS_TEST_OTHER") {
            Some(path) => PathBuf::from(path),
            None => another_build(&m, "another-build", |bytes| bytes.extend(b"another"))?,
        };
        let removed = create_exclusively(&m.path("removed"))?;
        std::fs::remove_file(m.path("removed"))?;
        std::fs::write(m.path("f"), "content")?;
        let mut wanted = String::new();
        for (round, binary) in [&other, &thrufs()?, &other].into_iter().enumerate() {
            succeed(&m, "upgrade", &[&format!("--binary={}", binary.display())])?;
            let runs = std::fs::read_link(format!("/proc/{}/exe", zygote(&m)?.as_raw_pid()))?;
            equal("program", &runs, binary)?;
            removed.write_all_at(format!("{round};").as_bytes(), wanted.len() as u64)?;
            wanted += &format!("{round};");
            holds(m.path("f"), "content")?;
            std::fs::rename(m.path("f"), m.path("g"))?;
            std::fs::rename(m.path("g"), m.path("f"))?;
        }
        let mut content = String::new();
        (&removed).read_to_string(&mut content)?;
        equal("content", content, wanted)?;
        drop(removed);
        wait_for_rest(&m)?;
        equal("upgrades", count(&m, "upgrades")?, 3)?;
        m.unmount()
    })
}

/// A server that is killed at any moment of hand-overs, be it the former one or the one that takes over: some fail, and
/// no caller notices either.
#[test]
fn server_killed_while_another_takes_over_is_noticed_by_no_caller() -> Outcome {
    case(|| {
        for sandbox in ["--sandbox=namespace", "--sandbox=none"] {
            let m = mounted(Backing::Ext4(256), &["--xattr", sandbox])?;
            let (mut done, wanted) = (0, number(ROUNDS, UPGRADES)?);
            let rounds = under_load(m.dir(), WORKERS, |load| {
                done = upgrade_with_deaths(&m, load, wanted)?;
                Ok(())
            })
            .with_context(|| m.log())?;
            let deaths = count(&m, "deaths")?;
            eprintln!(
                "{sandbox}: {rounds} checks, {done} upgrades of {wanted} and {deaths} deaths"
            );
            equal("upgrades", count(&m, "upgrades")?, done)?;
            succeed(&m, "upgrade", &[])?;
            m.unmount()?;
        }
        Ok(())
    })
}

/// Returns how many were done all the same.
fn upgrade_with_deaths(m: &Mount, load: &Load, wanted: u64) -> Result<u64> {
    let (mut done, mut random) = (0, Random(1));
    for _attempt in 0..wanted {
        load.wait_for(2)?;
        let mut upgrade = Command::new(thrufs()?);
        let upgrade = upgrade.arg("upgrade").arg(m.dir()).stdout(Stdio::null());
        let mut upgrade = upgrade.stderr(Stdio::null()).spawn()?;
        for _moment in 0..random.below(40) {
            std::thread::yield_now();
        }
        let servers = servers(m)?;
        if let Some(server) = servers.get(random.below(servers.len().max(1))) {
            // It may have ended by itself.
            let _gone = kill_process(*server, Signal::KILL);
        }
        done += u64::from(upgrade.wait()?.success());
    }
    Ok(done)
}

/// Those of the zygote before, and of the one that takes over if there is one.
fn servers(m: &Mount) -> Result<Vec<Pid>> {
    let zygotes = children(m.pid()?)?;
    let servers = zygotes
        .into_iter()
        .flat_map(|zygote| children(zygote).unwrap_or_default());
    Ok(servers
        .filter_map(|server| Pid::from_raw(server.as_raw()))
        .collect())
}

#[test]
fn signal_to_the_supervisor_has_the_binary_at_its_path_take_over() -> Outcome {
    case(|| {
        let m = mounted(Backing::Here, &[])?;
        std::fs::write(m.path("f"), "content")?;
        let (before, supervisor) = (zygote(&m)?, m.pid()?);
        let supervisor = Pid::from_raw(supervisor.as_raw()).context("a process id is not 0")?;
        kill_process(supervisor, Signal::USR2)?;
        wait_until("the upgrade", SOON, || Ok(count(&m, "upgrades")? == 1))?;
        ensure!(zygote(&m)? != before, "the same server serves");
        equal(
            "daemon",
            count(&m, "pid")?,
            u64::try_from(m.pid()?.as_raw())?,
        )?;
        holds(m.path("f"), "content")?;
        m.unmount()
    })
}

#[test]
fn set_changes_options_of_a_mount_that_is_in_use() -> Outcome {
    case(|| {
        let m = mounted(Backing::Here, &["--cache=auto", "--attr-timeout=1000"])?;
        std::fs::write(m.source("f"), "")?;
        equal("size", m.path("f").metadata()?.len(), 0)?;
        std::fs::write(m.source("f"), "content")?;
        equal(
            "size in the kernel's cache",
            m.path("f").metadata()?.len(),
            0,
        )?;
        succeed(
            &m,
            "set",
            &["attr_timeout=0", "thread-pool-size=2", "log-level=debug"],
        )?;
        // What the kernel was told before lasts; the next answer has the new timeout.
        wait_until("another answer", SOON, || {
            m.drop_caches()?;
            Ok(m.path("f").metadata()?.len() == 7)
        })?;
        std::fs::write(m.source("f"), "content that is longer")?;
        equal("size without a cache", m.path("f").metadata()?.len(), 22)?;
        // A request that fails has its line.
        equal(
            "errno",
            errno(m.path("none").metadata()),
            Some(libc::ENOENT),
        )?;
        wait_until("its line", SOON, || Ok(m.log().contains("DEBUG"))).with_context(|| m.log())?;
        equal("upgrades", count(&m, "upgrades")?, 0)?;
        // What was set stays with the next server.
        succeed(&m, "upgrade", &[])?;
        std::fs::write(m.source("f"), "short")?;
        equal("size without a cache", m.path("f").metadata()?.len(), 5)?;
        for wrong in ["cache=never", "no-such=1", "attr-timeout=x", "log-level"] {
            let refused = ask(&m, "set", &[wrong])?;
            let text = said(&refused);
            ensure!(
                !refused.status.success() && text.contains("attr-timeout"),
                "{wrong}: {text}"
            );
        }
        m.unmount()
    })
}

#[test]
fn upgrade_of_a_mount_that_does_not_survive_says_so() -> Outcome {
    case(|| {
        let m = Mount::new(Backing::Here, &[])?;
        m.require_mount()?;
        let refused = ask(&m, "upgrade", &[])?;
        let text = said(&refused);
        ensure!(
            !refused.status.success() && text.contains("--survive=always"),
            "{text}"
        );
        m.unmount()
    })
}

/// The end that is documented: a dead mount, and nothing lost that was answered.
#[test]
fn killed_supervisor_leaves_a_dead_mount_with_all_that_was_written() -> Outcome {
    case(|| {
        let mut m = mounted(Backing::Here, &[])?;
        let (dir, source) = (m.dir().to_owned(), m.source(""));
        let supervisor = Pid::from_raw(m.pid()?.as_raw()).context("a process id is not 0")?;
        let started = AtomicUsize::new(0);
        let written = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WORKERS)
                .map(|number| {
                    let (dir, started) = (&dir, &started);
                    scope.spawn(move || write_until_dead(&dir.join(number.to_string()), started))
                })
                .collect();
            wait_until("the writers", SOON, || {
                Ok(started.load(Ordering::Relaxed) == WORKERS)
            })?;
            kill_process(supervisor, Signal::KILL)?;
            writers
                .into_iter()
                .map(|writer| writer.join().map_err(|_| anyhow!("a writer panicked"))?)
                .collect::<Result<Vec<u64>>>()
        })?;
        ensure!(m.wait_for_daemon().is_err(), "a killed daemon has no code");
        for (number, records) in written.into_iter().enumerate() {
            let there = std::fs::read_to_string(source.join(number.to_string()))?;
            let wanted: String = (0..records).map(|record| format!("{record}\n")).collect();
            ensure!(
                there.starts_with(&wanted),
                "writer {number} lost records of {records}"
            );
        }
        equal(
            "errno",
            errno(std::fs::read_dir(&dir)),
            Some(libc::ENOTCONN),
        )?;
        xtests::support::operator::umount(&dir)
    })
}

/// Appends records until the mount is dead, and returns how many were taken.
fn write_until_dead(path: &Path, started: &AtomicUsize) -> Result<u64> {
    drop(create_exclusively(path)?);
    let mut file = open_append(path)?;
    for record in 0.. {
        match file.write_all(format!("{record}\n").as_bytes()) {
            Ok(()) => {
                started.fetch_add(usize::from(record == 100), Ordering::Relaxed);
            }
            Err(error) => {
                let is_dead = [libc::ENOTCONN, libc::ECONNABORTED];
                let errno = error.raw_os_error().unwrap_or_default();
                ensure!(is_dead.contains(&errno), "{error}");
                return Ok(record);
            }
        }
    }
    Err(anyhow!("numbers do not end"))
}
