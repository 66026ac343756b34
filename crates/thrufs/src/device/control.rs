//! What an operator and Prometheus ask of a device: the sockets are made by the process outside, and answered
//! by the one that serves, with the answers that a mount gives.
//!
//! Invariant: a device works without its status socket; without the address of `--metrics` it does not start.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use thrufs_session::DeviceView;
use tokio::net::TcpListener;

use super::socket::Socket;
use crate::daemon::link::ServeDevice;
use crate::device_plan::DevicePlan;
use crate::metrics;
use crate::status::{self, Askers, Reporter, SocketFile};

/// The sockets, outside.
#[derive(Debug)]
pub(super) struct Control {
    /// Its name goes when this does.
    status: Option<(SocketFile, UnixListener)>,
    metrics: Option<std::net::TcpListener>,
}

/// The sockets, to be answered.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) status: Option<UnixListener>,
    pub(super) metrics: Option<std::net::TcpListener>,
}

impl Control {
    /// Makes them.
    ///
    /// # Errors
    /// The address of `--metrics` cannot be had.
    pub(super) async fn open(plan: &DevicePlan, socket: &Socket) -> anyhow::Result<Self> {
        let metrics = metrics::bind(plan.metrics).await?;
        let metrics = metrics.map(TcpListener::into_std).transpose()?;
        let status = status::name_of(socket.listener()).and_then(|name| SocketFile::make(&name));
        Ok(Self {
            status: status::if_possible(status),
            metrics,
        })
    }

    pub(super) fn status(&self) -> Option<&UnixListener> {
        self.status.as_ref().map(|(_, listener)| listener)
    }

    pub(super) fn metrics(&self) -> Option<&std::net::TcpListener> {
        self.metrics.as_ref()
    }

    /// For a process that answers itself.
    ///
    /// # Errors
    /// There can be no more descriptors.
    pub(super) fn asked(&self) -> anyhow::Result<Asked> {
        let status = self.status().map(UnixListener::try_clone).transpose()?;
        let metrics = self.metrics.as_ref().map(|metrics| metrics.try_clone());
        Ok(Asked {
            status,
            metrics: metrics.transpose()?,
        })
    }

    /// What the server is told; both processes are this one until it is said otherwise.
    pub(super) fn describe(
        &self,
        plan: &DevicePlan,
        source: PathBuf,
        socket: &Socket,
    ) -> ServeDevice {
        ServeDevice {
            source,
            socket: socket.shown(),
            tag: plan.tag.as_ref().map(ToString::to_string),
            pid: std::process::id(),
            server_pid: std::process::id(),
            in_user_namespace: false,
            status: self.status.is_some(),
            metrics: self.metrics.is_some(),
        }
    }
}

/// Answers from now on. Needs a tokio runtime.
///
/// # Errors
/// Of the runtime.
pub(super) fn answer(view: DeviceView, told: ServeDevice, asked: Asked) -> anyhow::Result<()> {
    let reporter = Reporter::of_device(view, &told.source, (told.socket, told.tag));
    let reporter = reporter.of_processes(told.pid, told.server_pid);
    if let Some(listener) = asked.status {
        let askers = match told.in_user_namespace {
            true => Askers::LetIn,
            false => Askers::OwnerAndRoot,
        };
        status::serve(listener, reporter.clone(), askers)?;
    }
    if let Some(listener) = asked.metrics {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(metrics::serve(listener, reporter));
    }
    Ok(())
}
