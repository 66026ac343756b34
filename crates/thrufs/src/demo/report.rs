//! Lines of the demo's report.

use crate::stdout::print;

/// One line of the report.
pub(super) fn done(what: &str) -> anyhow::Result<()> {
    say(&format!("  ok  {what}"))
}

/// Prints a line.
pub(super) fn say(line: &str) -> anyhow::Result<()> {
    print(line)
}

/// A name and its values, over as many lines as it takes.
pub(super) fn say_wrapped(line: &str) -> anyhow::Result<()> {
    const WIDTH: usize = 78;
    const INDENT: usize = 18;
    if line.len() + 2 <= WIDTH {
        return say(&format!("  {line}"));
    }
    let mut current = String::from(" ");
    for word in line.split(' ') {
        if current.len() > INDENT && current.len() + 1 + word.len() > WIDTH {
            say(&current)?;
            current = " ".repeat(INDENT - 1);
        }
        current.push(' ');
        current.push_str(word);
    }
    say(&current)
}
