//! `xtests repro`: can this mount deadlock, and are its bytes right? Child processes do the work
//! (this program again, hidden subcommand `repro-worker`), so that no threaded process forks and a
//! stuck worker can be watched, examined and given up.

mod appender;
mod beside_store;
mod case;
mod copy;
mod copy_files;
mod directory;
pub(crate) mod examine;
pub(crate) mod finding;
mod known;
mod oracle;
mod random;
mod report;
mod roles;
mod seed;
mod transfer;
mod watch;
pub(crate) mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use case::{CASES, Case};
use directory::SUBDIRECTORY;
use report::Entry;
use watch::{Setting, Verdict};

pub(crate) fn cases() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.name)
}

/// Run the deadlock reproducer and its family on any mount.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 no deadlock, 1 deadlock, 2 usage or a call failed, 3 wrong \
    data, 4 (--expect-known) a case that is known to fail on this kernel has passed, 77 the mount \
    or the kernel lacks what the cases need, or the server does not answer."
)]
pub(crate) struct Args {
    /// A directory of the mount, or a file of it that will be overwritten.
    #[arg(required_unless_present = "list")]
    path: Option<PathBuf>,
    /// Only these cases (default: all).
    #[arg(long, short, value_delimiter = ',')]
    case: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// The random mode: eight processes copy within two files, two append to their own.
    #[arg(long)]
    random: bool,
    /// The random mode's seed (default: from the clock; it is printed).
    #[arg(long)]
    seed: Option<u64>,
    /// How long the random mode runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds that a case may be silent before it is examined; then as many again as grace.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    deadline: u64,
    /// Abort the FUSE connection if SIGKILL does not free a stuck case. This ends the mount.
    #[arg(long)]
    abort: bool,
    /// Wrong data that this kernel is known for fails nothing, and a case that should show it and does not
    /// does. Not for mounts with kernel passthrough, which have none of these defects.
    #[arg(long)]
    expect_known: bool,
    /// Overwrite a FILE that has content.
    #[arg(long)]
    overwrite: bool,
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.list {
        report::list(args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    match run_on_mount(args) {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            eprintln!("xtests repro: {error:#}");
            Ok(ExitCode::from(2))
        }
    }
}

fn run_on_mount(args: &Args) -> anyhow::Result<u8> {
    let cases = select(&args.case)?;
    let path = args
        .path
        .as_ref()
        .context("a directory or a file is needed")?;
    let mut setting = setting(args, std::path::absolute(path)?)?;
    let verdict = watch::run(&setting, "preflight", 1, &|| {})?;
    let (dev, page_cache) = match &verdict {
        Verdict::Ok { detail } => {
            let (dev, cached) = detail
                .split_once(' ')
                .context("the preflight said little")?;
            (dev.parse()?, cached.parse()?)
        }
        Verdict::Slow(_) | Verdict::Deadlock(_) => {
            let entry = Entry::new(
                "preflight",
                "look at the directory",
                verdict,
                Instant::now(),
            );
            report::print(args.json, &setting, None, (&[entry], 77))?;
            return Ok(77);
        }
        other => bail!("{}: {}", path.display(), report::detail(other)),
    };
    let connection = examine::connection(dev);
    let is_fuse = connection.is_fuse();
    setting.connection = Some(connection);
    let mut entries = if args.random {
        vec![random_entry(args, &setting)?]
    } else {
        run_cases(args, &setting, &cases)?
    };
    let uname = nix::sys::utsname::uname()?;
    let platform = known::Platform {
        kernel: &uname.release().to_string_lossy(),
        is_fuse,
        page_cache,
    };
    let known = known::Known::all()?;
    for entry in &mut entries {
        entry.compare(&known, &platform);
    }
    let alive = entries.last().is_some_and(|entry| !entry.ended_mount());
    if alive {
        let cleaned = watch::run(&setting, "cleanup", 1, &|| {})?;
        if !matches!(cleaned, Verdict::Ok { .. }) {
            let directory = setting.files[0].display();
            eprintln!(
                "xtests repro: {directory} is left: {}",
                report::detail(&cleaned)
            );
        }
    }
    let seed = args.random.then_some(setting.seed);
    let code = report::exit_code(&entries, args.expect_known);
    report::print(args.json, &setting, seed, (&entries, code))?;
    Ok(code)
}

fn select(names: &[String]) -> anyhow::Result<Vec<&'static Case>> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    let find = |name: &String| {
        case::find(name).with_context(|| format!("no case is called {name}; see --list"))
    };
    names.iter().map(find).collect()
}

fn setting(args: &Args, path: PathBuf) -> anyhow::Result<Setting> {
    // By a worker too: stat(2) can hang.
    let is_file = match watch::run(&probe_setting(args, &path), "is-file", 1, &|| {})? {
        Verdict::Ok { detail } => detail == "file",
        other => bail!("{}: {}", path.display(), report::detail(&other)),
    };
    let mut setting = probe_setting(args, &path);
    if is_file {
        let mut second = path.clone().into_os_string();
        second.push(".xtests-second");
        setting.files = [path, second.into()];
    } else {
        let directory = path.join(SUBDIRECTORY);
        setting.files = [directory.join("a"), directory.join("b")];
    }
    Ok(setting)
}

fn probe_setting(args: &Args, path: &std::path::Path) -> Setting {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = args
        .seed
        .unwrap_or_else(|| clock.map_or(1, |now| now.as_secs()));
    Setting {
        files: [path.to_owned(), path.to_owned()],
        deadline: Duration::from_secs(args.deadline),
        abort: args.abort,
        overwrite: args.overwrite,
        connection: None,
        seed,
        seconds: args.seconds,
    }
}

fn run_cases(args: &Args, setting: &Setting, cases: &[&Case]) -> anyhow::Result<Vec<Entry>> {
    let bar = report::bar(args.json, cases.len() as u64);
    let mut entries: Vec<Entry> = Vec::new();
    for case in cases {
        bar.set_message(case.name);
        let started = Instant::now();
        let verdict = watch::run(setting, case.name, case.processes(), &|| bar.tick())?;
        let entry = Entry::new(case.name, case.about, verdict, started);
        bar.inc(1);
        let ended = entry.ended_mount();
        entries.push(entry);
        if ended {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(entries)
}

fn random_entry(args: &Args, setting: &Setting) -> anyhow::Result<Entry> {
    let bar = report::bar(args.json, args.seconds);
    bar.set_message("random");
    let started = Instant::now();
    let tick = || bar.set_position(started.elapsed().as_secs().min(args.seconds));
    let verdict = watch::run(
        setting,
        "random",
        roles::PROCESSES + roles::APPENDERS,
        &tick,
    )?;
    bar.finish_and_clear();
    Ok(Entry::new(
        "random",
        "eight processes that copy, two that append",
        verdict,
        started,
    ))
}
