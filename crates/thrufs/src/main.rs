//! `thrufs`, the binary: command line in, mounted file system out.
//!
//! The arguments become one validated [`mount_plan::MountPlan`], which [`daemon`] carries out; the other
//! subcommands stand beside it.

mod child;
mod cli;
mod connections;
#[cfg(test)]
mod contrib;
mod daemon;
mod demo;
mod device;
mod device_plan;
mod doctor;
mod failure;
mod findings;
mod logging;
mod metrics;
mod mount;
mod mount_plan;
mod options;
mod remount;
mod sandbox;
mod signals;
mod status;
mod stderr;
mod stdout;
mod top;
mod umount;
mod units;
mod upgrade;
mod user;
mod wait;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use nix::mount::MsFlags;

use crate::cli::{Cli, Command, Form};
use crate::failure::{CONFIGURATION, Failure, MOUNT8_FAILURE, MOUNT8_USAGE};
use crate::stderr::{complain, warn};

#[global_allocator]
static ALLOCATOR: thrufs_sys::session_buffer::PayloadAligning =
    thrufs_sys::session_buffer::PayloadAligning;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let (result, by_mount8) = match cli::form(&line) {
        Form::Mount {
            program,
            arguments,
            by_mount8,
        } => {
            let plan = match mount_plan::parse(&program, &arguments, user::is_root()) {
                Ok(plan) => plan,
                Err(error) => return print_usage_error(&error, by_mount8),
            };
            plan.warnings.iter().for_each(|warning| warn(warning));
            // For mount(8), -f is "fake": check everything, mount nothing.
            let is_fake = by_mount8 && arguments.iter().any(|argument| argument == "-f");
            let is_remount = plan.kernel.flags.contains(MsFlags::MS_REMOUNT);
            let result = match (is_remount, is_fake) {
                (false, false) => daemon::run(&plan),
                (false, true) => daemon::preflight::check(&plan).map(drop),
                (true, false) => remount::run(&plan, &line).map_err(Failure::from),
                (true, true) => Ok(()),
            };
            (result.map(|()| 0), by_mount8)
        }
        Form::Device { program, arguments } => {
            match device_plan::parse(&program, &arguments, user::is_root()) {
                Ok(device_plan::Asked::Capabilities) => {
                    let printed = stdout::print(cli::DEVICE_CAPABILITIES);
                    (printed.map(|()| 0).map_err(Failure::from), false)
                }
                Ok(device_plan::Asked::Device(plan)) => {
                    plan.warnings.iter().for_each(|warning| warn(warning));
                    (device::run(&plan).map(|()| 0), false)
                }
                Err(error) => return print_usage_error(&error, false),
            }
        }
        Form::Subcommand => (subcommand(Cli::parse()).map_err(Failure::from), false),
    };
    logging::flush(logging::FLUSH_DEADLINE);
    let (error, code) = match result {
        Ok(code) => return ExitCode::from(code),
        // `thrufs status | head -1` has got what it wants.
        Err(Failure::Other(error)) if stdout::is_closed(&error) => return ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => (error, CONFIGURATION),
        Err(Failure::Other(error)) => (error, 1),
    };
    complain(&error);
    ExitCode::from(if by_mount8 { MOUNT8_FAILURE } else { code })
}

/// The exit code, of what has succeeded.
fn subcommand(cli: Cli) -> anyhow::Result<u8> {
    if cli.print_capabilities {
        return stdout::print(cli::CAPABILITIES).map(|()| 0);
    }
    let done = match cli.command {
        Some(Command::Doctor(args)) => return doctor::run(&args),
        Some(Command::Umount(args)) => umount::run(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Top(args)) => top::run(&args),
        Some(Command::Upgrade(args)) => upgrade::run(&args),
        Some(Command::Set(args)) => upgrade::set(&args),
        Some(Command::TakeOver) => daemon::take_over::run(),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Reproduce(args)) => demo::reproduce(&args),
        Some(Command::Mount(_)) => anyhow::bail!("write `mount` as the first argument"),
        Some(Command::Device(_)) => anyhow::bail!("write `device` as the first argument"),
        None => stdout::print(&Cli::command().render_help().to_string()),
    };
    done.map(|()| 0)
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
