//! Prints the constants of `src/coded/levels.rs`: quantizer levels for a standard normal variable,
//! by Lloyd's algorithm on drawn samples.
//!
//! `cargo run --release -p loract-compression --example quantizer_levels`
//!
//! For each width of 1 to 8 bits, the levels of the scalar quantizer (2^width of them) and of the
//! trellis (twice as many, of which a state offers half), in units of 1/4096 of the standard
//! deviation, positive halves only; then the mean square that each loses, on other samples than
//! those it was trained on. The trellis is that of Ungerboeck with eight states, its alphabet
//! doubled and trained (Marcellin and Fischer 1990, "Trellis coded quantization of memoryless and
//! Gauss-Markov sources").
#![allow(clippy::print_stdout)]

use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

const SAMPLES: usize = 1 << 20;
const STREAM: usize = 1 << 10;
const UNIT: f64 = 4096.0;

fn main() {
    let (train, test) = (normals(1), normals(2));
    let rounded = |levels: Vec<f64>| -> Vec<f64> {
        levels.into_iter().map(|level| (level * UNIT).round() / UNIT).collect()
    };
    for (name, encode, more) in
        [("SCALAR", nearest_of as Encode, 1), ("TRELLIS", trellis as Encode, 2)]
    {
        let mut lost = Vec::new();
        for width in 1..=8 {
            let passes = if width < 6 { 40 } else { 6 };
            let levels = rounded(lloyd(
                start(
                    more << width,
                    if width < 6 { 1.0 + 0.12 * f64::from(width) } else { 3f64.sqrt() },
                ),
                &train,
                encode,
                passes,
            ));
            lost.push(encode(&levels, &test, &mut vec![0; SAMPLES]) / SAMPLES as f64);
            let upper: Vec<String> = levels[levels.len() / 2..]
                .iter()
                .map(|level| format!("{}", level * UNIT))
                .collect();
            println!("{name} {width} [{}]", upper.join(", "));
        }
        println!("{name} lost {lost:?}");
    }
}

/// Codes samples with levels in ascending order, writes their indices, and answers the sum of the
/// squared errors.
type Encode = fn(&[f64], &[f64], &mut [usize]) -> f64;

fn normals(seed: u64) -> Vec<f64> {
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).sample_iter(StandardNormal).take(SAMPLES).collect()
}

/// Quantiles of a normal distribution `spread` times as wide.
fn start(count: usize, spread: f64) -> Vec<f64> {
    let mut sorted = normals(3);
    sorted.sort_by(f64::total_cmp);
    (0..count).map(|level| spread * sorted[(2 * level + 1) * SAMPLES / (2 * count)]).collect()
}

/// Each level to the mean of what it stood for, and to the mirror image of its opposite.
fn lloyd(mut levels: Vec<f64>, samples: &[f64], encode: Encode, passes: usize) -> Vec<f64> {
    let count = levels.len();
    let mut found = vec![0; samples.len()];
    for _ in 0..passes {
        encode(&levels, samples, &mut found);
        let mut sums = vec![(0.0, 0.0); count];
        for (&sample, &at) in samples.iter().zip(&found) {
            for (at, sample) in [(at, sample), (count - 1 - at, -sample)] {
                sums[at] = (sums[at].0 + sample, sums[at].1 + 1.0);
            }
        }
        for (level, (sum, samples)) in levels.iter_mut().zip(sums) {
            if samples > 0.0 {
                *level = sum / samples;
            }
        }
        levels.sort_by(f64::total_cmp);
    }
    levels
}

fn nearest(levels: &[f64], sample: f64) -> usize {
    let above = levels.partition_point(|&level| level < sample);
    if above == 0 || (above < levels.len() && levels[above] - sample <= sample - levels[above - 1])
    {
        above
    } else {
        above - 1
    }
}

fn nearest_of(levels: &[f64], samples: &[f64], found: &mut [usize]) -> f64 {
    let mut lost = 0.0;
    for (&sample, found) in samples.iter().zip(found) {
        *found = nearest(levels, sample);
        lost += (sample - levels[*found]).powi(2);
    }
    lost
}

/// The residue class of the level that a window of four path bits, the newest lowest, leads to.
fn class(window: usize) -> usize {
    2 * ((window ^ (window >> 1) ^ (window >> 3)) & 1) + ((window >> 2) & 1)
}

fn trellis(levels: &[f64], samples: &[f64], found: &mut [usize]) -> f64 {
    samples
        .chunks(STREAM)
        .zip(found.chunks_mut(STREAM))
        .map(|(samples, found)| stream(levels, samples, found))
        .sum()
}

fn stream(levels: &[f64], samples: &[f64], found: &mut [usize]) -> f64 {
    let mut costs = [f64::INFINITY; 8];
    costs[0] = 0.0;
    let mut steps = Vec::with_capacity(samples.len());
    for &sample in samples {
        let at = nearest(levels, sample);
        let first =
            at.saturating_sub(if sample < levels[at] { 2 } else { 1 }).min(levels.len() - 4);
        let mut candidates = [0; 4];
        (first..first + 4).for_each(|level| candidates[level % 4] = level);
        let (mut next, mut from) = ([f64::INFINITY; 8], [0; 8]);
        for window in 0..16 {
            let cost = costs[window >> 1] + (sample - levels[candidates[class(window)]]).powi(2);
            if cost < next[window & 7] {
                (next[window & 7], from[window & 7]) = (cost, window);
            }
        }
        costs = next;
        steps.push((candidates, from));
    }
    let mut state = (0..8).min_by(|&a, &b| costs[a].total_cmp(&costs[b])).unwrap_or(0);
    let lost = costs[state];
    for ((candidates, from), found) in steps.into_iter().zip(found).rev() {
        *found = candidates[class(from[state])];
        state = from[state] >> 1;
    }
    lost
}
