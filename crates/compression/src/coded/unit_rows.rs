use tch::{Kind, Tensor};

use crate::Error;
use crate::measure::{check_finite, check_matrix};

/// A matrix taken apart: rows of unit norm, and what their norms were.
#[derive(Debug)]
pub(crate) struct UnitRows {
    /// `[rows, columns]` in f32; rows of zeros stay so.
    pub rows: Tensor,
    /// `[rows]`.
    pub norms: Vec<f32>,
}

impl UnitRows {
    /// A row is first divided by its largest magnitude: no square leaves the range of f32, whatever
    /// the other rows are.
    pub(crate) fn new(operation: &'static str, matrix: &Tensor) -> Result<Self, Error> {
        check_matrix(operation, matrix)?;
        let matrix = matrix.f_detach()?.f_to_kind(Kind::Float)?;
        check_finite(operation, &matrix)?;
        let never_zero = |tensor: Tensor| -> Result<Tensor, Error> {
            Ok(tensor.f_masked_fill(&tensor.f_eq(0.0)?, 1.0)?)
        };
        let largest = matrix.f_abs()?.f_amax([1], true)?;
        let scaled = matrix.f_div(&never_zero(largest.shallow_clone())?)?;
        let lengths = scaled.f_square()?.f_sum_dim_intlist(1, true, Kind::Float)?.f_sqrt()?;
        let rows = scaled.f_div(&never_zero(lengths.shallow_clone())?)?;
        // A norm may be beyond the largest float although no element is.
        let norms = lengths.f_mul(&largest)?.f_clamp_max(f64::from(f32::MAX))?;
        Ok(Self { rows, norms: Vec::try_from(norms.f_reshape([-1])?)? })
    }

    /// Rows that are not zero, at least 1.
    pub(crate) fn counted(&self) -> usize {
        self.norms.iter().filter(|&&norm| norm > 0.0).count().max(1)
    }
}

/// A matrix, the norms of its rows, and what to multiply a row with for unit norm.
#[derive(Debug)]
pub(crate) struct Normed {
    /// `[rows, columns]` in f32, or in bf16 if it was so.
    pub rows: Tensor,
    /// `[rows]`.
    pub norms: Vec<f32>,
    /// `[rows]`.
    pub inverses: Vec<f32>,
}

/// Norms of rows of which no square leaves the range of f32, as far as it matters.
const USUAL: std::ops::Range<f32> = 1e-15..1e15;

impl Normed {
    /// One pass over the matrix as it is; rows that are zero, or of unusual norm, or not finite,
    /// take the way of [`UnitRows`].
    pub(crate) fn new(operation: &'static str, matrix: &Tensor) -> Result<Self, Error> {
        check_matrix(operation, matrix)?;
        let kind = if matrix.kind() == Kind::BFloat16 { Kind::BFloat16 } else { Kind::Float };
        let rows = matrix.f_detach()?.f_to_kind(kind)?;
        let norms = Vec::<f32>::try_from(rows.f_norm_scalaropt_dim_dtype(
            2,
            [1].as_slice(),
            false,
            Kind::Float,
        )?)?;
        if norms.iter().all(|norm| USUAL.contains(norm)) {
            let inverses = norms.iter().map(|norm| 1.0 / norm).collect();
            return Ok(Self { rows, norms, inverses });
        }
        let UnitRows { rows, norms } = UnitRows::new(operation, &rows)?;
        let inverses = vec![1.0; norms.len()];
        Ok(Self { rows, norms, inverses })
    }
}
