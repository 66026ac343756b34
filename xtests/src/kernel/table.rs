//! The table: a line for each test, a column for each kernel.

use std::fmt::Write;

use super::expect::{Cell, Comparison};

/// Renders the table and, below it, what was expected and what was not.
pub(super) fn render(tests: &[String], kernels: &[(String, Comparison)]) -> String {
    let mut out = String::new();
    let widest = tests.iter().map(String::len).max().unwrap_or(0);
    let mut line = |cells: &mut dyn Iterator<Item = String>, first: &str| {
        let mut text = format!("{first:widest$}");
        cells.for_each(|cell| write!(text, "  {cell:14}").expect("a String takes all"));
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut kernels.iter().map(|(name, _)| name.clone()), "");
    for (index, test) in tests.iter().enumerate() {
        line(
            &mut kernels
                .iter()
                .map(|(_, c)| word(&c.cells[index]).to_owned()),
            test,
        );
    }
    out.push('\n');
    for (name, comparison) in kernels {
        for (test, cell) in tests.iter().zip(&comparison.cells) {
            match cell {
                Cell::Pass => (),
                Cell::Expected(reason) => note(&mut out, name, &format!("{test} fails: {reason}")),
                Cell::Wrong(what) => note(&mut out, name, &format!("WRONG: {test} {what}")),
            }
        }
        comparison
            .notes
            .iter()
            .for_each(|text| note(&mut out, name, text));
        comparison
            .wrong
            .iter()
            .for_each(|text| note(&mut out, name, &format!("WRONG: {text}")));
    }
    out
}

/// Whether anything is not as expected.
pub(super) fn is_wrong(comparison: &Comparison) -> bool {
    !comparison.wrong.is_empty() || comparison.cells.iter().any(|c| matches!(c, Cell::Wrong(_)))
}

fn word(cell: &Cell) -> &'static str {
    match cell {
        Cell::Pass => "pass",
        Cell::Expected(_) => "fail, expected",
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
}
