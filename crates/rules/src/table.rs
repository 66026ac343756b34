//! The table of WRITE requests per write(2), and the sequential-record figures, computed by `plan`.
//!
//! Nothing here is a stored result: the measured numbers stand in the tests, which compare each
//! cell.

use std::fmt;

use serde::Serialize;

use crate::cache::{CacheState, PAGE_SIZE};
use crate::plan::{apply, plan};
use crate::write::{Limits, Request, RequestError, WriteRequest, WriteRule};

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// As people say it.
    pub name: &'static str,
    /// Offset of the write.
    pub pos: u64,
    /// Length of the write.
    pub len: u64,
}

const fn shape(name: &'static str, pos: u64, len: u64) -> Shape {
    Shape { name, pos, len }
}

/// The rows of the table: the shapes that tell the rules apart.
pub const SHAPES: [Shape; 10] = [
    shape("64K @0", 0, 64 << 10),
    shape("64K @100", 100, 64 << 10),
    shape("4K @2048", 2048, 4 << 10),
    shape("4000 @4000", 4000, 4000),
    shape("8K @100", 100, 8 << 10),
    shape("65436 @100 (ends aligned)", 100, 65436),
    shape("1M @0", 0, 1 << 20),
    shape("1M @1 (257 pages)", 1, 1 << 20),
    shape("2M @1", 1, 2 << 20),
    shape("100 @10", 10, 100),
];

/// Record sizes of the sequential figures.
pub const RECORDS: [u64; 7] = [1000, 4000, 10_000, 64_000, 65_536, 100_000, 1_000_000];

/// Requests of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// WRITEs.
    pub writes: usize,
    /// READs sent before or between them.
    pub reads: usize,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reads {
            0 => f.pad(&self.writes.to_string()),
            reads => f.pad(&format!("{}+{reads}R", self.writes)),
        }
    }
}

/// Counts the requests of a plan.
pub fn count(sent: &[WriteRequest]) -> Cell {
    Cell {
        writes: sent.len(),
        reads: sent.iter().map(WriteRequest::reads).sum(),
    }
}

/// One cell: the shape written into a file longer than the write, nothing cached.
///
/// # Errors
/// When the shape ends after the largest file offset.
pub fn cold_cell(rule: WriteRule, shape: Shape, limits: &Limits) -> Result<Cell, RequestError> {
    let request = Request::new(shape.pos, shape.len)?;
    let cache = CacheState::cold(shape.pos + shape.len + PAGE_SIZE);
    Ok(count(&plan(rule, &request, &cache, limits)))
}

/// Writes `count` records of `size` bytes one after the other from `pos` on, starting with `cache`,
/// and returns the requests of all.
///
/// # Errors
/// When the last record ends after the largest file offset.
pub fn sequential(
    rule: WriteRule,
    records: (u64, u64),
    pos: u64,
    cache: &mut CacheState,
    limits: &Limits,
) -> Result<Cell, RequestError> {
    let (size, number) = records;
    let mut total = Cell {
        writes: 0,
        reads: 0,
    };
    for record in 0..number {
        let at = size
            .checked_mul(record)
            .and_then(|done| pos.checked_add(done));
        let at = at.ok_or(RequestError::TooFar { pos, len: size })?;
        let cell = count(&apply(rule, &Request::new(at, size)?, cache, limits));
        total.writes += cell.writes;
        total.reads += cell.reads;
    }
    Ok(total)
}

/// WRITEs per write(2) of sequential records of `size` bytes into a new file, over one full period:
/// the number of records after which a record starts on a page again.
///
/// # Errors
/// When a period ends after the largest file offset.
pub fn writes_per_record(rule: WriteRule, size: u64, limits: &Limits) -> Result<f64, RequestError> {
    let number = PAGE_SIZE / gcd(size, PAGE_SIZE);
    let total = sequential(rule, (size, number), 0, &mut CacheState::cold(0), limits)?;
    // Both are far below 2^52.
    Ok(total.writes as f64 / number as f64)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measured for hold-all, D, E and B', worked out by hand for the rest, in the order of
    /// `WriteRule::ALL`: hold-all, one-page, A, B', C, D, E.
    const EXPECTED: [[&str; 7]; 10] = [
        ["1", "16", "1", "1", "1", "1", "1"],
        ["1", "17", "1+2R", "1", "1+1R", "2", "1"],
        ["1", "2", "1+2R", "1", "1+1R", "2", "1"],
        ["1", "2", "1+2R", "1", "1+1R", "2", "1"],
        ["1", "3", "1+2R", "1", "1+1R", "2", "1"],
        ["1", "16", "1+1R", "1", "1", "2", "1"],
        ["1", "256", "1", "1", "1", "1", "1"],
        ["2", "257", "2+2R", "2", "2+1R", "2", "2"],
        ["3", "513", "3+2R", "3", "3+1R", "3", "3"],
        ["1", "1", "1+1R", "1", "1", "1", "1"],
    ];

    #[test]
    fn cold_cell_of_each_shape_and_rule_is_the_expected_one() {
        for (shape, row) in SHAPES.into_iter().zip(EXPECTED) {
            for (rule, expected) in WriteRule::ALL.into_iter().zip(row) {
                let cell = cold_cell(rule, shape, &Limits::default()).unwrap();
                assert_eq!(cell.to_string(), expected, "{} under {rule}", shape.name);
            }
        }
    }

    #[test]
    fn plan_of_uptodate_cache_is_that_of_hold_all_except_one_page() {
        for shape in SHAPES {
            let request = Request::new(shape.pos, shape.len).unwrap();
            let cell = |rule| {
                let cache = CacheState::uptodate(shape.pos + shape.len + PAGE_SIZE);
                count(&plan(rule, &request, &cache, &Limits::default()))
            };
            for rule in WriteRule::ALL
                .into_iter()
                .filter(|rule| *rule != WriteRule::OnePage)
            {
                assert_eq!(
                    cell(rule),
                    cell(WriteRule::HoldAll),
                    "{} under {rule}",
                    shape.name
                );
            }
        }
    }

    #[test]
    fn sequential_records_take_the_measured_number_of_writes() {
        let expected = [1.24, 1.97, 2.00, 1.88, 1.0, 1.99, 1.98];
        for (size, expected) in RECORDS.into_iter().zip(expected) {
            let writes = |rule| writes_per_record(rule, size, &Limits::default()).unwrap();
            let d = (writes(WriteRule::D) * 100.0).round() / 100.0;
            assert_eq!(d, expected, "records of {size} bytes under D");
            assert_eq!(writes(WriteRule::E), 1.0, "records of {size} bytes under E");
            assert_eq!(
                writes(WriteRule::BPrime),
                1.0,
                "records of {size} bytes under B'"
            );
        }
    }

    /// Measured on real kernels: eight appends of 4000 bytes to a new file, then four of 64000.
    #[test]
    fn appends_to_a_new_file_take_the_measured_number_of_writes() {
        for (rule, small, large) in [(WriteRule::D, 15, 8), (WriteRule::E, 8, 4)] {
            let mut cache = CacheState::cold(0);
            let limits = Limits::default();
            let first = sequential(rule, (4000, 8), 0, &mut cache, &limits).unwrap();
            let then = sequential(rule, (64_000, 4), 32_000, &mut cache, &limits).unwrap();
            assert_eq!((first.writes, then.writes), (small, large), "{rule}");
            assert_eq!(cache.file_size, 288_000);
        }
    }
}
