//! The pictures of a report, as SVG: bars with their spread, latency curves, requests for each
//! write.
//!
//! Readable without colour: every bar and curve has its name beside it, ours are dark, others
//! light, the native directory is an outline; curves differ by their marks.

mod bars;
mod curves;

use std::collections::BTreeMap;

use anyhow::Result;

use super::jobs::Figure;
use super::record::Document;
use super::summary::{Cell, cells, is_ours};
use bars::{Bar, Scale};
use curves::Curve;

pub(super) struct Pictures {
    /// By backing and job.
    pub(super) figures: BTreeMap<(String, String), String>,
    /// By backing and job.
    pub(super) latencies: BTreeMap<(String, String), String>,
    /// By backing: requests for each write(2) and read(2).
    pub(super) requests: BTreeMap<String, String>,
}

pub(super) fn draw(document: &Document) -> Result<Pictures> {
    let mut pictures = Pictures {
        figures: BTreeMap::new(),
        latencies: BTreeMap::new(),
        requests: BTreeMap::new(),
    };
    let cells = cells(document);
    for backing in &document.backings {
        let here = || cells.iter().filter(|cell| cell.backing == backing.name);
        for job in &document.jobs {
            let of_job: Vec<&Cell<'_>> = here().filter(|c| c.job.name == job.name).collect();
            let key = (backing.name.clone(), job.name.clone());
            let bars: Vec<Bar> = of_job.iter().filter_map(|cell| bar(cell)).collect();
            if !bars.is_empty() {
                let svg = bars::draw(&bars, job.figure.unit(), Scale::Linear)?;
                pictures.figures.insert(key.clone(), svg);
            }
            let curves: Vec<Curve> = of_job.iter().filter_map(|cell| curve(cell)).collect();
            if !curves.is_empty() {
                pictures.latencies.insert(key, curves::draw(&curves)?);
            }
        }
        let requests: Vec<Bar> = here().filter_map(requests).collect();
        if !requests.is_empty() {
            let svg = bars::draw(&requests, "", Scale::Logarithmic)?;
            pictures.requests.insert(backing.name.clone(), svg);
        }
    }
    Ok(pictures)
}

fn bar(cell: &Cell<'_>) -> Option<Bar> {
    let figure = cell.figure?;
    Some(Bar {
        name: cell.config.to_owned(),
        shade: shade(cell.config),
        spread: figure,
        disturbed: cell.disturbed > 0,
    })
}

/// Dark, light or an outline.
fn shade(config: &str) -> u8 {
    match config {
        "native" => 255,
        ours if is_ours(ours) => 90,
        _ => 200,
    }
}

fn curve(cell: &Cell<'_>) -> Option<Curve> {
    let points: Vec<(f64, f64)> = cell
        .latency
        .iter()
        .filter(|(percent, nanoseconds)| *percent < 100.0 && *nanoseconds > 0.0)
        .copied()
        .collect();
    (!points.is_empty()).then(|| Curve {
        name: cell.config.to_owned(),
        dark: is_ours(cell.config),
        points,
    })
}

fn requests(cell: &Cell<'_>) -> Option<Bar> {
    let (value, what) = match cell.job.figure {
        Figure::Read => (cell.reads_per_read?, "READs"),
        Figure::Written | Figure::Both => (cell.writes_per_write?, "WRITEs"),
        Figure::Operations => return None,
    };
    // With kernel passthrough there are none to show.
    (value > 0.0).then_some(())?;
    Some(Bar {
        name: format!("{} {} {what}", cell.job.name, cell.config),
        shade: shade(cell.config),
        spread: super::stats::Spread::of([value])?,
        disturbed: false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::document;
    use super::*;

    #[test]
    fn draw_gives_a_bar_picture_and_a_latency_picture_for_each_job() {
        let report = document(&[("native", &[900.0, 1000.0]), ("thrufs", &[300.0, 310.0])]);
        let drawn = draw(&report).expect("drawn");
        let key = ("tmpfs".to_owned(), "a:4k".to_owned());
        let bars = &drawn.figures[&key];
        assert!(
            bars.starts_with("<svg") && bars.trim_end().ends_with("</svg>"),
            "{bars}"
        );
        assert!(bars.contains("thrufs") && bars.contains("native"), "{bars}");
        assert!(
            drawn.latencies[&key].contains("99"),
            "{}",
            drawn.latencies[&key]
        );
        assert!(drawn.requests.is_empty());
    }
}
