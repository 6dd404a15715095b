//! How a component's values are spread, from which follow the best scale and the loss of each width
//! before anything is coded.

use std::sync::LazyLock;

use multiversion::multiversion;

use super::levels::{SCALAR_LOST, TRELLIS_LOST, UNIT, WIDEST};
use super::quantizer::{Quantizer, SCALARS, TRELLISES};
use super::rounding::Rounding;
use super::small_float::{scale, scale_above, scale_below};
use super::widths::{EXACT, Losses, Scales, WIDTHS};

/// Magnitudes are counted in eight bins to an octave, from 2⁻²⁸ to 4: those of unit rows are at
/// most 1.
pub(crate) const BINS: usize = 240;
const LEAST: u32 = (127 - 28) * 8;

/// Losses are tabulated at 32 ratios of a magnitude to the scale to an octave, from 2⁻⁶ to 2¹⁰.
const RATIOS: usize = 512;
const LEAST_RATIO: u32 = (127 - 6) * 32;

/// The steps by which a component of no values near its largest ones is coded: `2 · 2¹⁵` of them.
const EXACT_STEPS: f32 = 32768.0;

/// A histogram of a component's magnitudes.
#[derive(Debug, PartialEq)]
pub struct Spread {
    /// Magnitudes and how many values have about each.
    bins: Vec<(f32, f32)>,
    energy: f64,
    largest: f32,
}

impl Spread {
    /// Of the values of a component, one for each token, of which `absent` are zeros that need no
    /// code.
    pub(super) fn from_values(values: &[f32], absent: usize) -> Self {
        let mut counts = [0u32; BINS];
        for value in values {
            let bin = ((value.abs().to_bits() >> 20).max(LEAST) - LEAST) as usize;
            counts[bin.min(BINS - 1)] += 1;
        }
        let (energy, largest) = energy_and_largest(values);
        Self::from_counts(counts, energy, largest, absent)
    }

    /// From how many values each bin has, the sum of their squares and the largest magnitude.
    pub(crate) fn from_counts(
        mut counts: [u32; BINS],
        energy: f64,
        largest: f32,
        absent: usize,
    ) -> Self {
        counts[0] -= (absent as u32).min(counts[0]);
        let centre = |bin: usize| f32::from_bits(((bin as u32 + LEAST) << 20) | (1 << 19));
        let bins = (0..BINS)
            .filter(|&bin| counts[bin] > 0)
            .map(|bin| (centre(bin), counts[bin] as f32))
            .collect();
        Self { bins, energy, largest }
    }

    /// What is lost of the sum of squares at each width, and the scale with which it is.
    pub fn plan(&self, rounding: Rounding, tokens: usize) -> (Losses, Scales) {
        let (mut losses, mut scales) = ([self.energy; WIDTHS.len()], [0; WIDTHS.len()]);
        if self.energy == 0.0 {
            return (losses, scales);
        }
        let deviation = scale_below((self.energy / tokens.max(1) as f64).sqrt() as f32);
        for (place, width) in WIDTHS.iter().enumerate().skip(1) {
            let start = if place == 1 { deviation } else { scales[place - 1] };
            (losses[place], scales[place]) = match (*width, rounding) {
                (EXACT, _) => {
                    let code = scale_above(self.largest);
                    let step = f64::from(scale(code) / EXACT_STEPS);
                    (step * step / 12.0 * tokens as f64, code)
                }
                (_, Rounding::Stochastic) => {
                    let quantizer = &SCALARS[place - 1];
                    let code =
                        scale_above(self.largest * UNIT / quantizer.levels[quantizer.count - 1]);
                    (self.loss(&STOCHASTIC[place - 1], code), code)
                }
                (_, Rounding::Nearest) => {
                    self.best(&NEAREST[place - 1], start, &SCALARS[place - 1])
                }
                (_, Rounding::Trellis) => {
                    self.best(&TRELLIS[place - 1], start, &TRELLISES[place - 1])
                }
            };
            // A bit more is never a loss, whatever the estimates say.
            if losses[place] > losses[place - 1] && rounding != Rounding::Stochastic {
                losses[place] = losses[place - 1];
            }
        }
        (losses, scales)
    }

    /// Downhill from `start`, the scale of the width before, and from the one at which the largest
    /// value is the last level: a component that is near zero but for a few tokens is best served
    /// near that.
    fn best(&self, table: &Table, start: u8, quantizer: &Quantizer) -> (f64, u8) {
        let covering = scale_above(self.largest * UNIT / quantizer.levels[quantizer.count - 1]);
        let (mut loss, mut code) = (self.loss(table, start), start);
        let mut attempt = |candidate: u8, best: &mut u8| {
            let found = self.loss(table, candidate);
            let better = found < loss;
            if better {
                (loss, *best) = (found, candidate);
            }
            better
        };
        let far = covering > start.saturating_add(4);
        if far {
            attempt(covering, &mut code);
        }
        for by in if far { [4, 1].as_slice() } else { &[1] } {
            while attempt(code.saturating_add(*by), &mut code) {}
            while attempt(code.saturating_sub(*by), &mut code) {}
        }
        (loss, code)
    }

    fn loss(&self, table: &Table, code: u8) -> f64 {
        let scale = scale(code);
        let inverse = 1.0 / scale;
        let sum: f32 =
            self.bins.iter().map(|&(centre, count)| count * table[place(centre * inverse)]).sum();
        f64::from(sum) * f64::from(scale) * f64::from(scale)
    }
}

/// The sum of squares, and the largest magnitude.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn energy_and_largest(values: &[f32]) -> (f64, f32) {
    const LANES: usize = 16;
    let (mut energy, mut most) = (0.0, [0.0f32; LANES]);
    // So few that f32 is exact enough.
    for part in values.chunks(64 * LANES) {
        let mut squares = [0.0f32; LANES];
        for chunk in part.chunks(LANES) {
            for ((value, square), most) in chunk.iter().zip(&mut squares).zip(&mut most) {
                *square += value * value;
                *most = if value.abs() > *most { value.abs() } else { *most };
            }
        }
        energy += squares.into_iter().map(f64::from).sum::<f64>();
    }
    (energy, most.into_iter().fold(0.0, f32::max))
}

/// The place of a ratio in a [`Table`].
#[inline]
fn place(ratio: f32) -> usize {
    (((ratio.to_bits() >> 18).max(LEAST_RATIO) - LEAST_RATIO) as usize).min(RATIOS - 1)
}

/// The mean square lost of a value, by its ratio to the scale, in squares of the scale.
type Table = [f32; RATIOS];

static NEAREST: LazyLock<[Table; WIDEST]> = LazyLock::new(|| {
    std::array::from_fn(|place| {
        let table = tabulated(&SCALARS[place], |value| off(&SCALARS[place], value).powi(2));
        let factor = (SCALAR_LOST[place + 1] / normal_mean(&table)) as f32;
        table.map(|lost| lost * factor)
    })
});

/// A value is off by as much as from the nearest of all levels, and, where they are dense, by so
/// many squares of their distance more that a normal variable loses what is known. Beyond the last
/// level, the path sees to it that the last level is admitted.
static TRELLIS: LazyLock<[Table; WIDEST]> = LazyLock::new(|| {
    std::array::from_fn(|place| {
        let quantizer = &TRELLISES[place];
        let nearest = tabulated(quantizer, |value| off(quantizer, value).powi(2));
        let squares =
            tabulated(quantizer, |value| f64::from(spacing(quantizer, value.abs()).powi(2)));
        let factor =
            ((TRELLIS_LOST[place + 1] - normal_mean(&nearest)) / normal_mean(&squares)) as f32;
        std::array::from_fn(|ratio| nearest[ratio] + factor * squares[ratio])
    })
});

/// Between two levels, the product of the distances from both.
static STOCHASTIC: LazyLock<[Table; WIDEST]> = LazyLock::new(|| {
    std::array::from_fn(|place| {
        let quantizer = &SCALARS[place];
        tabulated(quantizer, |value| {
            let levels = &quantizer.levels[..quantizer.count];
            let above =
                levels.partition_point(|&level| level < value * UNIT).clamp(1, quantizer.count - 1);
            f64::from(
                ((value * UNIT - levels[above - 1]) * (levels[above] - value * UNIT)).max(0.0)
                    / (UNIT * UNIT),
            )
        })
    })
});

/// The distance from `value` to the nearest level, in units of the scale.
fn off(quantizer: &Quantizer, value: f32) -> f64 {
    let levels = quantizer.levels[..quantizer.count].iter();
    f64::from(levels.map(|level| (level / UNIT - value).abs()).fold(f32::INFINITY, f32::min))
}

/// The distance between the two levels around `value`, or the last two.
fn spacing(quantizer: &Quantizer, value: f32) -> f32 {
    let above = quantizer.levels[..quantizer.count]
        .partition_point(|&level| level < value * UNIT)
        .clamp(1, quantizer.count - 1);
    (quantizer.levels[above] - quantizer.levels[above - 1]) / UNIT
}

/// The mean of `loss` around each ratio, and over both signs: over the width of a bin, and at least
/// from the middle between two levels to the next: that values happen to lie on a level is no merit
/// of its width.
fn tabulated(quantizer: &Quantizer, loss: impl Fn(f32) -> f64) -> Table {
    const SAMPLES: usize = 16;
    std::array::from_fn(|ratio| {
        let centre = f32::from_bits(((ratio as u32 + LEAST_RATIO) << 18) | (1 << 17));
        let around = (0.05 * centre).max(0.5 * spacing(quantizer, centre));
        let sum: f64 = (0..SAMPLES)
            .map(|sample| {
                let value = centre + around * ((2 * sample + 1) as f32 / SAMPLES as f32 - 1.0);
                loss(value) + loss(-value)
            })
            .sum();
        (sum / (2 * SAMPLES) as f64) as f32
    })
}

/// The mean of a table over a standard normal variable.
fn normal_mean(table: &Table) -> f64 {
    const STEPS: usize = 4000;
    let (mut weights, mut sum) = (0.0, 0.0);
    for step in 0..STEPS {
        let value = 6.0 * (step as f64 + 0.5) / STEPS as f64;
        let weight = (-0.5 * value * value).exp();
        weights += weight;
        sum += weight * f64::from(table[place(value as f32)]);
    }
    sum / weights
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_distr::StandardNormal;

    #[test]
    fn a_normal_component_is_scaled_by_its_deviation_and_loses_what_is_known() {
        let random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let values: Vec<f32> = random
            .sample_iter(StandardNormal)
            .take(20_000)
            .map(|value: f32| value * 0.01)
            .collect();
        let spread = Spread::from_values(&values, 0);
        for (rounding, known) in
            [(Rounding::Trellis, TRELLIS_LOST), (Rounding::Nearest, SCALAR_LOST)]
        {
            let (losses, scales) = spread.plan(rounding, values.len());
            for (width, known) in known.iter().enumerate().skip(1) {
                let lost = losses[width] / spread.energy;
                assert!((lost / known - 1.0).abs() < 0.1, "{width} bits: {lost} of {known}");
                assert!(
                    (scale(scales[width]) / 0.01 - 1.0).abs() < 0.15,
                    "{width} bits: {}",
                    scale(scales[width])
                );
            }
        }
    }

    #[test]
    fn a_single_large_value_is_reached() {
        let mut values = vec![1e-4; 1000];
        values[3] = 0.9;
        let (losses, scales) =
            Spread::from_values(&values, 0).plan(Rounding::Trellis, values.len());
        assert!(losses[8] < 0.002 && scale(scales[8]) > 0.15, "{losses:?}");
    }
}
