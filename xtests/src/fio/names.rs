//! Names from the command line: an unknown one gets the nearest known names as its answer.

use std::fmt::Write;

use anyhow::{Error, anyhow};

/// Two names that are less alike than this are not suggested.
const ALIKE: f64 = 0.7;

/// The error for an unknown `word` of this `kind`; `remedy` names where all of them are listed.
pub(super) fn unknown<'a>(
    kind: &str,
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
    remedy: &str,
) -> Error {
    let mut near: Vec<(f64, &str)> = known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut text = format!("there is no {kind} {word:?}");
    if !near.is_empty() {
        let names: Vec<&str> = near.iter().take(3).map(|(_, name)| *name).collect();
        let _ = write!(text, "; did you mean {}?", names.join(" or "));
    }
    anyhow!("{text} ({remedy})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_name_gives_the_nearest_first() {
        let error = unknown(
            "job",
            "seqwrit-psync",
            ["seqwrite-psync", "filestat"],
            "--list",
        );
        assert_eq!(
            error.to_string(),
            "there is no job \"seqwrit-psync\"; did you mean seqwrite-psync? (--list)"
        );
    }

    #[test]
    fn unknown_name_that_resembles_nothing_gives_no_guess() {
        let error = unknown("job", "zzz", ["seqwrite-psync"], "--list");
        assert_eq!(error.to_string(), "there is no job \"zzz\" (--list)");
    }
}
