//! `--seccomp`: the filter that is made of [`super::syscalls`], and put in front of every thread
//! that comes.
//!
//! Two filters, of which the kernel obeys the stricter for each call: the library's have one answer
//! for all that match, and clone3(2) needs another (ENOSYS, see there).

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::syscalls::{
    ALLOWED, ALLOWED_BITS, ALLOWED_HERE, ALLOWED_VALUES, NUMBERS, UNKNOWN, ZYGOTE, ZYGOTE_BITS,
};

/// What happens at a call that is not in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// The process ends.
    Kill,
    /// The kernel logs it, and does it.
    Log,
    /// SIGSYS, by which a debugger can see where.
    Trap,
    /// There is no filter.
    None,
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Log => "log",
            Self::Trap => "trap",
            Self::None => "none",
        })
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters this thread and those that it will start.
pub(super) fn apply(seccomp: Seccomp) -> anyhow::Result<()> {
    apply_rules(seccomp, allowed()?)
}

/// Filters a process that starts servers, and what it takes them to start.
pub(super) fn apply_to_zygote(seccomp: Seccomp) -> anyhow::Result<()> {
    apply_rules(seccomp, allowed_to_zygote()?)
}

fn apply_rules(seccomp: Seccomp, rules: Rules) -> anyhow::Result<()> {
    let otherwise = match seccomp {
        Seccomp::Kill => SeccompAction::KillProcess,
        Seccomp::Log => SeccompAction::Log,
        Seccomp::Trap => SeccompAction::Trap,
        Seccomp::None => return Ok(()),
    };
    let unknown = compile(
        UNKNOWN.iter().map(|number| (*number, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
    )?;
    let allowed = compile(rules, otherwise, SeccompAction::Allow)?;
    // The first one still has to let seccomp(2) pass, for the second.
    for program in [&unknown, &allowed] {
        seccompiler::apply_filter(program)
            .context("--seccomp: the kernel takes no filter; use --seccomp=none")?;
    }
    Ok(())
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> anyhow::Result<BpfProgram> {
    let arch = std::env::consts::ARCH;
    let arch: TargetArch = arch.try_into().with_context(|| {
        format!("--seccomp: there are no filters for {arch}: use --seccomp=none")
    })?;
    let filter = SeccompFilter::new(rules, otherwise, matching, arch)
        .context("--seccomp: make the filter")?;
    filter.try_into().context("--seccomp: compile the filter")
}

fn allowed() -> anyhow::Result<Rules> {
    let mut rules = Rules::new();
    let plain = ALLOWED.iter().flat_map(|(_why, numbers)| numbers.iter());
    for number in plain.chain(ALLOWED_HERE) {
        debug_assert!(NUMBERS.contains(number));
        rules.insert(*number, Vec::new());
    }
    let rule = |argument, op, value| -> anyhow::Result<SeccompRule> {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, op, value);
        SeccompRule::new(vec![condition.context("a condition of the filter")?])
            .context("a rule of the filter")
    };
    for (number, argument, mask, value) in ALLOWED_BITS {
        let one = rule(*argument, SeccompCmpOp::MaskedEq(*mask), *value)?;
        rules.entry(*number).or_default().push(one);
    }
    for (number, argument, values) in ALLOWED_VALUES {
        for value in *values {
            // The kernel looks at 32 bits of these arguments; so does this.
            let condition = SeccompCondition::new(
                *argument,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                u64::from(*value),
            );
            let one = SeccompRule::new(vec![condition.context("a condition of the filter")?]);
            let list = rules.entry(*number).or_default();
            list.push(one.context("a rule of the filter")?);
        }
    }
    Ok(rules)
}

fn allowed_to_zygote() -> anyhow::Result<Rules> {
    let mut rules = allowed()?;
    for (number, argument, mask, value) in ZYGOTE_BITS {
        let op = SeccompCmpOp::MaskedEq(*mask);
        let condition = SeccompCondition::new(*argument, SeccompCmpArgLen::Qword, op, *value);
        let rule = SeccompRule::new(vec![condition.context("a condition of the filter")?]);
        let list = rules.entry(*number).or_default();
        list.push(rule.context("a rule of the filter")?);
    }
    for number in ZYGOTE {
        rules.insert(*number, Vec::new());
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::super::syscalls::NEVER;
    use super::*;

    #[test]
    fn allowed_has_nothing_that_reaches_beyond_the_sandbox() {
        let rules = allowed().unwrap();
        for number in NEVER {
            assert!(!rules.contains_key(number), "system call {number}");
        }
        for number in UNKNOWN {
            assert!(rules.contains_key(number), "{number} would be killed first");
        }
    }

    #[test]
    fn allowed_to_zygote_has_nothing_more_of_that_than_seccomp_and_socketpair() {
        let rules = allowed_to_zygote().unwrap();
        let needed = [libc::SYS_seccomp, libc::SYS_socketpair];
        for number in NEVER.iter().filter(|number| !needed.contains(number)) {
            assert!(!rules.contains_key(number), "system call {number}");
        }
        compile(rules, SeccompAction::KillProcess, SeccompAction::Allow).unwrap();
    }

    #[test]
    fn allowed_names_each_call_once() {
        let plain = ALLOWED.iter().flat_map(|(_why, numbers)| numbers.iter());
        let mut seen = std::collections::BTreeSet::new();
        for number in plain.chain(ALLOWED_HERE) {
            assert!(seen.insert(*number), "{number} is there twice");
        }
        for number in ALLOWED_BITS
            .iter()
            .map(|rule| rule.0)
            .chain(ALLOWED_VALUES.iter().map(|rule| rule.0))
        {
            assert!(!seen.contains(&number), "{number} is allowed anyhow");
        }
    }

    #[test]
    fn compile_of_each_answer_gives_a_program() {
        for otherwise in [
            SeccompAction::KillProcess,
            SeccompAction::Log,
            SeccompAction::Trap,
        ] {
            let program = compile(allowed().unwrap(), otherwise, SeccompAction::Allow).unwrap();
            assert!(program.len() > 100, "{}", program.len());
        }
    }
}
