//! The statistics of a comparison: medians with their spread, ratios, geometric means.
//!
//! No mean and no standard deviation of runs: one disturbed run moves them, and the distribution of
//! runs is not known to be normal.

use serde::{Deserialize, Serialize};

/// A quantity over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Lower and upper quartile.
    pub(super) q1: f64,
    pub(super) q3: f64,
    /// The number of values.
    pub(super) n: usize,
}

impl Spread {
    /// The spread of these values; `None` without any.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&values, 0.5)?,
            min: *values.first()?,
            max: *values.last()?,
            q1: quantile(&values, 0.25)?,
            q3: quantile(&values, 0.75)?,
            n: values.len(),
        })
    }

    /// Half the distance from least to most, as a part of the median.
    pub(super) fn relative(&self) -> f64 {
        if self.median == 0.0 {
            return 0.0;
        }
        (self.max - self.min) / 2.0 / self.median
    }
}

/// Linear between neighbours; `None` without values.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let at = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    let part = at - at.floor();
    Some(sorted[low] * (1.0 - part) + sorted[high] * part)
}

/// The geometric mean of positive numbers; `None` without any.
pub(super) fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> = values
        .into_iter()
        .filter(|value| *value > 0.0 && value.is_finite())
        .map(f64::ln)
        .collect();
    if logs.is_empty() {
        return None;
    }
    Some((logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// Smaller differences are never called a change, however narrow the spreads are: rounds of one
/// session resemble each other more than two sessions do.
const LEAST_CHANGE: f64 = 0.03;
/// Spreads of fewer values mean next to nothing.
const LEAST_ROUNDS: usize = 3;

/// How `after` relates to `before`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    /// Within the noise.
    None,
    /// Too few rounds to say.
    TooFew,
    /// The spreads do not overlap.
    Real,
}

/// Whether two spreads differ beyond the noise: no value of one lies among those of the other.
pub(super) fn change(before: &Spread, after: &Spread) -> Change {
    if before.n.min(after.n) < LEAST_ROUNDS {
        return Change::TooFew;
    }
    let apart = before.max < after.min || after.max < before.min;
    let ratio = after.median / before.median;
    if apart && (ratio - 1.0).abs() >= LEAST_CHANGE {
        Change::Real
    } else {
        Change::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_an_even_number_of_values_has_the_median_between_them() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).expect("four values");
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!((spread.q1, spread.q3, spread.n), (1.75, 3.25, 4));
    }

    #[test]
    fn spread_of_nothing_is_none() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
    }

    #[test]
    fn median_with_one_wild_value_does_not_move() {
        let calm = Spread::of([10.0, 11.0, 12.0, 11.0, 10.0]).expect("values");
        let wild = Spread::of([10.0, 11.0, 12.0, 11.0, 1000.0]).expect("values");
        assert_eq!(calm.median, 11.0);
        assert_eq!(wild.median, 11.0);
    }

    #[test]
    fn geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        let mean = geometric_mean([4.0, 0.25]).expect("two values");
        assert!((mean - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean([]), None);
    }

    #[test]
    fn change_with_overlapping_spreads_is_none() {
        let before = Spread::of([100.0, 110.0, 120.0]).expect("values");
        let after = Spread::of([118.0, 130.0, 140.0]).expect("values");
        assert_eq!(change(&before, &after), Change::None);
    }

    #[test]
    fn change_with_spreads_apart_is_real_in_both_directions() {
        let low = Spread::of([100.0, 101.0, 102.0]).expect("values");
        let high = Spread::of([140.0, 141.0, 150.0]).expect("values");
        assert_eq!(change(&low, &high), Change::Real);
        assert_eq!(change(&high, &low), Change::Real);
    }

    #[test]
    fn change_of_a_hair_is_none_even_if_the_spreads_are_narrower() {
        let before = Spread::of([100.0, 100.1, 100.2]).expect("values");
        let after = Spread::of([101.0, 101.1, 101.2]).expect("values");
        assert_eq!(change(&before, &after), Change::None);
    }

    #[test]
    fn change_after_two_rounds_is_not_told() {
        let before = Spread::of([100.0, 101.0]).expect("values");
        let after = Spread::of([200.0, 201.0, 202.0]).expect("values");
        assert_eq!(change(&before, &after), Change::TooFew);
    }
}
