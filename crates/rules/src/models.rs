//! The ten models, each with the variants that must fail and those that must pass.
//!
//! A model is one file that reads like the argument in the thread it comes from. The list here is
//! all that the harness and the tests know of them.

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
mod model;

pub use model::{Model, Variant, Verdict};

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
