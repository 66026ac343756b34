//! The session that a ledger is of, where one server may begin several: that of a virtiofs device, whose guest says INIT
//! whenever it mounts.
//!
//! Invariant: a session is forgotten while no server serves, so nothing is noted of it afterwards.

use std::sync::atomic::Ordering;

use super::{END, ENTRIES, FORGETS, HEADER, INIT_LEN, Ledger, REQUEST, REQUESTS};

impl Ledger {
    /// Whether INIT was answered.
    pub fn has_init(&self) -> bool {
        self.words.words()[INIT_LEN].load(Ordering::Acquire) != 0
    }

    /// Nothing is said of any descriptor any more, of INIT, or of a request; how many servers there were stays. To be
    /// called before the descriptors are closed. A death in here leaves it to be done again.
    pub fn forget_session(&self) {
        let words = self.words.words();
        words[INIT_LEN].store(0, Ordering::Release);
        self.numbers().for_each(|number| self.clear(number));
        words[END].store(0, Ordering::Release);
        let requests = (0..REQUESTS).map(|at| HEADER + at * REQUEST);
        for at in requests.chain(FORGETS..ENTRIES) {
            // A page that was never written takes no memory.
            if words[at].load(Ordering::Relaxed) != 0 {
                words[at].store(0, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, ForgetPlace};
    use super::*;

    #[test]
    fn forget_session_leaves_the_number_of_servers_alone() {
        let ledger = Ledger::for_tests(8);
        ledger.begin(true);
        ledger.note_init(b"init", b"answer");
        let entry = Entry::Directory {
            fh: 9,
            ino: 1,
            file: (5, 7),
        };
        assert!(ledger.set(3, entry) && ledger.has_init());
        ledger.request(7)[0].store(8, Ordering::Relaxed);
        let place = ForgetPlace {
            buffer: 0,
            unique: 8,
            number: 1,
        };
        ledger.forget(3, 2, Some(place));
        ledger.forget_session();
        assert!(!ledger.has_init() && ledger.init().is_err());
        assert_eq!(
            (ledger.descriptors(), ledger.entries()),
            (vec![], Ok(vec![]))
        );
        assert_eq!(ledger.request(7)[0].load(Ordering::Relaxed), 0);
        assert_eq!(ledger.forgets_counted(0, 8), 0);
        assert_eq!(ledger.begin(false).deaths, 1);
    }
}
