//! Looking into /proc for a server that has no /proc.
//!
//! Invariant: the server can ask a few fixed questions with a number in them: which groups and
//! capabilities a thread has, and which system call it is in; whether a device is one of thrufs; what
//! became of SOURCE. The answers are numbers, but for the paths of SOURCE and below, which it serves.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use thrufs_fs::{CallerStatus, Callers};

use super::link::Link;
use crate::daemon::source_state::{SourceState, SourceView};
use crate::status;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Question {
    Status(u32),
    SystemCall(u32),
    IsThrufs(u64),
    Source,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Status(Option<CallerStatus>),
    SystemCall(Option<i64>),
    IsThrufs(bool),
    Source(SourceState),
}

/// The server's side.
#[derive(Clone)]
pub(crate) struct AskingOutside {
    link: Arc<Mutex<Link>>,
    /// Of the next question.
    next: Arc<AtomicU64>,
}

impl AskingOutside {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link: Arc::new(Mutex::new(link)),
            next: Arc::default(),
        }
    }

    /// This server comes after so many, one of which may have asked, and not have had the answer.
    pub(super) fn begin(&self, before: u64) {
        self.next.store(before << 40, Ordering::Relaxed);
    }

    fn ask(&self, question: Question) -> Option<Answer> {
        // One question at a time. A thread that panicked in here between the two would leave an answer
        // behind, so no query is sent any more.
        let link = self.link.lock().ok()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let asked = link.send(&(number, question), &[]).and_then(|()| {
            loop {
                match link.receive()? {
                    // That of a server that died.
                    Some(((other, _answer), _none)) if other != number => {}
                    answer => return Ok(answer),
                }
            }
        });
        match asked {
            Ok(answer) => answer.map(|((_number, answer), _none): ((u64, _), _)| answer),
            Err(error) => {
                tracing::debug!(%error, ?question, "the supervisor does not answer");
                None
            }
        }
    }
}

impl AskingOutside {
    /// Whether the file system with this device is a mount of thrufs, or none knows.
    pub(super) fn is_thrufs(&self, dev: u64) -> bool {
        match self.ask(Question::IsThrufs(dev)) {
            Some(Answer::IsThrufs(is_it)) => is_it,
            Some(Answer::Status(_) | Answer::SystemCall(_) | Answer::Source(_)) | None => true,
        }
    }

    /// What became of SOURCE outside.
    pub(super) fn source_state(&self) -> SourceState {
        match self.ask(Question::Source) {
            Some(Answer::Source(state)) => state,
            Some(Answer::Status(_) | Answer::SystemCall(_) | Answer::IsThrufs(_)) | None => {
                SourceState::default()
            }
        }
    }
}

impl Callers for AskingOutside {
    fn status(&self, tid: u32) -> Option<CallerStatus> {
        match self.ask(Question::Status(tid))? {
            Answer::Status(status) => status,
            Answer::SystemCall(_) | Answer::IsThrufs(_) | Answer::Source(_) => None,
        }
    }

    fn system_call(&self, tid: u32) -> Option<i64> {
        match self.ask(Question::SystemCall(tid))? {
            Answer::SystemCall(number) => number,
            Answer::Status(_) | Answer::IsThrufs(_) | Answer::Source(_) => None,
        }
    }
}

/// The supervisor's side: answers until the server is gone.
pub(super) fn answer(link: &Link, source: &SourceView) -> io::Result<()> {
    while let Some((numbered, _none)) = link.receive()? {
        let (number, question): (u64, Question) = numbered;
        let answer = match question {
            Question::Status(tid) => Answer::Status(thrufs_fs::read_status(tid)),
            Question::SystemCall(tid) => Answer::SystemCall(thrufs_fs::read_system_call(tid)),
            Question::IsThrufs(dev) => Answer::IsThrufs(status::is_thrufs(dev)),
            Question::Source => Answer::Source(source.now()),
        };
        link.send(&(number, answer), &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ask_about_this_process_gets_what_proc_says_and_none_without_an_answer() {
        let (ours, theirs) = Link::pair().unwrap();
        let trouble = || SourceState {
            trouble: Some("was removed".to_owned()),
            ..SourceState::default()
        };
        let view = SourceView::new(trouble);
        let answering = std::thread::spawn(move || answer(&ours, &view));
        let asking = AskingOutside::new(theirs);
        let tid = std::process::id();
        assert_eq!(asking.status(tid), thrufs_fs::read_status(tid));
        assert!(asking.status(tid).is_some());
        assert_eq!(asking.status(u32::MAX), None);
        assert_eq!(asking.system_call(u32::MAX), None);
        // /proc is none of thrufs.
        let proc = rustix::fs::stat("/proc").unwrap().st_dev;
        assert!(!asking.is_thrufs(proc));
        assert_eq!(asking.source_state(), trouble());
        // A server died with its question asked.
        let unheard = (0_u64, Question::Status(tid));
        asking.link.lock().unwrap().send(&unheard, &[]).unwrap();
        asking.begin(1);
        assert_eq!(asking.source_state(), trouble());
        let also_asking = asking.clone();
        drop(asking);
        rustix::net::shutdown(
            &*also_asking.link.lock().unwrap(),
            rustix::net::Shutdown::Both,
        )
        .unwrap();
        answering.join().unwrap().unwrap();
        assert!(
            also_asking.is_thrufs(proc),
            "no answer counts as a mount of thrufs"
        );
    }
}
