//! File systems mounted below SOURCE, and SOURCE itself: what is unmounted, removed or covered outside while
//! it is served.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use xtests::support::calls::refused;
use xtests::support::checks::holds;
use xtests::support::command::{output, succeed};
use xtests::support::mount::{Leftover, thrufs};
use xtests::support::operator;
use xtests::support::threads::in_threads;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Layout, Mount, Outcome, Scratch, case};

const SOON: Duration = Duration::from_secs(20);
const NOTHING: Option<&str> = None;

/// A SOURCE with a file system mounted on its directory `disk`.
fn with_disk(propagation: MsFlags, options: &[&str]) -> Result<Mount> {
    let scratch = Scratch::new(Backing::Tmpfs)?;
    mount(NOTHING, &scratch.source(), NOTHING, propagation, NOTHING)?;
    let disk = scratch.source().join("disk");
    std::fs::create_dir(&disk)?;
    scratch.mount_tmpfs(&disk)?;
    std::fs::create_dir_all(disk.join("d/e"))?;
    for name in ["f", "d/f", "d/e/f"] {
        std::fs::write(disk.join(name), "content")?;
    }
    let m = Mount::of(scratch, options)?;
    m.require_mount()?;
    Ok(m)
}

/// Everything on the disk, through the mount; and names that are not there.
fn look_at_all(m: &Mount) -> Outcome {
    succeed(Command::new("ls").arg("-lR").arg(m.path("disk")))?;
    for name in ["f", "d/f", "d/e/f"] {
        holds(m.path("disk").join(name), b"content")?;
    }
    for name in ["none", "d/none", "d/e/none"] {
        ensure!(!m.path("disk").join(name).exists());
    }
    Ok(())
}

/// As an operator does, again and again.
fn wait_for_umount(disk: &Path) -> Outcome {
    let start = Instant::now();
    wait_until("umount(8) of the disk to succeed", SOON, || {
        match umount2(disk, MntFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EBUSY) => Ok(false),
            Err(errno) => Err(errno).context("umount of the disk"),
        }
    })?;
    println!("the disk was let go after {:?}", start.elapsed());
    Ok(())
}

/// What the client's kernel had looked up stayed open in the server until that forgot it by itself, which
/// with memory to spare it never does.
#[test]
fn umount_of_a_disk_below_source_succeeds_when_nothing_on_it_is_used() -> Outcome {
    case(|| {
        let cases: [(MsFlags, &[&str]); 6] = [
            (MsFlags::MS_SHARED, &["--cache=never"]),
            (MsFlags::MS_SHARED, &["--sandbox=namespace"]),
            (MsFlags::MS_SHARED, &["--inode-file-handles=prefer"]),
            (
                MsFlags::MS_SHARED,
                &["--cache=always", "--negative-timeout=1000"],
            ),
            (MsFlags::MS_PRIVATE, &["--sandbox=none"]),
            (MsFlags::MS_PRIVATE, &["--sandbox=none", "--seccomp=none"]),
        ];
        for (propagation, options) in cases {
            let m = with_disk(propagation, options)?;
            m.require_prune()?;
            look_at_all(&m)?;
            wait_for_umount(&m.source("disk")).with_context(|| format!("{options:?}"))?;
            let left = std::fs::read_dir(m.path("disk"))?.count();
            ensure!(left == 0, "{options:?}: the disk shows still");
            m.unmount()?;
        }
        Ok(())
    })
}

/// A process that stands in a directory.
struct Stands(Child);

impl Stands {
    fn in_directory(dir: &Path) -> Result<Self> {
        Ok(Self(
            Command::new("sleep").arg("1000").current_dir(dir).spawn()?,
        ))
    }
}

impl Drop for Stands {
    fn drop(&mut self) {
        // It fails only if it has ended.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn umount_of_a_disk_below_source_is_busy_for_as_long_as_it_is_used() -> Outcome {
    case(|| {
        let m = with_disk(MsFlags::MS_SHARED, &["--sandbox=namespace"])?;
        m.require_prune()?;
        look_at_all(&m)?;
        let disk = m.source("disk");
        let stands = Stands::in_directory(&m.path("disk/d/e"))?;
        let open = File::open(m.path("disk/f"))?;
        // For longer than what is idle is kept.
        let start = Instant::now();
        wait_until("a second and a half", SOON, || {
            let errno = umount2(&disk, MntFlags::empty()).err();
            ensure!(errno == Some(Errno::EBUSY), "in use: {errno:?}");
            Ok(start.elapsed() > Duration::from_millis(1500))
        })?;
        holds(m.path("disk/d/e/f"), b"content")?;
        let cwd = format!("/proc/{}/cwd", stands.0.id());
        ensure!(
            std::fs::read_link(cwd)? == m.path("disk/d/e"),
            "its directory"
        );
        drop(open);
        drop(stands);
        wait_for_umount(&disk)?;
        m.unmount()
    })
}

#[test]
fn umount_of_source_is_refused_for_as_long_as_it_is_served() -> Outcome {
    case(|| {
        for sandbox in ["namespace", "chroot", "none"] {
            let option = format!("--sandbox={sandbox}");
            let m = Mount::new(Backing::Tmpfs, &[&option])?;
            m.require_mount()?;
            std::fs::write(m.path("f"), "content")?;
            let errno = umount2(&m.source(""), MntFlags::empty()).err();
            ensure!(errno == Some(Errno::EBUSY), "{sandbox}: {errno:?}");
            holds(m.path("f"), b"content")?;
            m.unmount()?;
        }
        Ok(())
    })
}

/// The warnings of `thrufs status` about SOURCE, without what to do.
fn attention(m: &Mount) -> Result<Vec<String>> {
    let said = output(Command::new(thrufs()?).arg("status").arg(m.dir()))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let severities = ["note ", "warning ", "error "];
    let lines = text.lines().filter_map(|line| {
        let mut severities = severities.iter();
        severities.find_map(|severity| line.strip_prefix(severity))
    });
    // What the kernel does to all mounts is another matter.
    let lines = lines
        .map(str::trim)
        .filter(|line| !line.starts_with("Linux "));
    Ok(lines.map(str::to_owned).collect())
}

/// Does something to SOURCE; status says so at once, and the log once.
fn check_trouble(
    options: &[&str],
    backing: Backing,
    act: impl FnOnce(&Mount) -> Outcome,
    wanted: &str,
) -> Outcome {
    // What is mounted can be neither removed nor renamed.
    let m = Mount::of(Scratch::with(backing, Layout::AsBacked)?, options)?;
    m.require_mount()?;
    std::fs::write(m.source("f"), "content")?;
    let trouble = || -> Result<Vec<String>> {
        let lines = attention(&m)?;
        Ok(lines
            .into_iter()
            .filter(|line| line.starts_with("SOURCE"))
            .collect())
    };
    ensure!(trouble()?.is_empty(), "before: {:?}", trouble()?);
    act(&m)?;
    let lines = trouble()?;
    ensure!(lines.len() == 1 && lines[0].contains(wanted), "{lines:?}");
    let count = || m.log().lines().filter(|line| line.contains(wanted)).count();
    wait_until("the log to warn", SOON, || Ok(count() > 0))?;
    // It is looked at every two seconds.
    let start = Instant::now();
    wait_until("the next look", SOON, || {
        ensure!(count() == 1, "{} warnings:\n{}", count(), m.log());
        Ok(start.elapsed() > Duration::from_secs(3))
    })?;
    m.unmount()
}

#[test]
fn status_and_log_say_what_became_of_source() -> Outcome {
    case(|| {
        let sandboxes: [&[&str]; 3] = [
            &["--sandbox=namespace"],
            &["--sandbox=none"],
            &["--sandbox=none", "--seccomp=none"],
        ];
        in_threads(sandboxes.len(), |index| check_troubles(sandboxes[index]))
    })
}

fn check_troubles(options: &[&str]) -> Outcome {
    let told = |what: &str| format!("{options:?}: {what}");
    let remove = |m: &Mount| Ok(std::fs::remove_dir_all(m.source(""))?);
    check_trouble(options, Backing::Here, remove, "was removed")
        .with_context(|| told("removed"))?;
    let replace = |m: &Mount| {
        let source = m.scratch().source();
        std::fs::rename(&source, source.with_file_name("renamed"))?;
        Ok(std::fs::create_dir(&source)?)
    };
    check_trouble(options, Backing::Here, replace, "/renamed").with_context(|| told("replaced"))?;
    let cover = |m: &Mount| m.scratch().mount_tmpfs(&m.scratch().source());
    let covered = "is covered by the tmpfs mount";
    check_trouble(options, Backing::Here, cover, covered).with_context(|| told("covered"))?;
    let unmount = |m: &Mount| Ok(umount2(&m.scratch().source(), MntFlags::MNT_DETACH)?);
    check_trouble(options, Backing::Tmpfs, unmount, "was unmounted")
        .with_context(|| told("unmounted"))
}

/// As in containers: the sandbox does not hear of it.
#[test]
fn status_of_a_private_source_names_what_the_sandbox_holds() -> Outcome {
    case(|| {
        let cases = [
            (MsFlags::MS_PRIVATE, "--sandbox=namespace"),
            (MsFlags::MS_PRIVATE, "--sandbox=chroot"),
            (MsFlags::MS_SHARED, "--sandbox=chroot"),
        ];
        for (propagation, option) in cases {
            let m = with_disk(propagation, &[option])?;
            let lines = attention(&m)?;
            let is_told = lines.len() == 1 && lines[0].contains("private");
            ensure!(is_told, "{option}: {lines:?}");
            umount2(&m.source("disk"), MntFlags::empty())?;
            let lines = attention(&m)?;
            ensure!(lines.len() == 2, "{option}: {lines:?}");
            let held = lines[1].starts_with("/disk is unmounted outside");
            ensure!(held, "{option}: {lines:?}");
            holds(m.path("disk/f"), b"content")?;
            let status = m.status()?;
            ensure!(status["source_state"]["held"][0] == "disk", "{status}");
            m.unmount()?;
        }
        Ok(())
    })
}

/// `thrufs umount` returned while the daemon, which ended, held SOURCE.
#[test]
fn umount_of_source_right_after_thrufs_umount_succeeds() -> Outcome {
    case(|| {
        for sandbox in ["namespace", "none"] {
            for _ in 0..10 {
                let scratch = Scratch::new(Backing::Tmpfs)?;
                let dir = scratch.mountpoint();
                let _leftover = Leftover(dir.clone());
                let sandbox = format!("--sandbox={sandbox}");
                operator::mount(&scratch.source(), &dir, &[&sandbox])?;
                operator::umount(&dir)?;
                umount2(&scratch.source(), MntFlags::empty()).context("umount of SOURCE")?;
            }
        }
        Ok(())
    })
}

/// The first name that could not be looked up was an error of the whole listing, or its end.
#[test]
fn listing_with_a_dead_mount_in_it_shows_every_name() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Tmpfs)?;
        let names = ["a", "b", "c", "dead", "e"];
        for name in names {
            std::fs::create_dir(scratch.source().join(name))?;
        }
        // Attributes that the kernel has cached outlive the server.
        let uncached = ["--attr-timeout=0"];
        let mut inner = Mount::of(Scratch::sharing(scratch.source().join("a"))?, &uncached)?;
        let dead = scratch.source().join("dead");
        mount(Some(inner.dir()), &dead, NOTHING, MsFlags::MS_BIND, NOTHING)?;
        scratch.adopt(&dead);
        kill(inner.pid()?, Signal::SIGKILL)?;
        ensure!(inner.wait_for_daemon().is_err());
        for option in ["--cache=auto", "--no-readdirplus"] {
            let m = Mount::of(
                Scratch::sharing(scratch.source())?,
                &[option, "--sandbox=none"],
            )?;
            let mut listed = Vec::new();
            for entry in std::fs::read_dir(m.dir())? {
                let entry = entry?;
                ensure!(entry.file_type()?.is_dir(), "{entry:?}");
                listed.push(entry.file_name());
            }
            listed.sort();
            ensure!(listed == names, "{option}: {listed:?}");
            refused(std::fs::metadata(m.path("dead")), libc::ENOTCONN).context(option)?;
            m.unmount()?;
        }
        Ok(())
    })
}
