//! Which skips CI accepts: `skips.toml`, each with a sentence.

use serde::Deserialize;

use crate::report::Report;

const DATA: &str = include_str!("skips.toml");

#[derive(Deserialize)]
struct Skips {
    skip: Vec<Skip>,
}

#[derive(Deserialize)]
struct Skip {
    /// A test's name; a `*` at the end stands for any rest.
    name: String,
    reason: String,
}

impl Skip {
    fn covers(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => self.name == name,
        }
    }
}

/// In CI, turns unlisted skips into failures. Elsewhere the report stays as it is.
pub(super) fn judge(report: Report) -> Report {
    if !std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1") {
        return report;
    }
    let listed: Skips = toml::from_str(DATA).expect("a unit test parses this constant");
    let mut judged = Report {
        skipped: Vec::new(),
        ..report.clone()
    };
    for entry in report.skipped {
        match listed.skip.iter().find(|skip| skip.covers(&entry.name)) {
            Some(skip) => judged.skip(entry.name, format!("{} [{}]", entry.why, skip.reason)),
            None => judged.fail(entry.name, format!("skipped in CI: {}", entry.why)),
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_listed_parse_and_have_a_reason() {
        let skips: Skips = toml::from_str(DATA).unwrap();
        assert!(skips.skip.iter().all(|skip| skip.reason.ends_with('.')));
    }

    #[test]
    fn skip_with_a_star_covers_any_rest() {
        let skip = Skip {
            name: "native::*".into(),
            reason: String::new(),
        };
        assert!(skip.covers("native::a") && !skip.covers("nativ"));
    }
}
