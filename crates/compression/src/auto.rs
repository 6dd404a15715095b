use tch::{Kind, Tensor};

use crate::components::components;
use crate::inputs::Inputs;
use crate::projection::{Basis, Projection};
use crate::row_space::row_space;
use crate::svd::svd;
use crate::{Error, Method};

/// The fewest components, at most `most`, whose per-token error is at most `error`, after rounding
/// to `kind` and with or without `keep_norms`.
///
/// The per-token error of an approximation of `A` is the Frobenius error of the same approximation
/// of `N`, which is `A` with each row scaled to unit norm. So `N` is decomposed: the singular
/// values of `N` are the optimum. [`Method::Svd`] takes them; another method sketches `N` with some
/// directions more than `most` ([`Method::Qb`] as [`Method::RowSpace`] does), sharpens the row
/// space of the sketch by a power iteration, and takes the components in the order of what they
/// hold. As these projections are orthogonal, the error after each component follows from the row
/// norms of the left factor alone. Where the sketch would be nearly as wide as the matrix, the
/// exact way is the cheaper one.
pub(crate) fn auto(
    inputs: &Inputs<'_>,
    method: Method,
    error: f64,
    most: i64,
    keep_norms: bool,
    kind: Kind,
) -> Result<Projection, Error> {
    let a = inputs.a;
    let (rows, columns) = a.size2()?;
    let norms = a.f_square()?.f_sum_dim_intlist(1, true, a.kind())?.f_sqrt()?;
    let empty = norms.f_eq(0.0)?;
    let n = a.f_div(&norms.f_masked_fill(&empty, 1.0)?)?;
    let counted = (rows - empty.f_sum(Kind::Int64)?.f_int64_value(&[])?).max(1);

    let wide = most + most / 8 + 8;
    let found = if method == Method::Svd || 3 * wide > 2 * rows.min(columns) {
        svd(&n, most)?
    } else {
        let inputs = Inputs { a: &n, ..*inputs };
        let sketch = match method {
            Method::Qb { test_matrix } | Method::RowSpace { test_matrix, .. } => {
                row_space(&inputs, wide, test_matrix, false)?
            }
            _ => components(&inputs, method, wide)?,
        };
        sketch.sharpened(&n)?.cut(most)?
    };
    let shares = shares(&found)?;
    let lost = lost_after_each(&shares, counted, keep_norms)?;
    let rounding = Rounding::from_projection(&found, &shares, counted, kind)?;
    let fits = |found: &(&f64, i64)| found.0 + rounding.with(found.1) <= error * error;
    let rank = lost.iter().zip(1..).find(fits).map_or(most, |(_, rank)| rank);
    let found = found.first(rank)?;
    Ok(Projection { left: found.left.f_mul(&norms)?, right: found.right, basis: found.basis })
}

/// What each component holds of each unit row, `[rows, components]`, in f64: the squares of the
/// coordinates.
fn shares(found: &Projection) -> Result<Tensor, Error> {
    let left = found.left.f_to_kind(Kind::Double)?.f_square()?;
    // With singular vectors on the left, the rows on the right are orthogonal and hold the singular
    // values.
    match found.basis {
        Basis::Left => Ok(left.f_mul(&lengths(&found.right)?)?),
        _ => Ok(left),
    }
}

/// The squared norm of each row, `[rows]`, in f64.
fn lengths(matrix: &Tensor) -> Result<Tensor, Error> {
    Ok(matrix.f_to_kind(Kind::Double)?.f_square()?.f_sum_dim_intlist(1, false, Kind::Double)?)
}

/// The square of the per-token error with the first 1, 2, … components of an ordered orthogonal
/// projection of unit rows.
///
/// A row of which the share `c` is held loses `1 − c`, or `‖n̂/√c − n‖² = 2 − 2√c` where its norm
/// is restored.
fn lost_after_each(shares: &Tensor, rows: i64, keep_norms: bool) -> Result<Vec<f64>, Error> {
    let held = if keep_norms {
        let held = shares.f_cumsum(1, Kind::Double)?.f_clamp(0.0, 1.0)?;
        let restored = held.f_sqrt()?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
        // An empty row is not counted, and a row hardly seen is not rescaled.
        restored.f_where_self(&held.f_gt(1e-8)?, &held)?.f_sum_dim_intlist(
            0,
            false,
            Kind::Double,
        )?
    } else {
        shares.f_sum_dim_intlist(0, false, Kind::Double)?.f_cumsum(0, Kind::Double)?
    };
    let lost = held.f_div_scalar(rows as f64)?.f_rsub_scalar(1.0)?;
    Ok(Vec::<f64>::try_from(lost)?)
}

/// The square of the per-token error that rounding the factors adds.
struct Rounding {
    fixed: f64,
    of_each_component: f64,
}

impl Rounding {
    /// A step of size `s` rounds with a mean square of `s² / 12`. In int8, `s` is 1/127 of the
    /// largest element, of a token's row on the left (once for each component) and of a channel's
    /// column on the right. Of the floating dtypes, the coarser rounds each factor by at most 2⁻⁹
    /// (bf16) or 2⁻¹² (f16) of each element.
    fn from_projection(
        found: &Projection,
        shares: &Tensor,
        rows: i64,
        kind: Kind,
    ) -> Result<Self, Error> {
        let relative = |size: f64| Self { fixed: 2.0 * size * size, of_each_component: 0.0 };
        Ok(match kind {
            Kind::BFloat16 => relative(2f64.powi(-9)),
            Kind::Half => relative(2f64.powi(-12)),
            Kind::Int8 => {
                let squares = found.right.f_to_kind(Kind::Double)?.f_square()?;
                let unit = squares.f_div(
                    &lengths(&found.right)?.f_clamp_min(f64::MIN_POSITIVE)?.f_unsqueeze(1)?,
                )?;
                let steps = |largest: Tensor| -> Result<f64, Error> {
                    Ok(largest.f_sum(Kind::Double)?.f_double_value(&[])? / (12.0 * 127.0 * 127.0))
                };
                Self {
                    fixed: steps(unit.f_amax([0], false)?)?,
                    of_each_component: steps(shares.f_amax([1], false)?)? / rows as f64,
                }
            }
            _ => relative(0.0),
        })
    }

    fn with(&self, rank: i64) -> f64 {
        self.fixed + self.of_each_component * rank as f64
    }
}
