//! The table: a line for each test, a column for each kernel.

use std::fmt::Write;

use serde::Serialize;

use super::case::Case;
use super::expect::{Cell, Comparison};

/// A line of the table: a test, or tests with equal results.
struct Line {
    name: String,
    words: Vec<&'static str>,
}

/// Renders the table and, below it, the expected and the unexpected failures. A suite that passes
/// wherever it runs is one line.
pub(super) fn render(tests: &[String], kernels: &[(String, Comparison)]) -> String {
    let lines = lines(tests, kernels);
    let mut out = String::new();
    let widest = lines.iter().map(|line| line.name.len()).max().unwrap_or(0);
    let mut line = |first: &str, cells: &[&str]| {
        let mut text = format!("{first:widest$}");
        for (cell, (name, _)) in cells.iter().zip(kernels) {
            let width = name.len().max(14);
            write!(text, "  {cell:width$}").expect("a String takes all");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    let names: Vec<&str> = kernels.iter().map(|(name, _)| name.as_str()).collect();
    line("", &names);
    lines.iter().for_each(|l| line(&l.name, &l.words));
    out.push('\n');
    for (name, comparison) in kernels {
        notes(&mut out, name, tests, comparison);
    }
    out
}

fn lines(tests: &[String], kernels: &[(String, Comparison)]) -> Vec<Line> {
    let row = |index: usize| -> Vec<&'static str> {
        kernels
            .iter()
            .map(|(_, comparison)| word(&comparison.cells[index]))
            .collect()
    };
    let mut lines: Vec<Line> = Vec::new();
    let mut index = 0;
    while index < tests.len() {
        let suite = Case::suite(&tests[index]);
        let end = tests[index..]
            .iter()
            .position(|test| Case::suite(test) != suite);
        let end = end.map_or(tests.len(), |count| index + count);
        let first = row(index);
        let plain = first.iter().all(|word| matches!(*word, "pass" | "-"));
        if plain && end - index > 1 && (index..end).all(|other| row(other) == first) {
            let name = format!("{suite} ({} tests)", end - index);
            lines.push(Line { name, words: first });
        } else {
            lines.extend((index..end).map(|index| Line {
                name: tests[index].clone(),
                words: row(index),
            }));
        }
        index = end;
    }
    lines
}

fn notes(out: &mut String, name: &str, tests: &[String], comparison: &Comparison) {
    let mut not_run = Vec::new();
    for (test, cell) in tests.iter().zip(&comparison.cells) {
        match cell {
            Cell::Pass => (),
            Cell::Expected(reason) => note(out, name, &format!("{test} fails: {reason}")),
            Cell::NotRun(reason) if not_run.contains(&reason) => (),
            Cell::NotRun(reason) => {
                note(
                    out,
                    name,
                    &format!("{} is not run: {reason}", Case::suite(test)),
                );
                not_run.push(reason);
            }
            Cell::Wrong(what) => note(out, name, &format!("WRONG: {test} {what}")),
        }
    }
    comparison
        .notes
        .iter()
        .for_each(|text| note(out, name, text));
    let wrong = comparison.wrong.iter();
    wrong.for_each(|text| note(out, name, &format!("WRONG: {text}")));
}

/// A cell, for programs.
#[derive(Serialize)]
pub(super) struct Entry<'a> {
    kernel: &'a str,
    test: &'a str,
    verdict: &'static str,
    /// The reason, or the fault.
    detail: &'a str,
}

/// All cells, and as `console` the faults beside the tests.
pub(super) fn document<'a>(
    tests: &'a [String],
    kernels: &'a [(String, Comparison)],
) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for (kernel, comparison) in kernels {
        let mut add = |test, verdict, detail| {
            entries.push(Entry {
                kernel,
                test,
                verdict,
                detail,
            });
        };
        for (test, cell) in tests.iter().zip(&comparison.cells) {
            match cell {
                Cell::Pass => add(test, "pass", ""),
                Cell::Expected(why) => add(test, "expected", why),
                Cell::NotRun(why) => add(test, "not-run", why),
                Cell::Wrong(what) => add(test, "wrong", what),
            }
        }
        comparison
            .wrong
            .iter()
            .for_each(|what| add("console", "wrong", what));
    }
    entries
}

/// Whether anything is not as expected.
pub(super) fn is_wrong(comparison: &Comparison) -> bool {
    !comparison.wrong.is_empty() || comparison.cells.iter().any(|c| matches!(c, Cell::Wrong(_)))
}

fn word(cell: &Cell) -> &'static str {
    match cell {
        Cell::Pass => "pass",
        Cell::Expected(_) => "fail, expected",
        Cell::NotRun(_) => "-",
        Cell::Wrong(_) => "WRONG",
    }
}

fn note(out: &mut String, kernel: &str, text: &str) {
    writeln!(out, "{kernel}: {text}").expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_shows_every_test_and_explains_what_is_wrong() {
        let comparison = Comparison {
            cells: vec![Cell::Pass, Cell::Wrong("no verdict".into())],
            wrong: Vec::new(),
            notes: Vec::new(),
        };
        assert!(is_wrong(&comparison));
        let table = render(&["a".into(), "bb".into()], &[("k".into(), comparison)]);
        assert_eq!(
            table,
            "    k\na   pass\nbb  WRONG\n\nk: WRONG: bb no verdict\n"
        );
    }

    #[test]
    fn render_of_a_suite_that_passes_is_one_line() {
        let comparison = Comparison {
            cells: vec![Cell::Pass, Cell::Pass, Cell::Expected("why".into())],
            wrong: Vec::new(),
            notes: Vec::new(),
        };
        let tests = ["s/a".into(), "s/b".into(), "t/c".into()];
        let table = render(&tests, &[("k".into(), comparison)]);
        assert_eq!(
            table,
            "             k\ns (2 tests)  pass\nt/c          fail, expected\n\nk: t/c fails: why\n"
        );
    }
}
