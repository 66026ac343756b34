//! The ten models, each with the variants that must fail and those that must pass.
//!
//! A model is one file that reads like the argument in the thread it comes from. The list here is
//! all that the harness and the tests know of them.

use serde::Serialize;

use crate::explore::Exploration;

mod m10_append;
mod m1_write_path;
mod m2_page_reuse;
mod m3_stale_wake;
mod m4_bookmarks;
mod m5_handoff;
mod m6_map_pages;
mod m7_private_fault;
mod m8_write_order;
mod m9_ghost;

/// What must come of exploring a variant.
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
    /// What must come of it.
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

const fn fails(name: &'static str, what: &'static str, run: fn() -> Exploration) -> Variant {
    Variant {
        name,
        expected: Verdict::Fails,
        what,
        run,
    }
}

const fn passes(name: &'static str, what: &'static str, run: fn() -> Exploration) -> Variant {
    Variant {
        name,
        expected: Verdict::Passes,
        what,
        run,
    }
}

impl Exploration {
    /// What came of it.
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

/// The ten models.
pub const MODELS: [Model; 10] = [
    m1_write_path::MODEL,
    m2_page_reuse::MODEL,
    m3_stale_wake::MODEL,
    m4_bookmarks::MODEL,
    m5_handoff::MODEL,
    m6_map_pages::MODEL,
    m7_private_fault::MODEL,
    m8_write_order::MODEL,
    m9_ghost::MODEL,
    m10_append::MODEL,
];
