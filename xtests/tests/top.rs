//! `thrufs top`: whose requests they are, and a terminal that is left as it was.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xtests::support::command::{output, said_on_stderr, wait_for_exit};
use xtests::support::mount::{NEVER, thrufs};
use xtests::support::wait::{wait_for, wait_until};
use xtests::support::{Mount, Outcome, missing, on_daemon};

const SOON: Duration = Duration::from_secs(20);

/// A process that writes through the mount until it is dropped.
struct Writer(Child);

impl Writer {
    fn start(m: &Mount) -> Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", "while :; do echo 0123456789 >> f; done"]);
        Ok(Self(shell.current_dir(m.dir()).spawn()?))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The shell may have failed.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn top(arguments: &[&str], dir: &Path) -> Result<String> {
    let said = output(Command::new(thrufs()?).arg("top").args(arguments).arg(dir))?;
    ensure!(
        said.status.success(),
        "thrufs top: {}",
        said_on_stderr(&said)
    );
    Ok(String::from_utf8(said.stdout)?)
}

#[test]
fn top_as_json_names_the_process_that_writes_and_what_it_asks() -> Outcome {
    on_daemon(&[NEVER], |m| {
        m.status()?;
        let writer = Writer::start(m)?;
        let pid = writer.0.id();
        let found = |rows: &Value, key: &str, value: &Value| {
            let mut rows = rows.as_array()?.iter();
            rows.find(|row| &row[key] == value).cloned()
        };
        let (process, opcode) = wait_for("the process to be seen", SOON, || {
            let text = top(&["--json", "-n", "1", "-d", "0.5"], m.dir())?;
            let rates: Value = serde_json::from_str(&text)?;
            let process = found(&rates["processes"], "pid", &Value::from(pid));
            let opcode = found(&rates["opcodes"], "name", &Value::from("WRITE"));
            Ok(process.zip(opcode))
        })?;
        ensure!(process["name"] == "sh", "{process}");
        for (row, key) in [
            (&process, "requests"),
            (&process, "written"),
            (&opcode, "written"),
        ] {
            ensure!(row[key].as_f64() > Some(0.0), "{key} of {row}");
        }
        ensure!(process["latency"].as_u64() > Some(0), "{process}");
        Ok(())
    })
}

#[test]
fn top_in_batch_prints_as_many_tables_as_asked_for() -> Outcome {
    on_daemon(&[], |m| {
        m.status()?;
        let text = top(&["-b", "-n", "2", "-d", "0.2"], m.dir())?;
        let of_mount = text
            .lines()
            .filter(|line| line.ends_with(&*m.dir().to_string_lossy()));
        ensure!(of_mount.count() == 2, "{text}");
        ensure!(!text.contains('\u{1b}'), "{text}");
        Ok(())
    })
}

#[test]
fn top_without_a_terminal_says_what_to_use() -> Outcome {
    on_daemon(&[], |m| {
        m.status()?;
        let mut command = Command::new(thrufs()?);
        let said = output(command.arg("top").stdin(Stdio::null()))?;
        ensure!(said.status.code() == Some(1), "{said:?}");
        ensure!(said_on_stderr(&said).contains("--batch"), "{said:?}");
        Ok(())
    })
}

/// A shell in a terminal that shows its modes before and after `thrufs top`.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(m: &Mount) -> Result<Self> {
        let (program, dir) = (thrufs()?, m.dir());
        let line = format!(
            "echo before=$(stty -g); {} top -d 0.2 {}; echo code=$?; echo after=$(stty -g)",
            program.display(),
            dir.display()
        );
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &line, "/dev/null"]);
        script
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut script = script
            .spawn()
            .map_err(|error| missing(format!("script(1): {error}")))?;
        let mut pipe = script.stdout.take().context("a pipe")?;
        let shown = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                sink.lock().expect("no panic with the lock").push_str(&text);
            }
        });
        Ok(Self { script, shown })
    }

    fn shown(&self) -> String {
        self.shown.lock().expect("no panic with the lock").clone()
    }

    fn wait_for(&self, wanted: &str) -> Outcome {
        wait_until(&format!("the terminal to show {wanted:?}"), SOON, || {
            Ok(self.shown().contains(wanted))
        })
        .with_context(|| self.shown())
    }

    fn type_keys(&mut self, keys: &[u8]) -> Outcome {
        let stdin = self.script.stdin.as_mut().context("a pipe")?;
        stdin.write_all(keys)?;
        Ok(stdin.flush()?)
    }

    /// The modes are what they were, and the other screen is left.
    fn check_left(mut self, code: i32) -> Outcome {
        self.wait_for("after=")?;
        // The end of its input would be the end of the terminal.
        wait_for_exit(&mut self.script, "script to end", SOON)?;
        wait_until("all to be read", SOON, || {
            Ok(self
                .shown()
                .trim_end()
                .lines()
                .last()
                .is_some_and(|line| line.contains("after=")))
        })?;
        let shown = self.shown();
        let value = |name: &str| {
            let lines = shown.lines();
            let mut values =
                lines.filter_map(|line| Some(line.split_once(name)?.1.trim().to_owned()));
            values
                .next()
                .with_context(|| format!("{name} in {shown:?}"))
        };
        ensure!(value("before=")? == value("after=")?, "{shown:?}");
        ensure!(value("code=")? == code.to_string(), "{shown:?}");
        let (enter, leave) = ("\u{1b}[?1049h", "\u{1b}[?25h\u{1b}[?1049l");
        let (entered, left) = (shown.rfind(enter), shown.rfind(leave));
        ensure!(entered.is_some() && left > entered, "{shown:?}");
        Ok(())
    }
}

#[test]
fn top_in_a_terminal_takes_keys_and_leaves_it_as_it_was() -> Outcome {
    on_daemon(&[NEVER], |m| {
        m.status()?;
        let _writer = Writer::start(m)?;
        let mut terminal = Terminal::open(m)?;
        terminal.wait_for("    pid  process")?;
        terminal.type_keys(b"o")?;
        terminal.wait_for("  request")?;
        terminal.type_keys(b"xbq")?;
        terminal.check_left(0)
    })
}

#[test]
fn top_in_a_terminal_ends_at_interrupt_and_at_a_signal_with_the_terminal_as_it_was() -> Outcome {
    on_daemon(&[], |m| {
        m.status()?;
        let mut terminal = Terminal::open(m)?;
        terminal.wait_for("    pid  process")?;
        terminal.type_keys(&[3])?;
        terminal.check_left(0)?;
        let terminal = Terminal::open(m)?;
        terminal.wait_for("    pid  process")?;
        kill(top_of(m.dir())?, Signal::SIGTERM)?;
        terminal.check_left(0)
    })
}

/// The `thrufs top` that shows this mount.
fn top_of(dir: &Path) -> Result<Pid> {
    let wanted = format!("\0top\0-d\0{}\0{}\0", "0.2", dir.display());
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).ends_with(&wanted) {
            return Ok(Pid::from_raw(pid));
        }
    }
    anyhow::bail!("no process {wanted:?}")
}
