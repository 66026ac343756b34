//! One run: prepare the files natively, mount, measure around fio, query the daemon, unmount.
//!
//! Invariant: the backing is in the same state for every configuration. Shared files are the same
//! files, written back and, unless the session is `--cold`, in the backing's page cache; a run's
//! own files are gone before the next run. fio empties the client's cache before each pass over a
//! file (its `invalidate`, by posix_fadvise(2)), which natively would empty the backing's instead
//! and measure the disk: there that is off.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use xtests::support::command::describe;
use xtests::support::interrupt::Interrupt;

use super::configs::{Config, Kind};
use super::jobs::{Files, Job, directory};
use super::load::Snapshot;
use super::output;
use super::place::Place;
use super::program::{command, lay_out, run};
use super::record::Measured;
use super::server::Server;

/// For fio's start, verification and end, beside its runtime.
const SLACK: Duration = Duration::from_secs(60);

/// What the runs of a session have in common.
pub(super) struct Bench<'a> {
    pub(super) runtime_seconds: u32,
    pub(super) cold: bool,
    pub(super) interrupt: &'a Interrupt,
    /// The directory for files of the session's own.
    pub(super) work: &'a Path,
    /// Shared files that are laid out: source and job.
    pub(super) laid_out: HashSet<(PathBuf, String)>,
}

/// A run's result, and the commands that gave it.
#[derive(Serialize, Deserialize)]
pub(super) struct Done {
    /// fio's command, with DIR for the directory.
    pub(super) fio: String,
    /// The server's command.
    pub(super) server: Option<String>,
    pub(super) measured: Measured,
    pub(super) fio_version: String,
}

impl Bench<'_> {
    /// Measures `job` with `config` in `place`.
    pub(super) fn run(&mut self, place: &Place, job: &Job, config: &Config) -> Result<Done> {
        let root = match &config.kind {
            Kind::Against(dir) | Kind::Counted(dir) => dir.clone(),
            Kind::Native | Kind::Thrufs { .. } | Kind::Peer(_) => place.source().to_owned(),
        };
        let files = self.prepare(&root, job)?;
        let done = self.measure(&root, &files.name, job, config);
        files.remove()?;
        done
    }

    /// Makes the job's files below `root`, natively.
    pub(super) fn prepare(&mut self, root: &Path, job: &Job) -> Result<RunFiles> {
        let shared = job.files == Files::Shared;
        let name = if shared {
            "xtests-shared"
        } else {
            "xtests-run"
        };
        let dir = root.join(name);
        if !shared && dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let files = RunFiles {
            name: name.to_owned(),
            remove: (!shared).then(|| dir.clone()),
        };
        let key = (root.to_owned(), job.name.clone());
        let there = shared && self.laid_out.contains(&key);
        if !there && job.files != Files::Fresh {
            lay_out(job, &directory().join(&job.file), &dir)?;
        }
        if shared {
            self.laid_out.insert(key);
        }
        let top = File::open(root).with_context(|| root.display().to_string())?;
        // Otherwise writeback of an earlier run's files would fall into this run.
        rustix::fs::syncfs(&top).context("syncfs")?;
        if self.cold {
            std::fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches")?;
        } else {
            warm(&dir)?;
        }
        Ok(files)
    }

    fn measure(&self, root: &Path, files: &str, job: &Job, config: &Config) -> Result<Done> {
        let limit = Duration::from_secs(self.runtime_seconds.into()) + SLACK;
        let server = Server::start(config, root, limit + SLACK)?;
        let dir = server.dir().join(files);
        let native: &[&str] = match config.kind {
            Kind::Native => &["--invalidate=0"],
            Kind::Against(_) | Kind::Counted(_) | Kind::Thrufs { .. } | Kind::Peer(_) => &[],
        };
        let path = directory().join(&job.file);
        let fio = command(job, &path, &dir, self.runtime_seconds, native);
        let said = describe(&fio)
            .replace(&dir.display().to_string(), "DIR")
            .replace(
                &path.display().to_string(),
                &format!("fio-jobs/{}", job.file),
            );
        let line = server.command(root)?;
        let before = Snapshot::take(server.pid()?)?;
        let text = run(fio, self.work, limit, self.interrupt)?;
        let load = before.until(&Snapshot::take(server.pid()?)?);
        let requests = server.requests()?;
        server.stop()?;
        let (moved, fio_version) = output::parse(&text)?;
        Ok(Done {
            fio: said,
            server: line,
            fio_version,
            measured: Measured {
                moved,
                load,
                requests,
            },
        })
    }
}

/// A run's files below the root.
pub(super) struct RunFiles {
    name: String,
    remove: Option<PathBuf>,
}

impl RunFiles {
    fn remove(self) -> Result<()> {
        let Some(dir) = self.remove else {
            return Ok(());
        };
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
    }
}

/// Reads every file in `dir`, so that it is in the page cache.
fn warm(dir: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let mut file = File::open(&path).with_context(|| path.display().to_string())?;
        if !file.metadata()?.is_file() {
            continue;
        }
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepare_of_a_run_of_its_own_leaves_nothing_of_the_run_before() {
        let root = tempfile::tempdir().expect("a directory");
        let stale = root.path().join("xtests-run");
        std::fs::create_dir(&stale).expect("mkdir");
        std::fs::write(stale.join("old"), "x").expect("a file");
        let interrupt = Interrupt::default();
        let mut bench = Bench {
            runtime_seconds: 1,
            cold: false,
            interrupt: &interrupt,
            work: root.path(),
            laid_out: HashSet::new(),
        };
        let all = super::super::jobs::load(&directory()).expect("the repository's jobs");
        let job = all
            .iter()
            .find(|job| job.files == Files::Fresh)
            .expect("a fresh one");
        let files = bench.prepare(root.path(), job).expect("prepared");
        assert!(!stale.join("old").exists());
        files.remove().expect("removed");
        assert!(!stale.exists());
    }
}
