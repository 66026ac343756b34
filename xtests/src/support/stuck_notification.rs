//! A mount whose server waits in the kernel, uninterruptibly: a notification wants a folio that a READ, which is
//! never answered, holds locked.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::mount::Mount;
use super::skip::Outcome;
use super::wait::wait_until;

const SOON: Duration = Duration::from_secs(10);
const PAGE: usize = 4096;

/// What it takes.
pub const OPTIONS: [&str; 5] = [
    "--fault=write:delay=500",
    "--fault=write:EIO",
    "--fault=read:delay=600000",
    "--cache=auto",
    "--log-level=debug",
];

/// The callers that wait.
pub struct Callers {
    writing: JoinHandle<bool>,
    reading: JoinHandle<bool>,
}

/// Fails a WRITE past the page cache, whose notification meets a READ of the file `f`.
pub fn begin(m: &Mount) -> Result<Callers> {
    std::fs::write(m.source("f"), [7; PAGE])?;
    let mut direct = File::options();
    let direct = direct.write(true).custom_flags(libc::O_DIRECT);
    let (direct, reader) = (direct.open(m.path("f"))?, File::open(m.path("f"))?);
    let writing = std::thread::spawn(move || direct.write_at(&[8; PAGE], 0).is_err());
    wait_until("the WRITE", SOON, || Ok(m.requests("WRITE")? > 0))?;
    let reading = std::thread::spawn(move || reader.read_at(&mut [0], 0).is_err());
    wait_until("the notification", SOON, || {
        Ok(m.log().contains("NOTIFY_INVAL_INODE"))
    })?;
    Ok(Callers { writing, reading })
}

impl Callers {
    /// Both have got an error.
    pub fn check_failed(self) -> Outcome {
        let failed = |caller: JoinHandle<bool>| caller.join().unwrap_or(false);
        ensure!(failed(self.writing), "the WRITE did not fail");
        ensure!(failed(self.reading), "the READ did not fail");
        Ok(())
    }
}
