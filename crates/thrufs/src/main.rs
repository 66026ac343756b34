//! `thrufs`, the binary: command line in, mounted file system out.
//!
//! What is typed becomes one validated [`request::MountRequest`]; [`background`] or the foreground
//! runs [`control`], which owns the [`session`]. The file system itself is the crate `thrufs_fs`;
//! [`attach`] makes the mount and [`teardown`] removes it, and nothing else touches the mount table.

mod attach;
mod background;
mod child;
mod cli;
mod confine;
mod connections;
#[cfg(test)]
mod contrib;
mod control;
mod death;
mod demo;
mod limits;
mod logging;
mod metrics;
mod mount_options;
mod occupied;
mod options;
mod places;
mod remount;
mod replace_dead;
mod request;
mod server;
mod session;
mod shortfall;
mod source_state;
mod status;
mod stdout;
mod supervisor;
mod sysctls;
mod teardown;
mod umount;
mod wait;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use nix::mount::MsFlags;
use tracing::Level;

use crate::background::Readiness;
use crate::cli::{Cli, Command, Form};
use crate::request::MountRequest;

#[global_allocator]
static ALLOCATOR: thrufs_sys::session_buffer::PayloadAligning =
    thrufs_sys::session_buffer::PayloadAligning;

/// The command line, SOURCE or MOUNTPOINT is wrong: trying again changes nothing. clap's code for usage,
/// and what `RestartPreventExitStatus=` of thrufs@.service names.
const CONFIGURATION: u8 = 2;
/// mount(8)'s exit codes for a helper.
const MOUNT8_USAGE: u8 = 1;
const MOUNT8_FAILURE: u8 = 32;

/// Why the program does not succeed.
#[derive(Debug)]
enum Failure {
    /// See [`CONFIGURATION`].
    Configuration(anyhow::Error),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Configuration(error) | Failure::Other(error) => error,
        }
    }
}

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let (result, by_mount8) = match cli::form(&line) {
        Form::Mount {
            program,
            arguments,
            by_mount8,
        } => {
            let request = match request::parse(&program, &arguments, attach::is_root()) {
                Ok(request) => request,
                Err(error) => return print_usage_error(&error, by_mount8),
            };
            request.warnings.iter().for_each(|warning| warn(warning));
            // For mount(8), -f is "fake": check everything, mount nothing.
            let is_fake = by_mount8 && arguments.iter().any(|argument| argument == "-f");
            let is_remount = request.kernel.flags.contains(MsFlags::MS_REMOUNT);
            let result = match (is_remount, is_fake) {
                (false, false) => mount(&request),
                (false, true) => check(&request).map(drop),
                (true, false) => remount::run(&request, &line).map_err(Failure::from),
                (true, true) => Ok(()),
            };
            (result, by_mount8)
        }
        Form::Subcommand => (subcommand(Cli::parse()).map_err(Failure::from), false),
    };
    logging::flush(logging::FLUSH_DEADLINE);
    let (error, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        // `thrufs status | head -1` has got what it wants.
        Err(Failure::Other(error)) if stdout::is_closed(&error) => return ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => (error, CONFIGURATION),
        Err(Failure::Other(error)) => (error, 1),
    };
    complain(&error);
    ExitCode::from(if by_mount8 { MOUNT8_FAILURE } else { code })
}

fn subcommand(cli: Cli) -> anyhow::Result<()> {
    if cli.print_capabilities {
        return stdout::print(cli::CAPABILITIES);
    }
    match cli.command {
        Some(Command::Umount(args)) => umount::run(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Reproduce(args)) => demo::reproduce(&args),
        Some(Command::Mount(_)) => anyhow::bail!("write `mount` as the first argument"),
        None => stdout::print(&Cli::command().render_help().to_string()),
    }
}

/// Help and version are errors for clap, but not for mount(8).
fn print_usage_error(error: &clap::Error, by_mount8: bool) -> ExitCode {
    // Where standard error is closed, the exit code must do.
    let _ = error.print();
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if by_mount8 => ExitCode::from(MOUNT8_USAGE),
        _usage => ExitCode::from(CONFIGURATION),
    }
}

fn mount(request: &MountRequest) -> Result<(), Failure> {
    if request.replace_dead {
        replace_dead::run(&request.mountpoint, &request.kernel.subtype)?;
    }
    let places = check(request)?;
    let request = &request
        .clone()
        .with_safe_file_handles(|| places.are_whole());
    limits::apply(request.rlimit_nofile)?;
    // A lock of flock(1) or a pipe of a CI job is its owner's: what the daemon holds of it would last as
    // long as the mount. thrufs takes no descriptors (LISTEN_FDS), and NOTIFY_SOCKET is a path.
    thrufs_sys::confine::close_all_but(&[places.source.as_fd()])
        .context("close what was inherited")?;
    if request.foreground {
        control::serve(places, request, &mut Readiness::Foreground, request.log)?;
    } else {
        background::start(places, request)?;
    }
    Ok(())
}

/// Everything that can be found out before anything is changed.
fn check(request: &MountRequest) -> Result<places::Places, Failure> {
    let places = places::Places::open(&request.source, &request.mountpoint)
        .map_err(Failure::Configuration)?;
    occupied::check(&places, request).map_err(Failure::Configuration)?;
    attach::check_prerequisites()?;
    Ok(places)
}

/// Says what went wrong, as far as there is somebody to hear it: `eprintln!` would panic where
/// standard error is closed.
fn complain(message: &dyn std::fmt::Display) {
    say(Level::ERROR, &format!("thrufs: {message:#}"));
}

/// Says what will be otherwise than was asked for or expected.
fn warn(message: &str) {
    say(Level::WARN, &format!("thrufs: warning: {message}"));
}

fn say(level: Level, message: &str) {
    let message = logging::for_stderr(level, message);
    // A closed standard error has no reader.
    let _ = writeln!(std::io::stderr(), "{message}");
}
