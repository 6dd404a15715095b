//! Optimizer states sharded across ranks (ZeRO stage 1: Rajbhandari et al. 2019, arXiv 1910.02054).
//! Each rank holds the states of its partition of all elements, steps it, and broadcasts the new
//! values.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use collective::ProcessGroup;
use config::OptimizerMethod;

use super::blockwise::BLOCK;
use super::param::TrainedParam;
use crate::Result;

/// Which partition of the optimizer states a rank holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// This rank.
    pub rank: usize,
    /// Ranks across which the states are sharded.
    pub world_size: usize,
}

impl Partition {
    /// All states on one rank.
    pub const WHOLE: Self = Self { rank: 0, world_size: 1 };
}

/// A range of one parameter's elements that one rank steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardRange {
    pub owner: usize,
    /// The parameter's index.
    pub parameter: usize,
    pub elements: Range<i64>,
}

/// Splits all elements, in order, into equal ranges. A matrix that Muon orthogonalizes stays whole,
/// with the rank that holds its middle; a parameter with 8-bit states is split between blocks.
pub(super) fn partition(
    parameters: &[TrainedParam<'_>],
    method: OptimizerMethod,
    world_size: usize,
) -> Vec<ShardRange> {
    let sizes: Vec<i64> = parameters.iter().map(|trained| trained.tensor.numel() as i64).collect();
    let total: i64 = sizes.iter().sum();
    // The first element of a rank's partition, of `total`.
    let start = |rank: usize| (i128::from(total) * rank as i128 / world_size as i128) as i64;
    let mut ranges = Vec::new();
    let mut before = 0;
    for (number, (trained, &size)) in parameters.iter().zip(&sizes).enumerate() {
        let unit = match method {
            OptimizerMethod::Muon if trained.is_muon_matrix() => size,
            OptimizerMethod::AdamW8bit => BLOCK,
            _ => 1,
        };
        // Rounded to the nearest element at which the parameter may be split.
        let cut =
            |at: i64| (((at - before).clamp(0, size) + unit / 2) / unit.max(1) * unit).min(size);
        for owner in 0..world_size {
            let last = owner + 1 == world_size;
            let elements = cut(start(owner))..if last { size } else { cut(start(owner + 1)) };
            if !elements.is_empty() {
                ranges.push(ShardRange { owner, parameter: number, elements });
            }
        }
        before += size;
    }
    ranges
}

/// Values that one broadcast sends: of one dtype, from one rank.
#[derive(Debug)]
struct BroadcastBucket {
    owner: usize,
    /// Views of the parameters, flat.
    values: Vec<Tensor>,
    /// The part of the shared buffer that they fill.
    buffer: Tensor,
}

/// Broadcasts of new values to the ranks that did not step them.
#[derive(Debug)]
pub(super) struct Exchange(Vec<BroadcastBucket>);

/// Bytes of the broadcast buffer: as large as a gradient bucket.
pub const EXCHANGE_BYTES: u64 = 25 << 20;

impl Exchange {
    /// For the ranges of all ranks.
    pub fn new(
        parameters: &[TrainedParam<'_>],
        ranges: &[ShardRange],
        world_size: usize,
        device: Device,
    ) -> Result<Self> {
        // As much as fits into the buffer: from each owner, neighbours of one dtype.
        let mut buckets: Vec<(usize, Kind, i64, Vec<Tensor>)> = Vec::new();
        for owner in 0..if world_size > 1 { world_size } else { 0 } {
            let mut is_new = true;
            for range in ranges.iter().filter(|range| range.owner == owner) {
                let tensor = parameters[range.parameter].tensor;
                let kind = tensor.kind();
                let capacity = EXCHANGE_BYTES as i64 / kind.elt_size_in_bytes() as i64;
                for start in range.elements.clone().step_by(capacity as usize) {
                    let length = capacity.min(range.elements.end - start);
                    let value = flat(tensor, &(start..start + length))?;
                    match buckets.last_mut().filter(|bucket| {
                        !is_new && bucket.1 == kind && bucket.2 + length <= capacity
                    }) {
                        Some(bucket) => {
                            bucket.2 += length;
                            bucket.3.push(value);
                        }
                        None => buckets.push((owner, kind, length, vec![value])),
                    }
                    is_new = false;
                }
            }
        }
        let bytes = buckets
            .iter()
            .map(|(_, kind, length, _)| *length as usize * kind.elt_size_in_bytes())
            .max()
            .unwrap_or(0);
        let buffer = Tensor::f_empty([bytes as i64], (Kind::Uint8, device))?;
        let bucket = |(owner, kind, length, values): (usize, Kind, i64, Vec<Tensor>)| {
            let bytes = length * kind.elt_size_in_bytes() as i64;
            Ok(BroadcastBucket {
                owner,
                values,
                buffer: buffer.f_narrow(0, 0, bytes)?.f_view_dtype(kind)?,
            })
        };
        Ok(Self(buckets.into_iter().map(bucket).collect::<Result<_>>()?))
    }

    /// Whether other ranks step values that this one does not.
    pub fn is_needed(&self) -> bool {
        !self.0.is_empty()
    }

    /// Broadcasts what each rank has stepped. All ranks call it.
    pub fn run(&mut self, group: &dyn ProcessGroup) -> Result<()> {
        for BroadcastBucket { owner, values, buffer } in &mut self.0 {
            let mut start = 0;
            let mut parts = Vec::with_capacity(values.len());
            for value in values.iter() {
                parts.push(buffer.f_narrow(0, start, value.numel() as i64)?);
                start += value.numel() as i64;
            }
            if *owner == group.rank() {
                parts
                    .iter_mut()
                    .zip(values.iter())
                    .try_for_each(|(part, value)| part.f_copy_(value))?;
            }
            group.broadcast(buffer, *owner)?;
            if *owner != group.rank() {
                values.iter_mut().zip(&parts).try_for_each(|(value, part)| value.f_copy_(part))?;
            }
        }
        Ok(())
    }
}

/// A range of a tensor's elements as a flat view.
pub(super) fn flat(tensor: &Tensor, elements: &Range<i64>) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_view([-1])?.f_narrow(
        0,
        elements.start,
        elements.end - elements.start,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(
        sizes: &[i64],
        method: OptimizerMethod,
        world_size: usize,
    ) -> Vec<(usize, usize, Range<i64>)> {
        let tensors: Vec<Tensor> = sizes
            .iter()
            .map(|&size| Tensor::zeros([size, 1], (Kind::Float, Device::Cpu)))
            .collect();
        let trained: Vec<TrainedParam<'_>> = tensors
            .iter()
            .map(|tensor| TrainedParam { tensor, lr_scale: 1.0, is_hidden_matrix: true })
            .collect();
        partition(&trained, method, world_size)
            .into_iter()
            .map(|range| (range.owner, range.parameter, range.elements))
            .collect()
    }

    #[test]
    fn elements_are_partitioned_evenly_and_each_once() {
        assert_eq!(
            cut(&[7, 5], OptimizerMethod::AdamW, 3),
            [(0, 0, 0..4), (1, 0, 4..7), (1, 1, 0..1), (2, 1, 1..5)]
        );
        assert_eq!(cut(&[7, 0, 5], OptimizerMethod::Sgd, 1), [(0, 0, 0..7), (0, 2, 0..5)]);
        for (rule, unit) in [(OptimizerMethod::AdamW8bit, 256), (OptimizerMethod::Lion, 1)] {
            let sizes = [1000, 3, 7777, 256];
            for ranks in 1..6 {
                let pieces = cut(&sizes, rule, ranks);
                for (number, &size) in sizes.iter().enumerate() {
                    let of: Vec<_> = pieces.iter().filter(|piece| piece.1 == number).collect();
                    assert_eq!((of[0].2.start, of[of.len() - 1].2.end), (0, size));
                    assert!(
                        of.windows(2)
                            .all(|pair| pair[0].2.end == pair[1].2.start
                                && pair[0].2.end % unit == 0)
                    );
                }
                let sum = |rank| {
                    pieces
                        .iter()
                        .filter(|piece| piece.0 == rank)
                        .map(|piece| piece.2.end - piece.2.start)
                        .sum::<i64>()
                };
                let total: i64 = sizes.iter().sum();
                assert!(
                    (0..ranks).all(|rank| (sum(rank) - total / ranks as i64).abs() <= unit),
                    "{ranks} ranks"
                );
            }
        }
    }

    #[test]
    fn a_matrix_that_is_orthogonalized_stays_whole() {
        assert_eq!(
            cut(&[10, 10, 10], OptimizerMethod::Muon, 2),
            [(0, 0, 0..10), (0, 1, 0..10), (1, 2, 0..10)]
        );
    }
}
