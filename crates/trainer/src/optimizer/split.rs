//! The optimiser's work shared out over the ranks (ZeRO, stage 1: Rajbhandari et al. 2019, arXiv 1910.02054): each holds the states of its part of
//! all elements, steps it, and hands the new values to the others.

use super::Trained;
use super::blockwise::BLOCK;
use crate::Result;
use collective::ProcessGroup;
use config::OptimizerMethod;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// A rank's part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// This rank.
    pub rank: usize,
    /// The ranks that share.
    pub ranks: usize,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1 };
}

/// Elements of one parameter that one rank steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub owner: usize,
    /// The parameter's number.
    pub parameter: usize,
    pub elements: Range<i64>,
}

/// Where the parameters are cut: all elements in a row into equal parts. A matrix that Muon turns stays whole, with the rank that holds its middle,
/// and one whose states are in blocks is cut between blocks.
pub(super) fn pieces(parameters: &[Trained<'_>], rule: OptimizerMethod, ranks: usize) -> Vec<Piece> {
    let sizes: Vec<i64> = parameters.iter().map(|trained| trained.tensor.numel() as i64).collect();
    let total: i64 = sizes.iter().sum();
    // The first element of a rank's part, of `total`.
    let start = |rank: usize| (i128::from(total) * rank as i128 / ranks as i128) as i64;
    let mut pieces = Vec::new();
    let mut before = 0;
    for (number, (trained, &size)) in parameters.iter().zip(&sizes).enumerate() {
        let unit = match rule {
            OptimizerMethod::Muon if trained.is_muon_matrix() => size,
            OptimizerMethod::AdamW8bit => BLOCK,
            _ => 1,
        };
        // Rounded to the nearest place where it may be cut.
        let cut = |at: i64| (((at - before).clamp(0, size) + unit / 2) / unit.max(1) * unit).min(size);
        for owner in 0..ranks {
            let last = owner + 1 == ranks;
            let elements = cut(start(owner))..if last { size } else { cut(start(owner + 1)) };
            if !elements.is_empty() {
                pieces.push(Piece { owner, parameter: number, elements });
            }
        }
        before += size;
    }
    pieces
}

/// Values that travel together: of one dtype, from one rank.
#[derive(Debug)]
struct Parcel {
    owner: usize,
    /// Views of the parameters, flat.
    values: Vec<Tensor>,
    /// The part of the buffer that they fill.
    buffer: Tensor,
}

/// How new values get to the ranks that did not make them.
#[derive(Debug)]
pub(super) struct Exchange(Vec<Parcel>);

/// Bytes of the buffer through which values travel: as much as a bucket of gradients.
pub(crate) const EXCHANGE_BYTES: u64 = 25 << 20;

impl Exchange {
    /// For these pieces of all ranks.
    pub fn new(parameters: &[Trained<'_>], pieces: &[Piece], ranks: usize, device: Device) -> Result<Self> {
        // What fits into the buffer: from each owner, neighbours of one dtype.
        let mut parcels: Vec<(usize, Kind, i64, Vec<Tensor>)> = Vec::new();
        for owner in 0..if ranks > 1 { ranks } else { 0 } {
            let mut is_new = true;
            for piece in pieces.iter().filter(|piece| piece.owner == owner) {
                let tensor = parameters[piece.parameter].tensor;
                let kind = tensor.kind();
                let room = EXCHANGE_BYTES as i64 / kind.elt_size_in_bytes() as i64;
                for start in piece.elements.clone().step_by(room as usize) {
                    let length = room.min(piece.elements.end - start);
                    let value = flat(tensor, &(start..start + length))?;
                    match parcels.last_mut().filter(|parcel| !is_new && parcel.1 == kind && parcel.2 + length <= room) {
                        Some(parcel) => {
                            parcel.2 += length;
                            parcel.3.push(value);
                        }
                        None => parcels.push((owner, kind, length, vec![value])),
                    }
                    is_new = false;
                }
            }
        }
        let bytes = parcels.iter().map(|(_, kind, length, _)| *length as usize * kind.elt_size_in_bytes()).max().unwrap_or(0);
        let room = Tensor::f_empty([bytes as i64], (Kind::Uint8, device))?;
        let parcel = |(owner, kind, length, values): (usize, Kind, i64, Vec<Tensor>)| {
            let bytes = length * kind.elt_size_in_bytes() as i64;
            Ok(Parcel { owner, values, buffer: room.f_narrow(0, 0, bytes)?.f_view_dtype(kind)? })
        };
        Ok(Self(parcels.into_iter().map(parcel).collect::<Result<_>>()?))
    }

    /// Whether other ranks have values that this one has not.
    pub fn is_needed(&self) -> bool {
        !self.0.is_empty()
    }

    /// Gives every rank the values that others have stepped. All ranks call it.
    pub fn run(&mut self, group: &dyn ProcessGroup) -> Result<()> {
        for Parcel { owner, values, buffer } in &mut self.0 {
            let mut start = 0;
            let mut parts = Vec::with_capacity(values.len());
            for value in values.iter() {
                parts.push(buffer.f_narrow(0, start, value.numel() as i64)?);
                start += value.numel() as i64;
            }
            if *owner == group.rank() {
                parts.iter_mut().zip(values.iter()).try_for_each(|(part, value)| part.f_copy_(value))?;
            }
            group.broadcast(buffer, *owner)?;
            if *owner != group.rank() {
                values.iter_mut().zip(&parts).try_for_each(|(value, part)| value.f_copy_(part))?;
            }
        }
        Ok(())
    }
}

/// Elements of a tensor, flat: its own memory.
pub(super) fn flat(tensor: &Tensor, elements: &Range<i64>) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_view([-1])?.f_narrow(0, elements.start, elements.end - elements.start)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(sizes: &[i64], rule: OptimizerMethod, ranks: usize) -> Vec<(usize, usize, Range<i64>)> {
        let tensors: Vec<Tensor> = sizes.iter().map(|&size| Tensor::zeros([size, 1], (Kind::Float, Device::Cpu))).collect();
        let trained: Vec<Trained<'_>> = tensors.iter().map(|tensor| Trained { tensor, rate: 1.0, is_hidden_matrix: true }).collect();
        pieces(&trained, rule, ranks).into_iter().map(|piece| (piece.owner, piece.parameter, piece.elements)).collect()
    }

    #[test]
    fn elements_are_shared_out_evenly_and_each_once() {
        assert_eq!(cut(&[7, 5], OptimizerMethod::AdamW, 3), [(0, 0, 0..4), (1, 0, 4..7), (1, 1, 0..1), (2, 1, 1..5)]);
        assert_eq!(cut(&[7, 0, 5], OptimizerMethod::Sgd, 1), [(0, 0, 0..7), (0, 2, 0..5)]);
        for (rule, unit) in [(OptimizerMethod::AdamW8bit, 256), (OptimizerMethod::Lion, 1)] {
            let sizes = [1000, 3, 7777, 256];
            for ranks in 1..6 {
                let pieces = cut(&sizes, rule, ranks);
                for (number, &size) in sizes.iter().enumerate() {
                    let of: Vec<_> = pieces.iter().filter(|piece| piece.1 == number).collect();
                    assert_eq!((of[0].2.start, of[of.len() - 1].2.end), (0, size));
                    assert!(of.windows(2).all(|pair| pair[0].2.end == pair[1].2.start && pair[0].2.end % unit == 0));
                }
                let sum = |rank| pieces.iter().filter(|piece| piece.0 == rank).map(|piece| piece.2.end - piece.2.start).sum::<i64>();
                let total: i64 = sizes.iter().sum();
                assert!((0..ranks).all(|rank| (sum(rank) - total / ranks as i64).abs() <= unit), "{ranks} ranks");
            }
        }
    }

    #[test]
    fn a_matrix_that_is_turned_stays_whole() {
        assert_eq!(cut(&[10, 10, 10], OptimizerMethod::Muon, 2), [(0, 0, 0..10), (0, 1, 0..10), (1, 2, 0..10)]);
    }
}
