//! Programs that the lab runs, each with all of its output in a log.
//!
//! Invariant: a log is complete when the call returns, whatever the outcome, and an error carries its end.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result, at};

/// How much of a failed step's output goes into the error.
const TAIL_LINES: usize = 25;

/// The same command, whose process gets `signal` when the thread that spawns it ends, so that
/// nothing outlives a killed caller. By setpriv(1), since prctl(2) in the child would need `unsafe`.
pub(crate) fn tied(command: &Command, signal: &str) -> Result<Command> {
    let program = command.get_program();
    // setpriv's own error would be in a log, and without the remedy.
    if !is_there(Path::new(program)) {
        return Err(missing(command, std::io::ErrorKind::NotFound.into()));
    }
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", signal, "--"])
        .arg(program)
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    Ok(tied)
}

/// Whether `program` is the path of a file, or the name of one on PATH.
fn is_there(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Joining an absolute path drops the directory.
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Runs `command` to its end with its output in `log`; `what` names it in errors.
pub(crate) fn run_logged(command: &mut Command, what: &str, log: &Path) -> Result<()> {
    let file = File::create(log).map_err(at(log))?;
    let errors = file.try_clone().map_err(at(log))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(file))
        .stderr(Stdio::from(errors))
        .status()
        .map_err(|source| missing(command, source))?;
    if status.success() {
        return Ok(());
    }
    let output = std::fs::read(log).map_err(at(log))?;
    Err(Error::Step {
        what: what.to_owned(),
        log: log.to_owned(),
        tail: tail(&String::from_utf8_lossy(&output)),
    })
}

/// Runs `command` and returns what it printed; `what` names it in errors.
pub(crate) fn run_captured(command: &mut Command, what: &str, log: &Path) -> Result<String> {
    run_logged(command, what, log)?;
    let output = std::fs::read(log).map_err(at(log))?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// The last lines of a program's output.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The error for a program that did not start, with what to install for it.
pub(crate) fn missing(command: &Command, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    let remedy = match program.as_str() {
        "setpriv" => "install util-linux",
        "apt-get" | "apt-cache" | "dpkg-deb" => {
            "kernel packages need a Debian system; elsewhere use --tree"
        }
        "make" | "nice" => "install make, gcc, flex, bison and bc",
        "git" => "install git",
        "qemu-system-x86_64" => "install qemu-system-x86",
        "tar" => "install tar and xz-utils",
        "gcc" => "install gcc",
        _ => "install it, or look at PATH",
    };
    Error::Program {
        program,
        source,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_logged_of_a_failing_program_reports_the_end_of_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo last >&2; exit 3"]);
        let error = run_logged(&mut command, "the step", &log)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("the step failed"), "{error}");
        assert!(error.ends_with("first\nlast"), "{error}");
    }

    #[test]
    fn tied_of_an_absent_program_names_the_remedy() {
        let error = tied(&Command::new("/nowhere/linux"), "TERM").unwrap_err();
        assert!(error.to_string().contains("/nowhere/linux"), "{error}");
    }

    #[test]
    fn tied_runs_the_same_program_with_its_arguments_and_environment() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $WORD"]).env("WORD", "said");
        let output = tied(&command, "TERM").unwrap().output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "said\n");
    }

    #[test]
    fn run_logged_of_an_absent_program_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = run_logged(
            &mut Command::new("no-such-program-anywhere"),
            "the step",
            &dir.path().join("log"),
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("no-such-program-anywhere")
        );
    }
}
