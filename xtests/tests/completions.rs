//! What bash, zsh and fish offer when a command line of `thrufs` is being typed.
//!
//! The shells themselves complete: bash and zsh on a terminal (script(1)) by the key that inserts all that they would
//! offer, fish by `complete -C`. Not by calling the completion function: bash, for one, breaks words at `=` before it
//! calls it, and what a user sees is what comes out at the end.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use xtests::support::command::{said, succeed};
use xtests::support::install;
use xtests::support::mount::is_default_run;
use xtests::support::{Outcome, case, missing, mounted};

/// A command line that is being typed, and what must be offered for its last word.
#[derive(Clone, Copy)]
struct Case<'a> {
    typed: &'a str,
    offered: &'a [&'a str],
    /// Hidden, or of another subcommand.
    absent: &'a [&'a str],
}

const CASES: &[Case<'static>] = &[
    Case {
        typed: "thrufs ",
        offered: &["mount", "umount", "device", "status", "demo"],
        absent: &["reproduce"],
    },
    Case {
        typed: "thrufs st",
        offered: &["status"],
        absent: &["mount"],
    },
    Case {
        typed: "thrufs mount --",
        offered: &["--cache", "--passthrough", "--watch"],
        absent: &["--fault", "--socket-path"],
    },
    Case {
        typed: "thrufs mount --cac",
        offered: &["--cache"],
        absent: &["--watch"],
    },
    Case {
        typed: "thrufs mount --cache ",
        offered: &["never", "auto", "always", "metadata"],
        absent: &["--watch"],
    },
    Case {
        typed: "thrufs mount --cache=a",
        offered: &["auto", "always"],
        absent: &["never"],
    },
    Case {
        typed: "thrufs mount -o ",
        offered: &["ro", "cache", "watch", "nosuid"],
        absent: &["fault"],
    },
    Case {
        typed: "thrufs mount -o ro,cache=m",
        offered: &["metadata"],
        absent: &["never"],
    },
    Case {
        typed: "thrufs device --",
        offered: &["--socket-path", "--shared-dir"],
        absent: &["--fault", "--passthrough", "--foreground"],
    },
    Case {
        typed: "thrufs umount --",
        offered: &["--lazy"],
        absent: &["--cache"],
    },
];

/// [`CASES`], and the mount points of umount, of which there is one.
fn with_cases(shell: &str, body: impl FnOnce(&[Case<'_>]) -> Outcome) -> Outcome {
    case(|| {
        if !is_default_run() {
            let once = "nothing: completions are tested once, with the defaults";
            return Err(missing(once));
        }
        install::apt(&[(shell, shell), ("script", "bsdutils")])?;
        let mount = mounted()?;
        let (point, source) = (shown(mount.dir()), shown(&mount.source("")));
        let typed = format!("thrufs umount {}/", shown(mount.scratch().path()));
        let of_umount = Case {
            typed: &typed,
            offered: &[&point],
            absent: &[&source],
        };
        let mut cases: Vec<Case<'_>> = CASES.to_vec();
        cases.push(of_umount);
        body(&cases)?;
        mount.unmount()
    })
}

/// As a directory is offered.
fn shown(path: &Path) -> String {
    path.display().to_string().trim_end_matches('/').to_owned()
}

fn file(name: &str) -> String {
    let path = install::root().join("contrib/completions").join(name);
    path.display().to_string()
}

/// Fails with all that is wrong.
fn judge(cases: &[Case<'_>], offers: &[BTreeSet<String>], all: &str) -> Outcome {
    let mut wrong = String::new();
    for (case, offers) in cases.iter().zip(offers) {
        let has = |word: &&&str| offers.contains(**word);
        let lacking: Vec<_> = case.offered.iter().filter(|word| !has(word)).collect();
        let extra: Vec<_> = case.absent.iter().filter(has).collect();
        if !lacking.is_empty() || !extra.is_empty() {
            wrong += &format!(
                "{:?}: lacks {lacking:?}, and must not have {extra:?}: {offers:?}\n",
                case.typed
            );
        }
    }
    ensure!(wrong.is_empty(), "{wrong}{all}");
    Ok(())
}

/// The word that is offered: without the option before its `=`, and without what follows it.
fn word(offer: &str) -> String {
    let value = offer.rsplit_once('=').map_or(offer, |(_, value)| value);
    let word = if value.is_empty() { offer } else { value };
    word.trim_end_matches(['=', '/', ',']).to_owned()
}

/// Types every case into a shell on a terminal: after `start`, `key` inserts all offers for the last word, and what is
/// on the line then is printed by a function, a word a line, after the number of the case.
fn typed_into(
    shell: &str,
    start: &str,
    key: &str,
    cases: &[Case<'_>],
) -> Result<(Vec<BTreeSet<String>>, String)> {
    let mut input =
        format!(" {start}\n row() {{ local n=$1; shift; printf \"@$n %s\\n\" \"$@\"; }}\n");
    for (number, case) in cases.iter().enumerate() {
        // ^A: to the beginning of the line.
        input += &format!("{}{key}\x01row {number} \n", case.typed);
    }
    input += "exit 0\n";
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--command", shell, "/dev/null"]);
    terminal.env("TERM", "dumb");
    terminal.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = terminal.stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(input.as_bytes())?;
    let done = child.wait_with_output()?;
    drop(stdin);
    let text = said(&done);
    let mut offers = vec![BTreeSet::new(); cases.len()];
    for line in text.lines() {
        let row = line.trim_end().strip_prefix('@');
        let row = row.and_then(|row| row.split_once(' '));
        let Some((number, offer)) = row else { continue };
        let number: usize = number.parse().with_context(|| line.to_owned())?;
        let offers = offers.get_mut(number).with_context(|| line.to_owned())?;
        offers.insert(word(offer));
    }
    Ok((offers, text))
}

#[test]
fn completion_in_bash_offers_what_fits_and_nothing_hidden() -> Outcome {
    with_cases("bash", |cases| {
        let start = format!(". {}", file("thrufs.bash"));
        let shell = "bash --norc --noprofile -i";
        let (offers, text) = typed_into(shell, &start, "\x1b*", cases)?;
        judge(cases, &offers, &text)
    })
}

#[test]
fn completion_in_zsh_offers_what_fits_and_nothing_hidden() -> Outcome {
    with_cases("zsh", |cases| {
        let start = format!(
            "bindkey -e; fpath=({} $fpath); autoload -Uz compinit; compinit -D -u; \
             zle -C all-matches complete-word _generic; bindkey '^Xa' all-matches; \
             zstyle ':completion:all-matches::::' completer _all_matches _complete; \
             zstyle ':completion:all-matches:*' insert true",
            file("")
        );
        let (offers, text) = typed_into("zsh -f -i", &start, "\x18a", cases)?;
        judge(cases, &offers, &text)
    })
}

#[test]
fn completion_in_fish_offers_what_fits_and_nothing_hidden() -> Outcome {
    with_cases("fish", |cases| {
        let mut offers = Vec::new();
        for case in cases {
            let mut fish = Command::new("fish");
            fish.args(["--no-config", "--command"]);
            let asked = "source $argv[1]; complete -C $argv[2]";
            let text = succeed(fish.args([asked, &file("thrufs.fish"), case.typed]))?;
            let first = |line: &str| word(line.split('\t').next().unwrap_or_default());
            offers.push(text.lines().map(first).collect());
        }
        judge(cases, &offers, "")
    })
}
