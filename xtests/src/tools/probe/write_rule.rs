//! Which write rule the kernel uses, from the WRITEs that it sends for writes to uncached files.
//! The specification (`thrufs_rules`) says what each rule would send.

use thrufs_rules::table::SHAPES;
use thrufs_rules::{CacheState, Limits, Request, WriteRequest, WriteRule, plan};

use super::client::{Answer, Order};
use super::context::Context;
use super::server::Options;

/// Length of the files that are written to.
pub(crate) const FILE_LEN: usize = 4 << 20;

/// (offset, length) of each write(2): the ones that tell the rules apart.
pub(crate) fn shapes() -> impl Iterator<Item = (usize, usize)> {
    SHAPES
        .into_iter()
        .map(|shape| (shape.pos as usize, shape.len as usize))
}

/// The WRITEs and the number of READs that a rule sends, within `limits`, for a write of `len` at `offset`
/// to a cold file.
pub(crate) fn expected(
    rule: WriteRule,
    (offset, len): (usize, usize),
    limits: &Limits,
) -> anyhow::Result<(Vec<(u64, u64)>, usize)> {
    let request = Request::new(offset as u64, len as u64)?;
    let sent = plan(rule, &request, &CacheState::cold(FILE_LEN as u64), limits);
    let reads = sent.iter().map(WriteRequest::reads).sum();
    Ok((
        sent.iter()
            .map(|write| (write.offset, write.size))
            .collect(),
        reads,
    ))
}

/// Asks the kernel for all shapes.
pub(crate) fn ask(context: &Context<'_>) -> anyhow::Result<String> {
    let mounted = context.mount(Options::default())?;
    let mut candidates = WriteRule::ALL.to_vec();
    let (mut counts, mut reads) = (Vec::new(), 0);
    for (index, (offset, len)) in shapes().enumerate() {
        let name = format!("file{index}");
        let ino = mounted.shared.add(&name, vec![b'A'; FILE_LEN]);
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
            .map(|entry| (entry.offset, entry.size as u64))
            .collect();
        let read = log.iter().filter(|entry| entry.opcode == "READ").count();
        reads += read;
        let mut left = Vec::new();
        for rule in candidates {
            if expected(rule, (offset, len), &Limits::default())? == (writes.clone(), read) {
                left.push(rule);
            }
        }
        candidates = left;
        counts.push(writes.len().to_string());
    }
    let names: Vec<_> = candidates.iter().map(|rule| rule.name()).collect();
    let rule = match names.as_slice() {
        [] => "none that is known".to_owned(),
        [one] => (*one).to_owned(),
        // The same WRITEs; `xtests repro` recognises hold-all by its deadlock.
        several => several.join(" or "),
    };
    Ok(format!(
        "{rule}; WRITEs per shape {}; {reads} READs",
        counts.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use thrufs_rules::WriteRule;

    use super::{expected, shapes};

    #[test]
    fn expected_writes_of_each_rule_equal_the_measured_counts() {
        let counts = |name| {
            let rule = WriteRule::ALL
                .iter()
                .find(|rule| rule.name() == name)
                .unwrap();
            shapes()
                .map(|shape| {
                    expected(*rule, shape, &thrufs_rules::Limits::default())
                        .unwrap()
                        .0
                        .len()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(counts("D"), [1, 2, 2, 2, 2, 2, 1, 2, 3, 1]);
        assert_eq!(counts("E"), [1, 1, 1, 1, 1, 1, 1, 2, 3, 1]);
        assert_eq!(counts("one-page"), [16, 17, 2, 2, 3, 16, 256, 257, 513, 1]);
    }
}
