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
    /// A test's name; a `*` stands for anything.
    name: String,
    reason: String,
}

impl Skip {
    fn covers(&self, name: &str) -> bool {
        match self.name.split_once('*') {
            Some((start, end)) => name
                .strip_prefix(start)
                .is_some_and(|rest| rest.ends_with(end)),
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
    fn skip_with_a_star_covers_anything_in_its_place() {
        let skip = |name: &str| Skip {
            name: name.to_owned(),
            reason: String::new(),
        };
        let native = skip("native::*");
        assert!(native.covers("native::a") && !native.covers("nativ"));
        let load = skip("mount-*::load::hour");
        assert!(load.covers("mount-auto::load::hour"));
        assert!(!load.covers("mount-auto::load::minute") && !load.covers("mount-::hour"));
    }
}
