//! `thrufs status` and `--metrics` of virtiofs devices.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use xtests::support::command::{output, said_on_stderr};
use xtests::support::guest::calls::{ROOT, large};
use xtests::support::guest::calls::{lookup, lookup_in, open, pattern, read, write};
use xtests::support::guest::{Device, Options};
use xtests::support::mount::thrufs;
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, case};

const STEP: Duration = Duration::from_secs(10);

fn status(arguments: &[&str], path: &Path) -> Result<String> {
    let mut command = Command::new(thrufs()?);
    let output = output(command.arg("status").args(arguments).arg(path))?;
    let said = said_on_stderr(&output);
    ensure!(output.status.success(), "thrufs status: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

fn json(device: &Device) -> Result<Value> {
    Ok(serde_json::from_str(&status(
        &["--json"],
        &device.socket(),
    )?)?)
}

fn requests(status: &Value, name: &str) -> u64 {
    let opcodes = status["opcodes"].as_array();
    let mut opcodes = opcodes.into_iter().flatten();
    let counts = opcodes.find(|counts| counts["opcode"] == name);
    counts
        .and_then(|counts| counts["requests"].as_u64())
        .unwrap_or(0)
}

#[test]
fn status_of_a_device_says_who_is_connected_and_counts_across_sessions() -> Outcome {
    case(|| {
        for sandbox in [
            &["--sandbox=namespace"][..],
            &["--sandbox=none", "--seccomp=none"],
        ] {
            let mut options = vec!["--keep", "--tag=share", "--num-request-queues=2"];
            options.extend(sandbox);
            let device = Device::new(&options)?;
            std::fs::write(device.shared("f"), "")?;
            let before = json(&device)?;
            let guest_is = |status: &Value, field: &str| status["guest"][field].clone();
            ensure!(guest_is(&before, "is_connected") == false, "{before}");
            ensure!(before["pid"] == device.pid()?.as_raw(), "{before}");
            ensure!(before["transport"] == "vhost-user", "{before}");
            ensure!(
                guest_is(&before, "tag") == "share" && guest_is(&before, "request_queues") == 2
            );
            let socket = device.socket().canonicalize()?;
            ensure!(guest_is(&before, "socket") == socket.to_str().unwrap_or_default());
            let source = device.shared("").canonicalize()?;
            ensure!(
                before["source"] == source.to_str().unwrap_or_default(),
                "{before}"
            );
            let data = pattern(65_536);
            for round in 1..=2_u64 {
                let mut guest = device.connect(large(2))?;
                guest.init()?;
                let file = open(&mut guest, "f")?;
                ensure!(write(&mut guest, file, 0, &data)? == data.len());
                ensure!(read(&mut guest, file, 0, data.len())?.data == data);
                ensure!(lookup_in(&mut guest, ROOT, b"missing")?.error == libc::ENOENT);
                let now = json(&device)?;
                ensure!(guest_is(&now, "is_connected") == true, "{now}");
                ensure!(guest_is(&now, "is_mounted") == true, "{now}");
                ensure!(guest_is(&now, "front_ends") == round, "{now}");
                ensure!(requests(&now, "WRITE") == round && requests(&now, "LOOKUP") == 2 * round);
                ensure!(now["writes"]["bytes"] == round * 65_536, "{now}");
                ensure!(now["bytes_read"] == round * 65_536, "{now}");
                ensure!(now["handles"] == 1 && now["inodes"] == 2, "{now}");
                let text = status(&[], &device.socket())?;
                ensure!(text.contains("(share)") && text.contains("the guest has mounted it"));
                ensure!(text.contains("2 request queues"), "{text}");
            }
            wait_until("the end of the session", STEP, || {
                let now = json(&device)?;
                Ok(now["guest"]["is_connected"] == false && now["handles"] == 0)
            })?;
            let list = status(&[], Path::new("--json"))?;
            let list: Value = serde_json::from_str(&list)?;
            let all = list.as_array().context("a list")?;
            let ours = |one: &&Value| one["pid"] == device.pid().map_or(0, |pid| pid.as_raw());
            ensure!(all.iter().filter(ours).count() == 1, "{list}");
        }
        Ok(())
    })
}

#[test]
fn status_of_a_socket_that_no_device_serves_says_so_and_a_killed_device_is_not_listed() -> Outcome {
    case(|| {
        let mut device = Device::new(&[])?;
        json(&device)?;
        let pid = device.pid()?;
        device.signal(Signal::SIGKILL)?;
        device.wait()?;
        let mut command = Command::new(thrufs()?);
        let output = output(command.arg("status").arg(device.socket()))?;
        ensure!(output.status.code() == Some(1));
        let said = said_on_stderr(&output);
        ensure!(said.contains("no device of this user"), "{said}");
        let list = status(&[], Path::new("--json"))?;
        let list: Value = serde_json::from_str(&list)?;
        let all = list.as_array().context("a list")?;
        ensure!(all.iter().all(|one| one["pid"] != pid.as_raw()), "{list}");
        Ok(())
    })
}

#[test]
fn metrics_of_a_device_count_its_requests() -> Outcome {
    case(|| {
        // Free a moment ago: taken again only by chance.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let metrics = format!("--metrics={address}");
        let device = Device::new(&[&metrics, "--tag=t\"x", "--num-request-queues=3"])?;
        std::fs::write(device.shared("f"), "")?;
        let scrape = || -> Result<String> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(STEP))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let has = |text: &str, line: &str| -> Outcome {
            ensure!(
                text.lines().any(|found| found == line),
                "no {line} in {text}"
            );
            Ok(())
        };
        has(&scrape()?, "thrufs_front_end_connected 0.0")?;
        let mut guest = device.connect(Options::default())?;
        guest.init()?;
        lookup(&mut guest, "f")?;
        let text = scrape()?;
        for line in [
            "thrufs_front_end_connected 1.0",
            "thrufs_guest_mounted 1.0",
            "thrufs_request_queues 3.0",
            "thrufs_front_ends_total 1",
            "thrufs_requests_total{opcode=\"LOOKUP\"} 1",
        ] {
            has(&text, line)?;
        }
        ensure!(text.contains("tag=\"t\\\"x\""), "{text}");
        Ok(())
    })
}

#[test]
fn status_of_a_user_s_device_is_for_root_to_ask_by_its_socket() -> Outcome {
    case(|| {
        let device = Device::new_as_user(65_000, &["--tag=mine"])?;
        let status = json(&device)?;
        ensure!(status["guest"]["tag"] == "mine", "{status}");
        ensure!(status["pid"] == device.pid()?.as_raw(), "{status}");
        Ok(())
    })
}
