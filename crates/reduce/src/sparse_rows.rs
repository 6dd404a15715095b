//! Gradients of which few rows differ from zero: of an embedding's, only the rows of tokens that
//! some rank has seen travel.
//!
//! Nothing is lost: the rows that stay are zero on all ranks, and so is their mean.

use tch::Kind;

use collective::{ProcessGroup, Reduce};

use crate::all_reduce::{all_reduce, all_reduce_mean};
use crate::bucket::Bucket;
use crate::error::Result;
use crate::parameter::Parameter;

/// Smaller tables travel whole, with their neighbours: to ask which rows there are takes longer
/// than to send all.
const LEAST_BYTES: usize = 1 << 20;

/// A table `[rows, columns]`, alone in its bucket.
pub(crate) struct SparseRows {
    shape: [i64; 2],
}

impl SparseRows {
    /// Whether a parameter is large enough to be looked at row by row.
    pub(crate) fn suits(parameter: &Parameter) -> bool {
        parameter.shape.len() == 2
            && parameter.numel() * Kind::Float.elt_size_in_bytes() >= LEAST_BYTES
    }

    /// A bucket for that parameter, in `kind`.
    pub(crate) fn new(
        parameters: &[Parameter],
        member: usize,
        kind: Kind,
    ) -> Result<(Bucket, SparseRows)> {
        let shape = &parameters[member].shape;
        let rows = SparseRows { shape: [shape[0], shape[1]] };
        Ok((Bucket::new(parameters, vec![member], kind)?, rows))
    }

    /// Replaces the gradient in `bucket` by its mean over the ranks; returns the bytes handed over:
    /// two for each row and then the rows that differ from zero on some rank, or all rows if those
    /// are more than half. Takes the memory of what it sends.
    pub(crate) fn reduce(&self, group: &dyn ProcessGroup, bucket: &Bucket) -> Result<u64> {
        let mut flat = bucket.flat();
        if group.world_size() == 1 {
            return all_reduce_mean(group, &mut flat);
        }
        let mut table = flat.f_view(self.shape.as_slice())?;
        // The largest of each row, in which NaN shows too; a comparison of all elements would need
        // memory for its answers.
        let largest =
            table.f_linalg_norm(f64::INFINITY, [1_i64].as_slice(), false, None::<Kind>)?;
        let mut is_there = largest.f_ne(0)?.f_to_kind(Kind::BFloat16)?;
        let asked = all_reduce(group, &mut is_there, Reduce::Max)?;
        let index = is_there.f_nonzero()?.f_flatten(0, -1)?;
        if 2 * index.numel() as i64 > self.shape[0] {
            return Ok(asked + all_reduce_mean(group, &mut flat)?);
        }
        let mut rows = table.f_index_select(0, &index)?;
        let sent = all_reduce_mean(group, &mut rows)?;
        let _ = table.f_index_copy_(0, &index, &rows)?;
        Ok(asked + sent)
    }
}
