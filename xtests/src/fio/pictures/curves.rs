//! Latency by percentile, both axes logarithmic: to the right each nine takes as much room as the
//! one before, so that the slowest of ten thousand is as visible as the median.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) struct Curve {
    pub(super) name: String,
    pub(super) dark: bool,
    /// Percentile and nanoseconds, ascending.
    pub(super) points: Vec<(f64, f64)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const LEFT: i32 = 70;
const TOP: i32 = 12;
const PLOT: (i32, i32) = (460, 300);
const BOTTOM: i32 = 36;
const FONT: i32 = 12;
const CHARACTER: i32 = 8;
/// Between two names.
const LINE: i32 = 15;
/// Ticks on the axis.
const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];
/// How many marks there are.
const MARKS: usize = 10;
/// The nines that fit.
const NINES: f64 = 4.0;

/// From percentile and nanoseconds to a point of the picture.
struct Axes {
    least: f64,
    most: f64,
}

impl Axes {
    fn of(curves: &[Curve]) -> Self {
        let values = || {
            curves
                .iter()
                .flat_map(|curve| curve.points.iter().map(|point| point.1))
        };
        let least = values().fold(f64::INFINITY, f64::min).max(1.0);
        let most = values().fold(0.0, f64::max);
        // Whole decades: there is always a line above and one below.
        Self {
            least: 10f64.powf(least.log10().floor()),
            most: 10f64.powf((most * 1.0001).log10().ceil()),
        }
    }

    fn x(percent: f64) -> i32 {
        let nines = -(1.0 - percent / 100.0).log10();
        LEFT + (nines.clamp(0.0, NINES) / NINES * f64::from(PLOT.0)).round() as i32
    }

    fn y(&self, nanoseconds: f64) -> i32 {
        let part = (nanoseconds / self.least).log10() / (self.most / self.least).log10();
        TOP + PLOT.1 - (part * f64::from(PLOT.1)).round() as i32
    }
}

pub(super) fn draw(curves: &[Curve]) -> Result<String> {
    let longest = curves.iter().map(|curve| curve.name.chars().count()).max();
    let names = i32::try_from(longest.unwrap_or(0))? * CHARACTER + 50;
    let rows = i32::try_from(curves.len())? * LINE;
    let height = TOP + PLOT.1.max(rows) + BOTTOM;
    let size = (
        u32::try_from(LEFT + PLOT.0 + names)?,
        u32::try_from(height)?,
    );
    let axes = Axes::of(curves);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        draw_axes(&root, &axes)?;
        let ends: Vec<i32> = curves.iter().map(|curve| end(curve, &axes).1).collect();
        let labels = apart(&ends, TOP, TOP + PLOT.1.max(rows));
        for (at, curve) in curves.iter().enumerate() {
            draw_curve(&root, &axes, curve, at, labels[at])?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn font(horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let style = TextStyle::from(("sans-serif", FONT).into_font());
    style.pos(Pos::new(horizontal, vertical))
}

/// `17 µs`.
fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.0} µs", n / 1e3),
        n if n < 1e9 => format!("{:.0} ms", n / 1e6),
        n => format!("{:.0} s", n / 1e9),
    }
}

fn draw_axes(root: &Area<'_>, axes: &Axes) -> Result<()> {
    let light = RGBColor(210, 210, 210);
    let (bottom, right) = (TOP + PLOT.1, LEFT + PLOT.0);
    let mut decade = axes.least;
    while decade <= axes.most * 1.01 {
        let y = axes.y(decade);
        root.draw(&PathElement::new(vec![(LEFT, y), (right, y)], light))?;
        root.draw(&Text::new(
            time(decade),
            (LEFT - 6, y),
            font(HPos::Right, VPos::Center),
        ))?;
        decade *= 10.0;
    }
    for percent in PERCENTILES {
        let x = Axes::x(percent);
        root.draw(&PathElement::new(vec![(x, TOP), (x, bottom)], light))?;
        let label = (x, bottom + 5);
        root.draw(&Text::new(
            format!("{percent}%"),
            label,
            font(HPos::Center, VPos::Top),
        ))?;
    }
    let frame = vec![(LEFT, TOP), (LEFT, bottom), (right, bottom)];
    root.draw(&PathElement::new(frame, BLACK))?;
    Ok(())
}

fn end(curve: &Curve, axes: &Axes) -> (i32, i32) {
    let last = curve.points.last().copied().unwrap_or((0.0, axes.least));
    (Axes::x(last.0), axes.y(last.1))
}

/// Places for names near `wanted`: a line apart, in bounds.
fn apart(wanted: &[i32], top: i32, bottom: i32) -> Vec<i32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&at| wanted[at]);
    let mut places = vec![0; wanted.len()];
    let mut free = top;
    for &at in &order {
        places[at] = wanted[at].max(free);
        free = places[at] + LINE;
    }
    // Names pushed below the bottom push the others up.
    let mut limit = bottom;
    for &at in order.iter().rev() {
        places[at] = places[at].min(limit);
        limit = places[at] - LINE;
    }
    places
}

fn draw_curve(root: &Area<'_>, axes: &Axes, curve: &Curve, at: usize, label: i32) -> Result<()> {
    let colour = if curve.dark {
        RGBColor(0, 0, 0)
    } else {
        RGBColor(130, 130, 130)
    };
    let points: Vec<(i32, i32)> = curve
        .points
        .iter()
        .map(|(percent, nanoseconds)| (Axes::x(*percent), axes.y(*nanoseconds)))
        .collect();
    let width = if curve.dark { 2 } else { 1 };
    root.draw(&PathElement::new(
        points.clone(),
        colour.stroke_width(width),
    ))?;
    // Marks where the axis has a line: on every point they would hide each other.
    let marked = curve.points.iter().zip(&points);
    for (_, point) in marked.filter(|((percent, _), _)| PERCENTILES.contains(percent)) {
        draw_mark(root, *point, at, colour)?;
    }
    let (name, last) = (LEFT + PLOT.0 + 30, end(curve, axes));
    root.draw(&PathElement::new(
        vec![last, (name - 14, label)],
        colour.mix(0.5),
    ))?;
    draw_mark(root, (name - 8, label), at, colour)?;
    let text = Text::new(
        curve.name.clone(),
        (name, label),
        font(HPos::Left, VPos::Center),
    );
    root.draw(&text)?;
    Ok(())
}

/// The mark of the curve with this index; marks repeat after ten.
fn draw_mark(root: &Area<'_>, (x, y): (i32, i32), at: usize, colour: RGBColor) -> Result<()> {
    let line = colour.stroke_width(3);
    let square = [(x - 3, y - 3), (x + 4, y + 4)];
    match at % MARKS {
        0 => root.draw(&Circle::new((x, y), 4, colour.filled()))?,
        1 => root.draw(&Rectangle::new(square, WHITE.filled()))?,
        2 => root.draw(&TriangleMarker::new((x, y), 6, colour.filled()))?,
        3 => root.draw(&Cross::new((x, y), 4, colour.stroke_width(2)))?,
        4 => root.draw(&Rectangle::new(square, colour.filled()))?,
        5 => root.draw(&Circle::new((x, y), 4, WHITE.filled()))?,
        6 => root.draw(&TriangleMarker::new((x, y), 6, WHITE.filled()))?,
        7 => root.draw(&PathElement::new(vec![(x, y - 5), (x, y + 5)], line))?,
        8 => root.draw(&PathElement::new(vec![(x - 5, y), (x + 5, y)], line))?,
        _ => root.draw(&Circle::new((x, y), 2, colour.filled()))?,
    }
    // The outline of hollow marks.
    match at % MARKS {
        1 => root.draw(&Rectangle::new(square, colour.stroke_width(1)))?,
        5 => root.draw(&Circle::new((x, y), 4, colour.stroke_width(1)))?,
        6 => root.draw(&TriangleMarker::new((x, y), 6, colour.stroke_width(1)))?,
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apart_keeps_names_a_line_apart_and_inside() {
        let places = apart(&[100, 101, 300, 299, 300], 0, 300);
        let mut sorted = places.clone();
        sorted.sort_unstable();
        assert!(
            sorted.windows(2).all(|pair| pair[1] - pair[0] >= LINE),
            "{places:?}"
        );
        assert!(
            places.iter().all(|place| (0..=300).contains(place)),
            "{places:?}"
        );
        assert!(
            places[0] < places[1],
            "the order of the curves' ends: {places:?}"
        );
    }

    #[test]
    fn axes_hold_every_point_even_of_a_single_value() {
        let curve = Curve {
            name: "x".to_owned(),
            dark: true,
            points: vec![(50.0, 1000.0), (99.99, 1000.0)],
        };
        let axes = Axes::of(&[curve]);
        assert!((TOP..=TOP + PLOT.1).contains(&axes.y(1000.0)));
        assert!(axes.most > axes.least);
    }

    #[test]
    fn time_is_told_in_the_unit_that_fits() {
        assert_eq!(
            [500.0, 2e4, 3e6, 4e9].map(time),
            ["500 ns", "20 µs", "3 ms", "4 s"]
        );
    }
}
