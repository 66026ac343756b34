//! A file system that is mounted and served by one process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thrufs_fs::Passthrough;

use super::serving::{Serving, file_system, watch};
use crate::mount::attached::{Attached, stop};
use crate::mount::paths::Endpoints;
use crate::mount::sysctls;
use crate::mount_plan::MountPlan;
use crate::status::Reporter;

/// A file system that is mounted and served by this process.
#[derive(Debug)]
pub(crate) struct Running {
    serving: Serving,
    attached: Attached,
}

/// Mounts, negotiates INIT and starts the session threads.
pub(crate) fn start(endpoints: Endpoints, plan: &MountPlan) -> anyhow::Result<Running> {
    let fs = file_system(endpoints.source, plan)?;
    let watch = watch(&fs, plan)?;
    let _changed = sysctls::change_as_asked(plan.raise_for(), plan.request_timeout)?;
    let attached = Attached::new(&endpoints.mountpoint, &plan.kernel)?;
    let connection = attached.duplicate_connection()?;
    let serving = Serving::start(fs, watch, connection, plan)?;
    serving.log(&plan.source, attached.mountpoint());
    Ok(Running { serving, attached })
}

impl Running {
    /// What tells of this mount, which began now, with SOURCE as `source`.
    pub(crate) fn reporter(&self, source: &Path) -> Reporter {
        let pid = std::process::id();
        Reporter {
            fs: Arc::clone(self.fs()),
            source: source.to_string_lossy().into_owned(),
            mountpoint: self.attached.mountpoint().to_string_lossy().into_owned(),
            device: self.attached.device().to_owned(),
            pid,
            server_pid: pid,
            started: Instant::now(),
        }
    }

    /// See [`Serving::fs`].
    pub(crate) fn fs(&self) -> &Arc<Passthrough> {
        self.serving.fs()
    }

    /// The mount without its session, which has ended or is left behind.
    pub(crate) fn into_attached(self) -> Attached {
        self.attached
    }

    /// The mount.
    pub(crate) fn attached(&self) -> &Attached {
        &self.attached
    }

    /// See [`Attached::duplicate_connection`].
    pub(crate) fn connection(&self) -> anyhow::Result<OwnedFd> {
        self.attached.duplicate_connection()
    }

    /// See [`Serving::ended`].
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        self.serving.ended().await
    }

    /// See [`stop`].
    pub(crate) async fn stop(mut self, patience: Duration) -> anyhow::Result<()> {
        stop(self.attached, patience, self.serving.ended()).await?
    }
}
