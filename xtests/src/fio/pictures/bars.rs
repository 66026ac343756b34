//! Horizontal bars: the name on the left, the median as a bar, the spread as a whisker, the numbers
//! on the right. Horizontal, since names of configurations are long and must be readable without turning the page.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::markdown::{number, range};
use super::super::stats::Spread;

pub(super) struct Bar {
    pub(super) name: String,
    /// Grey of the filling: 0 black, 255 white.
    pub(super) shade: u8,
    pub(super) spread: Spread,
    pub(super) disturbed: bool,
}

/// From values to lengths.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// Length of the value plus one, so that zero has none.
    Logarithmic,
}

const ROW: i32 = 24;
const BAR: i32 = 14;
/// Room for the bars themselves.
const LENGTH: i32 = 420;
/// Room for `12345 (12000..13000) ops/s *`.
const NUMBERS: i32 = 230;
const FONT: i32 = 13;
/// A generous width of one character: names must not be cut off where fonts differ.
const CHARACTER: i32 = 8;
const MARGIN: i32 = 8;

pub(super) fn draw(bars: &[Bar], unit: &str, scale: Scale) -> Result<String> {
    let longest = bars.iter().map(|bar| bar.name.chars().count()).max();
    let names = i32::try_from(longest.unwrap_or(0))? * CHARACTER + 2 * MARGIN;
    let size = (
        names + LENGTH + NUMBERS,
        ROW * i32::try_from(bars.len())? + 2 * MARGIN,
    );
    let most = bars
        .iter()
        .map(|bar| apply(scale, bar.spread.max))
        .fold(0.0, f64::max);
    let x = |value: f64| {
        let part = if most > 0.0 {
            apply(scale, value) / most
        } else {
            0.0
        };
        names + (part * f64::from(LENGTH)).round() as i32
    };
    let mut svg = String::new();
    {
        let dimensions = (u32::try_from(size.0)?, u32::try_from(size.1)?);
        let root = SVGBackend::with_string(&mut svg, dimensions).into_drawing_area();
        root.fill(&WHITE)?;
        for (at, bar) in bars.iter().enumerate() {
            let y = MARGIN + ROW * i32::try_from(at)? + ROW / 2;
            draw_bar(&root, bar, y, &x)?;
            root.draw(&Text::new(
                bar.name.clone(),
                (names - MARGIN, y),
                font(HPos::Right),
            ))?;
            let right = x(bar.spread.max) + MARGIN;
            root.draw(&Text::new(numbers(bar, unit), (right, y), font(HPos::Left)))?;
        }
        root.draw(&PathElement::new(
            vec![(names, MARGIN), (names, size.1 - MARGIN)],
            BLACK,
        ))?;
        root.present()?;
    }
    Ok(svg)
}

fn apply(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Logarithmic => value.ln_1p(),
    }
}

fn font(horizontal: HPos) -> TextStyle<'static> {
    let style = TextStyle::from(("sans-serif", FONT).into_font());
    style.pos(Pos::new(horizontal, VPos::Center))
}

fn numbers(bar: &Bar, unit: &str) -> String {
    let mut text = number(bar.spread.median);
    if bar.spread.n > 1 {
        text += &format!(" ({})", range(&bar.spread));
    }
    if !unit.is_empty() {
        text += &format!(" {unit}");
    }
    if bar.disturbed {
        text += " *";
    }
    text
}

fn draw_bar(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    bar: &Bar,
    y: i32,
    x: &dyn Fn(f64) -> i32,
) -> Result<()> {
    let corners = [(x(0.0), y - BAR / 2), (x(bar.spread.median), y + BAR / 2)];
    let fill = RGBColor(bar.shade, bar.shade, bar.shade).filled();
    root.draw(&Rectangle::new(corners, fill))?;
    root.draw(&Rectangle::new(corners, BLACK.stroke_width(1)))?;
    if bar.spread.n > 1 {
        let (low, high) = (x(bar.spread.min), x(bar.spread.max));
        // A white edge keeps the whisker visible on a dark bar.
        root.draw(&PathElement::new(
            vec![(low, y), (high, y)],
            WHITE.stroke_width(4),
        ))?;
        root.draw(&PathElement::new(
            vec![(low, y), (high, y)],
            BLACK.stroke_width(2),
        ))?;
        for end in [low, high] {
            let tick = vec![(end, y - 4), (end, y + 4)];
            root.draw(&PathElement::new(tick, BLACK.stroke_width(2)))?;
        }
    }
    Ok(())
}
