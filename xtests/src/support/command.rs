//! Other programs: run to the end with their output in the error, or with a deadline.

use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::interrupt::spawn;
use super::wait::wait_for;

/// `program args`, for messages.
pub fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Runs it without a stdin and returns its output, whatever its exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let program = spawn(command).with_context(|| format!("cannot run {}", describe(command)))?;
    let output = program.wait_with_output();
    output.with_context(|| describe(command))
}

/// Runs it and returns its stdout; a non-zero exit is an error with the end of its output.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}: {}\n{}{}",
            describe(command),
            output.status,
            tail(&stdout),
            tail(&stderr)
        );
    }
    Ok(stdout)
}

/// The last lines of a long output.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(40);
    lines[from..]
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// Waits for a child; at the deadline the child is killed, which is an error.
pub fn wait_for_exit(child: &mut Child, what: &str, deadline: Duration) -> Result<ExitStatus> {
    let waited = wait_for(what, deadline, || Ok(child.try_wait()?));
    if waited.is_err() {
        // A child that already ended cannot be killed; either way it is reaped.
        let _ = child.kill();
        child.wait()?;
    }
    waited
}
