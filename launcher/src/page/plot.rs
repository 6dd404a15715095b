//! A line plot, and the drawing of it that the template `plot.html` writes as SVG.
//!
//! It is drawn here, not by a plotting crate, for what those do not give: colours that are style
//! classes, so that they follow the reader's light or dark; a title and a description that a screen
//! reader speaks; and places that need no font's measures.

use super::axis::{Axis, Scale};
use serde::Serialize;

/// A plot of some series.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// One sentence for who sees such a plot for the first time.
    pub explains: String,
    /// The axis from left to right.
    pub x: Axis,
    /// The axis upwards.
    pub y: Axis,
    /// The series, drawn in this order.
    pub series: Vec<Series>,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// As the legend calls it.
    pub name: String,
    /// x and y, by growing x. At a number that is not finite the line is broken.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub look: Look,
}

impl Series {
    /// A series of `points`.
    pub fn new(
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)>,
        look: Look,
    ) -> Self {
        Self { name: name.into(), points: points.into_iter().collect(), look }
    }
}

/// How a series is drawn. Colour never stands alone: lines that may be confused differ in their
/// dashes or markers as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    colour: Colour,
    stroke: Stroke,
    /// One of [`MARKERS`].
    marker: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    /// One of [`HUES`] that are told apart.
    Hue(usize),
    /// One of [`SHADES`] that have an order.
    Shade(usize),
    /// That of the text.
    Ink,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stroke {
    Solid,
    Dashed,
    Faint,
    None,
}

/// Colours that are told apart, and colours in order; the style sheet has a class for each.
const HUES: usize = 9;
const SHADES: usize = 8;

/// The outlines of the markers, around (0, 0): one for each hue, and a star.
const MARKERS: [&str; HUES + 1] = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-5 4.6 3.2h-9.2z",
    "M0-5 5 0 0 5-5 0z",
    "M0 5 4.6-3.2h-9.2z",
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-3-4.5 0-1.5 3-4.5 4.5-3 1.5 0 4.5 3 3 4.5 0 1.5-3 4.5-4.5 3-1.5 0-4.5-3z",
    "M-4.5-2.5h9v5h-9z",
    "M-4-4.5h8L-4 4.5h8z",
    "M0-8 2 -2.8 7.6-2.5 3.2 1 4.7 6.5 0 3.4-4.7 6.5-3.2 1-7.6-2.5-2-2.8z",
];
const STAR: usize = HUES;

impl Look {
    /// The look of the `index`th of things that have no order.
    pub fn hue(index: usize) -> Self {
        let stroke = if index < HUES { Stroke::Solid } else { Stroke::Dashed };
        Self { colour: Colour::Hue(index % HUES), stroke, marker: None }
    }

    /// The look of the `index`th of `count` things in order.
    pub fn shade(index: usize, count: usize) -> Self {
        let shade = index * (SHADES - 1) / count.saturating_sub(1).max(1);
        // Neighbours are near in colour, so every second is dashed.
        let stroke = if index.is_multiple_of(2) { Stroke::Solid } else { Stroke::Dashed };
        Self { colour: Colour::Shade(shade.min(SHADES - 1)), stroke, marker: None }
    }

    /// A star in the colour of the text.
    pub fn ink() -> Self {
        Self { colour: Colour::Ink, stroke: Stroke::None, marker: Some(STAR) }
    }

    /// With dashes, and hollow markers.
    pub fn dashed(self) -> Self {
        Self { stroke: Stroke::Dashed, ..self }
    }

    /// Pale, for what another series smooths.
    pub fn faint(self) -> Self {
        Self { stroke: Stroke::Faint, ..self }
    }

    /// With markers: those that go with the colour.
    pub fn marked(self) -> Self {
        let marker = match self.colour {
            Colour::Hue(index) | Colour::Shade(index) => index,
            Colour::Ink => STAR,
        };
        Self { marker: Some(marker), ..self }
    }

    fn classes(self) -> String {
        let colour = match self.colour {
            Colour::Hue(index) => format!("hue-{index}"),
            Colour::Shade(index) => format!("shade-{index}"),
            Colour::Ink => "ink".to_owned(),
        };
        let stroke = match self.stroke {
            Stroke::Solid => "solid",
            Stroke::Dashed => "dashed",
            Stroke::Faint => "faint",
            Stroke::None => "none",
        };
        format!("{colour} {stroke}")
    }
}

/// Points of a series up to which each is marked.
const ALL_MARKED: usize = 12;
/// Markers of a longer one, about.
const SOME_MARKED: usize = 6;

/// The size of every drawing, in units of its own: it is as wide as the page has room for.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 340.0;
/// Where the axes are; what is outside of them is for their numbers.
const LEFT: f64 = 66.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = HEIGHT - 48.0;

/// A plot, with places instead of numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drawing {
    title: String,
    explains: String,
    /// What is to be seen, in words.
    description: String,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: DrawnAxis,
    y: DrawnAxis,
    series: Vec<DrawnSeries>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct DrawnAxis {
    label: String,
    ticks: Vec<DrawnTick>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct DrawnTick {
    at: String,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct DrawnSeries {
    name: String,
    classes: String,
    /// The line in SVG's path syntax; empty without a line.
    path: String,
    /// The outline of its marker; empty where it has none.
    marker: &'static str,
    dots: Vec<Dot>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Dot {
    x: String,
    y: String,
    /// What it says when it is pointed at.
    text: String,
}

impl Plot {
    /// The drawing; `None` if there is no point to draw.
    pub fn draw(&self) -> Option<Drawing> {
        let points = || {
            self.series
                .iter()
                .flat_map(|series| &series.points)
                .filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let x = Scale::from_values(
            self.x.spread,
            self.series.iter().any(|series| series.look.marker.is_some()),
            points().map(|point| point.0),
        )?;
        let y = Scale::from_values(self.y.spread, true, points().map(|point| point.1))?;
        let place = |point: &(f64, f64)| {
            Some((
                LEFT + (RIGHT - LEFT) * x.place(point.0)?,
                BOTTOM - (BOTTOM - TOP) * y.place(point.1)?,
            ))
        };
        let drawn = |axis: &Axis, scale: &Scale, at: &dyn Fn(f64) -> f64| DrawnAxis {
            label: axis.label.clone(),
            ticks: scale
                .ticks()
                .iter()
                .filter_map(|tick| {
                    Some(DrawnTick {
                        at: coordinate(at(scale.place(tick.value)?)),
                        text: tick.text.clone(),
                    })
                })
                .collect(),
        };
        Some(Drawing {
            title: self.title.clone(),
            explains: self.explains.clone(),
            description: self.description(),
            width: WIDTH,
            height: HEIGHT,
            left: LEFT,
            right: RIGHT,
            top: TOP,
            bottom: BOTTOM,
            x: drawn(&self.x, &x, &|share| LEFT + (RIGHT - LEFT) * share),
            y: drawn(&self.y, &y, &|share| BOTTOM - (BOTTOM - TOP) * share),
            series: self.series.iter().map(|series| series.draw(place)).collect(),
        })
    }

    /// `loss over step. training loss: from 4.85 to 3.31, between 3.2 and 5.06.`
    fn description(&self) -> String {
        let mut text = format!("{} over {}.", self.y.label, self.x.label);
        for series in &self.series {
            let values: Vec<f64> = series
                .points
                .iter()
                .map(|point| point.1)
                .filter(|value| value.is_finite())
                .collect();
            let (Some(first), Some(last)) = (values.first(), values.last()) else { continue };
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            text += &match values.len() {
                1 => format!(" {}: {}.", series.name, short(*first)),
                _ => format!(
                    " {}: from {} to {}, between {} and {}.",
                    series.name,
                    short(*first),
                    short(*last),
                    short(least),
                    short(most)
                ),
            };
        }
        text
    }
}

impl Series {
    fn draw(&self, place: impl Fn(&(f64, f64)) -> Option<(f64, f64)>) -> DrawnSeries {
        let marker = self.look.marker.map_or("", |index| MARKERS[index]);
        let places: Vec<Option<(f64, f64)>> = self.points.iter().map(place).collect();
        let path =
            if self.look.stroke == Stroke::None { String::new() } else { path(&thinned(&places)) };
        let dots = self.marked().filter_map(|index| {
            let ((x, y), (left, top)) = (self.points[index], places[index]?);
            let text = format!("{}: {} at {}", self.name, short(y), short(x));
            Some(Dot { x: coordinate(left), y: coordinate(top), text })
        });
        DrawnSeries {
            name: self.name.clone(),
            classes: self.look.classes(),
            path,
            marker,
            dots: dots.collect(),
        }
    }
}

impl Series {
    /// The points with markers: all, or of many a few, not at the same places for every look.
    fn marked(&self) -> impl Iterator<Item = usize> {
        let count = self.points.len();
        let (first, every) = match self.look.marker {
            None => (count, 1),
            Some(_) if count <= ALL_MARKED => (0, 1),
            Some(marker) => (marker * count / SOME_MARKED / MARKERS.len(), count / SOME_MARKED),
        };
        (first..count).step_by(every)
    }
}

/// A line through `places`, interrupted where a place is missing.
fn path(places: &[Option<(f64, f64)>]) -> String {
    let mut path = String::new();
    let mut lifted = true;
    for place in places {
        if let Some((x, y)) = place {
            path.push(if lifted { 'M' } else { 'L' });
            path += &format!("{} {}", coordinate(*x), coordinate(*y));
        }
        lifted = place.is_none();
    }
    path
}

/// Of long lines, the first, the lowest, the highest and the last point in each column as wide as a
/// unit: what can be seen, however long they are.
fn thinned(places: &[Option<(f64, f64)>]) -> Vec<Option<(f64, f64)>> {
    if places.len() <= 2 * WIDTH as usize {
        return places.to_vec();
    }
    let column = |place: &Option<(f64, f64)>| place.map(|(x, _)| x.round() as i64);
    let mut thinned = Vec::new();
    for part in places.chunk_by(|a, b| column(a) == column(b)) {
        let height = |index: &usize| part[*index].map_or(0.0, |(_, y)| y);
        let by_height = |a: &usize, b: &usize| height(a).total_cmp(&height(b));
        let mut chosen = [
            Some(0),
            (0..part.len()).min_by(by_height),
            (0..part.len()).max_by(by_height),
            part.len().checked_sub(1),
        ];
        chosen.sort();
        let mut chosen: Vec<usize> = chosen.into_iter().flatten().collect();
        chosen.dedup();
        thinned.extend(chosen.into_iter().map(|index| part[index]));
    }
    thinned
}

/// A tenth of a unit is finer than a screen shows.
fn coordinate(value: f64) -> String {
    format!("{value:.1}")
}

/// A number in four digits: `3.312`, `147`, `6.36e-8`.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.2e}"),
        size => format!("{value:.*}", (3 - size.log10().floor() as i32).max(0) as usize),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::page::axis::Spread;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        Plot {
            title: "loss".into(),
            explains: "how well".into(),
            x: Axis::new(Spread::Even, "step"),
            y: Axis::new(Spread::Even, "loss"),
            series: vec![Series::new("training", points, Look::hue(0))],
        }
    }

    #[test]
    fn the_corners_of_the_data_are_the_corners_of_the_frame() {
        let drawing = plot(vec![(0.0, 1.0), (10.0, 3.0)]).draw().unwrap();
        assert_eq!(drawing.series[0].path, "M66.0 292.0L616.0 34.0");
        assert_eq!(
            drawing.description,
            "loss over step. training: from 1.000 to 3.000, between 1.000 and 3.000."
        );
    }

    #[test]
    fn a_line_is_broken_where_there_is_no_number() {
        let drawing =
            plot(vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 2.0), (3.0, 3.0)]).draw().unwrap();
        assert_eq!(drawing.series[0].path.matches('M').count(), 2);
        assert_eq!(plot(vec![(0.0, f64::NAN)]).draw(), None);
    }

    #[test]
    fn a_long_line_is_thinned_and_keeps_its_peaks() {
        let count = 100_000;
        let points = (0..count)
            .map(|step| (f64::from(step), if step == 77_777 { 50.0 } else { f64::from(step % 7) }));
        let drawing = plot(points.collect()).draw().unwrap();
        let path = &drawing.series[0].path;
        assert!(path.len() < 50_000, "{}", path.len());
        assert!(path.contains(&format!(" {TOP:.1}")), "the peak is gone");
        assert!(
            path.starts_with("M66.0 ") && path.rsplit('L').next().unwrap().starts_with("616.0 ")
        );
    }

    #[test]
    fn series_are_told_apart_without_colour_too() {
        let looks: Vec<String> = (0..2 * HUES).map(|index| Look::hue(index).classes()).collect();
        assert!(
            (0..looks.len()).all(|one| (0..one).all(|other| looks[one] != looks[other])),
            "{looks:?}"
        );
        assert_eq!(Look::shade(2, 3).classes(), "shade-7 solid");
        assert_eq!(
            (Look::shade(0, 1).classes(), Look::shade(1, 3).classes()),
            ("shade-0 solid".into(), "shade-3 dashed".into())
        );
        assert_ne!(Look::hue(1).marked().marker, Look::hue(2).marked().marker);
    }

    #[test]
    fn all_of_few_points_are_marked_and_a_few_of_many() {
        let marked = |count: u32, look: Look| {
            let series = Series::new("", (0..count).map(|x| (f64::from(x), 0.0)), look);
            series.marked().collect::<Vec<_>>()
        };
        assert_eq!(marked(3, Look::hue(1).marked()), [0, 1, 2]);
        assert_eq!(marked(30, Look::hue(0).marked()), [0, 5, 10, 15, 20, 25]);
        assert_eq!(marked(30, Look::hue(7).marked()), [3, 8, 13, 18, 23, 28]);
        assert!(marked(3, Look::hue(1)).is_empty());
    }

    #[test]
    fn short_numbers_have_four_digits() {
        assert_eq!(
            [3.311981, 147.26, 0.0012345, 6.357e-8, 0.0].map(short),
            ["3.312", "147.3", "0.001234", "6.36e-8", "0"]
        );
    }
}
