//! What is free on the file system of SOURCE, for `thrufs status` and `thrufs doctor`.
//!
//! Invariant: a SOURCE that hangs keeps neither the control plane nor an asker for longer than [`PATIENCE`], and not even
//! that a second time: statfs(2) is called by a thread, one at most, and while that waits, the answer is for how long.
//! Why not now and then by itself: a mount that is not looked at would keep asking a file server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{StatVfs, StatVfsMountFlags};
use serde::{Deserialize, Serialize};
use thrufs_fs::{Errno, Passthrough, ROOT_INO};

/// How long an asker waits for statfs(2).
const PATIENCE: Duration = Duration::from_secs(1);

/// What statfs(2) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceSpace {
    pub(crate) bytes: u64,
    /// For users; root may have more.
    pub(crate) free_bytes: u64,
    /// 0 where the file system does not count them.
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
    pub(crate) is_read_only: bool,
}

impl From<StatVfs> for SourceSpace {
    fn from(stat: StatVfs) -> Self {
        Self {
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            free_inodes: stat.f_favail,
            is_read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
        }
    }
}

/// How SOURCE answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SourceAnswer {
    /// SOURCE was not asked.
    #[default]
    Unknown,
    Space(SourceSpace),
    /// statfs(2) failed with this error.
    Failed(String),
    /// Not, for so long.
    Silent {
        seconds: f64,
    },
}

#[derive(Debug, Default)]
struct State {
    asked: Option<Instant>,
    last: SourceAnswer,
}

/// Asks SOURCE. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpaceAsker(Arc<(Mutex<State>, Condvar)>);

impl SpaceAsker {
    /// How the SOURCE of `fs` answers now; none of a device that is not mounted.
    pub(crate) fn of(&self, fs: Option<Arc<Passthrough>>) -> SourceAnswer {
        match fs {
            Some(fs) => self.ask(move || fs.statfs(ROOT_INO)),
            None => SourceAnswer::Unknown,
        }
    }

    fn ask(
        &self,
        statfs: impl FnOnce() -> Result<StatVfs, Errno> + Send + 'static,
    ) -> SourceAnswer {
        let (state, answered) = &*self.0;
        let mut state = state.lock();
        if state.asked.is_none() {
            let asker = self.clone();
            let ask = move || {
                let answer = match statfs() {
                    Ok(stat) => SourceAnswer::Space(stat.into()),
                    Err(errno) => SourceAnswer::Failed(errno.to_string()),
                };
                let (state, answered) = &*asker.0;
                *state.lock() = State {
                    asked: None,
                    last: answer,
                };
                answered.notify_all();
            };
            let thread = std::thread::Builder::new().name("thrufs-statfs".into());
            if let Err(error) = thread.spawn(ask) {
                tracing::debug!("no thread asks SOURCE what is free: {error}");
                return SourceAnswer::Unknown;
            }
            state.asked = Some(Instant::now());
        }
        while let Some(asked) = state.asked {
            let waited = asked.elapsed();
            if waited >= PATIENCE {
                let seconds = waited.as_secs_f64();
                return SourceAnswer::Silent { seconds };
            }
            answered.wait_for(&mut state, PATIENCE - waited);
        }
        state.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn stat() -> StatVfs {
        rustix::fs::statvfs("/").unwrap()
    }

    #[test]
    fn ask_tells_what_is_free_and_what_failed() {
        let asker = SpaceAsker::default();
        let SourceAnswer::Space(space) = asker.ask(|| Ok(stat())) else {
            panic!("statfs(2) has answered");
        };
        assert!(space.bytes >= space.free_bytes);
        let failed = asker.ask(|| Err(Errno::ESTALE));
        assert!(matches!(failed, SourceAnswer::Failed(_)), "{failed:?}");
    }

    #[test]
    fn ask_of_a_source_that_hangs_tells_for_how_long_and_asks_once() {
        let asker = SpaceAsker::default();
        let (go, wait) = mpsc::channel::<()>();
        let hang = move || {
            let _gone = wait.recv();
            Ok(stat())
        };
        let SourceAnswer::Silent { seconds: first } = asker.ask(hang) else {
            panic!("it hangs");
        };
        let again = asker.ask(|| unreachable!("the first still waits"));
        let SourceAnswer::Silent { seconds: second } = again else {
            panic!("it hangs");
        };
        assert!(second >= first && first >= PATIENCE.as_secs_f64());
        drop(go);
        // The late answer is for the next question.
        let (state, answered) = &*asker.0;
        let mut state = state.lock();
        while state.asked.is_some() {
            answered.wait(&mut state);
        }
        assert!(matches!(state.last, SourceAnswer::Space(_)));
    }
}
