//! A daemon of one process, where neither sandbox nor filter is wanted: it mounts, serves and unmounts.
//!
//! Invariant: signal handlers are installed before the mount exists, so SIGTERM at any moment unmounts.
//! Apart from a signal, only a start that fails unmounts.

use std::sync::Arc;

use anyhow::bail;
use tokio::sync::mpsc;

use super::death::{self, Ended};
use super::lifecycle::{End, PATIENCE, wait_for_end};
use super::limits;
use super::readiness::{Readiness, announce};
use super::source_state::{self, Copies, HeldSource, SourceView};
use super::{running, serving};
use crate::logging::{self, LogOptions};
use crate::metrics;
use crate::mount::paths::Endpoints;
use crate::mount_plan::MountPlan;
use crate::signals::{Signals, block_on};
use crate::status::{self, StatusSocket};

/// Serves until a signal, or until the mount is unmounted.
pub(crate) fn serve(
    endpoints: Endpoints,
    plan: &MountPlan,
    readiness: &mut Readiness,
    log: LogOptions,
) -> anyhow::Result<()> {
    limits::make_room_for_descriptors(&endpoints.source);
    let _lines = logging::init(log)?;
    block_on(async {
        let mut signals = Signals::install()?;
        let (lost, mut thread_lost) = mpsc::unbounded_channel();
        serving::when_a_thread_is_lost(move || {
            // The receiver is gone only when the daemon ends anyway.
            let _ = lost.send(());
        });
        let (path, source) = (endpoints.source_path(), endpoints.source.try_clone()?);
        let metrics = metrics::bind(plan.metrics).await?;
        let mut running = running::start(endpoints, plan)?;
        let source = Arc::new(HeldSource::new(
            source,
            running.device().to_owned(),
            Copies::None,
        ));
        tokio::spawn(source_state::watch(Arc::clone(&source)));
        let view = SourceView::new(move || source.state());
        // Dropped before the mount, since a later mount may get the same device number.
        let reporter = running.reporter(&path, view);
        let status = status::if_possible(StatusSocket::open(reporter.clone()));
        if let Some(listener) = metrics {
            tokio::spawn(metrics::serve(listener, reporter));
        }
        let connection = running.connection()?;
        let ended = async {
            readiness.tell()?;
            readiness.taken_over().await?;
            announce(running.attached().announced());
            tokio::select! {
                result = running.ended() => result,
                Some(()) = thread_lost.recv() => bail!("{}", serving::LOST_THREAD),
            }
        };
        let ended = match wait_for_end(&mut signals, connection, ended).await {
            End::Told => {
                drop(status);
                return running.stop(PATIENCE).await;
            }
            End::ByItself(result) => Ended::with(result),
            End::Hung => Ended {
                hangs: true,
                ..Ended::with(Ok(()))
            },
        };
        drop(status);
        death::conclude(running.into_attached(), ended, plan).await
    })
}
