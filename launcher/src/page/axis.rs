//! An axis of a plot: the position of a number, and its labels.

/// How an axis spreads its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Evenly, from the least number to the largest.
    Even,
    /// Evenly, and 0 is shown, so that heights can be compared.
    FromZero,
    /// By their logarithm; what is not above 0 has no place.
    Log,
}

/// An axis as wished for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// What its numbers are, with the unit.
    pub label: String,
    /// How they are spread.
    pub spread: Spread,
}

impl Axis {
    /// An axis of `spread` with `label`.
    pub fn new(spread: Spread, label: impl Into<String>) -> Self {
        Self { label: label.into(), spread }
    }
}

/// A label of an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where.
    pub value: f64,
    /// As it is written.
    pub text: String,
}

/// An axis that knows its range.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<Tick>,
}

/// Ticks that an even axis should have, about.
const TICKS: f64 = 5.0;
/// Ticks that are enough for a logarithmic one.
const ENOUGH: usize = 4;
/// The first digits of its ticks: the coarsest that give enough.
const DIGITS: [&[u32]; 3] = [&[1], &[1, 2, 5], &[1, 2, 3, 4, 5, 6, 8]];

impl Scale {
    /// A scale for `values`; `None` if none of them has a place. A `loose` one begins and ends a
    /// little outside of them, an even one at ticks.
    pub fn from_values(
        spread: Spread,
        loose: bool,
        values: impl Iterator<Item = f64>,
    ) -> Option<Self> {
        let shown =
            values.filter(|value| value.is_finite() && (spread != Spread::Log || *value > 0.0));
        let range = shown.fold(None, |range: Option<(f64, f64)>, value| {
            Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        });
        let (low, high) = range?;
        Some(match spread {
            Spread::Log => Self::log(low, high, loose),
            Spread::FromZero => Self::even(low.min(0.0), high.max(0.0), loose),
            Spread::Even => Self::even(low, high, loose),
        })
    }

    fn even(low: f64, high: f64, loose: bool) -> Self {
        // Of a single number, half as much to both sides.
        let (low, high) = match high - low {
            0.0 if low == 0.0 => (0.0, 1.0),
            0.0 => (low - low.abs() / 2.0, high + high.abs() / 2.0),
            _ => (low, high),
        };
        let step = step(high - low);
        let (low, high) = if loose {
            ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step)
        } else {
            (low, high)
        };
        Self { low, high, log: false, ticks: even_ticks(low, high, step) }
    }

    fn log(low: f64, high: f64, loose: bool) -> Self {
        // A twentieth of the range to both sides; of a single number, half as much and double.
        let beyond = match (high / low).powf(0.05) {
            1.0 => 2.0,
            _ if !loose => 1.0,
            beyond => beyond,
        };
        let (low, high) = (low / beyond, high * beyond);
        let round = DIGITS
            .iter()
            .map(|digits| round_ticks(low, high, digits))
            .find(|ticks| ticks.len() >= ENOUGH);
        // Within a small part of a decade even steps do as well.
        let ticks = round.unwrap_or_else(|| even_ticks(low, high, step(high - low)));
        Self { low, high, log: true, ticks }
    }

    /// The place of `value`, from 0 at the beginning of the axis to 1 at its end; `None` if it has
    /// none.
    pub fn place(&self, value: f64) -> Option<f64> {
        let place = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.is_finite().then_some(place)
    }

    /// The numbers to write, in order.
    pub fn ticks(&self) -> &[Tick] {
        &self.ticks
    }
}

/// The round step, 1, 2 or 5 times a power of ten, that divides `range` into about [`TICKS`].
fn step(range: f64) -> f64 {
    let rough = range / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= rough * 0.999);
    digit.unwrap_or(10.0) * power
}

/// The multiples of `step` from `low` to `high`.
fn even_ticks(low: f64, high: f64, step: f64) -> Vec<Tick> {
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last)
        .map(|count| count as f64 * step)
        .map(|value| Tick { value, text: number(value, step) })
        .collect()
}

/// The numbers from `low` to `high` that are one of `digits` times a power of ten.
fn round_ticks(low: f64, high: f64, digits: &[u32]) -> Vec<Tick> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let written =
        powers.flat_map(|power| digits.iter().map(move |digit| format!("{digit}e{power}")));
    let values = written
        .filter_map(|written| written.parse().ok())
        .filter(|value| (low..=high).contains(value));
    values.map(|value| Tick { value, text: number(value, value) }).collect()
}

/// `value` with the digits that `step` needs: `0.25`, `1500`, `12 000`, `5e-5`.
fn number(value: f64, step: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    // One digit too many in a computed step is no digit that is needed.
    let power = (step.abs() * 1.001).log10().floor();
    let text = match power {
        _ if value.abs() >= 1e6 || power < -4.0 => {
            let text = format!("{:.1e}", value.abs());
            text.replace(".0e", "e")
        }
        _ if power < 0.0 => format!("{:.*}", -power as usize, value.abs()),
        _ => config::units::rate(value.abs()),
    };
    if value < 0.0 { format!("−{text}") } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn written(spread: Spread, loose: bool, values: &[f64]) -> Vec<String> {
        let scale = Scale::from_values(spread, loose, values.iter().copied()).unwrap();
        scale.ticks().iter().map(|tick| tick.text.clone()).collect()
    }

    #[test]
    fn ticks_are_round_and_have_the_digits_they_need() {
        assert_eq!(written(Spread::Even, true, &[3.31, 4.85]), ["3.0", "3.5", "4.0", "4.5", "5.0"]);
        assert_eq!(written(Spread::Even, false, &[1.0, 200.0]), ["50", "100", "150", "200"]);
        assert_eq!(
            written(Spread::FromZero, true, &[9.8e-4]),
            ["0", "0.0002", "0.0004", "0.0006", "0.0008", "0.0010"]
        );
        assert_eq!(
            written(Spread::FromZero, true, &[2e-6, 1e-6]),
            ["0", "5e-7", "1e-6", "1.5e-6", "2e-6"]
        );
        assert_eq!(written(Spread::Even, true, &[-0.3, 0.4]), ["−0.4", "−0.2", "0", "0.2", "0.4"]);
        assert_eq!(
            written(Spread::Even, false, &[0.0, 40_000.0]),
            ["0", "10 000", "20 000", "30 000", "40 000"]
        );
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten_or_what_stands_between() {
        assert_eq!(
            written(Spread::Log, false, &[1.0, 576.0]),
            ["1", "2", "5", "10", "20", "50", "100", "200", "500"]
        );
        assert_eq!(
            written(Spread::Log, false, &[1e-3, 1e3]),
            ["0.001", "0.01", "0.1", "1", "10", "100", "1 000"]
        );
        assert_eq!(written(Spread::Log, false, &[2.0, 8.25]), ["2", "3", "4", "5", "6", "8"]);
        assert_eq!(
            written(Spread::Log, false, &[0.3, 0.5]),
            ["0.30", "0.35", "0.40", "0.45", "0.50"]
        );
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        assert_eq!(
            Scale::from_values(Spread::Even, true, [f64::NAN, f64::INFINITY].into_iter()),
            None
        );
        assert_eq!(Scale::from_values(Spread::Log, true, [0.0, -1.0].into_iter()), None);
        let scale = Scale::from_values(Spread::Log, true, [0.0, 1.0, 10.0].into_iter()).unwrap();
        assert_eq!(
            (scale.place(0.0), scale.place(-1.0), scale.place(f64::NAN)),
            (None, None, None)
        );
    }

    #[test]
    fn one_number_stands_in_the_middle() {
        for spread in [Spread::Even, Spread::Log] {
            let scale = Scale::from_values(spread, false, [7.0].into_iter()).unwrap();
            assert!((scale.place(7.0).unwrap() - 0.5).abs() < 1e-9, "{scale:?}");
        }
        let zero = Scale::from_values(Spread::FromZero, true, [0.0].into_iter()).unwrap();
        assert_eq!(zero.place(0.0), Some(0.0));
    }

    proptest! {
        #[test]
        fn all_numbers_and_a_few_ticks_stand_on_the_axis(values in proptest::collection::vec(1e-9..1e12f64, 1..20), loose: bool) {
            for spread in [Spread::Even, Spread::FromZero, Spread::Log] {
                let scale = Scale::from_values(spread, loose, values.iter().copied()).unwrap();
                let within = |value| scale.place(value).is_some_and(|place| (-1e-9..=1.0 + 1e-9).contains(&place));
                prop_assert!(values.iter().copied().all(within), "{scale:?}");
                prop_assert!(scale.ticks().iter().all(|tick| within(tick.value)), "{scale:?}");
                prop_assert!((2..=25).contains(&scale.ticks().len()), "{scale:?}");
            }
        }
    }
}
