//! The socket at which the supervisor of a mount that outlives its servers takes orders (`thrufs upgrade`, `thrufs set`): one
//! JSON document in, one out, and the connection ends.
//!
//! Invariant: orders are taken from the daemon's user and from root alone, whatever became of the socket's mode, since a
//! binary that they name is run as that user. The server has no way to this socket: it is not in its namespace, nor in its
//! table.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::connections::{self, Limits};
use crate::status::{self, SocketFile};

/// What a change of servers takes, with much to spare.
const LIMITS: Limits = Limits {
    open: 8,
    patience: Duration::from_secs(60),
};
/// Bytes of a document: a path and some options.
const DOCUMENT_MAX: u64 = 64 << 10;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Another binary is to serve; that at the path of the daemon's own for none.
    Upgrade {
        #[serde(with = "super::link::maybe_bytes")]
        binary: Option<PathBuf>,
    },
    /// These options, as `KEY=VALUE`, are to hold.
    Set { items: Vec<String> },
}

/// What came of it: what to tell, or why not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done(String),
    Failed(String),
}

/// An order, and where to tell what came of it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) order: Order,
    pub(super) outcome: Outcome,
}

/// Where to tell it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The log has it in any case.
    Log,
    Reply(oneshot::Sender<anyhow::Result<String>>),
}

impl Outcome {
    pub(super) fn tell(self, outcome: anyhow::Result<String>) {
        if let Self::Reply(reply) = self {
            // One that does not wait any more finds it in the log.
            let _ = reply.send(outcome);
        }
    }
}

/// Makes the socket of the mount with this `device`, and hands on what is asked for there. Needs a tokio runtime.
pub(super) fn open(device: &str, ask: UnboundedSender<Request>) -> anyhow::Result<SocketFile> {
    let (file, listener) = SocketFile::make_control(device)?;
    serve(listener, ask)?;
    Ok(file)
}

fn serve(listener: StdUnixListener, ask: UnboundedSender<Request>) -> anyhow::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let converse = move |stream, asked: connections::Asked| {
        // One that waits for its order does not go for another.
        asked.set();
        converse(stream, ask.clone())
    };
    tokio::spawn(connections::serve("control", listener, LIMITS, converse));
    Ok(())
}

async fn converse(mut stream: UnixStream, ask: UnboundedSender<Request>) -> anyhow::Result<()> {
    let peer = stream
        .peer_cred()
        .context("credentials of the client")?
        .uid();
    if !status::may_order(peer) {
        bail!("uid {peer} may give no orders");
    }
    let mut text = Vec::new();
    (&mut stream)
        .take(DOCUMENT_MAX)
        .read_to_end(&mut text)
        .await?;
    let (reply, replied) = oneshot::channel();
    let done = match serde_json::from_slice(&text) {
        Ok(order) => {
            let outcome = Outcome::Reply(reply);
            ask.send(Request { order, outcome })
                .map_err(|_| anyhow!("the daemon ends"))?;
            replied.await.map_err(|_| anyhow!("the daemon ends"))?
        }
        Err(error) => Err(anyhow!("the daemon does not know this order ({error})")),
    };
    let answer = match done {
        Ok(told) => Answer::Done(told),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    stream
        .write_all(&serde_json::to_vec(&answer)?)
        .await
        .context("send")
}

/// Gives `order` to the daemon whose socket this is. Returns what it tells.
///
/// # Errors
/// What it refuses, or why there is no answer.
pub(crate) fn give(socket: &Path, order: &Order) -> anyhow::Result<String> {
    let mut stream = StdUnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMITS.patience))?;
    stream.write_all(&serde_json::to_vec(order)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = Vec::new();
    stream
        .read_to_end(&mut text)
        .context("the daemon does not answer")?;
    match serde_json::from_slice(&text)
        .context("the daemon ended, or may not be asked by this user")?
    {
        Answer::Done(told) => Ok(told),
        Answer::Failed(reason) => bail!("{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::block_on;

    #[test]
    fn give_tells_what_came_of_the_order() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control");
        let listener = StdUnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let orders = [
            Order::Upgrade {
                binary: Some(PathBuf::from("/new")),
            },
            Order::Set {
                items: vec!["log-level=warn".to_owned()],
            },
        ];
        let told = block_on(async {
            let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
            serve(listener, ask)?;
            let given = orders.clone();
            let giving =
                tokio::task::spawn_blocking(move || given.map(|order| give(&path, &order)));
            for order in orders {
                let request = asked.recv().await.context("no order")?;
                anyhow::ensure!(request.order == order, "{request:?}");
                request.outcome.tell(match order {
                    Order::Upgrade { .. } => Ok("done".to_owned()),
                    Order::Set { .. } => Err(anyhow!("refused")),
                });
            }
            Ok(giving.await?)
        });
        let [done, failed] = told.unwrap();
        assert_eq!(done.unwrap(), "done");
        assert_eq!(failed.unwrap_err().to_string(), "refused");
    }
}
