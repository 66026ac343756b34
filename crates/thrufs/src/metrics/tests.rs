//! `--metrics` without a mount: any file system can be reported on.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use hyper::header::ACCEPT;
use thrufs_fs::{Config, Passthrough};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::daemon::source_state::{SourceState, SourceView};
use crate::findings::mount::tests::status;

/// After which a scrape is taken for blocked.
const SOON: Duration = Duration::from_secs(60);

fn request(method: Method, path: &str, accept: Option<&str>) -> Request<()> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(accept) = accept {
        request = request.header(ACCEPT, accept);
    }
    request.body(()).unwrap()
}

#[test]
fn answer_to_get_of_metrics_is_in_the_format_that_was_asked_for() {
    let kind = |accept| {
        let response = answer(&request(Method::GET, "/metrics", accept), || Ok(status()));
        assert_eq!(response.status(), StatusCode::OK);
        response.headers()[CONTENT_TYPE]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(kind(None), "text/plain; version=0.0.4; charset=utf-8");
    let openmetrics = "application/openmetrics-text; version=1.0.0";
    assert_eq!(
        kind(Some(openmetrics)),
        format!("{openmetrics}; charset=utf-8")
    );
}

#[test]
fn answer_to_get_of_the_root_is_a_page_that_nothing_else_may_be_loaded_for() {
    let response = answer(&request(Method::GET, "/", None), || Ok(status()));
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers();
    assert_eq!(headers[CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}

#[test]
fn answer_to_anything_else_is_an_error() {
    let unasked = || unreachable!("nothing is collected");
    let code = |method, path| answer(&request(method, path, None), unasked).status();
    assert_eq!(code(Method::GET, "/other"), StatusCode::NOT_FOUND);
    for path in ["/", "/metrics"] {
        assert_eq!(code(Method::POST, path), StatusCode::METHOD_NOT_ALLOWED);
    }
}

#[test]
fn answer_when_nothing_can_be_collected_says_why() {
    for path in ["/", "/metrics"] {
        let response = answer(&request(Method::GET, path, None), || {
            Err(io::Error::other("no /proc"))
        });
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
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

/// Serves some file system's metrics, and returns where.
async fn served(mountpoint: &str) -> SocketAddr {
    let source = tempfile::tempdir().unwrap();
    let directory = File::open(source.path()).unwrap().into();
    let fs = Arc::new(Passthrough::new(directory, Config::default()).unwrap());
    let (source, mountpoint) = (Path::new("/srv"), Path::new(mountpoint));
    let source_view = SourceView::new(SourceState::default);
    let reporter = Reporter::new(&fs, source, mountpoint, "0:1", source_view).of_processes(1, 1);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Those of its connections are as small, so that a long answer waits for its reader.
    socket.set_send_buffer_size(1).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    // No connection ends by the time limit.
    let limits = Limits {
        patience: Duration::from_secs(3600),
        ..LIMITS
    };
    tokio::spawn(serve_within(limits, listener, reporter));
    address
}

async fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(SOON, stream.read_to_string(&mut answer));
    read.await.expect("an answer soon").unwrap();
    answer
}

/// Eight connections that said nothing blocked every scrape for half a minute.
#[tokio::test]
async fn serve_with_many_silent_connections_answers_a_scrape() {
    let address = served("/mnt").await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // Half a request is no request.
    for stream in &mut silent {
        // Those that were dropped already refuse it.
        let _dropped = stream.write_all(b"GET /metrics HTTP/1.1\r\n").await;
    }
    let answer = scrape(address).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\nthrufs_inodes 1.0\n"), "{answer}");
}

#[tokio::test]
async fn serve_with_many_that_do_not_read_answers_a_scrape() {
    let address = served(&"/mnt".repeat(1 << 18)).await;
    let mut slow = Vec::new();
    for _ in 0..2 * LIMITS.open {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        // It has begun to answer, and does not get on.
        stream.readable().await.unwrap();
        slow.push(stream);
    }
    let answer = scrape(address).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(answer.contains("\nthrufs_inodes 1.0\n"));
}
