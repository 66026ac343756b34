//! `xtests fio` on real mounts: a session from its plan to its report, and one that is interrupted.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use xtests::support::checks::equal;
use xtests::support::command::{output, said_on_stderr, wait_for_exit};
use xtests::support::install;
use xtests::support::mount::{BIN, is_default_run, thrufs};
use xtests::support::mount_table::mount_table;
use xtests::support::process::pid_of;
use xtests::support::skip::{Outcome, case, missing};
use xtests::support::wait::wait_until;

/// A session of a few seconds, on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(100);

fn xtests_fio(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtests"));
    command.arg("fio").args(args).env(BIN, thrufs()?);
    Ok(command)
}

/// The daemon sees each WRITE.
const THRUFS: &str = "thrufs:passthrough=never";

/// Not a question of the settings: one run of the tier is enough.
fn once(body: impl FnOnce() -> Outcome) -> Outcome {
    case(|| {
        if !is_default_run() {
            let once = "nothing: sessions are tested once, with the defaults";
            return Err(missing(once));
        }
        install::apt(&[("fio", "fio")])?;
        body()
    })
}

fn report(dir: &Path) -> Result<Value> {
    let text = fs::read_to_string(dir.join("report.json")).context("report.json")?;
    Ok(serde_json::from_str(&text)?)
}

fn runs_of<'a>(report: &'a Value, config: &str) -> Vec<&'a Value> {
    let runs = report["runs"].as_array().into_iter().flatten();
    runs.filter(|run| run["config"] == config).collect()
}

/// Also when it is resumed although all is done, which lost fio's version and the servers' commands.
#[test]
fn fio_session_on_two_configurations_writes_a_report_with_figures() -> Outcome {
    once(|| {
        let scratch = tempfile::tempdir()?;
        let out = scratch.path().join("out");
        let configs = format!("native,{THRUFS}");
        let mut command = xtests_fio(&["seqwrite-psync:64k", "--configs", &configs])?;
        command.args(["--rounds=1", "--runtime=1", "--backing=tmpfs", "--out"]);
        let said = output(command.arg(&out))?;
        ensure!(said.status.success(), "{said:?}");
        let stdout = String::from_utf8_lossy(&said.stdout);
        ensure!(
            stdout.ends_with("2 passed, 0 failed, 0 skipped\n"),
            "{stdout}"
        );
        let resumed = output(xtests_fio(&["--resume"])?.arg(&out))?;
        ensure!(resumed.status.success(), "{resumed:?}");
        let report = report(&out)?;
        ensure!(report["incomplete"] == false);
        let fio = report["machine"]["fio"].as_str().unwrap_or_default();
        ensure!(fio.starts_with("fio-"), "{report}");
        let command = report["configs"][1]["command"].as_str();
        ensure!(command.is_some_and(|command| command.contains("passthrough=never")));
        for config in ["native", THRUFS] {
            let runs = runs_of(&report, config);
            ensure!(runs.len() == 1, "{config}: {} runs", runs.len());
            let written = &runs[0]["measured"]["written"];
            let latency = written["latency"].as_array().context("no latencies")?;
            ensure!(
                written["bytes"].as_u64() > Some(1 << 20),
                "{config}: {written}"
            );
            ensure!(latency.len() > 5, "{written}");
        }
        let thrufs = &runs_of(&report, THRUFS)[0]["measured"];
        // One WRITE for each write(2) of 64 KiB, and CPU time of the daemon.
        let writes = &thrufs["written"]["operations"];
        equal("WRITEs", &thrufs["requests"]["write"], writes)?;
        ensure!(
            thrufs["load"]["daemon_seconds"].as_f64() > Some(0.0),
            "{thrufs}"
        );
        let page = fs::read_to_string(out.join("report.html"))?;
        equal("bars, curves, requests", page.matches("<svg").count(), 3)?;
        let row = "| `seqwrite-psync:64k` | MB/s |";
        ensure!(stdout.contains(row), "{stdout}");
        Ok(())
    })
}

#[test]
fn fio_session_interrupted_keeps_what_is_done_and_can_be_resumed() -> Outcome {
    once(|| {
        let scratch = tempfile::tempdir()?;
        let out = scratch.path().join("out");
        let mut command = xtests_fio(&["randwrite-psync:4k", "--configs", "thrufs"])?;
        command.args(["--rounds=3", "--runtime=1", "--backing=tmpfs", "--out"]);
        // The directory tells its mounts from those of other tests.
        command.arg(&out).env("TMPDIR", scratch.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut session = command.spawn()?;
        let runs = out.join("runs.jsonl");
        wait_until("the first run to be kept", LIMIT, || {
            Ok(fs::read_to_string(&runs).is_ok_and(|text| text.lines().count() >= 1))
        })?;
        kill(pid_of(&session), Signal::SIGINT)?;
        wait_for_exit(&mut session, "the interrupted session to end", LIMIT)?;
        ensure!(report(&out)?["incomplete"] == true);
        let mounts = mount_table("/proc/self/mountinfo")?;
        let ours = scratch.path().display().to_string();
        ensure!(!mounts.contains(&ours), "left behind: {mounts}");
        let said = output(xtests_fio(&["--resume"])?.arg(&out))?;
        ensure!(said.status.success(), "{said:?}");
        let report = report(&out)?;
        ensure!(report["incomplete"] == false);
        let runs = runs_of(&report, "thrufs");
        let mut rounds: Vec<_> = runs.iter().map(|run| run["round"].as_u64()).collect();
        rounds.sort_unstable();
        equal("rounds", rounds, vec![Some(0), Some(1), Some(2)])
    })
}

fn fails_with(command: &mut Command, wanted: &str) -> Outcome {
    let failed = output(command)?;
    let told = said_on_stderr(&failed);
    ensure!(!failed.status.success() && told.contains(wanted), "{told}");
    Ok(())
}

#[test]
fn fio_session_with_a_misspelt_job_names_the_nearest() -> Outcome {
    once(|| {
        let mut command = xtests_fio(&["seqwrit-psync", "--rounds=1"])?;
        fails_with(&mut command, "did you mean seqwrite-psync")
    })
}

#[test]
fn fio_session_without_fio_names_the_package() -> Outcome {
    once(|| {
        let scratch = tempfile::tempdir()?;
        let mut command = xtests_fio(&["seqwrite-psync:64k", "--configs", "native", "--out"])?;
        // Without fio and apt-get.
        command
            .arg(scratch.path().join("out"))
            .env("PATH", scratch.path());
        fails_with(&mut command, "apt-get install fio")
    })
}

/// Several jobs on fewer queues, and operations of several requests.
#[test]
fn fio_device_session_has_figures_and_system_calls_of_each_cell() -> Outcome {
    once(|| {
        let scratch = tempfile::tempdir()?;
        let out = scratch.path().join("out");
        let cells = ["randread:4k:3:2", "write:1m:1:2", "open:2:1", "create:2:2"];
        let mut command = xtests_fio(&["device"])?;
        command.args(cells).args(["--configs=thrufs-q2", "--calls"]);
        command.args(["--rounds=1", "--runtime=1", "--place=same", "--out"]);
        let said = output(command.arg(&out))?;
        ensure!(said.status.success(), "{said:?}");
        let report = report(&out)?;
        ensure!(report["incomplete"] == false);
        for config in ["thrufs-q2", "thrufs-q2 again"] {
            let runs = runs_of(&report, config);
            equal(config, runs.len(), cells.len())?;
            for run in runs {
                let moved = &run["measured"];
                let done = ["read", "written"].map(|of| moved[of]["operations"].as_u64());
                ensure!(done.iter().flatten().sum::<u64>() > 0, "{run}");
                ensure!(
                    moved["load"]["daemon_seconds"].as_f64() > Some(0.0),
                    "{run}"
                );
            }
        }
        let calls = report["system_calls"].as_array().context("no calls")?;
        equal("cells with calls", calls.len(), 2 * cells.len())?;
        let costs = fs::read_to_string(out.join("costs.md"))?;
        for cell in cells {
            ensure!(costs.matches(&format!("`{cell}`")).count() == 2, "{costs}");
        }
        Ok(())
    })
}
