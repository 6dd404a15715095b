//! One pass over all components: quantise and pack, or unpack and scale, over all cores.

use super::Rounding;
use super::levels::UNIT;
use super::pack::LANES;
use super::quantizer::{SCALARS, TRELLISES};
use super::scalar::{self, Draw};
use super::small_float::scale;
use super::trellis::{self, Sums, Trace};
use super::water_filling::EXACT;
use multiversion::multiversion;
use rayon::prelude::*;

/// How each component is coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Bits of a token's code.
    pub widths: Vec<u8>,
    /// The byte of its scale.
    pub scales: Vec<u8>,
}

/// Components whose sums over rows are gathered one after another. Blocks run side by side, and their sums are added in order, so that the
/// result does not depend on how many cores there are.
pub(crate) const BLOCK: usize = 32;

/// What [`encode`] makes of a matrix.
#[derive(Debug, PartialEq)]
pub(crate) struct Encoded<Codes = Vec<u8>> {
    /// Components one after another, those of width 0 absent; [`Plan::code_bytes`].
    pub codes: Codes,
    /// `Σ q²` of each row's decoded components `q`, before the gain.
    pub energies: Vec<f32>,
    /// `Σ q y` of each row.
    pub along: Vec<f32>,
}

impl Plan {
    /// Bits of a row.
    pub(crate) fn bits(&self) -> u64 {
        self.widths.iter().map(|&width| u64::from(width)).sum()
    }

    /// Bytes of the codes of `rows`: eight rows at a time.
    pub(crate) fn code_bytes(&self, rows: usize) -> usize {
        rows.div_ceil(LANES) * self.bits() as usize
    }

    /// Components that have bits, in order.
    pub(crate) fn active(&self) -> Vec<usize> {
        (0..self.widths.len()).filter(|&component| self.widths[component] > 0).collect()
    }

    /// What one level unit, or one step of an exact component, stands for.
    pub(crate) fn step(&self, component: usize) -> f32 {
        let scale = scale(self.scales[component]);
        if self.widths[component] == EXACT { scale / 32768.0 } else { scale / UNIT }
    }
}

/// Runs the function of a constant width.
macro_rules! at_width {
    ($width:expr, $module:ident :: $function:ident ( $($argument:expr),* )) => {
        match $width {
            1 => $module::$function::<1>($($argument),*),
            2 => $module::$function::<2>($($argument),*),
            3 => $module::$function::<3>($($argument),*),
            4 => $module::$function::<4>($($argument),*),
            5 => $module::$function::<5>($($argument),*),
            6 => $module::$function::<6>($($argument),*),
            7 => $module::$function::<7>($($argument),*),
            _ => $module::$function::<8>($($argument),*),
        }
    };
}

/// A component and the part of the codes that is its own.
type Part<'a> = (usize, &'a mut [u8]);

/// Codes the components `y` `[components, rows]`.
pub(crate) fn encode(y: &[f32], rows: usize, plan: &Plan, rounding: Rounding, seed: u64) -> Encoded {
    let mut codes = vec![0; plan.code_bytes(rows)];
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut rest = codes.as_mut_slice();
    for component in plan.active() {
        let (own, others) = rest.split_at_mut(rows.div_ceil(LANES) * usize::from(plan.widths[component]));
        parts.push((component, own));
        rest = others;
    }
    let blocks: Vec<_> = parts
        .par_chunks_mut(BLOCK)
        .map_init(Trace::default, |trace, parts| {
            let (mut energies, mut along) = (vec![0.0; rows], vec![0.0; rows]);
            for (component, codes) in parts {
                let y = &y[*component * rows..(*component + 1) * rows];
                let mut sums = Sums { energies: &mut energies, along: &mut along };
                encode_component(y, *component, plan, rounding, seed, codes, trace, &mut sums);
            }
            (energies, along)
        })
        .collect();
    let (mut energies, mut along) = (vec![0.0; rows], vec![0.0; rows]);
    for (block_energies, block_along) in blocks {
        energies.iter_mut().zip(block_energies).for_each(|(sum, part)| *sum += part);
        along.iter_mut().zip(block_along).for_each(|(sum, part)| *sum += part);
    }
    Encoded { codes, energies, along }
}

/// The arithmetic is the same whatever vector unit does it, to the bit.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+bmi2", "x86_64+avx2+bmi2"))]
#[expect(clippy::too_many_arguments, reason = "all that one component needs")]
fn encode_component<'a>(
    y: &[f32],
    component: usize,
    plan: &Plan,
    rounding: Rounding,
    seed: u64,
    codes: &mut [u8],
    trace: &mut Trace,
    sums: &mut Sums<'a>,
) {
    let (width, step) = (plan.widths[component], plan.step(component));
    if width == EXACT {
        return encode_exact(step, y, codes, sums);
    }
    let at = usize::from(width) - 1;
    match rounding {
        Rounding::Trellis => at_width!(width, trellis::encode(&TRELLISES[at], step, y, codes, trace, sums)),
        Rounding::Nearest => at_width!(width, scalar::encode(&SCALARS[at], step, Draw::Nearest, y, codes, sums)),
        Rounding::Stochastic => {
            let draw = Draw::Random(scalar::key(seed, component));
            at_width!(width, scalar::encode(&SCALARS[at], step, draw, y, codes, sums));
        }
    }
}

/// As little-endian 16-bit integers, to the nearest.
#[inline(always)]
fn encode_exact(step: f32, y: &[f32], codes: &mut [u8], sums: &mut Sums<'_>) {
    let inverse = 1.0 / step;
    for (token, (&exact, code)) in y.iter().zip(codes.as_chunks_mut::<2>().0).enumerate() {
        let integer = (exact * inverse).round_ties_even().clamp(-32767.0, 32767.0);
        sums.add(token, integer * step, exact);
        *code = (integer as i16).to_le_bytes();
    }
}

#[inline(always)]
fn decode_exact(step: f32, codes: &[u8], gains: &[f32], y: &mut [f32]) {
    for ((y, code), &gain) in y.iter_mut().zip(codes.as_chunks::<2>().0).zip(gains) {
        *y = f32::from(i16::from_le_bytes(*code)) * step * gain;
    }
}

/// The components that have bits, times each row's gain: `[active components, rows]`.
pub(crate) fn decode(codes: &[u8], plan: &Plan, gains: &[f32], trellis: bool) -> Vec<f32> {
    let (rows, active) = (gains.len(), plan.active());
    let mut y = vec![0.0; active.len() * rows];
    if rows == 0 {
        return y;
    }
    let mut parts = Vec::with_capacity(active.len());
    let mut rest = codes;
    for component in active {
        let (own, others) = rest.split_at(rows.div_ceil(LANES) * usize::from(plan.widths[component]));
        parts.push((component, own));
        rest = others;
    }
    let one = |(y, (component, codes)): (&mut [f32], (usize, &[u8]))| decode_component(component, plan, codes, gains, trellis, y);
    y.par_chunks_mut(rows).zip(parts).for_each(one);
    y
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+bmi2", "x86_64+avx2+bmi2"))]
fn decode_component(component: usize, plan: &Plan, codes: &[u8], gains: &[f32], trellis: bool, y: &mut [f32]) {
    let (width, step) = (plan.widths[component], plan.step(component));
    let at = usize::from(width).saturating_sub(1);
    match (width, trellis) {
        (EXACT, _) => decode_exact(step, codes, gains, y),
        (_, true) => at_width!(width, trellis::decode(&TRELLISES[at], step, codes, gains, y)),
        (_, false) => at_width!(width, scalar::decode(&SCALARS[at], step, codes, gains, y)),
    }
}
