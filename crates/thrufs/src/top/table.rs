//! How rates are shown: pure functions from numbers to lines.

use super::rates::{Rates, Row};
use crate::status::plain;
use crate::units::{bytes, rate, time};

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    /// The most requests
    Requests,
    /// The most bytes read and written
    Bytes,
    /// The longest mean latency
    Latency,
    /// By name
    Name,
}

/// What requests are listed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum By {
    /// The calling process
    Process,
    /// The FUSE request
    Opcode,
}

/// What is shown of the rates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) sort: Sort,
    /// None: both.
    pub(super) by: Option<By>,
    has_keys: bool,
}

impl Shape {
    pub(super) fn of_batch(sort: Sort) -> Self {
        Self {
            sort,
            by: None,
            has_keys: false,
        }
    }

    pub(super) fn of_terminal(sort: Sort, by: By) -> Self {
        Self {
            sort,
            by: Some(by),
            has_keys: true,
        }
    }
}

const KEYS: &str = "p processes  o opcodes   sort: r requests  b bytes  l latency  n name   q quit";
const NUMBERS: &str = "   req/s  errors/s      read/s   written/s      mean       p99";

/// The lines of one table.
pub(super) fn of(rates: &Rates, shape: &Shape) -> Vec<String> {
    let mut lines = Vec::new();
    if shape.has_keys {
        lines.push(KEYS.to_owned());
        lines.push(String::new());
    }
    lines.push(format!("{NUMBERS}  mount"));
    lines.extend(sorted(&rates.mounts, shape.sort).into_iter().map(of_mount));
    for failed in &rates.failed {
        lines.push(format!(
            "{}: {}",
            plain(&failed.mount),
            plain(&failed.error)
        ));
    }
    for (by, title, rows) in [
        (By::Process, "    pid  process", &rates.processes),
        (By::Opcode, "  request", &rates.opcodes),
    ] {
        if shape.by.is_some_and(|wanted| wanted != by) {
            continue;
        }
        lines.push(String::new());
        lines.push(format!("{NUMBERS}{title}"));
        let shown = sorted(rows, shape.sort).into_iter();
        lines.extend(shown.map(|row| of_row(row, by, rates.mounts.len() > 1)));
    }
    lines
}

fn sorted(rows: &[Row], sort: Sort) -> Vec<&Row> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    let name = |row: &Row| (row.name.clone(), row.mount.clone(), row.pid);
    match sort {
        Sort::Requests => rows.sort_by(|a, b| b.requests.total_cmp(&a.requests)),
        Sort::Bytes => rows.sort_by(|a, b| b.bytes().total_cmp(&a.bytes())),
        Sort::Latency => rows.sort_by_key(|row| std::cmp::Reverse(row.latency)),
        Sort::Name => rows.sort_by_key(|row| name(row)),
    }
    rows
}

fn numbers(row: &Row) -> String {
    let latency = |ns: Option<u64>| ns.map_or("-".to_owned(), time);
    let size = |each_second: f64| bytes(each_second as u64);
    format!(
        "{:>8}{:>10}{:>12}{:>12}{:>10}{:>10}",
        rate(row.requests),
        row.errors.map_or("-".to_owned(), rate),
        size(row.read),
        size(row.written),
        latency(row.latency),
        latency(row.p99),
    )
}

fn of_mount(row: &Row) -> String {
    let waiting = match row.in_flight {
        None | Some(0) => String::new(),
        Some(count) => format!("  ({count} in flight)"),
    };
    format!("{}  {}{waiting}", numbers(row), plain(&row.mount))
}

fn of_row(row: &Row, by: By, are_several: bool) -> String {
    let name = plain(row.name.as_deref().unwrap_or("?"));
    let name = match by {
        By::Process => format!("{:>7}  {name}", row.pid.unwrap_or_default()),
        By::Opcode => format!("  {name}"),
    };
    let mount = match are_several {
        true => format!("  {}", plain(&row.mount)),
        false => String::new(),
    };
    format!("{}{name}{mount}", numbers(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, requests: f64, read: f64, latency: u64) -> Row {
        Row {
            mount: "/mnt".to_owned(),
            name: Some(name.to_owned()),
            pid: Some(7),
            requests,
            read,
            latency: Some(latency),
            ..Row::default()
        }
    }

    #[test]
    fn sorted_by_each_key_has_the_most_first() {
        let rows = [
            row("b", 3.0, 1.0, 2),
            row("a", 1.0, 3.0, 1),
            row("c", 2.0, 2.0, 3),
        ];
        let names = |sort| -> String {
            let sorted = sorted(&rows, sort).into_iter();
            sorted.filter_map(|row| row.name.clone()).collect()
        };
        assert_eq!(names(Sort::Requests), "bca");
        assert_eq!(names(Sort::Bytes), "acb");
        assert_eq!(names(Sort::Latency), "cba");
        assert_eq!(names(Sort::Name), "abc");
    }

    #[test]
    fn of_a_terminal_has_keys_and_one_list_and_of_a_batch_both() {
        let rates = Rates {
            mounts: vec![row("", 1.0, 0.0, 1)],
            processes: vec![row("dd\u{1b}[2J", 1.0, 0.0, 1)],
            opcodes: vec![row("WRITE", 1.0, 0.0, 1)],
            failed: Vec::new(),
        };
        let batch = of(&rates, &Shape::of_batch(Sort::Requests)).join("\n");
        assert!(
            batch.contains("WRITE") && batch.contains("      7  dd?[2J"),
            "{batch}"
        );
        assert!(!batch.contains("q quit"), "{batch}");
        let opcodes = of(&rates, &Shape::of_terminal(Sort::Requests, By::Opcode)).join("\n");
        assert!(
            opcodes.contains("WRITE") && opcodes.contains("q quit"),
            "{opcodes}"
        );
        assert!(!opcodes.contains("dd"), "{opcodes}");
    }

    #[test]
    fn of_row_names_the_mount_where_there_are_several() {
        let shown = of_row(&row("READ", 1.0, 2048.0, 1500), By::Opcode, true);
        assert!(shown.ends_with("  READ  /mnt"), "{shown}");
        assert!(
            shown.contains("2.00 KiB") && shown.contains("1.50 µs"),
            "{shown}"
        );
        assert!(!of_row(&row("READ", 1.0, 0.0, 1), By::Opcode, false).contains("/mnt"));
    }
}
