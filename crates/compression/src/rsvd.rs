use tch::Tensor;

use crate::Error;
use crate::orthonormalize::basis;
use crate::projection::Projection;
use crate::qb::gaussian;

/// The components of a Gaussian sketch of `rank` directions after `power_iterations`, not ordered.
///
/// The sketch spans the shorter side of `a`, so that only thin matrices of that length are
/// orthonormalised last: for a tall matrix it is `Aᵀ G`, a basis of the rows, else `A G`.
pub(crate) fn rsvd(
    a: &Tensor,
    rank: i64,
    power_iterations: u32,
    seed: u64,
) -> Result<Projection, Error> {
    let (rows, columns) = a.size2()?;
    let tall = rows > columns;
    let short = if tall { a.f_tr()? } else { a.shallow_clone() };
    let long = short.f_tr()?;
    let mut q = basis(&short.f_matmul(&gaussian(rows.max(columns), rank, a, seed)?)?)?;
    for _ in 0..power_iterations {
        q = basis(&short.f_matmul(&basis(&long.f_matmul(&q)?)?)?)?;
    }
    if tall { Projection::onto_rows(a, &q) } else { Projection::onto_columns(a, q) }
}
