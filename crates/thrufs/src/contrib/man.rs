//! Manual pages: what clap knows of a command, with the sections that it does not know of.
//!
//! Invariant: options, values and subcommands come from the command line's definition alone; [`SECTIONS`] has
//! what else man-pages(7) asks for. Not the whole page of clap_mangen: its synopsis leaves out the values, and its
//! `.TH` without a date takes the version for one.

mod sections;

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use sections::SECTIONS;
pub(super) use sections::{HELPER, example_lines, referred};

/// Of the last change that a reader of the pages sees.
const DATE: &str = "2026-11-30";
const SOURCE: &str = concat!("thrufs ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "System Administration";

/// The page of a subcommand, or of the program.
pub(super) fn page(command: &Command, name: &str) -> String {
    // clap keeps names for ever.
    let shown = command
        .clone()
        .name(&*name.to_owned().leak())
        .bin_name(name.replacen('-', " ", 1));
    let man = Man::new(shown.clone());
    let mut text = title(name);
    text += &rendered(|out| man.render_name_section(out));
    text += &synopsis(&shown);
    text += &rendered(|out| man.render_description_section(out));
    let options = rendered(|out| man.render_options_section(out));
    text += &options_section(&options);
    if shown.get_subcommands().any(|sub| !sub.is_hide_set()) {
        let without_help = shown.clone().mut_subcommand("help", |help| help.hide(true));
        text += &rendered(|out| {
            Man::new(without_help)
                .section("8")
                .render_subcommands_section(out)
        });
    }
    if let Some(notes) = shown.get_after_help() {
        let mut roff = Roff::new();
        roff.control("SH", ["NOTES"]);
        notes.to_string().lines().for_each(|line| {
            roff.text([roman(line)]);
        });
        text += &text_of(&roff);
    }
    text + &further(name)
}

/// The page of the helper of mount(8), which has the options of `thrufs mount`.
pub(super) fn helper_page() -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!(
        "{HELPER} - mount helper of thrufs, for mount(8) and fstab(5)"
    ))]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([
        bold(HELPER),
        roman(" "),
        italic("SOURCE MOUNTPOINT"),
        roman(" ["),
        bold("-fnrsvw"),
        roman("] ["),
        bold("-o "),
        italic("OPTION,..."),
        roman("]"),
    ]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "mount(8) runs it for file systems of type fuse.thrufs. The helper mounts SOURCE as thrufs-mount(8) does, and ends when \
        the mount answers.",
    )]);
    roff.control("SH", ["OPTIONS"]);
    for (option, what) in [
        ("-f", "Fake: check everything, mount nothing."),
        ("-n, -v", "Accepted, and without effect."),
        ("-r, -w", "As -o ro and -o rw."),
        (
            "-s",
            "Sloppy: leave out options that are unknown, with a warning.",
        ),
    ] {
        entry(&mut roff, option, what);
    }
    roff.control("TP", []);
    roff.text([bold("-o "), italic("OPTION,...")]);
    roff.text([roman(
        "Flags of mount(8), and each long option of thrufs-mount(8) without its dashes: cache=never,attr_timeout=0.5. An \
        unknown one is an error that names the nearest ones.",
    )]);
    title(HELPER) + &text_of(&roff) + &further(HELPER)
}

/// The first line, and before it what the others need.
fn title(name: &str) -> String {
    let mut roff = Roff::new();
    let name = name.to_uppercase();
    roff.control("TH", [name.as_str(), "8", DATE, SOURCE, MANUAL]);
    roff.render()
}

fn text_of(roff: &Roff) -> String {
    rendered(|out| roff.to_writer(out))
}

/// A part of a page, without what [`title`] has already.
fn rendered(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut text = Vec::new();
    render(&mut text).expect("memory can be written");
    let text = String::from_utf8(text).expect("roff is text");
    let lines = text.lines().filter(|line| !is_apostrophe(line));
    // `\\` is for macros; in text mandoc calls it undefined.
    let text: String = lines
        .map(|line| format!("{}\n", line.replace("\\\\", "\\e")))
        .collect();
    // An empty line, as clap_mangen writes it before possible values.
    text.replace(".br\n\n.br\n", ".sp\n")
}

/// The lines that define how an apostrophe is written.
fn is_apostrophe(line: &str) -> bool {
    line.starts_with(".ie \\n(.g .ds Aq") || line.starts_with(".el .ds Aq")
}

/// Groups of options are subsections of one section.
fn options_section(options: &str) -> String {
    let body = options.strip_prefix(".SH OPTIONS\n").unwrap_or(options);
    format!(".SH OPTIONS\n{}", body.replace(".SH ", ".SS "))
}

fn synopsis(command: &Command) -> String {
    let mut line = vec![bold(command.get_bin_name().unwrap_or("thrufs"))];
    let (positionals, options): (Vec<&Arg>, Vec<&Arg>) = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .partition(|arg| arg.is_positional());
    for option in options {
        line.push(roman(" ["));
        line.extend(option_with_value(option));
        line.push(roman("]"));
    }
    for arg in positionals {
        let optional = !arg.is_required_set();
        line.push(roman(if optional { " [" } else { " " }));
        line.push(italic(value_name(arg)));
        line.push(roman(if optional { "]" } else { "" }));
    }
    if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
        line.extend([roman(" ["), italic("COMMAND"), roman(" ...]")]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    // Neither words that are torn apart, nor gaps between them.
    roff.control("nh", []);
    roff.control("ad", ["l"]);
    roff.text(line);
    roff.control("ad", ["b"]);
    roff.control("hy", []);
    text_of(&roff)
}

fn value_name(arg: &Arg) -> String {
    let names = arg.get_value_names();
    names.map_or_else(
        || arg.get_id().to_string().to_uppercase(),
        |names| names.join(" "),
    )
}

fn option_with_value(option: &Arg) -> Vec<Inline> {
    let short = option.get_short().map(|short| format!("-{short}"));
    let long = option.get_long().map(|long| format!("--{long}"));
    let names = [short, long].into_iter().flatten().collect::<Vec<_>>();
    let mut shown = vec![bold(names.join("|"))];
    let takes = option.get_num_args().filter(|range| range.takes_values());
    match takes.map(|range| range.min_values()) {
        None => {}
        Some(0) => shown.extend([roman("[="), italic(value_name(option)), roman("]")]),
        Some(_) => shown.extend([roman(" "), italic(value_name(option))]),
    }
    shown
}

fn entry(roff: &mut Roff, term: &str, what: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]);
    roff.text([roman(what)]);
}

/// What follows the options.
fn further(name: &str) -> String {
    let sections = SECTIONS.iter().find(|sections| sections.page == name);
    let sections = sections.unwrap_or_else(|| panic!("SECTIONS has no row for {name}(8)"));
    let mut roff = Roff::new();
    for (heading, entries) in [
        ("EXIT STATUS", sections.exit_status),
        ("FILES", sections.files),
    ] {
        if !entries.is_empty() {
            roff.control("SH", [heading]);
        }
        for (term, what) in entries {
            entry(&mut roff, term, what);
        }
    }
    roff.control("SH", ["EXAMPLES"]);
    for (index, (what, lines)) in sections.examples.iter().enumerate() {
        if index > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*what)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        lines.lines().for_each(|line| {
            roff.text([roman(line)]);
        });
        roff.control("fi", []);
        roff.control("RE", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    for (index, other) in sections.see_also.iter().enumerate() {
        let (page, section) = other.split_once('(').expect("PAGE(SECTION)");
        let comma = if index + 1 == sections.see_also.len() {
            ""
        } else {
            ","
        };
        roff.text([bold(page), roman(format!("({section}{comma}"))]);
    }
    text_of(&roff)
}
