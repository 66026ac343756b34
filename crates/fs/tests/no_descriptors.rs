//! What must still be answered when the process has no descriptor left. Alone in its process, since
//! every other test there would fail.

mod common;

use std::fs::File;

use common::Served;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Clients can use up the daemon's descriptors, and that is when it is asked why nothing goes on.
#[test]
fn snapshot_with_no_descriptor_free_needs_none() {
    let served = Served::new();
    let few = Rlimit {
        current: Some(256),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let mut all = Vec::new();
    let refused = loop {
        match File::open("/dev/null") {
            Ok(file) => all.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
    let snapshot = served.fs.snapshot();
    drop(all);
    assert_eq!(snapshot.unwrap().process.descriptors, 256);
}
