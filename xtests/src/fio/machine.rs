//! The machine that a session ran on, and the time.

use std::process::Command;

use anyhow::{Context, Result};
use xtests::support::command::succeed;

use super::record::Machine;

/// This machine; fio's version is filled in by the first run.
pub(super) fn describe() -> Result<Machine> {
    let uname = nix::sys::utsname::uname().context("uname")?;
    let text = |path: &str| std::fs::read_to_string(path).with_context(|| path.to_owned());
    let cpuinfo = text("/proc/cpuinfo")?;
    let limit = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit").ok();
    Ok(Machine {
        kernel: uname.release().to_string_lossy().into_owned(),
        distribution: std::fs::read_to_string("/etc/os-release")
            .ok()
            .and_then(|text| pretty_name(&text))
            .unwrap_or_else(|| "an unnamed distribution".to_owned()),
        cpu: value(&cpuinfo, "model name").unwrap_or_else(|| "an unnamed CPU".to_owned()),
        cpus: std::thread::available_parallelism()?.get(),
        memory_bytes: memory(&text("/proc/meminfo")?).context("/proc/meminfo: no MemTotal")?,
        fuse_max_pages_limit: limit.and_then(|text| text.trim().parse().ok()),
        fio: String::new(),
    })
}

/// `key : value`.
fn value(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_owned())
}

fn memory(text: &str) -> Option<u64> {
    let kib = value(text, "MemTotal")?;
    Some(kib.trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

fn pretty_name(text: &str) -> Option<String> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

/// UTC, as `2026-01-31T23:59:59Z`; date(1) knows the calendar.
pub(super) fn now() -> Result<String> {
    let said = succeed(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?;
    Ok(said.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_proc_files_are_found_by_their_key() {
        assert_eq!(
            value("a\t: 1\nmodel name\t: X 5\n", "model name").as_deref(),
            Some("X 5")
        );
        assert_eq!(
            memory("MemTotal:       24 kB\nMemFree: 1 kB\n"),
            Some(24 * 1024)
        );
        assert_eq!(
            pretty_name("ID=x\nPRETTY_NAME=\"Y 1\"\n").as_deref(),
            Some("Y 1")
        );
    }

    #[test]
    fn now_has_the_form_of_a_date() {
        let now = now().expect("date(1)");
        assert_eq!((now.len(), now.ends_with('Z')), (20, true), "{now}");
    }
}
