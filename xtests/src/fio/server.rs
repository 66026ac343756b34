//! The server of one run, mounted for that run alone.
//!
//! A mount for each run, not one for the session: the client's cache, the daemon's counters and its
//! CPU time then begin with the run, and no configuration profits from an earlier run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use xtests::support::command::{output, succeed};
use xtests::support::daemon_fixture::{DaemonFixture, tied_to_us};
use xtests::support::mount::thrufs;
use xtests::support::peers::Peer;
use xtests::support::request_trace::{Request, RequestTrace};
use xtests::support::scratch::Scratch;

use super::configs::{Config, Kind};
use super::record::Requests;

/// Per CPU: 100,000 requests in a second, for several seconds.
const TRACE_KB: u32 = 16 << 10;

/// The server, and the directory to work in.
pub(super) struct Server {
    dir: PathBuf,
    served: Running,
}

enum Running {
    /// A process of ours does not serve it.
    NotOurs,
    /// Not ours either, but the kernel reports the requests that it sends.
    Counted(RequestTrace),
    /// Dropped last: the scratch directory holds the mount point.
    Thrufs {
        served: DaemonFixture,
        binary: PathBuf,
        _scratch: Scratch,
    },
    Peer(Peer),
}

impl Server {
    /// Mounts `source`; a mount that is still in use after `limit` counts as hung and is aborted.
    pub(super) fn start(config: &Config, source: &Path, limit: Duration) -> Result<Self> {
        match &config.kind {
            Kind::Native => Ok(Self {
                dir: source.to_owned(),
                served: Running::NotOurs,
            }),
            Kind::Against(_) => Ok(Self {
                dir: source.to_owned(),
                served: Running::NotOurs,
            }),
            Kind::Counted(_) => {
                let trace = RequestTrace::start()?;
                trace.make_room(TRACE_KB)?;
                trace.clear()?;
                Ok(Self {
                    dir: source.to_owned(),
                    served: Running::Counted(trace),
                })
            }
            Kind::Peer(kind) => {
                let peer = Peer::mount(*kind, source)?.allow(limit);
                Ok(Self {
                    dir: peer.dir(),
                    served: Running::Peer(peer),
                })
            }
            Kind::Thrufs { binary, options } => {
                let scratch = Scratch::sharing(source.to_owned())?;
                let (dir, log) = (scratch.mountpoint(), scratch.path().join("daemon.log"));
                let binary = match binary {
                    Some(path) => path.clone(),
                    None => thrufs()?,
                };
                let mut command = tied_to_us(&binary);
                command.args(["mount", "-f"]).args(options);
                command.arg(source).arg(&dir);
                let mut served = DaemonFixture::start(&config.name, command, &dir, &log)?;
                served.allow(limit);
                Ok(Self {
                    dir,
                    served: Running::Thrufs {
                        served,
                        binary,
                        _scratch: scratch,
                    },
                })
            }
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon, if it is ours.
    pub(super) fn pid(&self) -> Result<Option<u32>> {
        let pid = match &self.served {
            Running::NotOurs | Running::Counted(_) => return Ok(None),
            Running::Thrufs { served, .. } => served.server_pid()?,
            Running::Peer(peer) => peer.pid()?,
        };
        Ok(Some(u32::try_from(pid.as_raw())?))
    }

    /// The daemon's command line, with SOURCE and MOUNTPOINT for the directories.
    pub(super) fn command(&self, source: &Path) -> Result<Option<String>> {
        let Some(pid) = self.pid()? else {
            return Ok(None);
        };
        let path = format!("/proc/{pid}/cmdline");
        let line = std::fs::read(&path).context(path)?;
        let words = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty());
        let words: Vec<String> = words
            .enumerate()
            .map(|(at, word)| {
                let word = String::from_utf8_lossy(word);
                if at == 0 {
                    let program = Path::new(word.as_ref()).file_name().unwrap_or_default();
                    return program.to_string_lossy().into_owned();
                }
                word.replace(&source.display().to_string(), "SOURCE")
                    .replace(&self.dir.display().to_string(), "MOUNTPOINT")
            })
            .collect();
        Ok(Some(words.join(" ")))
    }

    /// The requests that thrufs or the kernel has counted; none of another server.
    pub(super) fn requests(&self) -> Result<Option<Requests>> {
        let binary = match &self.served {
            Running::NotOurs | Running::Peer(_) => return Ok(None),
            Running::Counted(trace) => return Ok(Some(sent(&trace.requests()?))),
            Running::Thrufs { binary, .. } => binary,
        };
        Ok(Some(requests(&status(binary, &self.dir)?)?))
    }

    /// What thrufs has counted so far, by opcode; nothing of another server.
    pub(super) fn opcodes(&self) -> Result<Vec<(String, u64)>> {
        let Running::Thrufs { binary, .. } = &self.served else {
            return Ok(Vec::new());
        };
        by_opcode(&status(binary, &self.dir)?)
    }

    /// Unmounts and checks that it went well.
    pub(super) fn stop(self) -> Result<()> {
        match self.served {
            Running::NotOurs | Running::Counted(_) => Ok(()),
            Running::Thrufs { mut served, .. } => served.unmount(),
            Running::Peer(peer) => peer.unmount(),
        }
    }
}

fn status(binary: &Path, dir: &Path) -> Result<Value> {
    let mut status = Command::new(binary);
    let text = succeed(status.args(["status", "--json"]).arg(dir))?;
    serde_json::from_str(&text).context("thrufs status --json")
}

fn by_opcode(status: &Value) -> Result<Vec<(String, u64)>> {
    let opcodes = status["opcodes"].as_array();
    let opcodes = opcodes.context("thrufs status --json has no `opcodes`")?;
    let count = |opcode: &Value| {
        let count = opcode["requests"].as_u64();
        let name = opcode["opcode"].as_str().unwrap_or_default();
        Ok((
            name.to_owned(),
            count.context("an opcode without `requests`")?,
        ))
    };
    opcodes.iter().map(count).collect()
}

fn requests(status: &Value) -> Result<Requests> {
    let counts = by_opcode(status)?;
    let of = |name: &str| {
        counts
            .iter()
            .find(|(known, _)| known == name)
            .map_or(0, |found| found.1)
    };
    Ok(Requests {
        write: of("WRITE"),
        read: of("READ"),
        all: counts.iter().map(|(_, count)| count).sum(),
    })
}

/// The requests that the kernel sent.
fn sent(requests: &[Request]) -> Requests {
    let of = |opcode| requests.iter().filter(|r| r.opcode == opcode).count() as u64;
    Requests {
        write: of(RequestTrace::WRITE),
        read: of(RequestTrace::READ),
        all: requests.len() as u64,
    }
}

/// The first line that the configuration's program prints for its version.
pub(super) fn version(config: &Config) -> Option<String> {
    let program = match &config.kind {
        Kind::Native | Kind::Against(_) | Kind::Counted(_) => return None,
        Kind::Thrufs { binary, .. } => binary.clone().or_else(|| thrufs().ok())?,
        Kind::Peer(kind) => kind.provide().ok()?,
    };
    ["--version", "-V"].iter().find_map(|option| {
        let said = output(Command::new(&program).arg(option)).ok()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let line = text.lines().find(|line| !line.trim().is_empty())?;
        said.status.success().then(|| line.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_a_status_are_counted_by_opcode() {
        let status = serde_json::json!({"opcodes": [
            {"opcode": "WRITE", "requests": 7}, {"opcode": "READ", "requests": 2},
            {"opcode": "LOOKUP", "requests": 1},
        ]});
        let counted = requests(&status).expect("a good status");
        assert_eq!((counted.write, counted.read, counted.all), (7, 2, 10));
        assert!(requests(&serde_json::json!({})).is_err());
    }

    #[test]
    fn requests_of_a_trace_are_counted_by_opcode() {
        let request = |opcode| Request { opcode, len: 100 };
        let (read, write) = (RequestTrace::READ, RequestTrace::WRITE);
        let counted = sent(&[read, write, write, 1].map(request));
        assert_eq!((counted.write, counted.read, counted.all), (2, 1, 4));
    }
}
