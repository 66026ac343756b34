//! What `contrib/grafana` has for operators: the alerts by promtool and by a Prometheus that scrapes a mount, and the
//! names of metrics in alerts and dashboard.
//!
//! Not by a parser of ours: whether a rule is one, and when it fires, is Prometheus's to say.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::Value;
use xtests::support::command::succeed;
use xtests::support::daemon_fixture::tied_to_us;
use xtests::support::install;
use xtests::support::mount::is_default_run;
use xtests::support::process::pid_of;

use super::*;

/// For Prometheus to start, and for a dozen scrapes and evaluations, on a machine however busy.
const LATER: Duration = Duration::from_secs(60);

fn grafana(name: &str) -> PathBuf {
    install::root().join("contrib/grafana").join(name)
}

/// Not a question of the settings: one run of the tier is enough.
fn provide() -> Outcome {
    if !is_default_run() {
        let once = "nothing: alerts and dashboard are tested once, with the defaults";
        return Err(missing(once));
    }
    install::apt(&[("prometheus", "prometheus"), ("promtool", "prometheus")])
}

#[test]
fn alerts_fire_for_what_they_are_for_and_for_nothing_beside() -> Outcome {
    case(|| {
        provide()?;
        let rules = grafana("alerts.yml");
        succeed(Command::new("promtool").args(["check", "rules"]).arg(rules))?;
        let cases = grafana("alerts_test.yml");
        let tested = succeed(Command::new("promtool").args(["test", "rules"]).arg(cases))?;
        ensure!(tested.contains("SUCCESS"), "{tested}");
        let manual = install::root().join("contrib/doc/operations.md");
        let manual = std::fs::read_to_string(manual)?;
        for alert in alerts()? {
            ensure!(manual.contains(&format!("| `{alert}` | ")), "{alert}");
        }
        Ok(())
    })
}

/// The names of the alerts.
fn alerts() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(grafana("alerts.yml"))?;
    let names = text.lines().filter_map(|line| line.split_once("- alert: "));
    Ok(names.map(|(_, name)| name.to_owned()).collect())
}

/// The names of metrics in an expression, a rule or a dashboard.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("thrufs_") || word.starts_with("process_"))
        .collect()
}

/// A sample of that name, or a family that has none yet.
fn is_served(name: &str, text: &str) -> bool {
    let family = name.trim_end_matches("_total");
    text.lines().any(|line| {
        let sample = line.strip_prefix(name);
        let described = line.strip_prefix("# TYPE ").unwrap_or_default();
        let described = described.split(' ').next().unwrap_or_default();
        sample.is_some_and(|rest| rest.starts_with(['{', ' ']))
            || [name, family].contains(&described)
    })
}

#[test]
fn metrics_that_alerts_and_dashboard_name_are_those_of_mounts() -> Outcome {
    let alerts = std::fs::read_to_string(grafana("alerts.yml"))?;
    let dashboard = std::fs::read_to_string(grafana("dashboard.json"))?;
    let parsed: Value = serde_json::from_str(&dashboard)?;
    let panels = parsed["panels"].as_array().map_or(0, Vec::len);
    ensure!(panels > 10, "{panels} panels");
    let mut named = names(&alerts);
    named.extend(names(&dashboard));
    ensure!(named.len() > 15, "{named:?}");
    let mut served = String::new();
    for options in [&[][..], &["--transport=device", "--survive=always"]] {
        let options: Vec<&str> = ["--metrics=0"].iter().chain(options).copied().collect();
        on_daemon(&options, |m| {
            if !is_default_run() {
                return Err(missing("nothing: names are tested once, with the defaults"));
            }
            std::fs::write(m.path("f"), "written")?;
            served += &scrape(address(m)?, PROMETHEUS)?;
            Ok(())
        })?;
    }
    // Skipped.
    if served.is_empty() {
        return Ok(());
    }
    for name in named {
        ensure!(is_served(name, &served), "{name} in\n{served}");
    }
    Ok(())
}

/// A Prometheus of this test's own.
struct Prometheus {
    process: Child,
    directory: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes `target` and evaluates the alerts each second.
    fn start(target: SocketAddr) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("prometheus.yml");
        let rules = grafana("alerts.yml").canonicalize()?;
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{job_name: thrufs, static_configs: [{{targets: ['{target}']}}]}}]\n",
            rules.display()
        );
        std::fs::write(&config, text)?;
        let log = File::create(directory.path().join("log"))?;
        let data = directory.path().join("data");
        let mut command = tied_to_us(&install::find("prometheus").context("prometheus")?);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg("--web.listen-address=127.0.0.1:0");
        let process = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { process, directory })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The address that it logs once it listens; returns when it answers as well.
    fn address(&self) -> Result<SocketAddr> {
        let address = wait_for("Prometheus to answer", LATER, || {
            let log = self.log();
            let said = log.split_once("Listening on\" address=");
            let Some(address) = said.and_then(|(_, rest)| rest.split_whitespace().next()) else {
                return Ok(None);
            };
            let address = address.parse()?;
            let is_ready = ask("1.0", address, "/-/ready", "text/plain")?.contains(" 200 ");
            Ok(is_ready.then_some(address))
        });
        address.with_context(|| self.log())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = nix::sys::signal::kill(pid_of(&self.process), nix::sys::signal::SIGKILL);
        let _reaped = self.process.wait();
    }
}

/// The answer to an expression, or to a question of `/api/v1`.
fn asked(address: SocketAddr, path: &str) -> Result<Value> {
    let answer = ask("1.0", address, path, "application/json")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let body: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
    Ok(body["data"].clone())
}

/// The metrics were read by parsers until now, and the alerts by people.
#[test]
fn prometheus_scrapes_a_mount_and_the_alert_of_failing_writes_fires() -> Outcome {
    let options = ["--metrics=0", NEVER, "--fault=write:range=1048576+4096:EIO"];
    on_daemon(&options, |m| {
        provide()?;
        let prometheus = Prometheus::start(address(m)?)?;
        let at = prometheus.address()?;
        std::fs::write(m.path("f"), "written")?;
        // An increase is one over two scrapes; an error before the first would be none.
        let errors = "thrufs_request_errors_total%7Bopcode%3D%22WRITE%22%7D";
        let count = format!("/api/v1/query?query=count_over_time({errors}%5B1h%5D)");
        wait_for("two scrapes of the counter", LATER, || {
            let found = asked(at, &count)?;
            let counted = found["result"][0]["value"][1].as_str().unwrap_or("0");
            Ok((counted.parse::<u32>()? >= 2).then_some(()))
        })?;
        let firing = || -> Result<Vec<String>> {
            let alerts = asked(at, "/api/v1/alerts")?;
            let alerts = alerts["alerts"].as_array().cloned().unwrap_or_default();
            let names = alerts.iter().filter(|alert| alert["state"] == "firing");
            Ok(names
                .filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned()))
                .collect())
        };
        equal("alerts before", firing()?, Vec::new())?;
        let file = File::options().write(true).open(m.path("f"))?;
        let refused = std::os::unix::fs::FileExt::write_at(&file, b"x", 1 << 20);
        equal(
            "errno",
            refused.err().and_then(|e| e.raw_os_error()),
            Some(5),
        )?;
        wait_for("the alert", LATER, || {
            Ok((firing()? == ["ThrufsWriteErrors"]).then_some(()))
        })?;
        let rules = asked(at, "/api/v1/rules")?;
        let rules = rules["groups"][0]["rules"].as_array().cloned();
        let rules = rules.context("no rules")?;
        equal("rules", rules.len(), alerts()?.len())?;
        for rule in rules {
            ensure!(rule["health"] == "ok", "{rule}");
        }
        Ok(())
    })
}
