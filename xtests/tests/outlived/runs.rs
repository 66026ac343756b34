//! Suites of others while servers are killed, and the ways in which a server ends that is not killed.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use xtests::suite::{Options, Verdict, fio_verify, fsx, pjdfstest};
use xtests::support::asked::{ROUNDS, number};
use xtests::support::checks::{equal, holds};
use xtests::support::mount::ALLOW_MMAP;
use xtests::support::random::Random;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, case, missing};

use super::{
    SOON, check_nothing_is_left, create_exclusively, deaths, file, kill_server, limit, mounted,
    server,
};

/// Kills the server so many times while `work` is done again and again, and returns how often that was.
fn while_killed(m: &Mount, wanted: u64, work: impl Fn(u32) -> Outcome + Sync) -> Result<u32> {
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| -> Outcome {
            while deaths(m)? < wanted {
                work(done.load(Ordering::Relaxed))?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let mut random = Random(7);
        while deaths(m)? < wanted && !worker.is_finished() {
            kill_server(m)?;
            // Each answer takes a server that serves, and some time.
            for _answer in 0..=random.below(4) {
                m.status()?;
            }
        }
        worker.join().map_err(|_| anyhow!("the worker panicked"))?
    })?;
    Ok(done.into_inner())
}

#[test]
fn fsx_in_each_cache_mode_is_right_when_servers_die() -> Outcome {
    case(|| {
        let wanted = number(ROUNDS, 8)?;
        for (cache, passthrough) in [
            ("--cache=auto", "--passthrough=never"),
            ("--cache=always", "--passthrough=never"),
            ("--cache=never", "--passthrough=never"),
            ("--cache=metadata", "--passthrough=never"),
            ("--cache=auto", "--passthrough=always"),
            ("--cache=always", "--passthrough=always"),
        ] {
            let options = [ALLOW_MMAP, cache, passthrough];
            let m = mounted(Backing::Tmpfs, &options)?.allow(limit(wanted));
            let operations = Options::counting(400);
            let runs = while_killed(&m, wanted, |run| {
                fsx::exercise(m.dir(), 4 + run, &operations)
            });
            let runs = runs.with_context(|| format!("{options:?}\n{}", m.log()))?;
            eprintln!("{cache} {passthrough}: {} deaths, {runs} runs", deaths(&m)?);
            check_nothing_is_left(&m)?;
            m.unmount()?;
        }
        Ok(())
    })
}

/// No test fails that does not fail natively.
#[test]
fn pjdfstest_is_as_natively_when_servers_die() -> Outcome {
    case(|| {
        let wanted = number(ROUNDS, 25)?;
        let m = mounted(Backing::Here, &[])?.allow(limit(wanted));
        let native = m.scratch().path().join("native");
        std::fs::create_dir(&native)?;
        let native = pjdfstest::run(&native)?;
        let runs = while_killed(&m, wanted, |_run| {
            for (test, verdict) in pjdfstest::run(m.dir())? {
                let fails = matches!(verdict, Verdict::Failed(_));
                ensure!(
                    !fails || native.get(&test) == Some(&verdict),
                    "{test}: {verdict:?}"
                );
            }
            Ok(())
        });
        let runs = runs.with_context(|| m.log())?;
        eprintln!("pjdfstest: {} deaths, {runs} runs", deaths(&m)?);
        m.unmount()
    })
}

/// What fio wrote by each I/O engine, up to sixteen requests at a time, it reads again.
#[test]
fn fio_verify_is_right_when_servers_die() -> Outcome {
    case(|| {
        let wanted = number(ROUNDS, 10)?;
        for passthrough in ["--passthrough=never", "--passthrough=always"] {
            let options = [ALLOW_MMAP, passthrough];
            let m = mounted(Backing::Tmpfs, &options)?.allow(limit(wanted));
            let runs = while_killed(&m, wanted, |_run| {
                for (job, verdict) in fio_verify::run(m.dir(), &Options::default())? {
                    ensure!(!matches!(verdict, Verdict::Failed(_)), "{job}: {verdict:?}");
                }
                Ok(())
            });
            let runs = runs.with_context(|| format!("{options:?}\n{}", m.log()))?;
            eprintln!("fio {passthrough}: {} deaths, {runs} runs", deaths(&m)?);
            m.unmount()?;
        }
        Ok(())
    })
}

/// A memory cgroup, removed when dropped.
struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// Of the first version or of the second.
    fn with_limit(bytes: u64) -> Result<Self> {
        let name = format!("thrufs-test-{}", std::process::id());
        for (root, limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = Self(Path::new(root).join(&name));
            if std::fs::create_dir(&group.0).is_err() {
                std::mem::forget(group);
                continue;
            }
            if std::fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                return Ok(group);
            }
        }
        Err(missing("a memory cgroup that can be made"))
    }

    fn add(&self, pid: rustix::process::Pid) -> Outcome {
        let procs = self.0.join("cgroup.procs");
        Ok(std::fs::write(procs, pid.as_raw_nonzero().to_string())?)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

#[test]
fn server_out_of_memory_is_followed_by_another() -> Outcome {
    case(|| {
        let m = mounted(Backing::Here, &[])?;
        file(m.dir())?;
        let group = MemoryCgroup::with_limit(256 << 10)?;
        let ended = server(&m)?;
        group.add(ended)?;
        // Threads and buffers that it did not have before.
        let content = vec![7; 16 << 20];
        let write = |index: usize| std::fs::write(m.path(&format!("large-{index}")), &content);
        std::thread::scope(|scope| -> Outcome {
            let writers: Vec<_> = (0..8)
                .map(|index| scope.spawn(move || write(index)))
                .collect();
            for writer in writers {
                writer.join().map_err(|_| anyhow!("a writer panicked"))??;
            }
            Ok(())
        })?;
        wait_until("the next server", SOON, || Ok(server(&m)? != ended))?;
        ensure!(deaths(&m)? > 0, "no server died");
        for index in 0..8 {
            let found = std::fs::read(m.path(&format!("large-{index}")))?;
            ensure!(found == content, "large-{index}");
        }
        holds(m.path("f"), "content")?;
        m.unmount()
    })
}

/// Without `--survive` its caller gets EIO.
#[test]
fn panic_in_an_operation_is_served_by_the_next_server() -> Outcome {
    case(|| {
        let mut m = mounted(Backing::Here, &["--fault=make:panic"])?;
        std::fs::create_dir(m.path("d"))?;
        equal("deaths", deaths(&m)?, 1)?;
        ensure!(m.log().contains("SIGABRT"), "{}", m.log());
        // Not by `unmount`, to which a panic is a failure.
        xtests::support::operator::umount(m.dir())?;
        equal("exit code", m.wait_for_daemon()?, 0)
    })
}

/// What the server that died had not told: nothing has failed.
#[test]
fn fsync_in_which_the_server_dies_succeeds() -> Outcome {
    case(|| {
        let m = mounted(Backing::Ext4(64), &["--fault=sync:nth=1:kill"])?;
        let file = create_exclusively(&m.path("f"))?;
        file.write_all_at(b"content", 0)?;
        file.sync_all()?;
        drop(file);
        equal("deaths", deaths(&m)?, 1)?;
        m.unmount()
    })
}
