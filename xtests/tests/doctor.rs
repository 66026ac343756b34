//! `thrufs doctor`, and the warnings of `thrufs status`, of mounts in real trouble.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use xtests::support::command::{output, said_on_stderr, succeed, wait_for_exit};
use xtests::support::mount::thrufs;
use xtests::support::mount_table::mount_line;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Layout, Mount, Outcome, Scratch, case, on_daemon};

const SOON: Duration = Duration::from_secs(10);
/// Far above what doctor may take for a mount that hangs.
const LONG: Duration = Duration::from_secs(60);

/// What doctor says of one mount, and its exit code.
struct Said {
    code: i32,
    findings: Vec<Value>,
}

impl Said {
    /// The finding of this check.
    fn of(&self, check: &str) -> Result<&Value> {
        let found = self
            .findings
            .iter()
            .find(|finding| finding["check"] == check);
        found.with_context(|| format!("no {check} in {:?}", self.findings))
    }

    fn has(&self, check: &str) -> bool {
        self.of(check).is_ok()
    }

    fn remedy_has(&self, check: &str, wanted: &str) -> Outcome {
        let finding = self.of(check)?;
        let remedy = finding["remedy"].as_str().unwrap_or_default();
        ensure!(remedy.contains(wanted), "{wanted} in {finding}");
        Ok(())
    }
}

fn doctor(dir: &Path) -> Result<Said> {
    let mut command = Command::new(thrufs()?);
    command.args(["doctor", "--json"]).arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut asking = command.spawn()?;
    let ended = wait_for_exit(&mut asking, "doctor to end", LONG)?;
    let report: Value = serde_json::from_reader(asking.stdout.take().context("a pipe")?)?;
    let findings = report["mounts"][0]["findings"].as_array();
    Ok(Said {
        code: ended.code().context("an exit code")?,
        findings: findings.context("findings")?.clone(),
    })
}

/// The checks that status warns by.
fn warnings(m: &Mount) -> Result<Vec<String>> {
    let status = m.status()?;
    let warnings = status["warnings"].as_array().context("warnings")?.iter();
    let checks = warnings.filter_map(|warning| warning["check"].as_str());
    // What this machine does to all mounts is no news.
    let checks = checks.filter(|check| !check.starts_with("kernel-") && *check != "source-private");
    Ok(checks.map(str::to_owned).collect())
}

#[test]
fn doctor_of_a_mount_that_is_well_finds_nothing_to_do() -> Outcome {
    case(|| {
        // The machine's own disk may be nearly full, which is something to do.
        let m = Mount::new(Backing::Tmpfs, &[])?;
        m.require_mount()?;
        ensure!(warnings(&m)?.is_empty(), "{:?}", warnings(&m)?);
        let said = doctor(m.dir())?;
        ensure!(
            said.of("answers")?["severity"] == "ok",
            "{:?}",
            said.findings
        );
        let bad = |finding: &&Value| {
            ["warning", "error"]
                .iter()
                .any(|bad| finding["severity"] == *bad)
        };
        let bad: Vec<_> = said.findings.iter().filter(bad).collect();
        let is_kernel = |finding: &&Value| {
            finding["check"]
                .as_str()
                .is_some_and(|check| check.starts_with("kernel-"))
        };
        ensure!(bad.iter().all(is_kernel), "{bad:?}");
        let wanted = if bad.is_empty() { 0 } else { 3 };
        ensure!(said.code == wanted, "{}: {bad:?}", said.code);
        m.unmount()
    })
}

#[test]
fn doctor_of_a_machine_looks_at_the_device_and_at_all_mounts() -> Outcome {
    on_daemon(&[], |m| {
        m.status()?;
        let said = output(Command::new(thrufs()?).arg("doctor"))?;
        let text = String::from_utf8_lossy(&said.stdout);
        ensure!(text.contains("ok       /dev/fuse can be opened"), "{text}");
        let is_listed = text.lines().any(|line| Path::new(line) == m.dir());
        ensure!(is_listed, "{text}");
        // A mount of another test may be dead.
        ensure!(
            said.status
                .code()
                .is_some_and(|code| [0, 3, 4].contains(&code)),
            "{text}"
        );
        Ok(())
    })
}

#[test]
fn doctor_of_what_is_no_mount_of_thrufs_fails_with_1() -> Outcome {
    case(|| {
        let said = output(Command::new(thrufs()?).args(["doctor", "/proc"]))?;
        ensure!(said.status.code() == Some(1), "{said:?}");
        ensure!(
            said_on_stderr(&said).contains("is not a thrufs mount"),
            "{said:?}"
        );
        Ok(())
    })
}

#[test]
fn doctor_of_a_dead_mount_says_how_to_unmount_it() -> Outcome {
    case(|| {
        let m = Mount::new(Backing::Here, &[])?;
        m.require_mount()?;
        m.status()?;
        kill(m.pid()?, Signal::SIGKILL)?;
        wait_until("doctor to call it dead", SOON, || {
            Ok(doctor(m.dir())?.has("dead"))
        })?;
        let said = doctor(m.dir())?;
        ensure!(said.code == 4, "{}", said.code);
        said.remedy_has("dead", &format!("thrufs umount {}", m.dir().display()))
    })
}

#[test]
fn doctor_of_a_stopped_server_ends_and_names_the_connection_to_abort() -> Outcome {
    on_daemon(&[], |m| {
        m.status()?;
        let said = m.while_stopped(|| doctor(m.dir()))?;
        ensure!(said.code == 4, "{}", said.code);
        let line = mount_line(m.dir()).context("in the mount table")?;
        let device = line.split(' ').nth(2).context("a device")?;
        let minor = device.split_once(':').context("major:minor")?.1;
        said.remedy_has("silent", &format!("/sys/fs/fuse/connections/{minor}/abort"))
    })
}

#[test]
fn doctor_of_a_source_that_hangs_ends_and_says_so_until_it_answers() -> Outcome {
    case(|| {
        let below = Mount::new(Backing::Here, &["--cache=never"])?;
        below.require_mount()?;
        let scratch = Scratch::sharing(below.dir().to_owned())?;
        let m = Mount::of(scratch, &["--cache=never"])?;
        m.status()?;
        let mut caller = Command::new("stat");
        caller
            .arg(m.path("f"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let said = below.while_stopped(|| {
            let mut calling = caller.spawn()?;
            wait_until("a request in flight", SOON, || {
                Ok(m.status()?["in_flight"].as_u64() > Some(0))
            })?;
            let said = doctor(m.dir());
            calling.kill()?;
            said
        })?;
        ensure!(said.code == 4, "{}: {:?}", said.code, said.findings);
        said.remedy_has("source-silent", "abort")?;
        said.remedy_has("stuck", "thrufs top")?;
        wait_until("SOURCE to answer", SOON, || {
            Ok(!doctor(m.dir())?.has("source-silent"))
        })?;
        m.unmount()?;
        below.unmount()
    })
}

#[test]
fn doctor_and_status_of_a_source_that_is_full_say_so() -> Outcome {
    case(|| {
        let m = Mount::of(Scratch::with(Backing::Tmpfs, Layout::AsBacked)?, &[])?;
        m.require_mount()?;
        let source = m.source("");
        let mut remount = Command::new("mount");
        remount.args(["-o", "remount,size=1m"]).arg(&source);
        succeed(&mut remount)?;
        ensure!(warnings(&m)?.is_empty(), "{:?}", warnings(&m)?);
        let mut file = File::create(m.source("full"))?;
        let error = loop {
            match file.write_all(&[7; 4096]) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        ensure!(error.kind() == ErrorKind::StorageFull, "{error}");
        ensure!(warnings(&m)? == ["source-space"], "{:?}", warnings(&m)?);
        let said = doctor(m.dir())?;
        ensure!(
            said.of("source-space")?["severity"] == "error",
            "{:?}",
            said.findings
        );
        ensure!(said.code == 4, "{}", said.code);
        // Less than a twentieth is free.
        file.set_len((1 << 20) - 8192)?;
        let said = doctor(m.dir())?;
        ensure!(
            said.of("source-space")?["severity"] == "warning",
            "{:?}",
            said.findings
        );
        file.set_len(0)?;
        ensure!(warnings(&m)?.is_empty(), "{:?}", warnings(&m)?);
        m.unmount()
    })
}

#[test]
fn doctor_and_status_of_a_source_that_is_read_only_say_so_unless_the_mount_is() -> Outcome {
    case(|| {
        for (options, wanted) in [(&["-o", "rw"], true), (&["-o", "ro"], false)] {
            let m = Mount::of(Scratch::with(Backing::Tmpfs, Layout::AsBacked)?, options)?;
            m.require_mount()?;
            let source = m.source("");
            // The file system itself: the sandbox has a mount of its own.
            let mut remount = Command::new("mount");
            remount.args(["-o", "remount,ro"]).arg(&source);
            succeed(&mut remount)?;
            let told = warnings(&m)?
                .iter()
                .any(|check| check == "source-read-only");
            ensure!(told == wanted, "{options:?}: {:?}", warnings(&m)?);
            m.unmount()?;
        }
        Ok(())
    })
}

#[test]
fn doctor_and_status_of_a_source_that_was_removed_say_so() -> Outcome {
    case(|| {
        let m = Mount::of(Scratch::with(Backing::Here, Layout::AsBacked)?, &[])?;
        m.require_mount()?;
        m.status()?;
        std::fs::remove_dir_all(m.source(""))?;
        ensure!(
            warnings(&m)?.contains(&"source".to_owned()),
            "{:?}",
            warnings(&m)?
        );
        let said = doctor(m.dir())?;
        let what = said.of("source")?["what"].as_str().unwrap_or_default();
        ensure!(what == "SOURCE was removed", "{what}");
        ensure!(said.code == 4, "{}", said.code);
        m.unmount()
    })
}

#[test]
fn status_counts_removed_files_while_they_are_in_use() -> Outcome {
    on_daemon(&[], |m| {
        let mut held = File::create(m.path("held"))?;
        held.write_all(b"content")?;
        std::fs::remove_file(m.path("held"))?;
        let is_told = || Ok(warnings(m)?.contains(&"removed-in-use".to_owned()));
        wait_until("status to count it", SOON, is_told)?;
        let said = doctor(m.dir())?;
        let what = said.of("removed-in-use")?["what"]
            .as_str()
            .unwrap_or_default();
        ensure!(what.starts_with("1 removed"), "{what}");
        drop(held);
        wait_until("status to count none", SOON, || Ok(!is_told()?))
    })
}

#[test]
fn status_tells_of_an_option_that_was_granted_less() -> Outcome {
    on_daemon(&["--max-write=2M"], |m| {
        let status = m.status()?;
        let granted = status["negotiated"]["max_write"].as_u64();
        if granted == Some(2 << 20) {
            // The machine's limit has been raised.
            return Ok(());
        }
        let told = warnings(m)?.contains(&"granted-less".to_owned());
        ensure!(told, "{granted:?}: {:?}", warnings(m)?);
        Ok(())
    })
}
