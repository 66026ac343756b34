//! The process that runs one case and may hang in it. Talks to its watcher over stdin and stdout
//! (`ready`, `go`, `progress`, then one JSON line), never over the mount. A process of its own,
//! since a thread stuck in the kernel cannot be given up.

use std::process::ExitCode;

use super::case::{self, Work};
use super::finding::{Finding, Stop, WorkerArgs, say};
use super::{beside_store, copy, directory, random, seed};

pub(crate) fn run(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let finding = work(args).unwrap_or_else(Stop::into_finding);
    say(&serde_json::to_string(&finding)?);
    Ok(ExitCode::SUCCESS)
}

fn work(args: &WorkerArgs) -> Result<Finding, Stop> {
    let [first, second] = args.file.as_slice() else {
        return Err(Stop::error("two --file are needed"));
    };
    let files = [first.clone(), second.clone()];
    match args.case.as_str() {
        "is-file" => directory::is_file(first),
        "preflight" => directory::preflight(&files, args.overwrite),
        "cleanup" => directory::cleanup(&files),
        "random" => random::work(&files, args),
        name => match case::find(name).map(|case| case.work) {
            Some(Work::Seed) => seed::work(first),
            Some(Work::Copy(plan)) => copy::work(&files, &plan, args.role),
            Some(Work::Overlap) => copy::overlap(first),
            Some(Work::AppendBesideStore) => beside_store::append(first),
            Some(Work::WriteBesideStore) => beside_store::write(first),
            None => Err(Stop::error(format!("no case is called {name}"))),
        },
    }
}
