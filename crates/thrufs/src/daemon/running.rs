//! A file system that is mounted and served by one process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use thrufs_fs::{Covered, OwnMount, Passthrough};

use super::registrar::Direct;
use super::serving::{Serving, file_system, watch};
use super::source_state::SourceView;
use crate::mount::attached::{Attached, stop};
use crate::mount::paths::{Endpoints, device_number};
use crate::mount::{read_ahead, sysctls};
use crate::mount_plan::MountPlan;
use crate::status::{self, Reporter};

/// A file system that is mounted and served by this process.
#[derive(Debug)]
pub(crate) struct Running {
    serving: Serving,
    attached: Attached,
}

/// Mounts, negotiates INIT and starts the session threads.
pub(crate) fn start(endpoints: Endpoints, plan: &MountPlan) -> anyhow::Result<Running> {
    let below = endpoints.mountpoint_below_source();
    // While it is not covered.
    let covered = below.and_then(|below| Covered::open(&endpoints.source, &below));
    let fs = file_system(endpoints.source, plan, None)?;
    let watch = watch(&fs, plan)?;
    let _changed = sysctls::change_as_asked(plan.raise_for(), plan.sysctl_timeout())?;
    let attached = Attached::new(&endpoints.mountpoint, &plan.kernel)?;
    let device = device_number(attached.device()).context("the mount's device")?;
    let (mount_id, is_thrufs) = (attached.ours().unique_id(), Box::new(status::is_thrufs));
    fs.set_own_mount(OwnMount::new(device, mount_id, covered, is_thrufs));
    let connection = attached.duplicate_connection()?;
    let registrar = Arc::new(Direct(attached.duplicate_connection()?));
    let serving = Serving::start(fs, (watch, Ok(registrar)), connection, plan, true)?;
    if let Some(bytes) = plan.read_ahead {
        read_ahead::set(attached.device(), bytes)?;
    }
    serving.log(&plan.source, attached.mountpoint());
    Ok(Running { serving, attached })
}

impl Running {
    /// What tells of this mount, which began now, with SOURCE as `source`.
    pub(crate) fn reporter(&self, source: &Path, source_view: SourceView) -> Reporter {
        let mountpoint = self.attached.mountpoint();
        Reporter::new(self.fs(), source, mountpoint, self.device(), source_view)
            .by_transport(self.serving.transport())
    }

    /// See [`Serving::fs`].
    pub(crate) fn fs(&self) -> &Arc<Passthrough> {
        self.serving.fs()
    }

    /// The mount without its session, which has ended or is left behind.
    pub(crate) fn into_attached(self) -> Attached {
        self.attached
    }

    /// See [`Attached::device`].
    pub(crate) fn device(&self) -> &str {
        self.attached.device()
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
        self.serving.ended().await.map(drop)
    }

    /// See [`stop`].
    pub(crate) async fn stop(mut self, patience: Duration) -> anyhow::Result<()> {
        let ended = async { self.serving.ended().await.map(drop) };
        stop(self.attached, patience, ended).await?
    }
}
