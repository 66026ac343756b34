//! The page at `/`, for a person who opens the address of `--metrics` in a browser.
//!
//! Invariant: it needs nothing from elsewhere and runs no script, which the browser is told to enforce
//! (Content-Security-Policy); and all that comes from outside, as SOURCE's name does, is escaped. The text is that of
//! `thrufs status`: a second way to show the same would differ some day.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response};

use crate::status::{self, Status};

const STYLE: &str = "body{font-family:sans-serif;margin:2em}pre{font-size:14px;overflow-x:auto}\
    @media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#9bf}}";
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The page of `status`.
pub(super) fn of(_headers: &HeaderMap, status: &Status) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(html(status)));
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(CONTENT_TYPE, html);
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn html(status: &Status) -> String {
    let (kind, place) = match &status.guest {
        None => ("mount", status.mountpoint.as_str()),
        Some(guest) => (
            "device",
            guest.socket.as_deref().unwrap_or("an inherited socket"),
        ),
    };
    let title = escaped(&format!("{} at {place}", status.source));
    let text = escaped(&status::text(status));
    let version = escaped(&status.version);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width\">\n<title>thrufs: {title}</title>\n\
        <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
        <p>A {kind} of thrufs {version}. For Prometheus: <a href=\"/metrics\">/metrics</a>. \
        Each load of this page asks anew.</p>\n<pre>{text}</pre>\n</body>\n</html>\n"
    )
}

/// `text` as HTML, where it stands between tags. Control characters are gone already, or become spaces.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            '\'' => html += "&#39;",
            '\n' => html.push('\n'),
            c if c.is_control() => html.push('?'),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::mount::tests::status;

    #[test]
    fn html_of_a_mount_has_its_status_its_warnings_and_a_link() {
        let mut status = status();
        status.source_state.trouble = Some("was removed".to_owned());
        let page = html(&status);
        for wanted in [
            "<h1>/srv at /mnt</h1>",
            "<a href=\"/metrics\">",
            "error           SOURCE was removed",
            "max_write       1048576",
        ] {
            assert!(page.contains(wanted), "{wanted} in\n{page}");
        }
    }

    #[test]
    fn html_escapes_names_of_files() {
        let mut status = status();
        status.source = "/<script>alert('1')</script>&\"\u{1b}".to_owned();
        let page = html(&status);
        assert!(
            !page.contains("<script>") && !page.contains('\u{1b}'),
            "{page}"
        );
        let name = "/&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;?";
        assert!(page.contains(&format!("<h1>{name} at /mnt</h1>")), "{page}");
    }

    #[test]
    fn html_asks_for_nothing_from_elsewhere() {
        let page = html(&status());
        for outside in ["http:", "https:", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside} in\n{page}");
        }
    }
}
