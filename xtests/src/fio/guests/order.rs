//! In which order guests are booted, and what each is asked in which order.
//!
//! Invariants: a round boots every kernel once and gives each the same tasks, so that a ratio is of
//! neighbours in time, in an order that is drawn anew, so that no kernel always has the same
//! neighbour (with a rotating order, stock against stock came to 0.86); and within a guest the
//! servers alternate in which is first.

use xtests::support::random::Random;

use super::super::plan::{Size, Step, order, steps};
use super::serves_device;

/// One run in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) job: String,
    pub(crate) server: String,
    /// Its place among the runs of the job in this round.
    pub(super) position: usize,
}

impl Task {
    /// Unique within the guest; no blanks.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.job, self.server)
    }
}

/// The tasks of one guest, with indices into the lists of backings and kernels.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Guest {
    pub(super) round: usize,
    pub(super) backing: usize,
    pub(super) kernel: usize,
    pub(super) tasks: Vec<Task>,
}

/// All guests in their order; `is_tmpfs` of each backing. thrufs works on the guest's tmpfs, so
/// that it runs on that backing only.
pub(super) fn guests(
    rounds: usize,
    is_tmpfs: &[bool],
    kernels: usize,
    jobs: &[&str],
    servers: &[String],
    random: &mut Random,
) -> Vec<Guest> {
    let size = Size {
        rounds,
        backings: is_tmpfs.len(),
        jobs: 1,
        configs: kernels,
    };
    let guest = |step: Step| {
        let here = |server: &&String| is_tmpfs[step.backing] || serves_device(server);
        let here: Vec<&String> = servers.iter().filter(here).collect();
        let mut tasks = Vec::new();
        for (at, job) in jobs.iter().enumerate() {
            let order = order(step.round + at, here.len());
            tasks.extend(order.enumerate().map(|(position, server)| Task {
                job: (*job).to_owned(),
                server: here[server].clone(),
                position: step.position * here.len() + position,
            }));
        }
        Guest {
            round: step.round,
            backing: step.backing,
            kernel: step.config,
            tasks,
        }
    };
    let mut steps = steps(size);
    // The guests of one round on one backing.
    for round in steps.chunks_mut(kernels.max(1)) {
        shuffle(round, random);
    }
    steps.into_iter().map(guest).collect()
}

/// Shuffles the kernels of a round; the places stay.
fn shuffle(round: &mut [Step], random: &mut Random) {
    for at in (1..round.len()).rev() {
        let other = random.below(at + 1);
        let kernel = round[at].config;
        round[at].config = round[other].config;
        round[other].config = kernel;
    }
}

#[cfg(test)]
mod tests {
    use super::super::VIRTIOFSD;
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn guests_of_a_round_are_every_kernel_once_asked_the_same() {
        let servers = words(&[VIRTIOFSD, "thrufs"]);
        let guests = guests(3, &[true], 3, &["a:1", "b:2"], &servers, &mut Random(1));
        assert_eq!(guests.len(), 9);
        for round in guests.chunks(3) {
            let mut kernels: Vec<usize> = round.iter().map(|guest| guest.kernel).collect();
            kernels.sort_unstable();
            assert_eq!(kernels, [0, 1, 2]);
            let names = |guest: &Guest| guest.tasks.iter().map(Task::name).collect::<Vec<_>>();
            assert_eq!(names(&round[0]).len(), 4);
            assert!(round.iter().all(|guest| names(guest) == names(&round[0])));
        }
    }

    #[test]
    fn guests_of_many_rounds_have_every_order_of_kernels() {
        let servers = words(&["thrufs"]);
        let guests = guests(60, &[true], 3, &["a:1"], &servers, &mut Random(7));
        let orders: std::collections::BTreeSet<Vec<usize>> = guests
            .chunks(3)
            .map(|round| round.iter().map(|guest| guest.kernel).collect())
            .collect();
        assert_eq!(orders.len(), 6, "{orders:?}");
        for round in guests.chunks(3) {
            let places: Vec<usize> = round.iter().map(|guest| guest.tasks[0].position).collect();
            assert_eq!(places, [0, 1, 2]);
        }
    }

    #[test]
    fn guests_change_the_order_of_servers_from_job_to_job_and_round_to_round() {
        let servers = words(&[VIRTIOFSD, "thrufs"]);
        let guests = guests(2, &[true], 1, &["a:1", "b:2"], &servers, &mut Random(1));
        let first = |guest: &Guest, job: usize| guest.tasks[2 * job].server.clone();
        assert_eq!(first(&guests[0], 0), VIRTIOFSD);
        assert_eq!(first(&guests[0], 1), "thrufs");
        assert_eq!(first(&guests[1], 0), "thrufs");
    }

    #[test]
    fn guests_on_a_disk_are_asked_of_devices_alone() {
        let servers = words(&["thrufs", VIRTIOFSD]);
        let guests = guests(1, &[true, false], 1, &["a:1"], &servers, &mut Random(1));
        let names = |guest: &Guest| guest.tasks.iter().map(Task::name).collect::<Vec<_>>();
        assert_eq!(names(&guests[0]), ["a:1/thrufs", "a:1/virtiofsd"]);
        assert_eq!(names(&guests[1]), ["a:1/virtiofsd"]);
    }
}
