//! `thrufs doctor`: what would keep a mount from working on this machine, and what is wrong with the mounts that there
//! are, each with its remedy.
//!
//! Invariant: nothing is changed, and nothing hangs: a mount's daemon is asked through its socket with a deadline, as by
//! `thrufs status`, and the mount itself only where there is no other way to know whether it is dead, by a child that is
//! left behind. All mounts are asked at the same time. The exit code ([`code`]) is for scripts.

use std::path::PathBuf;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::findings::host::Facts;
use crate::findings::{Finding, Severity, mount, worst};
use crate::signals::block_on;
use crate::status::{NoStatus, Status, Which, plain};
use crate::stdout::print;

/// What `thrufs doctor` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Only this mount, or any file below; or the socket of a device [default: the machine and all mounts]
    mountpoint: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was looked at.
#[derive(Debug, Serialize)]
struct Report {
    /// Empty where one mount was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    machine: Vec<Finding>,
    mounts: Vec<OfMount>,
    worst: Severity,
}

#[derive(Debug, Serialize)]
struct OfMount {
    mount: String,
    findings: Vec<Finding>,
}

/// Runs `thrufs doctor`, and returns its exit code.
///
/// # Errors
/// MOUNTPOINT is no mount of thrufs, or /proc is not mounted.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<u8> {
    // Before there is a second thread.
    let machine = match args.mountpoint {
        None => Facts::probe().findings(),
        Some(_) => Vec::new(),
    };
    let mounts = block_on(async {
        match &args.mountpoint {
            Some(path) => of_all(vec![Which::at(path).await?]).await,
            None => of_all(Which::all().await?).await,
        }
    })?;
    let all = mounts.iter().flat_map(|of| &of.findings).chain(&machine);
    let worst = worst(all);
    let report = Report {
        machine,
        mounts,
        worst,
    };
    match args.json {
        true => print(&serde_json::to_string_pretty(&report)?)?,
        false => print(&text(&report))?,
    }
    Ok(code(worst))
}

/// The exit code for what matters most. 1 and 2 are those of a failure and of a wrong command line.
fn code(worst: Severity) -> u8 {
    match worst {
        Severity::Ok | Severity::Note => 0,
        Severity::Warning => 3,
        Severity::Error => 4,
    }
}

/// In the order of the mount table.
async fn of_all(all: Vec<Which>) -> anyhow::Result<Vec<OfMount>> {
    let mut asking = JoinSet::new();
    for (at, which) in all.into_iter().enumerate() {
        asking.spawn(async move { (at, of_one(&which).await) });
    }
    let mut found = asking.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, of)| of).collect())
}

async fn of_one(which: &Which) -> OfMount {
    let findings = match which.ask().await {
        Ok(status) => {
            let mut found = mount::in_detail(&status, which.seen());
            found.extend(stuck(which, &status).await);
            let requests: u64 = status.snapshot.opcodes.iter().map(|of| of.requests).sum();
            let what = format!(
                "{} is served by pid {}, {requests} requests so far",
                status.source, status.pid
            );
            std::iter::once(Finding::ok("answers", what))
                .chain(found)
                .collect()
        }
        Err(error) => vec![unanswered(which, &error)],
    };
    OfMount {
        mount: which.name(),
        findings,
    }
}

/// Asks again where requests are in flight.
async fn stuck(which: &Which, status: &Status) -> Option<Finding> {
    if status.snapshot.in_flight == 0 {
        return None;
    }
    tokio::time::sleep(mount::STUCK).await;
    mount::stuck(status, &which.ask().await.ok()?)
}

/// Why a daemon says nothing.
fn unanswered(which: &Which, error: &anyhow::Error) -> Finding {
    let name = which.name();
    match error.downcast_ref::<NoStatus>() {
        Some(NoStatus::Dead(_)) => Finding::new(
            Severity::Error,
            "dead",
            (
                "its daemon is dead",
                "each call on the mount fails with ENOTCONN",
                format!(
                    "`thrufs umount {name}`; `thrufs mount --replace-dead SOURCE {name}` mounts again"
                ),
            ),
        ),
        Some(NoStatus::OfAnother(_, owner)) => Finding::new(
            Severity::Note,
            "not-asked",
            (
                format!("it is a mount of uid {owner}"),
                "only that user and root may ask its daemon",
                "run doctor as that user, or as root",
            ),
        ),
        Some(NoStatus::Silent(_)) => {
            let number = which.connection().unwrap_or("N");
            Finding::new(
                Severity::Error,
                "silent",
                (
                    "its daemon does not answer",
                    "calls on the mount wait for it: it is stopped (SIGSTOP, a paused container), or hangs",
                    format!(
                        "`echo 1 > /sys/fs/fuse/connections/{number}/abort` frees the callers; then `thrufs umount {name}`"
                    ),
                ),
            )
        }
        None => Finding::new(
            Severity::Warning,
            "not-asked",
            (
                format!("its daemon cannot be asked: {error:#}"),
                "what is wrong with the mount is not known",
                "see the daemon's log",
            ),
        ),
    }
}

fn text(report: &Report) -> String {
    let mut lines: Vec<String> = Vec::new();
    if !report.machine.is_empty() {
        lines.push("this machine".to_owned());
        lines.extend(report.machine.iter().flat_map(lines_of));
    }
    for of in &report.mounts {
        lines.push(plain(&of.mount));
        lines.extend(of.findings.iter().flat_map(lines_of));
    }
    lines.push(match report.worst {
        Severity::Ok => "all is well".to_owned(),
        Severity::Note => "nothing needs to be done".to_owned(),
        worst => {
            let all = report.mounts.iter().flat_map(|of| &of.findings);
            let all = all.chain(&report.machine);
            let count = all.filter(|finding| finding.severity >= Severity::Warning);
            format!(
                "{} to look at; the worst is of severity {worst}",
                count.count()
            )
        }
    });
    lines.join("\n")
}

/// One line of what is well; else why it matters and what to do as well.
fn lines_of(finding: &Finding) -> Vec<String> {
    let mut lines = vec![format!("  {:<9}{}", finding.severity, plain(&finding.what))];
    for (name, said) in [("why:", &finding.why), ("do:", &finding.remedy)] {
        lines.extend(
            said.iter()
                .map(|said| format!("           {name:<5}{}", plain(said))),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(severities: &[Severity]) -> Report {
        let finding = |severity: &Severity| match severity {
            Severity::Ok => Finding::ok("x", "well"),
            severity => Finding::new(*severity, "x", ("what\u{1b}[2J", "reason", "remedy")),
        };
        let findings: Vec<_> = severities.iter().map(finding).collect();
        Report {
            worst: worst(&findings),
            machine: findings,
            mounts: vec![OfMount {
                mount: "/mnt\n".to_owned(),
                findings: vec![Finding::ok("answers", "it answers")],
            }],
        }
    }

    #[test]
    fn code_tells_warnings_from_errors_and_from_failures() {
        let codes = [
            Severity::Ok,
            Severity::Note,
            Severity::Warning,
            Severity::Error,
        ]
        .map(code);
        assert_eq!(codes, [0, 0, 3, 4]);
    }

    #[test]
    fn text_has_one_line_of_what_is_well_and_the_remedy_of_the_rest() {
        let shown = text(&report(&[Severity::Ok, Severity::Error]));
        let wanted = "this machine\n  ok       well\n  error    what?[2J\n           why: reason\n           do:  remedy\n\
            /mnt?\n  ok       it answers\n1 to look at; the worst is of severity error";
        assert_eq!(shown, wanted);
        assert!(text(&report(&[Severity::Ok])).ends_with("all is well"));
        assert!(text(&report(&[Severity::Note])).ends_with("nothing needs to be done"));
    }

    #[test]
    fn report_as_json_has_names_and_severities() {
        let json = serde_json::to_value(report(&[Severity::Warning])).unwrap();
        assert_eq!(json["worst"], "warning");
        assert_eq!(json["machine"][0]["check"], "x");
        assert_eq!(json["machine"][0]["severity"], "warning");
        assert_eq!(json["mounts"][0]["findings"][0]["severity"], "ok");
    }
}
