//! The socket without a mount: any file system can be reported on.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use thrufs_fs::{Config, Passthrough};

use super::super::find;
use super::super::report::Status;
use super::*;
use crate::daemon::source_state::{SourceState, SourceView};
use crate::options::process::Transport;

fn reporter(source: &Path, device: &str) -> Reporter {
    let directory: OwnedFd = File::open(source).unwrap().into();
    Reporter {
        fs: Arc::new(Passthrough::new(directory, Config::default()).unwrap()),
        source: "/srv".to_owned(),
        mountpoint: "/mnt".to_owned(),
        device: device.to_owned(),
        pid: std::process::id(),
        server_pid: std::process::id(),
        transport: Transport::default(),
        started: Instant::now(),
        source_view: SourceView::new(SourceState::default),
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> T {
    crate::signals::block_on(work).unwrap()
}

#[test]
fn socket_is_private_answers_its_owner_and_goes() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("run");
    block_on(async {
        let socket = StatusSocket::open_in(&directory, reporter(scratch.path(), "0:77"))?;
        let path = directory.join("0-77.sock");
        let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
        let status: Status = find::fetch(&path, runtime_dir::uid()).await?.unwrap();
        assert_eq!(
            (status.device.as_str(), status.pid),
            ("0:77", std::process::id())
        );
        assert_eq!(status.snapshot.inodes, 1);
        assert!(status.snapshot.process.resident_bytes > 0);
        drop(socket);
        assert!(!path.exists());
        assert!(find::fetch(&path, runtime_dir::uid()).await?.is_none());
        Ok(())
    });
}

#[test]
fn socket_of_a_dead_daemon_is_removed_and_of_a_live_one_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("run");
    block_on(async {
        let live = StatusSocket::open_in(&directory, reporter(scratch.path(), "0:1"))?;
        // Closing a listener leaves its file, as a daemon does that is killed.
        drop(StdListener::bind(directory.join("0-2.sock"))?);
        let error = find::fetch(&directory.join("0-2.sock"), runtime_dir::uid()).await;
        assert!(find::is_refused(&error.unwrap_err()));
        let _new = StatusSocket::open_in(&directory, reporter(scratch.path(), "0:3"))?;
        assert!(!directory.join("0-2.sock").exists());
        assert!(directory.join("0-1.sock").exists());
        drop(live);
        Ok(())
    });
}

#[test]
fn socket_that_a_successor_replaced_is_left_to_it() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("run");
    block_on(async {
        let old = StatusSocket::open_in(&directory, reporter(scratch.path(), "0:1"))?;
        let new = StatusSocket::open_in(&directory, reporter(scratch.path(), "0:1"))?;
        drop(old);
        assert!(directory.join("0-1.sock").exists());
        drop(new);
        assert!(!directory.join("0-1.sock").exists());
        Ok(())
    });
}

#[test]
fn may_ask_is_for_the_owner_and_root() {
    assert!(may_ask(0, 1000) && may_ask(1000, 1000));
    assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
}
