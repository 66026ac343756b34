//! What a file may hold when the order of two processes decides: for each byte the few values that
//! some order gives. Every other value is wrong data, so each check can fail; an exact comparison
//! would report a lost race.

use std::fs::File;
use std::os::unix::fs::FileExt;

use thrufs_sys::mapped_io::Mapping;

use super::case::{Copy, FILE_LEN, PAGE, pattern};
use super::finding::{Stop, evict};

/// The first difference in words, or None.
pub(crate) fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected.len() != found.len() {
        return Some(format!(
            "{} bytes where {} are expected",
            found.len(),
            expected.len()
        ));
    }
    let at = expected
        .iter()
        .zip(found)
        .position(|(wanted, got)| wanted != got)?;
    let wrong = expected
        .iter()
        .zip(found)
        .filter(|(wanted, got)| wanted != got)
        .count();
    Some(format!(
        "byte {at} is {:#04x}, must be {:#04x} ({wrong} bytes differ)",
        found[at], expected[at]
    ))
}

/// The first byte that none of `allowed(offset)` is, in words.
fn first_wrong(found: &[u8], allowed: impl Fn(usize) -> Vec<u8>) -> Option<String> {
    let (at, byte) = found
        .iter()
        .enumerate()
        .find(|(at, byte)| !allowed(*at).contains(byte))?;
    let values = allowed(at);
    Some(format!(
        "byte {at} is {byte:#04x}, must be one of {values:02x?}"
    ))
}

/// As `expected`, or zero where the file had been truncated.
pub(crate) fn difference_or_zero(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected.len() != found.len() {
        return difference(expected, found);
    }
    first_wrong(found, |at| vec![expected[at], 0])
}

/// While `plan` is executed on file 0 over and over: a byte of the target is the old one or the
/// copied one, and every other byte is the old one.
pub(crate) fn ensure_source_or_pattern(plan: &Copy, found: &[u8]) -> Result<(), Stop> {
    let source = plan.source.iter();
    let copied: Vec<usize> = source
        .flat_map(|&(offset, len)| offset..offset + len)
        .collect();
    let from = usize::from(plan.source_is_other_file);
    let wrong = first_wrong(found, |at| {
        let mut values = vec![pattern(0, at)];
        let index = at.checked_sub(plan.target);
        if let Some(offset) = index.and_then(|index| copied.get(index)) {
            values.push(pattern(from, *offset));
        }
        values
    });
    match wrong {
        Some(text) => Err(Stop::wrong(format!("during the copy: {text}"))),
        None => Ok(()),
    }
}

/// After a copy of `len` bytes from `from` up to `to` in a file of the pattern, where the ranges
/// overlap: a byte of the target comes from the source, before or after that was overwritten.
pub(crate) fn ensure_shifted(found: &[u8], from: usize, to: usize, len: usize) -> Result<(), Stop> {
    let wrong = first_wrong(found, |at| {
        if !(to..to + len).contains(&at) {
            return vec![pattern(0, at)];
        }
        let shift = to - from;
        let steps = 1..=(at - from) / shift;
        steps.map(|step| pattern(0, at - step * shift)).collect()
    });
    match wrong {
        Some(text) => Err(Stop::wrong(format!("copied {len} bytes: {text}"))),
        None => Ok(()),
    }
}

/// Whether read(2) leaves the file's pages in the page cache; with FOPEN_DIRECT_IO it does not.
pub(crate) fn is_cached(file: &File, map: &Mapping) -> Result<bool, Stop> {
    let page = map
        .span(FILE_LEN - PAGE..FILE_LEN)
        .map_err(Stop::at("span"))?;
    page.forget_pages().map_err(Stop::at("madvise"))?;
    evict(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, (FILE_LEN - PAGE) as u64)
        .map_err(Stop::at("read"))?;
    page.is_cached().map_err(Stop::at("mincore"))
}

#[cfg(test)]
mod tests {
    use super::super::case::{CASES, Other, Work};
    use super::*;

    fn file() -> Vec<u8> {
        (0..FILE_LEN).map(|at| pattern(0, at)).collect()
    }

    #[test]
    fn ensure_shifted_of_an_untouched_file_passes_and_of_a_changed_one_fails() {
        let mut found = file();
        assert!(ensure_shifted(&found, 100, 300, 0).is_ok());
        found[FILE_LEN - 1] ^= 1;
        assert!(ensure_shifted(&found, 100, 300, 0).is_err());
    }

    #[test]
    fn ensure_shifted_of_a_copy_in_either_direction_passes() {
        for forward in [false, true] {
            let mut found = file();
            if forward {
                for at in 0..1000 {
                    found[300 + at] = found[100 + at];
                }
            } else {
                found.copy_within(100..1100, 300);
            }
            assert!(ensure_shifted(&found, 100, 300, 1000).is_ok());
            found[700] = 0;
            assert!(ensure_shifted(&found, 100, 300, 1000).is_err());
        }
    }

    #[test]
    fn ensure_source_or_pattern_of_a_foreign_byte_fails_in_and_beside_the_target() {
        let plan = CASES.iter().find_map(|case| match case.work {
            Work::Copy(copy) if copy.other == Other::Read => Some(copy),
            _ => None,
        });
        let plan = plan.unwrap();
        assert!(ensure_source_or_pattern(&plan, &file()).is_ok());
        for at in [plan.target - 1, plan.target, plan.target + 4180] {
            let mut found = file();
            found[at] = 0;
            assert!(ensure_source_or_pattern(&plan, &found).is_err(), "{at}");
        }
        let mut found = file();
        found[plan.target] = pattern(0, plan.source[0].0);
        assert!(ensure_source_or_pattern(&plan, &found).is_ok());
    }

    #[test]
    fn difference_or_zero_of_a_third_value_fails() {
        assert_eq!(difference_or_zero(&[1, 2], &[1, 0]), None);
        assert!(difference_or_zero(&[1, 2], &[2, 2]).is_some());
        assert!(difference_or_zero(&[1, 2], &[1]).is_some());
    }
}
