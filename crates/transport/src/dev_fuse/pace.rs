//! Whether there are enough readers, by how long each of them waits for its next message.

/// Nanoseconds that read(2) takes when a message waits: the system call, and a quarter of one for each
/// byte. A thread that sleeps is woken later than that.
const CALL: u64 = 4_000;
const BYTES_A_NANOSECOND: u64 = 4;
/// Messages in a row that waited, after which one more thread reads.
const WAITED: u32 = 8;
/// Messages in a row that were waited for, after which this thread stops.
const SLEPT: u32 = 16;

/// What a reader's last messages say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Messages wait: another thread could read.
    More,
    /// This thread waits for each: others can do its work.
    Fewer,
    Enough,
}

/// The last messages of one reader.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    waited: u32,
    slept: u32,
}

impl Pace {
    /// A message of `len` bytes was read in `nanoseconds`.
    pub(super) fn after_read(&mut self, nanoseconds: u64, len: usize) -> Verdict {
        let is_sleep = nanoseconds > CALL + len as u64 / BYTES_A_NANOSECOND;
        *self = match is_sleep {
            true => Self {
                waited: 0,
                slept: self.slept + 1,
            },
            false => Self {
                waited: self.waited + 1,
                slept: 0,
            },
        };
        let verdict = match (self.waited, self.slept) {
            (WAITED.., _) => Verdict::More,
            (_, SLEPT..) => Verdict::Fewer,
            _few => return Verdict::Enough,
        };
        *self = Self::default();
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_read_of_eight_that_waited_is_more() {
        let mut pace = Pace::default();
        for _ in 1..WAITED {
            assert_eq!(pace.after_read(1_000, 80), Verdict::Enough);
        }
        assert_eq!(pace.after_read(1_000, 80), Verdict::More);
        assert_eq!(pace.after_read(1_000, 80), Verdict::Enough);
    }

    #[test]
    fn after_read_of_sixteen_that_were_waited_for_is_fewer() {
        let mut pace = Pace::default();
        for _ in 1..SLEPT {
            assert_eq!(pace.after_read(30_000, 80), Verdict::Enough);
        }
        assert_eq!(pace.after_read(30_000, 80), Verdict::Fewer);
    }

    #[test]
    fn after_read_counts_only_in_a_row_and_allows_for_the_copy() {
        let mut pace = Pace::default();
        for round in 0..100 {
            let verdict = match round % 5 {
                0 => pace.after_read(300_000, 80),
                // A WRITE of 1 MiB that waited.
                _ => pace.after_read(200_000, (1 << 20) + 80),
            };
            assert_eq!(verdict, Verdict::Enough);
        }
    }
}
