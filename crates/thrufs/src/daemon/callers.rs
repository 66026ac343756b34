//! Looking at callers in /proc for a server that has no /proc.
//!
//! Invariant: the server can ask two questions about a thread, by number, and gets numbers: who it
//! is in groups and capabilities, and which system call it is in.

use std::io;

use serde::{Deserialize, Serialize};
use thrufs_fs::{CallerStatus, Callers};

use super::link::Link;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Question {
    Status(u32),
    SystemCall(u32),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Status(Option<CallerStatus>),
    SystemCall(Option<i64>),
}

/// The server's side.
pub(super) struct AskingOutside {
    link: std::sync::Mutex<Link>,
}

impl AskingOutside {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link: std::sync::Mutex::new(link),
        }
    }

    fn ask(&self, question: Question) -> Option<Answer> {
        // One question at a time: an answer bears no number. A thread that panicked in here
        // between the two would leave an answer behind, so no query is sent any more.
        let link = self.link.lock().ok()?;
        let asked = link.send(&question, &[]).and_then(|()| link.receive());
        match asked {
            Ok(answer) => answer.map(|(answer, _none)| answer),
            Err(error) => {
                tracing::debug!(%error, "no answer about a caller");
                None
            }
        }
    }
}

impl Callers for AskingOutside {
    fn status(&self, tid: u32) -> Option<CallerStatus> {
        match self.ask(Question::Status(tid))? {
            Answer::Status(status) => status,
            Answer::SystemCall(_) => None,
        }
    }

    fn system_call(&self, tid: u32) -> Option<i64> {
        match self.ask(Question::SystemCall(tid))? {
            Answer::SystemCall(number) => number,
            Answer::Status(_) => None,
        }
    }
}

/// The supervisor's side: answers until the server is gone.
pub(super) fn answer(link: &Link) -> io::Result<()> {
    while let Some((question, _none)) = link.receive()? {
        let answer = match question {
            Question::Status(tid) => Answer::Status(thrufs_fs::read_status(tid)),
            Question::SystemCall(tid) => Answer::SystemCall(thrufs_fs::read_system_call(tid)),
        };
        link.send(&answer, &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ask_about_this_process_gets_what_proc_says_and_none_when_nobody_answers() {
        let (ours, theirs) = Link::pair().unwrap();
        let answering = std::thread::spawn(move || answer(&ours));
        let asking = AskingOutside::new(theirs);
        let tid = std::process::id();
        assert_eq!(asking.status(tid), thrufs_fs::read_status(tid));
        assert!(asking.status(tid).is_some());
        assert_eq!(asking.status(u32::MAX), None);
        assert_eq!(asking.system_call(u32::MAX), None);
        drop(asking);
        answering.join().unwrap().unwrap();
    }
}
