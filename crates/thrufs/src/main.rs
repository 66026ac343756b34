//! `thrufs`, the binary: command line in, mounted file system out.
//!
//! What is typed becomes one validated [`request::MountRequest`]; [`background`] or the foreground
//! runs [`control`], which owns the [`session`]. The file system itself is the crate `thrufs_fs`;
//! [`attach`] makes the mount and [`teardown`] removes it, and nothing else touches the mount table.

mod attach;
mod background;
mod cli;
mod confine;
#[cfg(test)]
mod contrib;
mod control;
mod death;
mod demo;
mod limits;
mod logging;
mod metrics;
mod mount_options;
mod options;
mod places;
mod replace_dead;
mod request;
mod server;
mod session;
mod status;
mod supervisor;
mod sysctls;
mod teardown;
mod umount;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use nix::mount::MsFlags;

use crate::background::Readiness;
use crate::cli::{Cli, Command, Form};
use crate::request::MountRequest;

#[global_allocator]
static ALLOCATOR: thrufs_sys::session_buffer::PayloadAligning =
    thrufs_sys::session_buffer::PayloadAligning;

/// mount(8)'s exit codes for a helper.
const MOUNT8_USAGE: u8 = 1;
const MOUNT8_FAILURE: u8 = 32;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let (result, failure) = match cli::form(&line) {
        Form::Mount {
            program,
            arguments,
            by_mount8,
        } => {
            let request = match request::parse(&program, &arguments, attach::is_root()) {
                Ok(request) => request,
                Err(error) => return print_usage_error(&error, by_mount8),
            };
            // For mount(8), -f is "fake": check everything, mount nothing.
            let is_fake = by_mount8 && arguments.iter().any(|argument| argument == "-f");
            let result = if is_fake {
                check(&request).map(drop)
            } else {
                mount(&request)
            };
            (result, if by_mount8 { MOUNT8_FAILURE } else { 1 })
        }
        Form::Subcommand => (subcommand(Cli::parse()), 1),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(failure)
        }
    }
}

fn subcommand(cli: Cli) -> anyhow::Result<()> {
    if cli.print_capabilities {
        writeln!(std::io::stdout(), "{}", cli::CAPABILITIES)?;
        return Ok(());
    }
    match cli.command {
        Some(Command::Umount(args)) => umount::run(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Reproduce(args)) => demo::reproduce(&args),
        Some(Command::Mount(_)) => anyhow::bail!("write `mount` as the first argument"),
        None => Ok(Cli::command().print_help()?),
    }
}

/// Help and version are errors for clap, but not for mount(8).
fn print_usage_error(error: &clap::Error, by_mount8: bool) -> ExitCode {
    // Where standard error is closed, the exit code must do.
    let _ = error.print();
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if by_mount8 => ExitCode::from(MOUNT8_USAGE),
        code => ExitCode::from(u8::try_from(code).unwrap_or(2)),
    }
}

fn mount(request: &MountRequest) -> anyhow::Result<()> {
    if request.kernel.flags.contains(MsFlags::MS_REMOUNT) {
        return attach::remount(&request.mountpoint, &request.kernel);
    }
    if request.replace_dead {
        replace_dead::run(&request.mountpoint, &request.kernel.subtype)?;
    }
    let places = check(request)?;
    let request = &request
        .clone()
        .with_safe_file_handles(|| places.are_whole());
    limits::apply(request.rlimit_nofile)?;
    if request.foreground {
        control::serve(places, request, &mut Readiness::Foreground, request.log)
    } else {
        background::start(places, request)
    }
}

/// Everything that can be found out before anything is changed.
fn check(request: &MountRequest) -> anyhow::Result<places::Places> {
    let places = places::Places::open(&request.source, &request.mountpoint)?;
    attach::check_prerequisites()?;
    Ok(places)
}

/// Says what went wrong, as far as there is somebody to hear it: `eprintln!` would panic where
/// standard error is closed.
fn complain(message: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "thrufs: {message:#}");
}
