//! The pass over all components on the CPU: quantize and pack, or unpack and scale, over all cores.

use multiversion::multiversion;
use rayon::prelude::*;

use super::pack::LANES;
use super::plan::{BLOCK, Encoded, Plan};
use super::quantizer::{SCALARS, TRELLISES};
use super::rounding::Rounding;
use super::scalar::{self, Draw};
use super::trellis::{self, Sums, Trace};
use super::widths::EXACT;

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
type ComponentCodes<'a> = (usize, &'a mut [u8]);

/// Codes the components `y` `[components, rows]`.
pub(crate) fn encode(
    y: &[f32],
    rows: usize,
    plan: &Plan,
    rounding: Rounding,
    seed: u64,
) -> Encoded {
    let mut codes = vec![0; plan.code_bytes(rows)];
    let mut parts: Vec<ComponentCodes<'_>> = Vec::new();
    let mut rest = codes.as_mut_slice();
    for component in plan.active() {
        let (own, others) =
            rest.split_at_mut(rows.div_ceil(LANES) * usize::from(plan.widths[component]));
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
        Rounding::Trellis => {
            at_width!(width, trellis::encode(&TRELLISES[at], step, y, codes, trace, sums))
        }
        Rounding::Nearest => {
            at_width!(width, scalar::encode(&SCALARS[at], step, Draw::Nearest, y, codes, sums))
        }
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
        let (own, others) =
            rest.split_at(rows.div_ceil(LANES) * usize::from(plan.widths[component]));
        parts.push((component, own));
        rest = others;
    }
    let one = |(y, (component, codes)): (&mut [f32], (usize, &[u8]))| {
        decode_component(component, plan, codes, gains, trellis, y)
    };
    y.par_chunks_mut(rows).zip(parts).for_each(one);
    y
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+bmi2", "x86_64+avx2+bmi2"))]
fn decode_component(
    component: usize,
    plan: &Plan,
    codes: &[u8],
    gains: &[f32],
    trellis: bool,
    y: &mut [f32],
) {
    let (width, step) = (plan.widths[component], plan.step(component));
    let at = usize::from(width).saturating_sub(1);
    match (width, trellis) {
        (EXACT, _) => decode_exact(step, codes, gains, y),
        (_, true) => at_width!(width, trellis::decode(&TRELLISES[at], step, codes, gains, y)),
        (_, false) => at_width!(width, scalar::decode(&SCALARS[at], step, codes, gains, y)),
    }
}
