//! A model: a question, and the variants of a protocol that answer it.
//!
//! A leaf, so that a model's file depends on this and not on the list of all models.

use serde::Serialize;

use crate::explore::Exploration;

/// The required result of exploring a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A counterexample exists: the bug is real.
    Fails,
    /// The whole space was visited and nothing is wrong.
    Passes,
}

impl Verdict {
    /// `fails` or `passes`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fails => "fails",
            Self::Passes => "passes",
        }
    }
}

/// One form of a protocol: as it was, as it was proposed, as it was repaired.
#[derive(Debug)]
pub struct Variant {
    /// Name for the command line.
    pub name: &'static str,
    /// Its required result.
    pub expected: Verdict,
    /// What is different about it, in a sentence.
    pub what: &'static str,
    run: fn() -> Exploration,
}

impl Variant {
    /// Explores the variant.
    pub fn explore(&self) -> Exploration {
        (self.run)()
    }
}

/// A variant that must fail.
pub(super) const fn fails(
    name: &'static str,
    what: &'static str,
    run: fn() -> Exploration,
) -> Variant {
    Variant {
        name,
        expected: Verdict::Fails,
        what,
        run,
    }
}

/// A variant that must pass.
pub(super) const fn passes(
    name: &'static str,
    what: &'static str,
    run: fn() -> Exploration,
) -> Variant {
    Variant {
        name,
        expected: Verdict::Passes,
        what,
        run,
    }
}

impl Exploration {
    /// The result.
    pub fn verdict(&self) -> Verdict {
        match self.counterexample {
            Some(_) => Verdict::Fails,
            None => Verdict::Passes,
        }
    }
}

/// One question of the threads, made executable.
#[derive(Debug)]
pub struct Model {
    /// M1 to M10.
    pub id: &'static str,
    /// A few words.
    pub title: &'static str,
    /// The thread or commit it comes from.
    pub source: &'static str,
    /// Threads, objects and repetitions that were explored: nothing is claimed beyond them.
    pub bounds: &'static str,
    /// Its variants, the bugs first.
    pub variants: &'static [Variant],
}
