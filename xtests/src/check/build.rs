//! Stages that look at the source and the binaries, and mount nothing.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::report::Report;
use crate::support::command::{output, said, succeed};
use crate::support::install::{self, cargo};
use crate::support::skip::missing;

pub(super) fn fmt(report: &mut Report) -> Result<()> {
    let outcome = succeed(&mut cargo(&["fmt", "--all", "--check"])).map(|_| ());
    report.record("fmt", outcome);
    Ok(())
}

pub(super) fn clippy(report: &mut Report) -> Result<()> {
    let args = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    report.record("clippy", succeed(&mut cargo(&args)).map(|_| ()));
    Ok(())
}

pub(super) fn rustdoc(report: &mut Report) -> Result<()> {
    let mut doc = cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
    report.record(
        "rustdoc",
        succeed(doc.env("RUSTDOCFLAGS", "-D warnings")).map(|_| ()),
    );
    Ok(())
}

/// Uses an installed cargo-deny; building it takes four minutes on two CPUs, too long for this stage.
pub(super) fn deny(report: &mut Report) -> Result<()> {
    if !output(&mut cargo(&["deny", "--version"])).is_ok_and(|output| output.status.success()) {
        return Err(missing("cargo-deny: `cargo install --locked cargo-deny`"));
    }
    let args = [
        "deny",
        "--workspace",
        "check",
        "licenses",
        "bans",
        "sources",
    ];
    report.record("deny", succeed(&mut cargo(&args)).map(|_| ()));
    Ok(())
}

/// Without arguments each binary explains itself.
pub(super) fn help(report: &mut Report) -> Result<()> {
    install::thrufs()?;
    let binaries = [("xtests", "check"), ("thrufs", "mount")];
    for (name, subcommand) in binaries {
        let outcome = explains_itself(name, subcommand);
        report.record(&format!("help::{name}"), outcome);
    }
    Ok(())
}

/// What mandoc calls an error in a manual page hides a part of it from the reader.
pub(super) fn man(report: &mut Report) -> Result<()> {
    let directory = install::root().join("contrib/man");
    for entry in std::fs::read_dir(&directory)? {
        let page = entry?.path();
        let mut lint = Command::new("mandoc");
        lint.args(["-T", "lint", "-W", "error"]).arg(&page);
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        report.record(&format!("man::{name}"), succeed(&mut lint).map(|_| ()));
    }
    Ok(())
}

fn explains_itself(name: &str, subcommand: &str) -> Result<()> {
    let binary = install::target().join("release").join(name);
    let done = output(&mut Command::new(&binary))?;
    let text = said(&done);
    for wanted in ["Usage:", subcommand] {
        ensure!(
            text.contains(wanted),
            "{name} without arguments prints no {wanted}: {text}"
        );
    }
    let status = done.status;
    ensure!(
        status.code() == Some(2),
        "{name} without arguments exits {status}"
    );
    Ok(())
}
