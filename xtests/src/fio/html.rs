//! The result as one self-contained HTML file: no network, no script, pictures inline.

use std::fmt::Write;

use super::jobs::Job;
use super::load::DISTURBED_ABOVE;
use super::markdown::{conditions, disturbances, number, range};
use super::pictures::Pictures;
use super::record::Document;
use super::stats::Spread;
use super::summary::{Cell, ahead, cells, duel, is_ours};

const STYLE: &str = "body{font:15px/1.45 sans-serif;max-width:1280px;margin:1em auto;padding:0 1em;\
    color:#000;background:#fff}table{border-collapse:collapse;margin:.6em 0;font-size:13px}\
    th,td{border:1px solid #999;padding:2px 7px;text-align:right;white-space:nowrap}\
    th:first-child,td:first-child{text-align:left}th{background:#eee}td.ours{font-weight:bold}\
    td.lead{text-decoration:underline;font-weight:bold}.scroll{overflow-x:auto}\
    svg{max-width:100%;height:auto;display:block}code{font-size:12px}h3{margin-top:2em}\
    p.note{color:#333;font-size:13px}@page{size:A4 landscape;margin:8mm}@media print{body{max-width:none;\
    margin:0;padding:0;font-size:9pt}table{font-size:7pt}th,td{padding:1px 3px}th,td:first-child{white-space:normal;\
    overflow-wrap:anywhere}.scroll{overflow:visible}table,tr,svg{break-inside:avoid}h2,h3,section p.note{break-after:avoid}\
    section{break-before:page}svg{max-height:60mm;width:auto}a{color:inherit}code{overflow-wrap:anywhere}}";

/// The text as HTML shows it, also inside a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

pub(super) fn render(document: &Document, pictures: &Pictures) -> String {
    let cells = cells(document);
    let title = format!("fio: {}", document.started);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\
         <style>{STYLE}</style></head><body>\n<h1>thrufs and others under fio</h1>\n<p>{}</p>\n\
         <p>{}</p>\n",
        escape(&title),
        escape(&conditions(document)),
        escape(disturbances(document).trim())
    );
    for backing in &document.backings {
        let _ = writeln!(page, "<h2>On {}</h2>", escape(&backing.name));
        page += &overview(document, &backing.name, &cells);
        page += &duels(document, &backing.name);
        if let Some(svg) = pictures.requests.get(&backing.name) {
            page += "<h3>Requests for each write(2) and read(2)</h3>\n<p class=\"note\">As the \
                daemon counted them, or for virtiofsd the kernel; the lengths are logarithmic. None with kernel passthrough, \
                where the kernel goes to the backing file itself.</p>\n";
            page += svg;
        }
        for job in &document.jobs {
            let of_job: Vec<&Cell<'_>> = cells
                .iter()
                .filter(|cell| cell.backing == backing.name && cell.job.name == job.name)
                .collect();
            page += &section(document, pictures, job, &of_job);
        }
    }
    page += &appendix(document);
    page + "</body></html>\n"
}

/// All jobs of a backing, a row each.
fn overview(document: &Document, backing: &str, cells: &[Cell<'_>]) -> String {
    let mut text = String::from("<div class=\"scroll\"><table><tr><th>job</th><th></th>");
    for config in &document.configs {
        let _ = write!(text, "<th>{}</th>", escape(&config.name));
    }
    text += "</tr>\n";
    for job in &document.jobs {
        let leads = ahead(document, backing, job);
        let _ = write!(
            text,
            "<tr><td><a href=\"#{}\">{}</a></td><td>{}</td>",
            anchor(backing, &job.name),
            escape(&job.name),
            job.figure.unit()
        );
        for config in &document.configs {
            let cell = cells.iter().find(|cell| {
                (cell.backing, &cell.job.name, cell.config) == (backing, &job.name, &config.name)
            });
            let class = match () {
                () if leads.iter().any(|(peer, ..)| *peer == config.name) => " class=\"lead\"",
                () if is_ours(&config.name) => " class=\"ours\"",
                () => "",
            };
            let _ = write!(
                text,
                "<td{class}>{}</td>",
                cell.map_or_else(String::new, brief)
            );
        }
        text += "</tr>\n";
    }
    text + "</table></div>\n<p class=\"note\">Underlined: a peer ahead of what of thrufs's does \
        the same. A star: a run was disturbed. An exclamation mark: a run failed.</p>\n"
}

fn anchor(backing: &str, job: &str) -> String {
    escape(&format!("{backing}-{job}"))
}

fn brief(cell: &Cell<'_>) -> String {
    let Some(figure) = cell.figure else {
        return "failed".to_owned();
    };
    let ratio = cell.ratio.map(|ratio| format!(" ({:.2})", ratio.median));
    let star = if cell.disturbed > 0 { "*" } else { "" };
    let failed = if cell.error.is_some() { "!" } else { "" };
    format!(
        "{}{}{star}{failed}",
        number(figure.median),
        ratio.unwrap_or_default()
    )
}

/// Our configurations against all others.
fn duels(document: &Document, backing: &str) -> String {
    let names = || document.configs.iter().map(|config| config.name.as_str());
    let mut rows = String::new();
    for ours in names().filter(|name| is_ours(name)) {
        for other in names().filter(|name| *name != ours) {
            let Some(duel) = duel(document, backing, ours, other) else {
                continue;
            };
            let _ = writeln!(
                rows,
                "<tr><td>{}</td><td>{}</td><td>{:.2}</td><td>{:.2} in {}</td><td>{}</td></tr>",
                escape(ours),
                escape(other),
                duel.mean,
                duel.worst.1,
                escape(&duel.worst.0),
                duel.cells
            );
        }
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "<h3>Geometric means of the ratios</h3>\n<table><tr><th>this</th><th>against</th>\
         <th>mean</th><th>worst</th><th>cells</th></tr>\n{rows}</table>\n"
    )
}

/// One job on one backing.
fn section(document: &Document, pictures: &Pictures, job: &Job, cells: &[&Cell<'_>]) -> String {
    let Some(backing) = cells.first().map(|cell| cell.backing) else {
        return String::new();
    };
    let key = (backing.to_owned(), job.name.clone());
    let mut text = format!(
        "<section><h3 id=\"{}\">{} on {}</h3>\n<p>{} Read: {} A regression: {}</p>\n",
        anchor(backing, &job.name),
        escape(&job.name),
        escape(backing),
        escape(&job.question),
        escape(&job.read),
        escape(&job.regression)
    );
    if let Some(svg) = pictures.figures.get(&key) {
        text += svg;
    }
    text += &details(job, cells);
    if let Some(svg) = pictures.latencies.get(&key) {
        text += "<p class=\"note\">Latency by percentile, medians of the rounds:</p>\n";
        text += svg;
    }
    let runs = document.runs.iter();
    let mut runs = runs.filter(|run| run.job == job.name && !run.command.is_empty());
    if let Some(run) = runs
        .find(|run| run.config != "native")
        .or_else(|| runs.next())
    {
        let _ = writeln!(text, "<p><code>{}</code></p>", escape(&run.command));
    }
    text + "</section>\n"
}

fn details(job: &Job, cells: &[&Cell<'_>]) -> String {
    let (unit, volume) = (job.figure.unit(), job.figure.volume());
    let mut text = format!(
        "<div class=\"scroll\"><table><tr><th>configuration</th><th>{unit}</th>\
         <th>least..most</th><th>quartiles</th><th>ratio</th><th>p50 µs</th><th>p99 µs</th>\
         <th>p99.9 µs</th><th>daemon CPU s/{volume}</th><th>machine CPU s/{volume}</th>\
         <th>WRITEs a write</th><th>READs a read</th><th>other load</th></tr>\n"
    );
    for cell in cells {
        let _ = write!(text, "<tr><td>{}</td>", escape(cell.config));
        let Some(figure) = cell.figure else {
            let error = escape(cell.error.unwrap_or("no run"));
            let _ = writeln!(
                text,
                "<td colspan=\"12\" style=\"text-align:left\">{error}</td></tr>"
            );
            continue;
        };
        for value in columns(cell, &figure) {
            let _ = write!(text, "<td>{value}</td>");
        }
        text += "</tr>\n";
    }
    text + "</table></div>\n"
}

fn columns(cell: &Cell<'_>, figure: &Spread) -> [String; 12] {
    let maybe = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let percentile = |wanted: f64| {
        let found = cell.latency.iter().find(|(percent, _)| *percent == wanted);
        maybe(found.map(|(_, nanoseconds)| nanoseconds / 1e3))
    };
    let star = if cell.disturbed > 0 { " *" } else { "" };
    [
        number(figure.median),
        range(figure),
        format!("{}..{}", number(figure.q1), number(figure.q3)),
        cell.ratio.map_or_else(String::new, |ratio| {
            format!("{:.2} ({:.2}..{:.2})", ratio.median, ratio.min, ratio.max)
        }),
        percentile(50.0),
        percentile(99.0),
        percentile(99.9),
        maybe(cell.daemon_cpu),
        maybe(cell.machine_cpu),
        maybe(cell.writes_per_write),
        maybe(cell.reads_per_read),
        format!("{:.0}%{star}", cell.other * 100.0),
    ]
}

/// The configurations, and what was left out.
fn appendix(document: &Document) -> String {
    let mut text = String::from(
        "<h2>Configurations</h2>\n<div class=\"scroll\"><table><tr><th>name</th>\
         <th>version</th><th>command</th></tr>\n",
    );
    for config in &document.configs {
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td style=\"text-align:left\"><code>{}</code></td></tr>",
            escape(&config.name),
            escape(config.version.as_deref().unwrap_or("–")),
            escape(config.command.as_deref().unwrap_or("no server of ours"))
        );
    }
    text += "</table></div>\n";
    for skipped in &document.skipped {
        let _ = writeln!(
            text,
            "<p>Skipped {}: {}</p>",
            escape(&skipped.what),
            escape(&skipped.why)
        );
    }
    let limit = document.machine.fuse_max_pages_limit;
    let limit = limit.map_or_else(|| "unknown".to_owned(), |limit| limit.to_string());
    let _ = writeln!(
        text,
        "<p class=\"note\">fs.fuse.max_pages_limit: {limit} pages. Other load is CPU time of \
         processes beside fio, the daemon and the runner, and what the hypervisor took, as a part \
         of one CPU; above {:.0}% a run counts as disturbed.</p>",
        DISTURBED_ABOVE * 100.0
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::pictures::draw;
    use super::super::summary::tests::document;
    use super::*;

    #[test]
    fn escape_leaves_nothing_that_html_takes_for_markup() {
        assert_eq!(
            escape("<a href=\"x\">&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;&lt;/a&gt;"
        );
    }

    #[test]
    fn render_escapes_names_and_needs_nothing_from_outside() {
        let mut report = document(&[("thrufs", &[300.0, 310.0, 305.0])]);
        report.jobs[0].question = "is 1 < 2 & 3 > 2?".to_owned();
        let page = render(&report, &draw(&report).expect("drawn"));
        assert!(page.contains("is 1 &lt; 2 &amp; 3 &gt; 2?"), "{page}");
        assert!(
            !page.contains("<script") && !page.contains("src="),
            "{page}"
        );
        let links = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!links.contains("http"), "{links}");
    }

    #[test]
    fn render_shows_a_cell_that_failed_with_its_reason() {
        let mut report = document(&[("native", &[1.0]), ("bindfs", &[1.0])]);
        report.runs[1].measured = None;
        report.runs[1].error = Some("no <space>".to_owned());
        let page = render(&report, &draw(&report).expect("drawn"));
        assert!(page.contains("no &lt;space&gt;"), "{page}");
    }
}
