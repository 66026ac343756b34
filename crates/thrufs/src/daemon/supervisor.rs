//! The process outside, when the one that serves is shut in: it mounts and unmounts, answers signals
//! and systemd, and keeps the files of the runtime directory.
//!
//! Invariant: as for an unconfined daemon ([`crate::daemon::unconfined`]): signal handlers are installed before
//! the mount exists, a signal or a start that fails unmounts, and a server that ends by itself leaves a
//! dead mount. The server is told nothing but the mount, and believed nothing but its end, and, where another one
//! takes over from it, that it has stopped ([`super::succession`]).

use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use anyhow::{Context, anyhow, bail};
use nix::sys::wait::WaitStatus;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::control;
use super::death::{self, Ended};
use super::lifecycle::{End, PATIENCE, wait_for_end};
use super::link::{FromServer, Serve};
use super::readiness::{Readiness, announce};
use super::server::{Confined, Ending, Server, ServerEvent};
use super::server_process;
use super::source_state::{self, Copies, HeldSource, SourceView};
use super::stuck;
use super::succession::{Step, Succession};
use super::successor::{Listening, Mounted, Told};
use crate::logging::{self, LogOptions};
use crate::metrics;
use crate::mount::attached::{Announced, Attached, stop};
use crate::mount::paths::Endpoints;
use crate::mount::read_ahead;
use crate::mount::sysctls::{self, Changed};
use crate::mount_plan::MountPlan;
use crate::sandbox::plan::Sandbox;
use crate::signals::{Signals, block_on};
use crate::status::{self, SocketFile};

/// Serves until a signal, or until the mount is unmounted.
pub(crate) fn serve(
    endpoints: Endpoints,
    plan: &MountPlan,
    readiness: &mut Readiness,
    log: LogOptions,
) -> anyhow::Result<()> {
    // While this process has one thread.
    let mut server = start(&endpoints, plan, log)?;
    let lines = logging::init(log)?;
    for reason in &server.refused {
        tracing::warn!("{reason}");
    }
    tracing::info!(
        "serving in --sandbox={} with --seccomp={}",
        server.sandbox,
        plan.sandbox.seccomp
    );
    block_on(async {
        let mut signals = Signals::install()?;
        // Put back also if a signal comes: not before there are handlers.
        let changed = sysctls::change_as_asked(plan.raise_for(), plan.sysctl_timeout())?;
        let (attached, status, mounted) = mount(&server, &endpoints, plan).await?;
        register_files(&server, &endpoints, &attached, plan)?;
        let zygote = Arc::new(AtomicI32::new(server.pid.as_raw()));
        let source = hold_source(endpoints, (&server, &zygote), attached.device());
        let mut watching = JoinSet::new();
        watching.spawn(source_state::watch(Arc::clone(&source)));
        let view = SourceView::new(move || source.state());
        let (tell, told) = mpsc::unbounded_channel();
        let ending = server.ending()?;
        let listening = Listening {
            lines: lines.clone(),
            log,
            view: view.clone(),
            zygote,
            tell: tell.clone(),
        };
        let (control, succession) = succession(mounted, listening, plan, &mut server)?;
        let _freeing = match succession {
            // It has its own, for each server.
            Some(_) => JoinSet::new(),
            None => {
                let connection = attached.duplicate_connection()?;
                stuck::free(server.pid, attached.ours().clone(), connection)
            }
        };
        server.listen(lines, log.level, view, move |event| {
            // The receiver is gone only when this process ends.
            let _ = tell.send((0, event));
        })?;
        let read_ahead = plan
            .read_ahead
            .map(|bytes| (attached.device().to_owned(), bytes));
        let mut run = Run::new(told, (changed, read_ahead), succession);
        let connection = attached.duplicate_connection()?;
        let until = run.until_the_end(readiness, Some(attached.announced()));
        let end = wait_for_end(&mut signals, connection, until).await;
        drop((status, control));
        run.conclude(end, attached, (ending, plan), readiness).await
    })
}

/// A server of the mount, which waits to be told of it.
fn start(endpoints: &Endpoints, plan: &MountPlan, log: LogOptions) -> anyhow::Result<Server> {
    let below = endpoints.mountpoint_below_source();
    let confined = Confined {
        source: &endpoints.source,
        plan: &plan.sandbox,
        needs: plan.needs(),
        log,
    };
    Server::start(&confined, |start, asking, link| {
        server_process::serve(start, asking, link, (plan, below.as_deref()))
    })
}

fn in_user_namespace(server: &Server, plan: &MountPlan) -> bool {
    server.sandbox == Sandbox::Namespace && plan.sandbox.has_user_namespace()
}

/// Before INIT is answered: the first OPEN may come at once.
fn register_files(
    server: &Server,
    endpoints: &Endpoints,
    attached: &Attached,
    plan: &MountPlan,
) -> anyhow::Result<()> {
    // There the server has fewer rights than this process can give a thread.
    if plan.no_passthrough.is_some() || in_user_namespace(server, plan) {
        return Ok(());
    }
    server.register_files(attached.duplicate_connection()?, endpoints.devices()?, plan)
}

/// SOURCE stays held here too: the server's hold is in a copy of the mounts, so that umount(8) of SOURCE
/// would succeed while it is served, and an operator would take the disk away.
fn hold_source(
    endpoints: Endpoints,
    (server, zygote): (&Server, &Arc<AtomicI32>),
    device: &str,
) -> Arc<HeldSource> {
    let copies = match server.sandbox {
        Sandbox::None => Copies::None,
        Sandbox::Namespace => Copies::Namespace(Arc::clone(zygote)),
        Sandbox::Chroot => Copies::of_now(),
    };
    Arc::new(HeldSource::new(endpoints.source, device.to_owned(), copies))
}

/// What takes the mount from server to server, and the socket where that is asked for; none without `--survive`.
fn succession(
    mounted: Mounted,
    listening: Listening,
    plan: &MountPlan,
    server: &mut Server,
) -> anyhow::Result<(Option<SocketFile>, Option<Succession>)> {
    if plan.survive.is_none() {
        return Ok((None, None));
    }
    let (ask, asked) = mpsc::unbounded_channel();
    let control = control::open(&mounted.serve.device, ask);
    let control = status::if_possible(control);
    let succession = Succession::new((mounted, listening), plan, server, asked)?;
    Ok((control, Some(succession)))
}

/// The server's life, as it tells it.
struct Run {
    told: mpsc::UnboundedReceiver<Told>,
    /// Where other servers can follow.
    succession: Option<Succession>,
    /// Put back when INIT is done.
    changed: Vec<Changed>,
    /// Set then: the mount's device, and bytes.
    read_ahead: Option<(String, u32)>,
    /// Others may have seen what the mount shows.
    answers: bool,
    /// INIT is done.
    is_ready: bool,
    failure: Option<String>,
    /// What the server wrote last.
    last_words: Vec<String>,
}

impl Run {
    fn new(
        told: mpsc::UnboundedReceiver<Told>,
        (changed, read_ahead): (Vec<Changed>, Option<(String, u32)>),
        succession: Option<Succession>,
    ) -> Self {
        Self {
            told,
            succession,
            changed,
            read_ahead,
            answers: false,
            is_ready: false,
            failure: None,
            last_words: Vec::new(),
        }
    }

    /// Has it `announced` when it is ready, unless it is to end anyway, and returns when it has ended.
    async fn until_the_end(
        &mut self,
        readiness: &mut Readiness,
        announced: Option<&Announced>,
    ) -> anyhow::Result<()> {
        loop {
            let said = tokio::select! {
                said = self.told.recv() => said,
                step = next_step(&mut self.succession) => {
                    if let Some(succession) = &mut self.succession {
                        succession.take(step);
                    }
                    continue;
                }
                taken_over = readiness.taken_over() => {
                    taken_over?;
                    if let Some(announced) = announced {
                        announce(announced);
                    }
                    continue;
                }
            };
            let Some((number, said)) = said else {
                bail!("the thread that waits for the serving process is gone");
            };
            if let Some(succession) = &mut self.succession
                && number != succession.number()
            {
                succession.hear(number, said);
                continue;
            }
            match said {
                ServerEvent::Message(FromServer::Answers) => self.answers = true,
                // A server that another follows has said so before.
                ServerEvent::Message(FromServer::Ready) if self.is_ready => {
                    self.succession.iter_mut().for_each(Succession::is_ready);
                }
                ServerEvent::Shared(files) => {
                    if let Some(succession) = &mut self.succession {
                        succession.has_shared(files);
                    }
                }
                ServerEvent::Message(FromServer::Ready) => {
                    self.changed.clear();
                    if let Some((device, bytes)) = self.read_ahead.take() {
                        read_ahead::set(&device, bytes)?;
                    }
                    self.is_ready = true;
                    readiness.tell()?;
                }
                ServerEvent::Message(FromServer::Failed(reason)) => {
                    // One line: it is shown on a terminal.
                    let reason = logging::escaped(reason.as_bytes(), logging::LINE_MAX);
                    self.failure = Some(reason);
                }
                ServerEvent::Message(other) => {
                    tracing::debug!(?other, "not expected from the server");
                }
                ServerEvent::Ended(status, last_words) => {
                    self.last_words = last_words;
                    self.note_taken_over(readiness, announced);
                    return self.ended(status.context("wait for the server")?);
                }
            }
        }
    }

    /// Ends what there is after `end`: the mount where that was asked for, and else what serves it.
    async fn conclude(
        mut self,
        end: End,
        attached: Attached,
        (ending, plan): (Ending, &MountPlan),
        readiness: &mut Readiness,
    ) -> anyhow::Result<()> {
        let kill = |run: &Self| match &run.succession {
            Some(succession) => succession.kill(),
            None => ending.kill(),
        };
        let (result, hangs) = match end {
            End::Told => {
                let ended = stop(attached, PATIENCE, self.until_the_end(readiness, None)).await;
                // One that hangs, say in a file system below, does not outlive this process.
                kill(&self);
                // A start that is told to end ends with some error, such as that of INIT.
                return if self.is_ready {
                    ended.unwrap_or(Ok(()))
                } else {
                    Ok(())
                };
            }
            End::ByItself(result) => (result, false),
            End::Hung => {
                kill(&self);
                (Ok(()), true)
            }
        };
        let ended = Ended {
            result,
            last_words: self.last_words,
            hangs,
        };
        death::conclude(attached, ended, plan).await
    }

    /// The end of the server may be known here before it is known that the mount was taken over.
    fn note_taken_over(&self, readiness: &Readiness, announced: Option<&Announced>) {
        // A start that failed before it was told is no death.
        let answers = self.answers && (self.is_ready || self.failure.is_none());
        if let Some(announced) = announced
            && readiness.close(answers)
        {
            announced.set();
        }
    }

    fn ended(&mut self, status: WaitStatus) -> anyhow::Result<()> {
        match self.failure.take() {
            Some(reason) => Err(anyhow!("{reason}")),
            None => death::ended(status),
        }
    }
}

/// For ever without one.
async fn next_step(succession: &mut Option<Succession>) -> Step {
    match succession {
        Some(succession) => succession.step().await,
        None => std::future::pending().await,
    }
}

/// Mounts, and gives the server what it needs of it.
async fn mount(
    server: &Server,
    endpoints: &Endpoints,
    plan: &MountPlan,
) -> anyhow::Result<(Attached, Option<SocketFile>, Mounted)> {
    let metrics = metrics::bind(plan.metrics).await?;
    let metrics = metrics.map(TcpListener::into_std).transpose()?;
    let attached = Attached::new(&endpoints.mountpoint, &plan.kernel)?;
    let status = status::if_possible(SocketFile::make(attached.device()));
    let (status, listener) = match status {
        Some((file, listener)) => (Some(file), Some(listener)),
        None => (None, None),
    };
    let serve = Serve {
        mountpoint: attached.mountpoint().to_owned(),
        device: attached.device().to_owned(),
        mount_id: attached.ours().unique_id(),
        source: endpoints.source_path(),
        pid: std::process::id(),
        server_pid: u32::try_from(server.pid.as_raw()).context("the server's process id")?,
        in_user_namespace: in_user_namespace(server, plan),
        lets_go: match server.sandbox {
            Sandbox::None => true,
            Sandbox::Namespace => endpoints.tell_of_mounts(),
            // Its copies are in no namespace, and keep nothing outside busy.
            Sandbox::Chroot => false,
        },
        status: listener.is_some(),
        metrics: metrics.is_some(),
    };
    let connection = attached.connection();
    server.serve(
        serve.clone(),
        connection,
        listener.as_ref(),
        metrics.as_ref(),
    )?;
    let source = endpoints.source.try_clone();
    let mounted = Mounted {
        source: source.context("duplicate a descriptor")?,
        below: endpoints.mountpoint_below_source(),
        serve,
        connection: attached.duplicate_connection()?,
        ours: attached.ours().clone(),
        status: listener,
        metrics,
    };
    Ok((attached, status, mounted))
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

    use super::*;

    /// Whether the mount was announced, of a server that said `all` this before the supervisor looked.
    fn is_announced_after(all: Vec<FromServer>, readiness: &mut Readiness) -> bool {
        let (tell, told) = mpsc::unbounded_channel();
        for message in all {
            tell.send((0, ServerEvent::Message(message))).unwrap();
        }
        let killed = WaitStatus::Signaled(Pid::from_raw(7), Signal::SIGKILL, false);
        tell.send((0, ServerEvent::Ended(Ok(killed), Vec::new())))
            .unwrap();
        let announced = Announced::default();
        let mut run = Run::new(told, (Vec::new(), None), None);
        let ended = block_on(run.until_the_end(readiness, Some(&announced)));
        assert!(ended.is_err(), "it was killed");
        announced.is_set()
    }

    /// A server that was killed while its mount answered already: its end overtook the announcement, the
    /// mount was removed, and the directory below showed.
    #[test]
    fn end_of_a_server_that_answers_leaves_the_mount() {
        // What is ready first is drawn by lot.
        for _ in 0..50 {
            let foreground = &mut Readiness::Foreground;
            let ready = vec![FromServer::Answers, FromServer::Ready];
            assert!(is_announced_after(ready, foreground));
        }
        let foreground = &mut Readiness::Foreground;
        assert!(is_announced_after(vec![FromServer::Answers], foreground));
    }

    #[test]
    fn end_of_a_server_that_does_not_answer_yet_or_says_why_is_a_start_that_failed() {
        assert!(!is_announced_after(Vec::new(), &mut Readiness::Foreground));
        let failed = vec![FromServer::Answers, FromServer::Failed("why".to_owned())];
        assert!(!is_announced_after(failed, &mut Readiness::Foreground));
    }
}
