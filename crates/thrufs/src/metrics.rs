//! `--metrics`: what `thrufs status` shows, for Prometheus, over HTTP; and at `/` for people, as a page.
//!
//! Invariant: the data path pays nothing for it: a scrape reads the same counters as the status socket,
//! on the control plane's thread. And clients that ask nothing, or do not read, neither tie up more than
//! [`LIMITS`] says nor keep out a scraper ([`connections`]). For that a connection is for one request:
//! one that is kept for the next could not be told from one that says nothing.
//!
//! Not a registry of live metrics, which would count everything a second time: the text is made of
//! one [`crate::status::Status`] for each scrape.

mod format;
mod page;
mod text;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, VARY};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::connections::{self, Asked, Limits};
use crate::status::{Reporter, Status};
use format::Format;

/// Time is for sending the request and for reading the answer, which is there at once.
const LIMITS: Limits = Limits {
    open: 8,
    patience: Duration::from_secs(10),
};
/// Bytes that are buffered of a connection: a header is never that long.
const BUFFER: usize = 16 << 10;

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
        tracing::info!("metrics at http://{address}/metrics, and the status at http://{address}/");
    }
    serve_within(LIMITS, listener, reporter).await;
}

async fn serve_within(limits: Limits, listener: TcpListener, reporter: Reporter) {
    connections::serve("metrics", listener, limits, move |stream, asked| {
        converse(stream, asked, reporter.clone())
    })
    .await;
}

async fn converse(stream: TcpStream, asked: Asked, reporter: Reporter) -> anyhow::Result<()> {
    let service = service_fn(async |request: Request<_>| {
        asked.set();
        Ok::<_, Infallible>(answer(&request, || reporter.status()))
    });
    hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// The answer to one request; `status` is asked if it is about that.
fn answer<B>(
    request: &Request<B>,
    status: impl FnOnce() -> io::Result<Status>,
) -> Response<Full<Bytes>> {
    let make: fn(&HeaderMap, &Status) -> Response<Full<Bytes>> = match request.uri().path() {
        "/metrics" => metrics,
        "/" => page::of,
        _ => {
            let text = "the status is at /, metrics are at /metrics\n";
            return failure(StatusCode::NOT_FOUND, text.to_owned());
        }
    };
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    match status() {
        Ok(status) => make(request.headers(), &status),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn metrics(headers: &HeaderMap, status: &Status) -> Response<Full<Bytes>> {
    let format = Format::accepted(headers);
    let mut response = Response::new(Full::from(format.of(text::of(status))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, format.content_type());
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

fn failure(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests;
