//! Which write rule the kernel uses, from the WRITEs that it sends for writes to files that it has
//! not cached. The comparison with a rule goes through [`expected_writes`] alone.

use super::Context;
use super::client::{Answer, Order};
use super::server::Options;

const PAGE: usize = 4096;
const MAX_WRITE: usize = 1 << 20;

/// (offset, length) of a write(2).
const SHAPES: &[(usize, usize)] = &[
    (0, 65536),
    (100, 65536),
    (2048, 4096),
    (4000, 4000),
    (100, 8192),
    (100, 65436),
    (0, 1 << 20),
    (1, 1 << 20),
    (1, 2 << 20),
    (10, 100),
];

/// The rules that the number and place of WRITEs can tell apart. `A` and `C` send READs, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    OnePage,
    D,
    /// `hold-all`, `E` and `B'` send the same WRITEs; only the first of them deadlocks.
    Whole,
}

/// The WRITEs that a rule sends for a write of `len` at `offset` to a cold file.
fn expected_writes(rule: Rule, (offset, len): (usize, usize)) -> Vec<(u64, usize)> {
    let mut writes = Vec::new();
    let (mut start, end) = (offset, offset + len);
    while start < end {
        let page_end = (start / PAGE + 1) * PAGE;
        let limit = match rule {
            Rule::OnePage => page_end,
            // A partial first page that is not uptodate ends the request.
            Rule::D if !start.is_multiple_of(PAGE) => page_end,
            Rule::D | Rule::Whole => (start / PAGE) * PAGE + MAX_WRITE,
        };
        let stop = limit.min(end);
        writes.push((start as u64, stop - start));
        start = stop;
    }
    writes
}

/// Asks the kernel for all shapes.
pub(crate) fn ask(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let mut candidates = vec![Rule::OnePage, Rule::D, Rule::Whole];
    let (mut counts, mut reads) = (Vec::new(), 0);
    for (index, &(offset, len)) in SHAPES.iter().enumerate() {
        let name = format!("file{index}");
        let ino = mounted.shared.add(&name, vec![b'A'; 4 << 20]);
        let mut client = context.client(&mounted, &name)?;
        let answer = client.call(Order::Write {
            offset: offset as u64,
            len,
            value: b'B',
        })?;
        anyhow::ensure!(
            answer == Answer::Count(len),
            "write of {len} at {offset}: {answer:?}"
        );
        let log = mounted.shared.log(ino);
        let sent: Vec<_> = log.iter().filter(|entry| entry.opcode == "WRITE").collect();
        let writes: Vec<_> = sent
            .iter()
            .map(|entry| (entry.offset, entry.size))
            .collect();
        reads += log.iter().filter(|entry| entry.opcode == "READ").count();
        candidates.retain(|rule| expected_writes(*rule, (offset, len)) == writes);
        counts.push(writes.len().to_string());
    }
    let rule = match candidates.as_slice() {
        [Rule::OnePage] => "one-page",
        [Rule::D] => "D",
        [Rule::Whole] if reads > 0 => "A or C (it reads partial pages first)",
        [Rule::Whole] => "E, B' or hold-all (xtests repro tells whether it deadlocks)",
        _ => "none that is known",
    };
    Ok(format!(
        "{rule}; WRITEs per shape {}; {reads} READs",
        counts.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::{Rule, SHAPES, expected_writes};

    #[test]
    fn expected_writes_of_each_rule_equal_the_measured_counts() {
        let counts = |rule| {
            SHAPES
                .iter()
                .map(|s| expected_writes(rule, *s).len())
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(Rule::D), [1, 2, 2, 2, 2, 2, 1, 2, 3, 1]);
        assert_eq!(counts(Rule::Whole), [1, 1, 1, 1, 1, 1, 1, 2, 3, 1]);
        assert_eq!(
            counts(Rule::OnePage),
            [16, 17, 2, 2, 3, 16, 256, 257, 513, 1]
        );
    }
}
