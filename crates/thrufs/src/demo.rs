//! `thrufs demo`: a mount of a scratch directory, real work in it, and what the kernel made of it.
//!
//! Invariant: whatever happens, nothing stays mounted and the scratch directory goes, except when
//! the mount could not be removed: then the directory is kept, because deleting it would delete
//! through the mount. The file system is served by threads of this process, whose counters the
//! report needs; the work runs in a thread that holds none of its locks, and the program that may
//! deadlock runs in a process of its own, so that it can be killed.

mod files;
mod report;
mod reproducer;
mod scratch;
mod shapes;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use thrufs_sys::mountinfo::MountPath;
use tracing::level_filters::LevelFilter;

pub(crate) use reproducer::{ReproduceArgs, reproduce};

use crate::daemon::running::{self, Running};
use crate::daemon::serving::when_a_thread_is_lost;
use crate::daemon::{limits, preflight};
use crate::logging::{self, LogOptions};
use crate::mount::attach;
use crate::mount_plan::{self, MountPlan};
use crate::signals::{Signals, block_on};
use crate::stderr::complain;
use crate::user;
use report::{say, say_wrapped};
use scratch::Scratch;

/// All the work together takes about a second.
const WORK_DEADLINE: Duration = Duration::from_secs(60);
/// How long the session may take to end once it is unmounted.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What `thrufs demo` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Where to make the scratch directory [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIRECTORY")]
    scratch: Option<PathBuf>,
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    attach::check_prerequisites()?;
    logging::init(LogOptions {
        level: LevelFilter::WARN,
        syslog: false,
    })?;
    let parent = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new()
        .prefix("thrufs-demo-")
        .tempdir_in(&parent)
        .with_context(|| format!("make a scratch directory in {}", parent.display()))?;
    let scratch = Scratch {
        source: directory.path().join("source"),
        mountpoint: directory.path().join("mountpoint"),
    };
    let result = make_directories(&scratch)
        .and_then(|()| plan_for(&scratch))
        .and_then(|plan| serve(&plan, &scratch));
    if is_mounted(directory.path(), &scratch.mountpoint) {
        let kept = directory.keep();
        let advice = format!("`thrufs umount --lazy {}`", scratch.mountpoint.display());
        complain(&format!(
            "{} is kept, because it is still mounted: {advice}",
            kept.display()
        ));
        return Err(result
            .err()
            .unwrap_or_else(|| anyhow!("the mount could not be removed")));
    }
    directory.close().context("remove the scratch directory")?;
    if result.is_ok() {
        say("\nunmounted, scratch removed")?;
    }
    result
}

fn make_directories(scratch: &Scratch) -> anyhow::Result<()> {
    for path in [&scratch.source, &scratch.mountpoint] {
        std::fs::create_dir(path).with_context(|| format!("make {}", path.display()))?;
    }
    Ok(())
}

/// What `thrufs mount SOURCE MOUNTPOINT` would do where READ and WRITE go through the daemon, which counts them.
fn plan_for(scratch: &Scratch) -> anyhow::Result<MountPlan> {
    let arguments: [OsString; 3] = [
        "--passthrough=never".into(),
        scratch.source.clone().into(),
        scratch.mountpoint.clone().into(),
    ];
    Ok(mount_plan::parse(
        "thrufs demo",
        &arguments,
        user::is_root(),
    )?)
}

/// If it cannot be known, it is taken for mounted, and nothing is deleted.
fn is_mounted(directory: &Path, mountpoint: &Path) -> bool {
    let mount_id = |path| MountPath::open(path).and_then(|place| place.mount_id());
    match (mount_id(directory), mount_id(mountpoint)) {
        (Ok(outer), Ok(inner)) => outer != inner,
        _ => mountpoint.symlink_metadata().is_ok(),
    }
}

fn serve(plan: &MountPlan, scratch: &Scratch) -> anyhow::Result<()> {
    let endpoints = preflight::check(plan)?;
    limits::apply(plan.rlimit_nofile)?;
    block_on(async {
        let mut signals = Signals::install()?;
        when_a_thread_is_lost(|| {
            // The demo unmounts. It is this process, which exists.
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::TERM);
        });
        let running = running::start(endpoints, plan)?;
        say(&format!(
            "{} is mounted at {}",
            scratch.source.display(),
            scratch.mountpoint.display()
        ))?;
        let worked = tokio::select! {
            result = work(&running, scratch) => result,
            name = signals.stop() => Err(anyhow!("stopped by {name}")),
        };
        let stopped = running.stop(STOP_DEADLINE).await;
        worked.and(stopped)
    })
}

async fn work(running: &Running, scratch: &Scratch) -> anyhow::Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let (fs, scratch) = (running.fs().clone(), scratch.clone());
    std::thread::Builder::new()
        .name("demo-work".to_owned())
        .spawn(move || {
            // The receiver is gone only if the demo was stopped.
            let _ = sender.send(everything(&fs, &scratch));
        })
        .context("start a thread")?;
    match tokio::time::timeout(WORK_DEADLINE, receiver).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => bail!("the work ended without a result"),
        Err(_) => bail!("the work through the mount hangs: not done within {WORK_DEADLINE:?}"),
    }
}

fn everything(fs: &thrufs_fs::Passthrough, scratch: &Scratch) -> anyhow::Result<()> {
    say("\nWork through the mount")?;
    files::work(scratch)?;
    reproducer::run(&scratch.mountpoint)?;
    say("\nWhat INIT negotiated")?;
    let negotiated = fs
        .negotiated()
        .context("the session runs, but INIT was not answered")?;
    for line in negotiated.to_string().lines() {
        say_wrapped(line)?;
    }
    say("\nWRITE requests for one write(2)")?;
    shapes::table(fs, scratch)
}
