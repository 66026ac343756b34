//! The order of all runs.
//!
//! Invariants: within a round every configuration runs each job once, right after the others, so
//! that a ratio is of neighbours in time; over as many rounds as there are configurations each is
//! first once; and the direction alternates, so that none always follows the same one.

use std::time::Duration;

/// A run's time beside fio's runtime: mounting, fio's own start, unmounting.
const OVERHEAD: Duration = Duration::from_millis(900);

/// One run, as indices into the lists of backings, jobs and configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// From 0.
    pub(super) round: usize,
    pub(super) backing: usize,
    pub(super) job: usize,
    pub(super) config: usize,
    /// Its place among the configurations of this round.
    pub(super) position: usize,
}

/// The size of each list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) rounds: usize,
    pub(super) backings: usize,
    pub(super) jobs: usize,
    pub(super) configs: usize,
}

/// Rounds outermost: a session that stops early has fewer rounds of everything, not all rounds of some jobs.
pub(super) fn steps(size: Size) -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..size.rounds {
        for backing in 0..size.backings {
            for job in 0..size.jobs {
                let order = order(round + job, size.configs);
                steps.extend(order.enumerate().map(|(position, config)| Step {
                    round,
                    backing,
                    job,
                    config,
                    position,
                }));
            }
        }
    }
    steps
}

/// All of `0..n` from `turn` (modulo n) on, upwards and downwards alternately.
pub(super) fn order(turn: usize, n: usize) -> impl Iterator<Item = usize> {
    let up = turn.is_multiple_of(2);
    (0..n).map(move |at| if up { turn + at } else { turn + n - at } % n)
}

/// Time for so many runs of `runtime`.
pub(super) fn estimate(runs: usize, runtime: Duration) -> Duration {
    (runtime + OVERHEAD) * u32::try_from(runs).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        rounds: 4,
        backings: 2,
        jobs: 3,
        configs: 4,
    };

    #[test]
    fn steps_run_each_configuration_once_for_each_job_and_round() {
        let steps = steps(SIZE);
        assert_eq!(steps.len(), 4 * 2 * 3 * 4);
        for group in steps.chunks(SIZE.configs) {
            let mut configs: Vec<usize> = group.iter().map(|step| step.config).collect();
            configs.sort_unstable();
            assert_eq!(configs, [0, 1, 2, 3]);
            assert!(group.iter().all(|step| {
                (step.round, step.backing, step.job)
                    == (group[0].round, group[0].backing, group[0].job)
            }));
        }
    }

    #[test]
    fn steps_put_every_configuration_first_equally_often() {
        for job in 0..SIZE.jobs {
            let mut first: Vec<usize> = steps(SIZE)
                .iter()
                .filter(|step| (step.job, step.backing, step.position) == (job, 0, 0))
                .map(|step| step.config)
                .collect();
            first.sort_unstable();
            assert_eq!(first, [0, 1, 2, 3], "job {job}");
        }
    }

    #[test]
    fn order_changes_direction_from_turn_to_turn() {
        assert_eq!(order(0, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(order(1, 3).collect::<Vec<_>>(), [1, 0, 2]);
        assert_eq!(order(2, 3).collect::<Vec<_>>(), [2, 0, 1]);
    }

    #[test]
    fn steps_of_one_configuration_are_the_rounds() {
        let alone = Size {
            configs: 1,
            jobs: 1,
            backings: 1,
            rounds: 3,
        };
        let rounds: Vec<usize> = steps(alone).iter().map(|step| step.round).collect();
        assert_eq!(rounds, [0, 1, 2]);
    }
}
