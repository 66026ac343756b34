//! `xtests rules`: the write rules' table, and the page-lock models with their counterexamples.
//!
//! The crate that states the rules computes everything on request; nothing is stored here.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use thrufs_rules::models::{MODELS, Model, Variant};
use thrufs_rules::table::{RECORDS, SHAPES, cold_cell, writes_per_record};
use thrufs_rules::{Exploration, Limits, Unit, WriteRule};
use xtests::support::stdout::print;

/// Show what the write rules and the page-lock models say.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// WRITE requests per write(2), by rule and shape, and per sequential record.
    Table {
        /// Largest WRITE in bytes, as negotiated.
        #[arg(long, default_value_t = 1 << 20)]
        max_write: u32,
        /// Most pages in a WRITE, as negotiated.
        #[arg(long, default_value_t = 256)]
        max_pages: u16,
    },
    /// Explore every model: verdict, states and time of each variant.
    List,
    /// Explore one variant and print its counterexample, if it has one.
    Show {
        /// Model, M1 to M10.
        model: String,
        /// Variant; without it, every variant of the model.
        #[arg(long)]
        variant: Option<String>,
    },
}

/// Fails if a model's verdict is not the one that its header claims.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut text = String::new();
    let code = match &args.command {
        Command::Table {
            max_write,
            max_pages,
        } => {
            table(&mut text, &Limits::new(*max_write, *max_pages)?, args.json)?;
            ExitCode::SUCCESS
        }
        Command::List => list(&mut text, args.json)?,
        Command::Show { model, variant } => {
            let model = find_model(model)?;
            show(
                &mut text,
                model,
                &find_variants(model, variant.as_deref())?,
                args.json,
            )?
        }
    };
    print(&text)?;
    Ok(code)
}

fn table(text: &mut String, limits: &Limits, json: bool) -> Result<()> {
    if json {
        return print_json(text, &table_json(limits)?);
    }
    let heading = WriteRule::ALL.map(|rule| format!("{rule:>9}")).concat();
    writeln!(
        text,
        "WRITEs per write(2), nothing cached, file longer than the write; +nR: READs; max_write {}, \
         max_pages {}\n\n{:26}{heading}",
        limits.max_write(),
        limits.max_pages(),
        "write"
    )?;
    for shape in SHAPES {
        let mut row = format!("{:26}", shape.name);
        for rule in WriteRule::ALL {
            row += &format!("{:>9}", cold_cell(rule, shape, limits)?);
        }
        writeln!(text, "{row}")?;
    }
    writeln!(
        text,
        "\nWRITEs per sequential record, new file\n\n{:26}{heading}",
        "record"
    )?;
    for size in RECORDS {
        let mut row = format!("{:26}", format!("{size} B"));
        for rule in WriteRule::ALL {
            row += &format!("{:>9.2}", writes_per_record(rule, size, limits)?);
        }
        writeln!(text, "{row}")?;
    }
    Ok(())
}

fn table_json(limits: &Limits) -> Result<Value> {
    let (mut cells, mut records) = (Vec::new(), Vec::new());
    for rule in WriteRule::ALL {
        for shape in SHAPES {
            let cell = cold_cell(rule, shape, limits)?;
            cells.push(json!({ "rule": rule, "shape": shape, "requests": cell }));
        }
        for size in RECORDS {
            let writes = writes_per_record(rule, size, limits)?;
            records.push(json!({ "rule": rule, "size": size, "writes_per_record": writes }));
        }
    }
    Ok(json!({ "limits": limits, "cold": cells, "sequential": records }))
}

fn list(text: &mut String, json: bool) -> Result<ExitCode> {
    let mut results = Vec::new();
    let mut as_claimed = true;
    if !json {
        writeln!(
            text,
            "     {:30} {:8} {:>8} {:10} {:>8}",
            "variant", "verdict", "visited", "", "time"
        )?;
    }
    for model in &MODELS {
        if !json {
            writeln!(
                text,
                "{}   {}\n     bounds: {}",
                model.id, model.title, model.bounds
            )?;
        }
        for variant in model.variants {
            let (found, value) = explore(model, variant);
            as_claimed &= found.verdict() == variant.expected;
            if !json {
                writeln!(text, "{}", row(variant, &found, &value))?;
            }
            results.push(value);
        }
    }
    if json {
        print_json(text, &Value::Array(results))?;
    } else {
        writeln!(
            text,
            "\nA variant that passes was explored wholly, one that fails up to its first \
             counterexample (loom: wholly). Show one: xtests rules show M3 --variant if"
        )?;
    }
    Ok(exit_code(as_claimed))
}

fn row(variant: &Variant, found: &Exploration, value: &Value) -> String {
    let unit = match found.unit {
        Unit::States => "states",
        Unit::Executions => "executions",
    };
    let verdict = found.verdict();
    let note = if verdict == variant.expected {
        ""
    } else {
        "  NOT AS CLAIMED"
    };
    let (name, verdict, visited) = (variant.name, verdict.name(), found.visited);
    format!(
        "     {name:30} {verdict:8} {visited:>8} {unit:10} {:>5} ms{note}",
        value["milliseconds"]
    )
}

fn show(text: &mut String, model: &Model, variants: &[&Variant], json: bool) -> Result<ExitCode> {
    let mut as_claimed = true;
    let mut results = Vec::new();
    for variant in variants {
        let (found, value) = explore(model, variant);
        as_claimed &= found.verdict() == variant.expected;
        if !json {
            writeln!(text, "{} {}: {}", model.id, model.title, variant.what)?;
            writeln!(text, "source: {}\nbounds: {}", model.source, model.bounds)?;
            writeln!(text, "{}", row(variant, &found, &value).trim_start())?;
            match &found.counterexample {
                Some(trace) => writeln!(text, "\n{trace}\n")?,
                None => writeln!(text, "no counterexample in the whole space\n")?,
            }
        }
        results.push(value);
    }
    if json {
        print_json(text, &Value::Array(results))?;
    }
    Ok(exit_code(as_claimed))
}

/// Explores the variant; the JSON has the time as well.
fn explore(model: &Model, variant: &Variant) -> (Exploration, Value) {
    let begin = Instant::now();
    let found = variant.explore();
    let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let value = json!({
        "model": model.id,
        "title": model.title,
        "source": model.source,
        "bounds": model.bounds,
        "variant": variant.name,
        "what": variant.what,
        "expected": variant.expected,
        "verdict": found.verdict(),
        "exploration": found,
        "milliseconds": milliseconds,
    });
    (found, value)
}

fn find_model(id: &str) -> Result<&'static Model> {
    let found = MODELS
        .iter()
        .find(|model| model.id.eq_ignore_ascii_case(id));
    found.with_context(|| format!("no model `{id}`: known are M1 to M{}", MODELS.len()))
}

fn find_variants(model: &'static Model, name: Option<&str>) -> Result<Vec<&'static Variant>> {
    let Some(name) = name else {
        return Ok(model.variants.iter().collect());
    };
    match model.variants.iter().find(|variant| variant.name == name) {
        Some(variant) => Ok(vec![variant]),
        None => {
            let known: Vec<_> = model.variants.iter().map(|variant| variant.name).collect();
            bail!(
                "{} has no variant `{name}`: known are {}",
                model.id,
                known.join(", ")
            )
        }
    }
}

fn print_json(text: &mut String, value: &Value) -> Result<()> {
    writeln!(text, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

fn exit_code(as_claimed: bool) -> ExitCode {
    if as_claimed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
