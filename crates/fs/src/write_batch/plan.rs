//! In which pwritev2(2) calls a batch of WRITEs is written.
//!
//! Invariant: WRITEs that overlap are written in the order in which they came. Others may change
//! places, so that neighbours meet; between two waves (see [`waves`]) nothing does.

use std::ops::Range;

use crate::backing::Position;

/// Where one WRITE goes: the part of it that decides who it can be joined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) position: Position,
    pub(super) len: usize,
}

impl Extent {
    /// First byte and the one after the last; none where the file's end decides.
    fn bytes(self) -> Option<Range<u64>> {
        match self.position {
            Position::At(offset) => Some(offset..offset.saturating_add(self.len as u64)),
            Position::Append => None,
        }
    }

    /// Whether it matters which of the two is written first. What appends may meet anything.
    fn meets(self, other: Self) -> bool {
        match (self.bytes(), other.bytes()) {
            (Some(a), Some(b)) => a.start < b.end && b.start < a.end,
            (None, _) | (_, None) => true,
        }
    }

    fn is_followed_by(self, other: Self) -> bool {
        match (self.bytes(), other.bytes()) {
            (Some(a), Some(b)) => a.end == b.start,
            (None, _) | (_, None) => false,
        }
    }
}

/// Divides WRITEs, in the order of arrival, into waves within which none meets another.
fn waves(extents: &[Extent]) -> Vec<Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for (at, extent) in extents.iter().enumerate() {
        match waves.last_mut() {
            Some(wave) if !wave.iter().any(|&other| extents[other].meets(*extent)) => {
                wave.push(at);
            }
            _none_or_met => waves.push(vec![at]),
        }
    }
    waves
}

/// The calls, in order; each is the indices of the WRITEs that it writes one after the other.
pub(super) fn calls(extents: &[Extent]) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    for mut wave in waves(extents) {
        wave.sort_by_key(|&at| extents[at].bytes().map_or(0, |bytes| bytes.start));
        let first_of_wave = calls.len();
        for at in wave {
            let last = calls[first_of_wave..].last_mut();
            match last {
                Some(call)
                    if call
                        .last()
                        .is_some_and(|&before| extents[before].is_followed_by(extents[at])) =>
                {
                    call.push(at);
                }
                _none_or_gap => calls.push(vec![at]),
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(offset: u64, len: usize) -> Extent {
        let position = Position::At(offset);
        Extent { position, len }
    }

    const APPEND: Extent = Extent {
        position: Position::Append,
        len: 10,
    };

    #[test]
    fn calls_of_neighbours_in_any_order_are_one() {
        let extents = [at(20, 10), at(0, 10), at(30, 5), at(10, 10)];
        assert_eq!(calls(&extents), [[1, 3, 0, 2]]);
    }

    #[test]
    fn calls_across_a_gap_are_two() {
        assert_eq!(calls(&[at(0, 10), at(11, 10)]), [[0], [1]]);
    }

    #[test]
    fn calls_of_overlapping_writes_keep_their_order() {
        let extents = [at(10, 10), at(0, 11), at(0, 10), at(20, 5)];
        assert_eq!(calls(&extents), [[0], [1], [2], [3]]);
    }

    #[test]
    fn calls_around_an_append_keep_their_order() {
        let extents = [at(0, 10), APPEND, at(10, 10)];
        assert_eq!(calls(&extents), [[0], [1], [2]]);
    }

    proptest! {
        /// Written to a model file, the calls leave what one write after the other leaves.
        #[test]
        fn calls_in_any_batch_leave_what_writing_in_order_leaves(
            batch in proptest::collection::vec((0_u64..40, 1_usize..20), 0..12)
        ) {
            let extents: Vec<Extent> = batch.iter().map(|&(offset, len)| at(offset, len)).collect();
            let write = |file: &mut [usize], index: usize| {
                let start = batch[index].0 as usize;
                file[start..start + batch[index].1].fill(index + 1);
            };
            let (mut one_by_one, mut joined) = ([0; 64], [0; 64]);
            (0..batch.len()).for_each(|index| write(&mut one_by_one, index));
            let calls = calls(&extents);
            calls.iter().flatten().for_each(|&index| write(&mut joined, index));
            prop_assert_eq!(one_by_one, joined);
            let mut all: Vec<usize> = calls.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..batch.len()).collect::<Vec<_>>());
        }
    }
}
