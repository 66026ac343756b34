//! `thrufs upgrade`, SIGUSR2 and `thrufs set`, from the supervisor's side: another server takes the mount over from the one
//! that serves, and the supervisor stays ([`super::turn`] has the servers' side).
//!
//! The new binary is started as a child of the supervisor and shut in as a first server is, beside the one that serves:
//! till then nothing stops. It reads the ledger, fetches the descriptors of inodes, and says whether it can take over;
//! only then the server that serves drains, and the other descriptors go from the one zygote to the other, by sockets that
//! the supervisor only makes.
//!
//! Invariant: whatever fails before the new server has everything leaves the former one serving, with all that it had. The
//! zygote before has ended, with all of its servers, when the new one is told to go. The mount itself, the status
//! socket and the process id that systemd and others know are the supervisor's, and stay.
//!
//! Why the supervisor does not replace itself by execve(2): there would be no way back from a binary that fails by then,
//! and with the supervisor the mount ends. What it runs is small and parses nothing of the client's; a fix of the
//! supervisor itself takes effect with the next mount. Two versions agree on what a hand-over consists of by a number
//! ([`super::link::FORM`]) and by the form of the ledger.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::candidate::Candidate;
use super::control::{Order, Outcome, Request};
use super::death::ended;
use super::descriptors;
use super::link::{FromServer, Serve, TakeOver, ToServer};
use super::server::{Server, ServerEvent, Within};
use super::successor::{Listening, Mounted, Next, Stage, Standing};
use crate::logging::ServerLog;
use crate::mount::read_ahead;
use crate::mount_plan::{self, CommandLine, MountPlan};
use crate::sandbox::plan::Sandbox;
use crate::user;

/// How long a server may take to say that it can take over, and then to do it; else the former one goes on.
const LIMIT: Duration = Duration::from_secs(5);
/// What is told of an upgrade.
const UPGRADE: &str = "upgrade";
/// For a zygote to end that was killed.
const END: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Succession {
    mounted: Mounted,
    listening: Listening,
    plan: MountPlan,
    sandbox: Sandbox,
    inside: Within,
    /// Of the server that serves.
    number: u64,
    /// That was given last; no two servers have the same.
    last: u64,
    serving: Standing,
    next: Option<Next>,
    /// What was the binary at the start, for SIGUSR2.
    path: PathBuf,
    /// That of the server that serves.
    binary: std::fs::File,
    orders: UnboundedReceiver<Request>,
    by_signal: Signal,
    started: (UnboundedSender<Started>, UnboundedReceiver<Started>),
}

type Started = anyhow::Result<(Server, String)>;

/// What the supervisor does next.
pub(super) enum Step {
    Ordered(Request),
    Started(Started),
    TookTooLong,
}

impl Succession {
    /// After the first server, which `server` is; `orders` come from outside.
    pub(super) fn new(
        (mounted, listening): (Mounted, Listening),
        plan: &MountPlan,
        server: &mut Server,
        orders: UnboundedReceiver<Request>,
    ) -> anyhow::Result<Self> {
        let own = "/proc/self/exe";
        let mut serving = Standing::new(server)?;
        serving.freeing = mounted.free_when_stuck(serving.pid)?;
        Ok(Self {
            plan: plan.clone(),
            sandbox: server.sandbox,
            inside: std::mem::take(&mut server.inside),
            number: 0,
            last: 0,
            serving,
            next: None,
            path: std::fs::read_link(own).context(own)?,
            binary: std::fs::File::open(own).context(own)?,
            orders,
            by_signal: signal(SignalKind::user_defined2()).context("install a signal handler")?,
            started: mpsc::unbounded_channel(),
            mounted,
            listening,
        })
    }

    /// Of the server that serves.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Ends all servers.
    pub(super) fn kill(&self) {
        self.serving.ending.kill();
        let next = self.next.as_ref().and_then(|next| next.standing.as_ref());
        if let Some(standing) = next {
            standing.ending.kill();
        }
    }

    /// Waits for something to do ([`Self::take`]). A wait that is dropped can begin again.
    pub(super) async fn step(&mut self) -> Step {
        let deadline = self.next.as_ref().and_then(|next| match next.stage {
            Stage::Preparing(since) | Stage::TakingOver(since) => Some(since + LIMIT),
            Stage::Starting | Stage::Going(_) => None,
        });
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(request) = self.orders.recv() => Step::Ordered(request),
            Some(()) = self.by_signal.recv() => Step::Ordered(Request {
                order: Order::Upgrade { binary: None },
                outcome: Outcome::Log,
            }),
            Some(started) = self.started.1.recv() => Step::Started(started),
            () = late => Step::TookTooLong,
        }
    }

    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Ordered(Request { order, outcome }) if self.next.is_some() => {
                tracing::debug!(?order, "refused");
                outcome.tell(Err(anyhow!("another server is just taking over")));
            }
            Step::Ordered(Request { order, outcome }) => {
                if let Err((error, outcome)) = self.begin(order, outcome) {
                    tracing::warn!("no server takes over: {error:#}");
                    outcome.tell(Err(error));
                }
            }
            Step::Started(Ok((server, version))) => {
                if let Err(error) = self.go_on_with(server, version) {
                    self.give_up(&error);
                }
            }
            Step::Started(Err(error)) => self.give_up(&error),
            Step::TookTooLong => self.give_up(&anyhow!("it did not take over within {LIMIT:?}")),
        }
    }

    /// Starts a binary.
    fn begin(&mut self, order: Order, outcome: Outcome) -> Result<(), (anyhow::Error, Outcome)> {
        match self.start(order) {
            Ok(start) => {
                self.next = Some(Next { outcome, ..start });
                Ok(())
            }
            Err(error) => Err((error, outcome)),
        }
    }

    fn start(&mut self, order: Order) -> anyhow::Result<Next> {
        let (line, binary, what) = self.asked(order)?;
        let plan = mount_plan::parse_again(&line, user::is_root())?;
        let (ahead, receives_ahead) = descriptors::pair().context("socket pair")?;
        let (sends, receives) = descriptors::pair().context("socket pair")?;
        let (order, with) = self.order(line, what, [receives_ahead, receives])?;
        let registering = self.inside.registering.as_ref().context("no registrar")?;
        let registering = registering.try_clone()?;
        // As it is now, whatever is put in its place meanwhile.
        let path = format!("/proc/{}/fd/{}", std::process::id(), binary.as_raw_fd());
        let candidate = Candidate::start(Path::new(&path))?;
        let tell = self.started.0.clone();
        let prepare = move || {
            // The receiver is gone only when this process ends.
            let _ = tell.send(candidate.prepare(order, (&registering, &with)));
        };
        let thread = std::thread::Builder::new().name("take-over".to_owned());
        thread.spawn(prepare).context("start a thread")?;
        self.last += 1;
        Ok(Next {
            number: self.last,
            stage: Stage::Starting,
            standing: None,
            ahead: Some(ahead),
            sends: Some(sends),
            plan,
            binary,
            version: String::new(),
            what,
            failure: None,
            outcome: Outcome::Log,
        })
    }

    /// What a binary is told, and the descriptors that come along.
    fn order(
        &self,
        line: CommandLine,
        what: &str,
        receives: [OwnedFd; 2],
    ) -> anyhow::Result<(TakeOver, Vec<OwnedFd>)> {
        let Some([ledger, messages]) = &self.serving.shared else {
            bail!("the server is not ready yet");
        };
        let mut with = vec![
            self.mounted.source.try_clone()?,
            ledger.try_clone()?,
            messages.try_clone()?,
        ];
        with.extend(receives);
        let Within {
            mounts, covered, ..
        } = &self.inside;
        for inside in [mounts, covered].into_iter().flatten() {
            with.push(inside.try_clone()?);
        }
        let bytes_of = |text: &OsStr| text.as_bytes().to_vec();
        let below = self.mounted.below.as_ref();
        let order = TakeOver {
            program: line.program,
            arguments: line.arguments.iter().map(|word| bytes_of(word)).collect(),
            set: line.set,
            is_namespace: self.sandbox == Sandbox::Namespace,
            below: below.map(|below| bytes_of(below.as_os_str())),
            shows_target: ServerLog::of(self.listening.log).shows_target(),
            is_upgrade: what == UPGRADE,
            has_mounts: mounts.is_some(),
            has_covered: covered.is_some(),
        };
        Ok((order, with))
    }

    /// The options and the binary that are asked for.
    fn asked(&self, order: Order) -> anyhow::Result<(CommandLine, std::fs::File, &'static str)> {
        let mut line = self.plan.line.clone();
        match order {
            Order::Upgrade { binary } => {
                let path = binary.unwrap_or_else(|| self.path.clone());
                let file = std::fs::File::open(&path);
                let file = file.with_context(|| format!("{}", path.display()))?;
                Ok((line, file, UPGRADE))
            }
            Order::Set { items } => {
                line.set.extend(items);
                Ok((line, self.binary.try_clone()?, "set"))
            }
        }
    }

    /// It is shut in: tells it of the mount, and listens.
    fn go_on_with(&mut self, server: Server, version: String) -> anyhow::Result<()> {
        let Some(next) = &mut self.next else {
            bail!("nothing was asked for");
        };
        let serve = Serve {
            server_pid: u32::try_from(server.pid.as_raw()).context("the server's process id")?,
            ..self.mounted.serve.clone()
        };
        let (status, metrics) = (self.mounted.status.as_ref(), self.mounted.metrics.as_ref());
        server.serve(serve, &self.mounted.connection, status, metrics)?;
        next.standing = Some(Standing::new(&server)?);
        next.version = version;
        next.stage = Stage::Preparing(Instant::now());
        // Kept nowhere, as below.
        let ahead = next.ahead.take().context("it is shut in twice")?;
        let link = &self.serving.link;
        link.send(&ToServer::SendAhead, &[ahead.as_fd()])?;
        let (tell, number) = (self.listening.tell.clone(), next.number);
        let lines = self.listening.lines.clone();
        let view = self.listening.view.clone();
        server.listen(lines, next.plan.log.level, view, move |event| {
            // As above.
            let _ = tell.send((number, event));
        })
    }

    /// See [`Standing::has_shared`], of the server that serves.
    pub(super) fn has_shared(&mut self, files: Vec<OwnedFd>) {
        self.serving.has_shared(files);
    }

    /// What another one than that which serves says: one that is to take over, or has been taken over from.
    pub(super) fn hear(&mut self, number: u64, event: ServerEvent) {
        let Some(next) = self.next.as_mut().filter(|next| next.number == number) else {
            return tracing::debug!(number, ?event, "of a server that serves no more");
        };
        let done = match event {
            ServerEvent::Shared(files) => {
                if let Some(standing) = &mut next.standing {
                    standing.has_shared(files);
                }
                Ok(())
            }
            ServerEvent::Message(FromServer::Prepared) => self.have_handed_over(),
            ServerEvent::Message(FromServer::TookOver) => self.change_servers(),
            ServerEvent::Message(FromServer::Failed(reason)) => {
                next.failure = Some(reason);
                Ok(())
            }
            ServerEvent::Ended(status, _last_words) => {
                let reason = next.failure.take();
                let how = status.context("wait for the server").and_then(ended);
                Err(reason.map_or_else(
                    || how.err().unwrap_or_else(|| anyhow!("it ended")),
                    |reason| anyhow!("{reason}"),
                ))
            }
            ServerEvent::Message(other) => {
                tracing::debug!(?other, "not expected from a server that takes over");
                Ok(())
            }
        };
        if let Err(error) = done {
            self.give_up(&error);
        }
    }

    fn have_handed_over(&mut self) -> anyhow::Result<()> {
        let Some(next) = &mut self.next else {
            return Ok(());
        };
        next.stage = Stage::TakingOver(Instant::now());
        let link = &self.serving.link;
        link.send(&ToServer::Drain, &[])?;
        // Kept nowhere: the new server learns by its end that a former one has died of it.
        let sends = next.sends.take().context("it is ready twice")?;
        link.send(&ToServer::HandOver, &[sends.as_fd()])?;
        Ok(())
    }

    /// From here on there is no way back: the former servers end.
    fn change_servers(&mut self) -> anyhow::Result<()> {
        let Some(next) = self.next.as_mut() else {
            return Ok(());
        };
        let Stage::TakingOver(since) = next.stage else {
            bail!("it took over before it was told");
        };
        let mut standing = next.standing.take().context("no server")?;
        standing.freeing = self.mounted.free_when_stuck(standing.pid)?;
        next.stage = Stage::Going(since);
        self.listening
            .zygote
            .store(standing.pid.as_raw(), Ordering::Relaxed);
        let former = std::mem::replace(&mut self.serving, standing);
        self.number = next.number;
        drop(former.freeing);
        former.ending.kill();
        if !former.ending.has_ended_within(END) {
            // Its servers wait for their turn, which does not come.
            tracing::warn!("the former serving process does not end");
        }
        self.serving.link.send(&ToServer::Go, &[])?;
        Ok(())
    }

    /// The server that serves answers requests. Returns how, for one that has taken over.
    pub(super) fn is_ready(&mut self) {
        let Some(next) = self
            .next
            .take_if(|next| matches!(next.stage, Stage::Going(_)))
        else {
            return;
        };
        let Stage::Going(since) = next.stage else {
            return;
        };
        let waited = since.elapsed();
        let told = format!(
            "thrufs {} serves {} now ({}); requests waited for {} ms",
            next.version,
            self.mounted.serve.mountpoint.display(),
            next.what,
            waited.as_millis()
        );
        let read_ahead = next
            .plan
            .read_ahead
            .filter(|now| self.plan.read_ahead != Some(*now));
        (self.plan, self.binary) = (next.plan, next.binary);
        if let Some(bytes) = read_ahead
            && let Err(error) = read_ahead::set(&self.mounted.serve.device, bytes)
        {
            tracing::error!("{error:#}");
        }
        tracing::info!("{told}");
        next.outcome.tell(Ok(told));
    }

    /// The former server goes on.
    fn give_up(&mut self, error: &anyhow::Error) {
        let Some(next) = self.next.take() else {
            return;
        };
        if let Some(standing) = &next.standing {
            standing.ending.kill();
        }
        let was_stopped = matches!(next.stage, Stage::TakingOver(_));
        if was_stopped && let Err(error) = self.serving.link.send(&ToServer::Go, &[]) {
            tracing::error!("the serving process cannot be told to go on: {error}");
        }
        tracing::warn!("no server takes over, the former one goes on: {error:#}");
        let told = anyhow!("{error:#}; the former server goes on");
        next.outcome.tell(Err(told));
    }
}
