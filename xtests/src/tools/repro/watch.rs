//! Runs the workers of one case, with a deadline, and judges them. A case that passes its deadline
//! is examined twice, a grace period apart: threads that have moved in between are slow, others are
//! stuck; stuck with no request outstanding, or stuck on a page that an outstanding request holds,
//! is a deadlock. The watcher never opens a path of the mount.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::examine::{Connection, Thread, threads};
use super::finding::Finding;

/// The verdict of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Ok {
        detail: String,
    },
    WrongData {
        detail: String,
    },
    Lacks {
        detail: String,
    },
    Error {
        detail: String,
    },
    /// Still unanswered after deadline and grace, but nothing shows a deadlock.
    Slow(Stuck),
    Deadlock(Stuck),
}

/// The state of workers that did not come back, and what freed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stuck {
    pub(crate) threads: Vec<Thread>,
    /// Requests without an answer; None if fusectl does not tell.
    pub(crate) waiting: Option<u64>,
    /// `SIGKILL`, `abort`, or None: still stuck.
    pub(crate) freed_by: Option<&'static str>,
}

/// Common to all workers of a run.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) files: [PathBuf; 2],
    pub(crate) deadline: Duration,
    pub(crate) abort: bool,
    pub(crate) overwrite: bool,
    pub(crate) connection: Option<Connection>,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
}

struct Worker {
    child: Child,
    /// None once its finding has come or its output has ended.
    finding: Option<Finding>,
    ended: bool,
}

struct Line {
    role: usize,
    /// None: the output has ended.
    text: Option<String>,
}

struct Workers<'a> {
    setting: &'a Setting,
    all: Vec<Worker>,
    sender: Sender<Line>,
    lines: Receiver<Line>,
}

enum Progress {
    Done,
    /// No line came within the deadline.
    Silent,
}

/// Runs `count` workers of the case called `name`.
pub(crate) fn run(
    setting: &Setting,
    name: &str,
    count: usize,
    tick: &dyn Fn(),
) -> anyhow::Result<Verdict> {
    let (sender, lines) = channel();
    let mut workers = Workers {
        setting,
        all: Vec::new(),
        sender,
        lines,
    };
    for role in 0..count {
        workers.start(name, role)?;
        // Role 0 writes the files that the others open.
        if let Progress::Silent = workers.listen(|worker| worker == "ready", role, tick) {
            return workers.judge(tick);
        }
    }
    for worker in &mut workers.all {
        if let Some(stdin) = &mut worker.child.stdin {
            // A dead worker shows by its output.
            let _gone = stdin.write_all(b"go\n");
        }
    }
    match workers.listen(|_| false, usize::MAX, tick) {
        Progress::Done => workers.verdict(),
        Progress::Silent => workers.judge(tick),
    }
}

impl Workers<'_> {
    fn start(&mut self, name: &str, role: usize) -> anyhow::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["repro-worker", name, "--role", &role.to_string()]);
        for file in &self.setting.files {
            command.arg("--file").arg(file);
        }
        command.args(["--seed", &self.setting.seed.to_string()]);
        command.args(["--seconds", &self.setting.seconds.to_string()]);
        if self.setting.overwrite {
            command.arg("--overwrite");
        }
        command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let sender = self.sender.clone();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _watcher_gone = sender.send(Line {
                        role,
                        text: Some(line),
                    });
                }
                let _watcher_gone = sender.send(Line { role, text: None });
            });
        }
        self.all.push(Worker {
            child,
            finding: None,
            ended: false,
        });
        Ok(())
    }

    /// Takes lines until `until` accepts one of worker `role`, that worker or all have ended, or
    /// nothing has come within the deadline.
    fn listen(&mut self, until: impl Fn(&str) -> bool, role: usize, tick: &dyn Fn()) -> Progress {
        let mut silent_since = Instant::now();
        loop {
            let one_ended = self.all.get(role).is_some_and(|worker| worker.ended);
            if one_ended || self.all.iter().all(|worker| worker.ended) {
                return Progress::Done;
            }
            tick();
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(Line {
                    role: from,
                    text: Some(text),
                }) => {
                    if from == role && until(&text) {
                        return Progress::Done;
                    }
                    if let Ok(finding) = serde_json::from_str(&text) {
                        self.all[from].finding = Some(finding);
                    }
                    silent_since = Instant::now();
                }
                Ok(Line {
                    role: from,
                    text: None,
                }) => {
                    self.all[from].ended = true;
                    silent_since = Instant::now();
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if silent_since.elapsed() >= self.setting.deadline {
                        return Progress::Silent;
                    }
                }
            }
        }
    }

    fn verdict(&mut self) -> anyhow::Result<Verdict> {
        let mut worst = Verdict::Ok {
            detail: String::new(),
        };
        let deadline = Instant::now() + self.setting.deadline;
        for role in 0..self.all.len() {
            if !self.wait_for_exit(role, deadline)? {
                return self.judge(&|| {});
            }
            let status = self.all[role].child.wait()?;
            let verdict = match self.all[role].finding.take() {
                Some(Finding::Ok(detail)) => Verdict::Ok { detail },
                Some(Finding::WrongData(detail)) => Verdict::WrongData { detail },
                Some(Finding::Lacks(detail)) => Verdict::Lacks { detail },
                Some(Finding::Error(detail)) => Verdict::Error { detail },
                None => {
                    let why = match status.signal() {
                        Some(signal) => format!("was killed by signal {signal}"),
                        None => format!("ended without a word ({status})"),
                    };
                    Verdict::Error {
                        detail: format!("worker {role} {why}"),
                    }
                }
            };
            if verdict.rank() > worst.rank() || (role == 0 && verdict.rank() == worst.rank()) {
                worst = verdict;
            }
        }
        Ok(worst)
    }

    /// Whether the process ends before `deadline`; waits on its pidfd, so that a worker in D state
    /// does not take the watcher along.
    fn wait_for_exit(&mut self, role: usize, deadline: Instant) -> anyhow::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let child = &mut self.all[role].child;
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        let Some(pid) = Pid::from_raw(child.id().cast_signed()) else {
            anyhow::bail!("a child has no process id");
        };
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left)?;
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))?;
        Ok(child.try_wait()?.is_some())
    }

    fn look(&mut self) -> (Vec<Thread>, Option<u64>) {
        let mut seen = Vec::new();
        for worker in &mut self.all {
            if !matches!(worker.child.try_wait(), Ok(Some(_))) {
                seen.extend(threads(worker.child.id()));
            }
        }
        let waiting = self
            .setting
            .connection
            .as_ref()
            .and_then(Connection::waiting);
        if let (Some(1..), Some(connection)) = (waiting, &self.setting.connection) {
            seen.extend(connection.server_page_waits());
        }
        (seen, waiting)
    }

    /// After the deadline: examines, waits as long again, examines again, and frees.
    fn judge(&mut self, tick: &dyn Fn()) -> anyhow::Result<Verdict> {
        let (before, _) = self.look();
        if let Progress::Done = self.listen(|_| false, usize::MAX, tick) {
            return self.verdict();
        }
        let (after, waiting) = self.look();
        let moved = after.iter().any(|thread| !before.contains(thread));
        let on_page = after.iter().any(Thread::waits_for_page);
        // Without fusectl (None) the page wait alone decides.
        let deadlock = !moved && (waiting == Some(0) || on_page);
        let freed_by = self.free()?;
        let stuck = Stuck {
            threads: after,
            waiting,
            freed_by,
        };
        Ok(if deadlock {
            Verdict::Deadlock(stuck)
        } else {
            Verdict::Slow(stuck)
        })
    }

    fn free(&mut self) -> anyhow::Result<Option<&'static str>> {
        if self.all_exit_after(|worker| {
            // Fails only for a worker that has ended.
            let _ended = worker.child.kill();
        })? {
            return Ok(Some("SIGKILL"));
        }
        if let (true, Some(connection)) = (self.setting.abort, &self.setting.connection) {
            connection.abort()?;
            if self.all_exit_after(|_| {})? {
                return Ok(Some("abort"));
            }
        }
        Ok(None)
    }

    fn all_exit_after(&mut self, act: impl Fn(&mut Worker)) -> anyhow::Result<bool> {
        self.all.iter_mut().for_each(act);
        let deadline = Instant::now() + self.setting.deadline.min(Duration::from_secs(3));
        let mut all = true;
        for role in 0..self.all.len() {
            all &= self.wait_for_exit(role, deadline)?;
        }
        Ok(all)
    }
}

impl Drop for Workers<'_> {
    /// Even if the watcher itself fails, no worker is left that a signal can end.
    fn drop(&mut self) {
        for worker in &mut self.all {
            if !matches!(worker.child.try_wait(), Ok(Some(_))) {
                let _ended = worker.child.kill();
                let _still_stuck = worker.child.try_wait();
            }
        }
    }
}

impl Verdict {
    /// The larger of several verdicts counts.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Ok { .. } => 0,
            Self::Lacks { .. } => 1,
            Self::Slow(_) => 2,
            Self::Error { .. } => 3,
            Self::WrongData { .. } => 4,
            Self::Deadlock(_) => 5,
        }
    }

    /// The verdict's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Ok { .. } => 0,
            Self::Lacks { .. } | Self::Slow(_) => 77,
            Self::Error { .. } => 2,
            Self::WrongData { .. } => 3,
            Self::Deadlock(_) => 1,
        }
    }
}
