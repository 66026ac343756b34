//! `thrufs status` of mounts that live, are dead, and were never ours.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use xtests::support::checks::{equal, has_mode, holds};
use xtests::support::command::{output, said_on_stderr, wait_for_exit};
use xtests::support::mount::{NEVER, thrufs};
use xtests::support::mount_table::mount_line;
use xtests::support::process::pid_of;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Mount, Outcome, Scratch, case, on_daemon};

const SOON: Duration = Duration::from_secs(10);
const RUNTIME: &str = "/run/thrufs";

fn status(arguments: &[&str], path: &Path) -> Result<Output> {
    let mut command = Command::new(thrufs()?);
    output(command.arg("status").args(arguments).arg(path))
}

fn json(path: &Path) -> Result<Value> {
    let output = status(&["--json"], path)?;
    let said = said_on_stderr(&output);
    ensure!(output.status.success(), "thrufs status --json: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn opcode<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let opcodes = status["opcodes"].as_array()?;
    opcodes.iter().find(|counts| counts["opcode"] == name)
}

/// The socket of the mount at `dir`, by the mount table.
fn socket(dir: &Path) -> Result<PathBuf> {
    let line = mount_line(dir).context("not in the mount table")?;
    let device = line.split(' ').nth(2).context("a device in mountinfo")?;
    Ok(Path::new(RUNTIME).join(format!("{}.sock", device.replace(':', "-"))))
}

fn wait_for_socket(dir: &Path) -> Result<PathBuf> {
    let path = socket(dir)?;
    let what = format!("{} to exist", path.display());
    wait_until(&what, SOON, || Ok(path.exists()))?;
    Ok(path)
}

#[test]
fn status_of_a_live_mount_counts_what_was_done() -> Outcome {
    on_daemon(&[NEVER], |m| {
        wait_for_socket(m.dir())?;
        std::fs::write(m.path("f"), vec![7; 65_536])?;
        ensure!(std::fs::metadata(m.path("missing")).is_err());
        let status = json(m.dir())?;
        ensure!(status["pid"] == m.pid()?.as_raw(), "{status}");
        ensure!(status["mountpoint"] == m.dir().to_str().unwrap_or_default());
        ensure!(status["source"] == m.source("").canonicalize()?.to_str().unwrap_or_default());
        for (name, wanted) in [("bytes", 65_536), ("requests", 1), ("pwritev2_calls", 1)] {
            equal(name, &status["writes"][name], &Value::from(wanted))?;
        }
        let lookups = opcode(&status, "LOOKUP").context("no LOOKUP")?;
        ensure!(lookups["errors"].as_u64() >= Some(1), "{lookups}");
        ensure!(status["negotiated"]["max_write"].as_u64() >= Some(4096));
        let descriptors = status["process"]["descriptors"].as_u64();
        let counted = m.daemon_descriptors()? as u64;
        // The daemon also has the connection that asked.
        ensure!(
            descriptors.is_some_and(|said| said.abs_diff(counted) <= 2),
            "{descriptors:?} descriptors by status, {counted} by /proc"
        );
        let text = status_text(m.dir())?;
        ensure!(text.contains("64.0 KiB in 1 WRITE requests"), "{text}");
        Ok(())
    })
}

fn status_text(dir: &Path) -> Result<String> {
    Ok(String::from_utf8(status(&[], dir)?.stdout)?)
}

#[test]
fn status_shows_by_which_transport_the_mount_is_served() -> Outcome {
    for transport in ["fuser", "device"] {
        on_daemon(&[&format!("--transport={transport}")], |m| {
            wait_for_socket(m.dir())?;
            std::fs::write(m.path("f"), "content")?;
            holds(m.path("f"), b"content")?;
            let status = json(m.dir())?;
            ensure!(status["transport"] == transport, "{status}");
            let text = status_text(m.dir())?;
            let line = format!("transport       {transport}");
            ensure!(text.lines().any(|shown| shown.starts_with(&line)), "{text}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn status_of_a_path_in_the_mount_finds_the_mount() -> Outcome {
    on_daemon(&[], |m| {
        wait_for_socket(m.dir())?;
        std::fs::create_dir(m.path("d"))?;
        ensure!(json(&m.path("d"))?["pid"] == m.pid()?.as_raw());
        Ok(())
    })
}

#[test]
fn status_socket_is_private_and_goes_with_the_mount() -> Outcome {
    case(|| {
        let m = Mount::new(Backing::Here, &[])?;
        m.require_mount()?;
        let path = wait_for_socket(m.dir())?;
        has_mode(&path, 0o600)?;
        has_mode(RUNTIME, 0o700)?;
        // Its number may be used again at once, by another test's socket of the same name.
        let identity = |meta: &std::fs::Metadata| (meta.ino(), meta.ctime(), meta.ctime_nsec());
        let ours = identity(&path.metadata()?);
        m.unmount()?;
        let left = path.metadata().is_ok_and(|meta| identity(&meta) == ours);
        ensure!(!left, "{} is left behind", path.display());
        Ok(())
    })
}

#[test]
fn status_of_a_dead_daemon_says_so_and_the_next_daemon_cleans_up() -> Outcome {
    case(|| {
        let m = Mount::new(Backing::Here, &[])?;
        m.require_mount()?;
        let path = wait_for_socket(m.dir())?;
        kill(m.pid()?, Signal::SIGKILL)?;
        let dir = m.dir().display();
        let dead = format!("{dir}: its daemon is dead; run `thrufs umount");
        wait_until("status to call the daemon dead", SOON, || {
            let output = status(&[], m.dir())?;
            Ok(output.status.code() == Some(1) && said_on_stderr(&output).contains(&dead))
        })?;
        let next = Mount::new(Backing::Here, &[])?;
        wait_for_socket(next.dir())?;
        ensure!(!path.exists(), "{} is left behind", path.display());
        // Without its socket as well, since the kernel knows.
        let said = said_on_stderr(&status(&[], m.dir())?);
        ensure!(said.contains(&dead), "{said}");
        next.unmount()
    })
}

/// A thread asked whether the mount is dead. Its request was taken and not answered, so that it could not be
/// killed, and `thrufs status` never ended.
#[test]
fn status_of_a_mount_that_hangs_and_has_no_socket_ends() -> Outcome {
    case(|| {
        let below = Mount::new(Backing::Here, &["--cache=never"])?;
        below.require_mount()?;
        let scratch = Scratch::sharing(below.dir().to_owned())?;
        let m = Mount::of(scratch, &["--cache=never"])?;
        std::fs::remove_file(wait_for_socket(m.dir())?)?;
        let (ended, said) = below.while_stopped(|| {
            let mut command = Command::new(thrufs()?);
            command.arg("status").arg(m.dir()).stderr(Stdio::piped());
            let mut asking = command.spawn()?;
            let mut pipe = asking.stderr.take().context("a pipe")?;
            let (sender, said) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let mut text = String::new();
                // Nothing listens any more where the test has failed.
                let _unheard = sender.send(pipe.read_to_string(&mut text).map(|_| text));
            });
            let long = Duration::from_secs(60);
            let ended = wait_for_exit(&mut asking, "status to end", long)?;
            let said = said.recv_timeout(SOON);
            Ok((
                ended,
                said.context("the end of its output while the mount hangs")??,
            ))
        })?;
        ensure!(ended.code() == Some(1), "{ended}");
        ensure!(said.contains("alive or hangs"), "{said}");
        m.unmount()?;
        below.unmount()
    })
}

#[test]
fn status_of_all_lists_live_and_dead_mounts() -> Outcome {
    case(|| {
        let live = Mount::new(Backing::Here, &[])?;
        let dead = Mount::new(Backing::Here, &[])?;
        live.require_mount()?;
        wait_for_socket(live.dir())?;
        kill(dead.pid()?, Signal::SIGKILL)?;
        wait_until("the list to show both", SOON, || {
            let listed = output(Command::new(thrufs()?).arg("status"))?;
            let listed = String::from_utf8_lossy(&listed.stdout);
            let lists = |m: &Mount, what: &str| {
                let wanted = format!("{}: {what}", m.dir().display());
                listed.lines().any(|line| line.starts_with(&wanted))
            };
            Ok(lists(&live, "/") && lists(&dead, "its daemon is dead"))
        })?;
        live.unmount()
    })
}

#[test]
fn status_watch_ends_well_on_interrupt() -> Outcome {
    on_daemon(&[], |m| {
        wait_for_socket(m.dir())?;
        let shown = m.scratch().path().join("watched");
        let mut command = Command::new(thrufs()?);
        command
            .args(["status", "--watch=0.1", "--json"])
            .arg(m.dir());
        command
            .stdout(std::fs::File::create(&shown)?)
            .stdin(Stdio::null());
        let mut watching = command.spawn()?;
        wait_until("two lines", SOON, || {
            Ok(std::fs::read_to_string(&shown)?.lines().count() >= 2)
        })?;
        kill(pid_of(&watching), Signal::SIGINT)?;
        let ended = wait_for_exit(&mut watching, "the watching to end", SOON)?;
        ensure!(ended.success(), "{ended}");
        for line in std::fs::read_to_string(&shown)?.lines() {
            let frame: Value = serde_json::from_str(line)?;
            ensure!(frame["device"].is_string());
        }
        Ok(())
    })
}
