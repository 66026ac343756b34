//! `--raise-max-pages-limit`: fs.fuse.max_pages_limit, raised while a mount is made.
//!
//! Invariant: the limit is what it was before as soon as INIT is done, also after an error; mounts
//! that are made at the same time take turns by a lock on the sysctl's file. Why not for the life of the mount: the kernel copies the limit into each connection
//! when it is made, so a longer raise would serve nobody and be left behind by a killed daemon.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::request::MountRequest;

const SYSCTL: &str = "/proc/sys/fs/fuse/max_pages_limit";
const PAGE: u64 = 4096;

/// The limit is raised while this lives.
#[derive(Debug)]
pub(crate) struct RaisedLimit {
    /// The sysctl's file; whoever has its lock alone may change the value.
    lock: Option<Flock<File>>,
    before: u64,
}

/// Raises the limit to what WRITEs of the largest size need, if that was asked for; nothing to do is
/// no error. What is returned puts it back, which is to be when INIT is done.
pub(crate) fn raise_if_asked(request: &MountRequest) -> anyhow::Result<Option<RaisedLimit>> {
    let pages = u64::from(request.config.max_write).div_ceil(PAGE);
    let asked = request.raise_max_pages_limit;
    asked.then(|| raise(Path::new(SYSCTL), pages)).transpose()
}

fn raise(sysctl: &Path, pages: u64) -> anyhow::Result<RaisedLimit> {
    let shown = sysctl.display();
    let file = File::open(sysctl).with_context(|| {
        format!("--raise-max-pages-limit: {shown}: needs Linux 6.13; before it the limit is 256")
    })?;
    let lock = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_file, errno)| errno)
        .with_context(|| format!("lock {shown}"))?;
    let before = read(sysctl)?;
    let mut raised = RaisedLimit { lock: None, before };
    if before < pages {
        write(sysctl, pages)
            .with_context(|| format!("--raise-max-pages-limit: set {shown} to {pages}"))?;
        raised.lock = Some(lock);
        let now = read(sysctl)?;
        ensure!(now >= pages, "{shown} stays at {now}, {pages} are wanted");
        tracing::debug!(before, now, "raised fs.fuse.max_pages_limit");
    }
    Ok(raised)
}

impl RaisedLimit {
    fn put_back(&mut self, sysctl: &Path) {
        let Some(lock) = self.lock.take() else { return };
        if let Err(error) = write(sysctl, self.before) {
            tracing::error!(
                "{error:#}: set fs.fuse.max_pages_limit back to {}",
                self.before
            );
        }
        drop(lock);
    }
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        self.put_back(Path::new(SYSCTL));
    }
}

fn read(sysctl: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(sysctl).with_context(|| sysctl.display().to_string())?;
    let number = text.trim().parse();
    number.with_context(|| format!("{}: no number: {text}", sysctl.display()))
}

fn write(sysctl: &Path, pages: u64) -> anyhow::Result<()> {
    std::fs::write(sysctl, pages.to_string()).with_context(|| sysctl.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raise_puts_the_value_back_and_leaves_a_larger_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let sysctl = dir.path().join("max_pages_limit");
        write(&sysctl, 256).unwrap();
        let mut raised = raise(&sysctl, 1024).unwrap();
        assert_eq!(read(&sysctl).unwrap(), 1024);
        raised.put_back(&sysctl);
        assert_eq!(read(&sysctl).unwrap(), 256);
        let mut raised = raise(&sysctl, 16).unwrap();
        assert_eq!(read(&sysctl).unwrap(), 256);
        raised.put_back(&sysctl);
        assert_eq!(read(&sysctl).unwrap(), 256);
    }

    #[test]
    fn raise_where_the_kernel_has_no_limit_says_since_when() {
        let error = raise(Path::new("/nonexistent/limit"), 1024).unwrap_err();
        assert!(
            format!("{error:#}").contains("needs Linux 6.13"),
            "{error:#}"
        );
    }
}
