//! `--metrics`: what `thrufs status` shows, for Prometheus, over HTTP.
//!
//! Invariant: the data path pays nothing for it. A scrape reads the same counters as the status
//! socket, on the control plane's thread; and whoever connects can tie up no more than
//! [`CONNECTIONS`] descriptors, each for [`PATIENCE`].
//!
//! Not a registry of live metrics, which would count everything a second time: the text is made of
//! one [`crate::status::Status`] for each scrape.

mod text;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::status::Reporter;

/// Clients that are served at once; others wait in the kernel.
const CONNECTIONS: usize = 8;
/// How long one may stay. A scraper that keeps its connection makes a new one after that.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before the next try when no connection can be accepted (say, for lack of descriptors).
const RETRY: Duration = Duration::from_millis(200);

/// Takes the address, if one was asked for. To be called before there is a mount: an address that
/// cannot be had must leave nothing mounted.
pub(crate) async fn bind(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.with_context(|| format!("--metrics={address}: choose another address or port"))?;
    Ok(Some(listener))
}

/// Answers for as long as the runtime lives.
pub(crate) async fn serve(listener: TcpListener, reporter: Reporter) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("metrics at http://{address}/metrics");
    }
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let reporter = reporter.clone();
                tokio::spawn(async move {
                    let served = tokio::time::timeout(PATIENCE, converse(stream, &reporter)).await;
                    if let Ok(Err(error)) = served {
                        tracing::debug!("metrics: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!("metrics: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, reporter: &Reporter) -> hyper::Result<()> {
    let service = service_fn(async |request: Request<_>| {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), || {
            reporter.status().map(|status| text::of(&status))
        }))
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(
    method: &Method,
    path: &str,
    text: impl FnOnce() -> io::Result<String>,
) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => match text() {
            Ok(text) => (StatusCode::OK, text::CONTENT_TYPE, text),
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                format!("{error}\n"),
            ),
        },
        (_, "/metrics") => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET\n".to_owned(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "metrics are at /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_to_get_of_metrics_is_the_text() {
        let response = answer(&Method::GET, "/metrics", || Ok("x 1\n".to_owned()));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], text::CONTENT_TYPE);
    }

    #[test]
    fn answer_to_anything_else_is_an_error() {
        let text = || unreachable!("nothing is collected");
        let status = |method, path| answer(&method, path, text).status();
        assert_eq!(status(Method::GET, "/"), StatusCode::NOT_FOUND);
        assert_eq!(
            status(Method::POST, "/metrics"),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }

    #[test]
    fn answer_when_nothing_can_be_collected_says_why() {
        let response = answer(&Method::GET, "/metrics", || {
            Err(io::Error::other("no /proc"))
        });
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn bind_of_an_address_in_use_names_it() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = bind(Some(loopback)).await.expect("a free port");
        let first = first.expect("it was asked for");
        let taken = first.local_addr().expect("it is bound");
        let error = format!("{:#}", bind(Some(taken)).await.expect_err("it is taken"));
        assert!(error.contains(&format!("--metrics={taken}")), "{error}");
    }
}
