//! Acting as another user. The kernel keeps credentials per thread, so a thread of its own takes
//! them and ends; the umask is unshared with them. Not a child process: a closure can use its
//! results, and no helper program has to be readable by that user.

use anyhow::{Context, Result, anyhow};
use rustix::fs::{Gid, Uid};
use thrufs_sys::creds::set_umask;

/// A user and its groups; the numbers need not exist in /etc/passwd.
#[derive(Clone, Debug)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The umask.
    pub umask: u32,
}

impl User {
    /// A user without supplementary groups and with umask 022.
    pub fn new(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            groups: Vec::new(),
            umask: 0o022,
        }
    }

    /// The same in these supplementary groups.
    pub fn in_groups(mut self, groups: &[u32]) -> Self {
        self.groups = groups.to_vec();
        self
    }

    /// The same with this umask.
    pub fn with_umask(mut self, umask: u32) -> Self {
        self.umask = umask;
        self
    }

    fn become_it(&self) -> Result<()> {
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups).context("setgroups")?;
        let (gid, uid) = (Gid::from_raw(self.gid), Uid::from_raw(self.uid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).context("setresgid")?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).context("setresuid")?;
        let umask = set_umask(self.umask).context("unshare(CLONE_FS)")?;
        // Its own from now on.
        drop(umask);
        Ok(())
    }

    /// Runs `action` with these credentials (the caller is root).
    pub fn act<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.become_it()?;
                action()
            });
            thread
                .join()
                .map_err(|_| anyhow!("the action as user {} panicked", self.uid))?
        })
    }
}
