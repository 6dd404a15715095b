//! The same pass in plain libtorch: slower, but any device runs it, and what [`pass`](super::cpu)
//! does can be read off it. A test holds the two against each other bit for bit; on a device that
//! is no CPU, codes are decoded by this one.

use tch::{Kind, Tensor};

use super::pack::LANES;
use super::plan::Plan;
use super::quantizer::{Quantizer, SCALARS, TRELLISES};
use super::widths::EXACT;
use crate::Error;

/// As [`decode`](super::cpu::decode), from `codes` `[bytes]` in uint8 and `gains` `[rows]` in f32,
/// on their device.
pub(crate) fn decode(
    codes: &Tensor,
    plan: &Plan,
    gains: &Tensor,
    trellis: bool,
) -> Result<Tensor, Error> {
    let rows = gains.size1()?;
    let groups = (rows + LANES as i64 - 1) / LANES as i64;
    let mut at = 0;
    let mut components = Vec::new();
    for component in plan.active() {
        let (width, step) = (plan.widths[component], f64::from(plan.step(component)));
        let bytes = codes.f_narrow(0, at, groups * i64::from(width))?;
        at += groups * i64::from(width);
        let values = if width == EXACT {
            let pairs = bytes.f_view([-1, 2])?.f_to_kind(Kind::Int)?;
            let unsigned =
                pairs.f_select(1, 0)?.f_add(&pairs.f_select(1, 1)?.f_mul_scalar(256)?)?;
            // Past 2¹⁵, the integers are negative.
            let over = unsigned.f_bitwise_right_shift_tensor_scalar(15)?.f_mul_scalar(65536)?;
            unsigned.f_sub(&over)?.f_to_kind(Kind::Float)?.f_mul_scalar(step)?
        } else {
            let at = usize::from(width) - 1;
            let integers = unpack(&bytes, i64::from(width))?;
            if trellis {
                looked_up(&TRELLISES[at], &places(&integers)?, step)?
            } else {
                looked_up(&SCALARS[at], &integers, step)?
            }
        };
        components.push(values.f_reshape([-1])?.f_narrow(0, 0, rows)?);
    }
    if components.is_empty() {
        return Ok(Tensor::f_zeros([0, rows], (Kind::Float, codes.device()))?);
    }
    Ok(Tensor::f_stack(&components, 0)?.f_mul(gains)?)
}

fn looked_up(quantizer: &Quantizer, places: &Tensor, step: f64) -> Result<Tensor, Error> {
    let levels = Tensor::f_from_slice(&quantizer.levels[..quantizer.count])?
        .f_to_device(places.device())?
        .f_mul_scalar(step)?;
    Ok(levels.f_index_select(0, &places.f_reshape([-1])?)?)
}

/// Codes `[groups, 8]` of `width` bits in int64, from `[groups · width]` bytes.
fn unpack(bytes: &Tensor, width: i64) -> Result<Tensor, Error> {
    let shifts = |count: i64, by: i64| {
        Tensor::f_arange(count, (Kind::Int64, bytes.device())).map(|at| at * by)
    };
    let words = bytes
        .f_view([-1, width])?
        .f_to_kind(Kind::Int64)?
        .f_bitwise_left_shift(&shifts(width, 8)?)?;
    // Bytes do not overlap: their sum is their union, also where the last bit makes it negative.
    let words = words.f_sum_dim_intlist(1, true, Kind::Int64)?;
    Ok(words
        .f_bitwise_right_shift(&shifts(LANES as i64, width)?)?
        .f_bitwise_and((1 << width) - 1)?)
}

/// The places of levels from the codes `[groups, 8]` of a trellis: the path's bits are the lowest
/// of the codes.
fn places(codes: &Tensor) -> Result<Tensor, Error> {
    let bits = codes.f_bitwise_and(1)?.f_constant_pad_nd([0, 0, 3, 0])?;
    let back = |steps: i64| bits.f_narrow(0, 3 - steps, codes.size()[0]);
    let high = back(0)?
        .f_bitwise_xor_tensor(&back(1)?)?
        .f_bitwise_xor_tensor(&back(3)?)?
        .f_mul_scalar(2)?;
    Ok(codes
        .f_bitwise_right_shift_tensor_scalar(1)?
        .f_mul_scalar(4)?
        .f_add(&high)?
        .f_add(&back(2)?)?)
}

#[cfg(test)]
pub(crate) mod encoder {
    //! Quantize and pack, for the tests.
    #![allow(clippy::unwrap_used)]
    use super::super::Rounding;
    use super::super::plan::{BLOCK, Encoded};
    use super::super::scalar;
    use super::*;
    use tch::Device;

    /// As [`encode`](super::super::cpu::encode), of `y` `[components, rows]`.
    pub(crate) fn encode(y: &Tensor, plan: &Plan, rounding: Rounding, seed: u64) -> Encoded {
        let rows = y.size()[1];
        let sums = || Tensor::zeros([rows], (Kind::Float, Device::Cpu));
        let (mut codes, mut energies, mut along) = (Vec::new(), sums(), sums());
        for block in plan.active().chunks(BLOCK) {
            let (mut block_energies, mut block_along) = (sums(), sums());
            for &component in block {
                let (width, step) = (plan.widths[component], plan.step(component));
                let exact = y.get(component as i64);
                let values = &exact * f64::from(1.0 / step);
                let (bytes, coded) = if width == EXACT {
                    let integers = values.round().clamp(-32767.0, 32767.0);
                    let unsigned = integers.to_kind(Kind::Int64).bitwise_and(65535);
                    let unsigned = unsigned.constant_pad_nd([0, (8 - rows % 8) % 8]).unsqueeze(1);
                    let bytes = Tensor::cat(
                        &[unsigned.bitwise_and(255), unsigned.bitwise_right_shift_tensor_scalar(8)],
                        1,
                    );
                    (bytes, integers * f64::from(step))
                } else {
                    let at = usize::from(width) - 1;
                    let padded = values.constant_pad_nd([0, (8 - rows % 8) % 8]).view([-1, 8]);
                    let (codes, places, quantizer) = match rounding {
                        Rounding::Trellis => {
                            let codes = viterbi(&TRELLISES[at], &padded);
                            let places = places(&codes).unwrap();
                            (codes, places, &TRELLISES[at])
                        }
                        _ => {
                            let key = (rounding == Rounding::Stochastic)
                                .then(|| scalar::key(seed, component));
                            let codes = scalar(&SCALARS[at], &padded, key);
                            (codes.shallow_clone(), codes, &SCALARS[at])
                        }
                    };
                    let coded =
                        looked_up(quantizer, &places, f64::from(step)).unwrap().narrow(0, 0, rows);
                    (pack(&codes, i64::from(width)), coded)
                };
                codes
                    .extend(Vec::<u8>::try_from(bytes.to_kind(Kind::Uint8).reshape([-1])).unwrap());
                block_energies += &coded * &coded;
                block_along += &coded * exact;
            }
            energies += block_energies;
            along += block_along;
        }
        Encoded { codes, energies: energies.try_into().unwrap(), along: along.try_into().unwrap() }
    }

    fn pack(codes: &Tensor, width: i64) -> Tensor {
        let shifts = |count: i64, by: i64| Tensor::arange(count, (Kind::Int64, Device::Cpu)) * by;
        let words =
            codes.bitwise_left_shift(&shifts(8, width)).sum_dim_intlist(1, true, Kind::Int64);
        words.bitwise_right_shift(&shifts(width, 8)).bitwise_and(255)
    }

    fn starts(quantizer: &Quantizer, values: &Tensor) -> Tensor {
        let (starts, per_unit, reach) = quantizer.grid();
        let table =
            Tensor::from_slice(&starts.iter().map(|&start| i64::from(start)).collect::<Vec<_>>());
        let cells = ((values + f64::from(reach)) * f64::from(per_unit))
            .clamp(0.0, starts.len() as f64 - 1.0)
            .to_kind(Kind::Int64);
        table.take(&cells)
    }

    fn scalar(quantizer: &Quantizer, values: &Tensor, key: Option<u32>) -> Tensor {
        let levels = Tensor::from_slice(&quantizer.levels[..quantizer.count]);
        let start = starts(quantizer, values);
        let over = values
            .ge_tensor(&levels.take(&(&start + 1)))
            .logical_and(&start.lt(quantizer.count as i64 - 2));
        let start = start + over.to_kind(Kind::Int64);
        let (lower, upper) = (levels.take(&start), levels.take(&(&start + 1)));
        let thresholds = match key {
            None => Tensor::full_like(values, 0.5),
            Some(key) => {
                let numbers: Vec<f32> =
                    (0..values.numel()).map(|token| scalar::number(key, token)).collect();
                Tensor::from_slice(&numbers).view_as(values)
            }
        };
        let up = (values - &lower).gt_tensor(&(thresholds * (upper - lower)));
        start + up.to_kind(Kind::Int64)
    }

    /// The cheapest path of each of the eight streams, `values` `[groups, 8]`, with all states in
    /// one tensor `[8 states, 8 streams]`.
    fn viterbi(quantizer: &Quantizer, values: &Tensor) -> Tensor {
        let levels = Tensor::from_slice(&quantizer.levels[..quantizer.count]);
        let groups = values.size()[0];
        let start = starts(quantizer, values);
        let class =
            |window: i64| 2 * ((window ^ (window >> 1) ^ (window >> 3)) & 1) + ((window >> 2) & 1);
        let candidate = |class: i64| &start + (class - &start).bitwise_and(3);
        let near: Vec<Tensor> =
            (0..4).map(|class| (values - levels.take(&candidate(class))).square()).collect();
        let near = Tensor::stack(&near, 1);
        let select = |of: &Tensor, rows: &[i64]| of.index_select(0, &Tensor::from_slice(rows));
        let old: Vec<i64> = (0..8).map(|state| state >> 1).collect();
        let classes = |bit: i64| (0..8).map(|state| class(state | (bit << 3))).collect::<Vec<_>>();
        let mut costs = Tensor::full([8, 8], f64::INFINITY, (Kind::Float, Device::Cpu));
        let _ = costs.get(0).zero_();
        let mut from = Vec::new();
        for group in 0..groups {
            let near = near.get(group);
            let zero = select(&costs, &old) + select(&near, &classes(0));
            let one = select(&costs, &old.iter().map(|state| state | 4).collect::<Vec<_>>())
                + select(&near, &classes(1));
            let take = one.lt_tensor(&zero);
            costs = one.where_self(&take, &zero);
            from.push(take.to_kind(Kind::Int64));
        }
        let mut states = costs.argmin(0, false);
        let mut codes = Vec::new();
        for group in (0..groups).rev() {
            let oldest = from[group as usize].gather(0, &states.unsqueeze(0), false).squeeze_dim(0);
            let window = &states + oldest * 8;
            let high = (window.bitwise_xor_tensor(&window.bitwise_right_shift_tensor_scalar(1)))
                .bitwise_xor_tensor(&window.bitwise_right_shift_tensor_scalar(3))
                .bitwise_and(1);
            let class = high * 2 + window.bitwise_right_shift_tensor_scalar(2).bitwise_and(1);
            let start = start.get(group);
            let place = &start + (class - &start).bitwise_and(3);
            codes.push(place.bitwise_right_shift_tensor_scalar(2) * 2 + states.bitwise_and(1));
            states = window.bitwise_right_shift_tensor_scalar(1);
        }
        codes.reverse();
        Tensor::stack(&codes, 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Rounding;
    use super::super::cpu;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Every width, every rounding, odd numbers of rows, values far beyond the last level: not
        /// a bit differs.
        #[test]
        fn the_pass_is_the_plain_formulation_bit_for_bit(
            rows in 1usize..80, which in 0usize..3, seed: u64, values in prop::collection::vec(-6.0f32..6.0, 50..200),
        ) {
            let rounding = [Rounding::Trellis, Rounding::Nearest, Rounding::Stochastic][which];
            let widths: Vec<u8> = (0..40).map(|component| [0, 1, 2, 3, 4, 5, 6, 7, 8, EXACT][(component * 7 + rows) % 10]).collect();
            let scales = (0..40).map(|component| 160 + 2 * component).collect();
            let plan = Plan { widths, scales };
            let y: Vec<f32> = values.iter().cycle().zip(0..40 * rows).map(|(value, at)| value * 0.01 * (1 + at % 13) as f32).collect();
            let tensor = Tensor::from_slice(&y).view([40, rows as i64]);
            let coded = cpu::encode(&y, rows, &plan, rounding, seed);
            prop_assert_eq!(&coded, &encoder::encode(&tensor, &plan, rounding, seed));

            let gains: Vec<f32> = (0..rows).map(|row| 0.3 + 0.17 * row as f32).collect();
            let trellis = rounding == Rounding::Trellis;
            let plain = decode(&Tensor::from_slice(&coded.codes), &plan, &Tensor::from_slice(&gains), trellis).unwrap();
            let decoded = cpu::decode(&coded.codes, &plan, &gains, trellis);
            prop_assert_eq!(decoded, Vec::<f32>::try_from(plain.reshape([-1])).unwrap());
        }
    }
}
