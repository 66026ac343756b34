//! The comparison: suite by place, how many tests passed, failed and were skipped, and below it the
//! names of tests that fail in a place and not natively.

use std::fmt;

use super::tested_fs::TestedFs;
use super::verdicts::{Verdict, Verdicts, count};

/// How many tests are named for each place; the rest is counted.
const NAMED: usize = 60;

/// The rows so far.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: Vec<String>,
    /// Suite, and a cell for each place (empty where it did not run).
    rows: Vec<(String, Vec<String>)>,
    worse: Vec<(String, Vec<String>)>,
}

impl Table {
    /// Adds one suite in one place.
    pub(super) fn add(
        &mut self,
        suite: &str,
        place: &TestedFs,
        verdicts: &Verdicts,
        native: Option<&Verdicts>,
    ) {
        let place = place.to_string();
        let column = self.places.iter().position(|one| *one == place);
        let column = column.unwrap_or_else(|| {
            self.places.push(place.clone());
            self.places.len() - 1
        });
        let row = self.rows.iter().position(|(one, _)| one == suite);
        let row = row.unwrap_or_else(|| {
            self.rows.push((suite.to_owned(), Vec::new()));
            self.rows.len() - 1
        });
        let cells = &mut self.rows[row].1;
        cells.resize(cells.len().max(column + 1), String::new());
        let (passed, failed, skipped) = count(verdicts);
        cells[column] = format!("{passed}/{failed}/{skipped}");
        // The native column has nothing to compare with, so that every failure is named.
        let is_worse = |test: &str, verdict: &Verdict| {
            let natively = native.and_then(|native| native.get(test));
            matches!(verdict, Verdict::Failed(_)) && !matches!(natively, Some(Verdict::Failed(_)))
        };
        let worse: Vec<String> = verdicts
            .iter()
            .filter(|(test, verdict)| is_worse(test, verdict))
            .map(|(test, _)| test.clone())
            .collect();
        if !worse.is_empty() {
            let natively = if native.is_some() {
                ", natively not"
            } else {
                ""
            };
            self.worse
                .push((format!("{suite} fails on {place}{natively}"), worse));
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        writeln!(f, "passed/failed/skipped")?;
        let mut lines = vec![("suite".to_owned(), self.places.clone())];
        lines.extend(self.rows.iter().cloned());
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|(_, cells)| cells.get(column));
            cells.map(String::len).max().unwrap_or(0)
        };
        for (suite, cells) in &lines {
            write!(f, "{suite:11}")?;
            for (column, cell) in cells.iter().enumerate() {
                write!(f, "  {cell:width$}", width = width(column))?;
            }
            writeln!(f)?;
        }
        for (what, tests) in &self.worse {
            let named = &tests[..tests.len().min(NAMED)];
            write!(f, "{what}: {}", named.join(" "))?;
            match tests.len() - named.len() {
                0 => writeln!(f)?,
                more => writeln!(f, " and {more} more")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_two_places_names_what_is_worse_than_native() {
        let one = |verdict| Verdicts::from([("t".to_owned(), verdict)]);
        let native = one(Verdict::Passed);
        let mut table = Table::default();
        table.add("suite", &TestedFs::Native, &native, None);
        let failed = one(Verdict::Failed("why".into()));
        table.add("suite", &TestedFs::Thrufs, &failed, Some(&native));
        let text = table.to_string();
        assert!(text.contains("1/0/0   0/1/0"), "{text}");
        assert!(
            text.contains("suite fails on thrufs, natively not: t"),
            "{text}"
        );
    }
}
