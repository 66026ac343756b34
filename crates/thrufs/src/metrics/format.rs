//! Which of the two text formats a scraper wants, and the older one made of the newer.
//!
//! Invariant: OpenMetrics only to those that name it. What a browser, curl(1) or an old Prometheus
//! asks for is answered in Prometheus's own text format, which all tools read.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, HeaderValue};

/// A format of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Prometheus,
}

impl Format {
    /// For the header Content-Type.
    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        })
    }

    /// What the headers ask for (RFC 9110, 12.5.1): of equal weights the first.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let ranges = headers.get_all(ACCEPT).iter();
        let ranges = ranges
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        let mut best = (0.0, Self::Prometheus);
        for (weight, format) in ranges.filter_map(weighed) {
            if weight > best.0 {
                best = (weight, format);
            }
        }
        best.1
    }

    /// `openmetrics` in this format.
    pub(super) fn of(self, openmetrics: String) -> String {
        match self {
            Self::OpenMetrics => openmetrics,
            Self::Prometheus => to_prometheus(&openmetrics),
        }
    }
}

/// Weight and format of one media range; none if it is for neither.
fn weighed(range: &str) -> Option<(f32, Format)> {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next()?.to_ascii_lowercase();
    let (mut version, mut weight) = (None, 1.0);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => weight = value.trim().parse().ok()?,
            "version" => version = Some(value.trim().trim_matches('"')),
            _ => {}
        }
    }
    let format = match (kind.as_str(), version) {
        ("application/openmetrics-text", None | Some("1.0.0")) => Format::OpenMetrics,
        ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Format::Prometheus,
        _ => return None,
    };
    Some((weight, format))
}

/// In the older format a family has the name of its samples, info is a gauge, and units and the end are
/// not told.
///
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
fn to_prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            // Named like the type, which comes next.
            help = told.split_once(' ').map(|(_, told)| told);
        } else if let Some((name, kind)) = declared(line) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            if let Some(help) = help.take() {
                text += &format!("# HELP {name}{suffix} {help}\n");
            }
            text += &format!("# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// Name and kind in `# TYPE name kind`.
fn declared(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("# TYPE ")?.split_once(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(values: &[&'static str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        Format::accepted(&headers)
    }

    #[test]
    fn accepted_by_prometheus_is_openmetrics() {
        // As Prometheus 2.42 and 3 ask.
        for value in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "Application/OpenMetrics-Text; version=\"1.0.0\"",
        ] {
            assert_eq!(accepted(&[value]), Format::OpenMetrics, "{value}");
        }
    }

    #[test]
    fn accepted_without_openmetrics_or_with_less_weight_is_the_text_format() {
        for value in [
            "*/*",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/plain;version=0.0.4, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=much",
            "",
            ";;=,,",
        ] {
            assert_eq!(accepted(&[value]), Format::Prometheus, "{value}");
        }
        assert_eq!(accepted(&[]), Format::Prometheus);
        let two = ["text/plain;q=0.5", "application/openmetrics-text"];
        assert_eq!(accepted(&two), Format::OpenMetrics);
    }

    #[test]
    fn to_prometheus_names_families_like_their_samples() {
        let openmetrics = "\
            # HELP a_seconds Time of a\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
            a_seconds_total{x=\"# TYPE\"} 1\n\
            # HELP m The mount\n# TYPE m info\nm_info{v=\"1\"} 1\n\
            # HELP h Sizes\n# TYPE h histogram\nh_sum 1.0\nh_count 1\nh_bucket{le=\"+Inf\"} 1\n# EOF\n";
        let wanted = "\
            # HELP a_seconds_total Time of a\n# TYPE a_seconds_total counter\n\
            a_seconds_total{x=\"# TYPE\"} 1\n\
            # HELP m_info The mount\n# TYPE m_info gauge\nm_info{v=\"1\"} 1\n\
            # HELP h Sizes\n# TYPE h histogram\nh_sum 1.0\nh_count 1\nh_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(to_prometheus(openmetrics), wanted);
    }
}
