//! Scalar quantization of one component: the nearest level, or one of the two around a value, drawn
//! so that its mean is the value.

use super::pack::{LANES, pack, read, unpack};
use super::quantizer::{MOST_LEVELS, Quantizer};
use super::trellis::{Sums, lanes};

/// What decides between the two levels around a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draw {
    /// The nearer one is taken.
    Nearest,
    /// The upper one is taken with a probability that grows from 0 at the lower to 1: one number
    /// per token from this key.
    Random(u32),
}

/// A bijection of 32 bits that looks random (the `lowbias32` of Wellons' search for such).
#[inline(always)]
pub(crate) fn mix(mut bits: u32) -> u32 {
    bits ^= bits >> 16;
    bits = bits.wrapping_mul(0x7feb_352d);
    bits ^= bits >> 15;
    bits = bits.wrapping_mul(0x846c_a68b);
    bits ^ (bits >> 16)
}

/// The key of a component's numbers.
pub(crate) fn key(seed: u64, component: usize) -> u32 {
    mix(component as u32 ^ mix(seed as u32 ^ mix((seed >> 32) as u32)))
}

/// A number in `[0, 1)` for each token.
#[inline(always)]
pub(crate) fn number(key: u32, token: usize) -> f32 {
    (mix(key ^ mix(token as u32)) >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Codes one component `y` `[tokens]` in units of `step` into `codes`, `W` bytes for every eight
/// tokens.
#[inline(always)]
pub(crate) fn encode<const W: usize>(
    quantizer: &Quantizer,
    step: f32,
    draw: Draw,
    y: &[f32],
    codes: &mut [u8],
    sums: &mut Sums<'_>,
) {
    let inverse = 1.0 / step;
    let levels = quantizer.scaled(step);
    for (group, (here, codes)) in y.chunks(LANES).zip(codes.as_chunks_mut::<W>().0).enumerate() {
        let first = group * LANES;
        let mut values = lanes(here);
        let mut coded = [0; LANES];
        for lane in 0..LANES {
            values[lane] *= inverse;
            let value = values[lane];
            let start = usize::from(quantizer.start(value));
            // The grid's cell may reach over one level.
            let over =
                start + 2 < quantizer.count && value >= quantizer.levels[(start + 1) % MOST_LEVELS];
            let start = start + usize::from(over);
            let (lower, upper) = (
                quantizer.levels[start % MOST_LEVELS],
                quantizer.levels[(start + 1) % MOST_LEVELS],
            );
            let threshold = match draw {
                Draw::Nearest => 0.5,
                Draw::Random(key) => number(key, first + lane),
            };
            coded[lane] = start as u32 + u32::from(value - lower > threshold * (upper - lower));
        }
        for (lane, &exact) in here.iter().enumerate() {
            sums.add(first + lane, levels[coded[lane] as usize % MOST_LEVELS], exact);
        }
        *codes = pack::<W>(coded);
    }
}

/// Decodes one component into `y` `[tokens]`: the level, times `step`, times the token's gain.
#[inline(always)]
pub(crate) fn decode<const W: usize>(
    quantizer: &Quantizer,
    step: f32,
    codes: &[u8],
    gains: &[f32],
    y: &mut [f32],
) {
    let levels = quantizer.scaled(step);
    for ((codes, gains), y) in
        codes.as_chunks::<W>().0.iter().zip(gains.chunks(LANES)).zip(y.chunks_mut(LANES))
    {
        for ((y, place), &gain) in y.iter_mut().zip(unpack::<W>(read(codes))).zip(gains) {
            *y = levels[place as usize % MOST_LEVELS] * gain;
        }
    }
}
