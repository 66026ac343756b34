//! `--watch`: with `--cache=always` the kernel does not revalidate for a day, and yet shows other
//! processes' changes under SOURCE.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtests::support::calls::{chmod, open_wronly};
use xtests::support::checks::{has_mode, holds};
use xtests::support::command::{output, said_on_stderr};
use xtests::support::mount::thrufs;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, User, case, on_backing, unmounted};

/// A change shows within milliseconds on an idle machine; this one may be busy.
const SOON: Duration = Duration::from_secs(10);
const OPTIONS: &[&str] = &["--cache=always", "--watch", "--log-level=debug"];

/// A mount on a file system of its own, whose events come from this test alone.
fn watched(backing: Backing, body: impl FnOnce(&Mount) -> Outcome) -> Outcome {
    on_backing(backing, OPTIONS, |m| {
        m.require_mount()?;
        body(m)
    })
}

fn on_each(body: impl Fn(&Mount) -> Outcome) -> Outcome {
    for backing in [Backing::Ext4(64), Backing::Tmpfs] {
        watched(backing, &body).with_context(|| format!("{backing:?}"))?;
    }
    Ok(())
}

fn shows(m: &Mount, name: &str, content: &str) -> Outcome {
    wait_until(&format!("{name} to be {content:?}"), SOON, || {
        Ok(std::fs::read_to_string(m.path(name)).is_ok_and(|text| text == content))
    })
}

fn notifications(m: &Mount) -> usize {
    m.log().matches("NOTIFY_INVAL").count()
}

/// The premise of the other tests: without `--watch` old content stays.
#[test]
fn change_without_watch_does_not_show_under_cache_always() -> Outcome {
    on_backing(Backing::Tmpfs, &["--cache=always"], |m| {
        m.require_mount()?;
        std::fs::write(m.source("f"), "before")?;
        holds(m.path("f"), "before")?;
        std::fs::write(m.source("f"), "later!")?;
        holds(m.path("f"), "before")
    })
}

#[test]
fn content_changed_on_source_shows() -> Outcome {
    on_each(|m| {
        std::fs::write(m.source("f"), "before")?;
        holds(m.path("f"), "before")?;
        std::fs::write(m.source("f"), "after, and longer")?;
        shows(m, "f", "after, and longer")?;
        // Through a file that stays open, and of the same length.
        let open = File::open(m.path("f"))?;
        let mut bytes = [0; 5];
        open.read_exact_at(&mut bytes, 0)?;
        open_wronly(m.source("f"))?.write_all(b"AFTER")?;
        wait_until("the open file to show it", SOON, || {
            open.read_exact_at(&mut bytes, 0)?;
            Ok(&bytes == b"AFTER")
        })
    })
}

#[test]
fn attributes_changed_on_source_show() -> Outcome {
    on_each(|m| {
        std::fs::write(m.source("f"), "content")?;
        has_mode(m.path("f"), 0o644)?;
        chmod(m.source("f"), 0o600)?;
        wait_until(
            "the mode",
            SOON,
            || Ok(has_mode(m.path("f"), 0o600).is_ok()),
        )?;
        std::fs::hard_link(m.source("f"), m.source("g"))?;
        wait_until("the number of links", SOON, || {
            Ok(m.path("f").metadata()?.nlink() == 2)
        })?;
        std::fs::create_dir(m.source("d"))?;
        wait_until("the directory", SOON, || Ok(m.path("d").is_dir()))?;
        chmod(m.source("d"), 0o700)?;
        wait_until(
            "its mode",
            SOON,
            || Ok(has_mode(m.path("d"), 0o700).is_ok()),
        )
    })
}

#[test]
fn names_changed_on_source_show() -> Outcome {
    on_each(|m| {
        std::fs::create_dir_all(m.source("d/e"))?;
        std::fs::write(m.source("d/e/f"), "content")?;
        shows(m, "d/e/f", "content")?;
        let listed = |wanted: &[&str]| {
            wait_until(&format!("the names {wanted:?}"), SOON, || {
                let entries = std::fs::read_dir(m.path("d/e"))?;
                let mut names: Vec<_> = entries
                    .map(|entry| Ok(entry?.file_name()))
                    .collect::<Result<_>>()?;
                names.sort();
                Ok(names == wanted)
            })
        };
        listed(&["f"])?;
        std::fs::write(m.source("d/e/new"), "")?;
        listed(&["f", "new"])?;
        std::fs::rename(m.source("d/e/f"), m.source("d/e/moved"))?;
        listed(&["moved", "new"])?;
        wait_until("the old name to go", SOON, || Ok(!m.path("d/e/f").exists()))?;
        shows(m, "d/e/moved", "content")?;
        std::fs::remove_file(m.source("d/e/moved"))?;
        wait_until("the name to go", SOON, || Ok(!m.path("d/e/moved").exists()))?;
        std::fs::rename(m.source("d"), m.source("D"))?;
        wait_until("the directory to move", SOON, || {
            Ok(!m.path("d").exists() && m.path("D/e/new").exists())
        })
    })
}

#[test]
fn file_replaced_on_source_shows() -> Outcome {
    on_each(|m| {
        std::fs::write(m.source("f"), "old")?;
        shows(m, "f", "old")?;
        std::fs::write(m.source("f.new"), "new")?;
        std::fs::rename(m.source("f.new"), m.source("f"))?;
        shows(m, "f", "new")
    })
}

/// A notification for each WRITE would be a storm, and would empty the cache of `always`.
#[test]
fn changes_by_the_mount_itself_are_not_notified() -> Outcome {
    watched(Backing::Tmpfs, |m| {
        for index in 0..200 {
            let path = m.path(&format!("f{}", index % 20));
            std::fs::write(&path, vec![7; 50_000])?;
            chmod(&path, 0o600)?;
            std::fs::rename(&path, m.path("moved"))?;
            std::fs::remove_file(m.path("moved"))?;
        }
        // The thread reads in order: after this event, all earlier ones are handled.
        std::fs::write(m.path("last"), "before")?;
        shows(m, "last", "before")?;
        // Forgotten inodes (drop_caches) need no notification.
        let _known = File::open(m.path("last"))?;
        std::fs::write(m.source("last"), "after")?;
        shows(m, "last", "after")?;
        wait_until("the log to have it", SOON, || Ok(notifications(m) > 0))?;
        let sent = notifications(m);
        ensure!((1..10).contains(&sent), "{sent} notifications\n{}", m.log());
        Ok(())
    })
}

/// While the daemon is stopped the kernel's queue of events overflows: the changes of that time are
/// unknown, so everything is invalidated.
#[test]
fn more_changes_than_the_queue_holds_show_all_the_same() -> Outcome {
    watched(Backing::Tmpfs, |m| {
        let limit = std::fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events")?;
        let limit: usize = limit.trim().parse()?;
        ensure!(limit <= 100_000, "a queue of {limit} events");
        for name in ["moved", "gone", "content", "d"] {
            match name {
                "d" => std::fs::create_dir(m.source(name))?,
                file => std::fs::write(m.source(file), "before")?,
            }
        }
        std::fs::write(m.source("d/moved"), "before")?;
        for name in ["moved", "gone", "content", "d/moved"] {
            shows(m, name, "before")?;
        }
        m.while_stopped(|| flood(m, limit + 1000))?;
        wait_until("everything to be invalidated", SOON, || {
            Ok(m.log().contains("invalidating everything"))
        })?;
        shows(m, "content", "after")?;
        wait_until("the names to be gone", SOON, || {
            Ok(["moved", "gone", "d/moved"]
                .iter()
                .all(|name| !m.path(name).exists()))
        })?;
        shows(m, "d/elsewhere", "before")
    })
}

/// Fills the queue, and only then makes the changes that the test checks.
fn flood(m: &Mount, events: usize) -> Outcome {
    std::fs::create_dir(m.source("flood"))?;
    for index in 0..events {
        File::create(m.source(&format!("flood/{index}")))?;
    }
    std::fs::write(m.source("content"), "after")?;
    std::fs::remove_file(m.source("gone"))?;
    std::fs::rename(m.source("moved"), m.source("elsewhere"))?;
    std::fs::rename(m.source("d/moved"), m.source("d/elsewhere"))?;
    Ok(())
}

/// Prints how long a change takes to show; fio-jobs/RESULTS.md has the figures.
#[test]
fn change_on_source_shows_soon() -> Outcome {
    watched(Backing::Tmpfs, |m| {
        std::fs::write(m.source("f"), "0")?;
        shows(m, "f", "0")?;
        let mut delays = Vec::new();
        for round in 1..=100 {
            let text = round.to_string();
            std::fs::write(m.source("f"), &text)?;
            let start = Instant::now();
            while std::fs::read_to_string(m.path("f"))? != text {
                ensure!(start.elapsed() < SOON, "round {round}");
                std::hint::spin_loop();
            }
            delays.push(start.elapsed());
        }
        delays.sort();
        println!("delay: median {:?}, p99 {:?}", delays[50], delays[98]);
        let median = delays[50];
        ensure!(median < Duration::from_millis(200), "median {median:?}");
        Ok(())
    })
}

#[test]
fn mount_with_watch_and_what_excludes_it_names_both() -> Outcome {
    case(|| {
        let (s, _leftover) = unmounted()?;
        for other in ["--passthrough=always", "--writeback"] {
            let mut mount = std::process::Command::new(thrufs()?);
            mount.args(["mount", "--watch", other]);
            let refused = output(mount.args([s.source(), s.mountpoint()]))?;
            let text = said_on_stderr(&refused);
            let name = other.split('=').next().unwrap_or_default();
            ensure!(!refused.status.success() && text.contains(name), "{text}");
        }
        let (source, dir) = (s.source(), s.mountpoint());
        let program = thrufs()?;
        let text = User::new(1000, 1000).act(|| {
            let mut mount = std::process::Command::new(&program);
            let refused = output(mount.args(["mount", "--watch"]).args([&source, &dir]))?;
            ensure!(!refused.status.success());
            Ok(said_on_stderr(&refused))
        });
        match text {
            Ok(text) => ensure!(text.contains("--watch needs root"), "{text}"),
            // The binary lies where this user cannot reach it.
            Err(error) if format!("{error:#}").contains("cannot run") => {}
            Err(error) => return Err(error),
        }
        Ok(())
    })
}
