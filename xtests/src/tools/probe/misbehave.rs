//! The server as the negative control of the reproducer: deadlocks, corrupts or delays on purpose,
//! on any kernel. Ends with its standard input.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::server::{Action, Mounted, Options};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum How {
    /// Reads the page through its own mount before it answers a WRITE.
    ReadOwnMount,
    /// Flips a bit of each WRITE.
    Corrupt,
    /// Answers a WRITE half a minute late.
    Slow,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MisbehaveArgs {
    how: How,
    /// Where to mount.
    mountpoint: PathBuf,
}

/// Mounts, prints `mounted`, and serves until standard input ends.
pub(crate) fn run(args: &MisbehaveArgs) -> anyhow::Result<ExitCode> {
    let mounted = Mounted::new(&args.mountpoint, Options::default())?;
    mounted.shared.add("file", Vec::new());
    mounted.shared.always(match args.how {
        How::ReadOwnMount => Action::ReadOwnMount(args.mountpoint.join("file")),
        How::Corrupt => Action::Corrupt,
        How::Slow => Action::Delay(Duration::from_secs(30)),
    });
    crate::tools::repro::finding::say("mounted");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(mounted);
    Ok(ExitCode::SUCCESS)
}
