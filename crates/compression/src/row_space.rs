use crate::inputs::Inputs;
use crate::orthonormalize::basis;
use crate::projection::Projection;
use crate::qb::sample;
use crate::{Error, TestMatrix};

/// `A ≈ (A V) Vᵀ` with `V` an orthonormal basis of `Nᵀ N Ω`, where `N` is `A`, or `A` with rows of
/// unit norm.
///
/// With `w_i = 1 / ‖a_i‖²` on the diagonal of `W`, `Nᵀ N Ω = Aᵀ (W A Ω)`: only the thin `A Ω` is
/// weighted, and `N` is never formed.
pub(crate) fn row_space(
    inputs: &Inputs<'_>,
    rank: i64,
    test_matrix: TestMatrix,
    unit_rows: bool,
) -> Result<Projection, Error> {
    let a = inputs.a;
    let squares = a.f_square()?;
    let (sample, weighted) = if unit_rows {
        let norms = squares.f_sum_dim_intlist(1, true, a.kind())?;
        let empty = norms.f_eq(0.0)?;
        let weights = norms.f_reciprocal()?.f_masked_fill(&empty, 0.0)?;
        let energies = squares.f_tr()?.f_matmul(&weights)?.f_squeeze_dim(1)?;
        (sample(inputs, rank, test_matrix, || Ok(energies))?, Some(weights))
    } else {
        (
            sample(inputs, rank, test_matrix, || {
                Ok(squares.f_sum_dim_intlist(0, false, a.kind())?)
            })?,
            None,
        )
    };
    drop(squares);
    let sample = match weighted {
        Some(weights) => sample.f_mul(&weights)?,
        None => sample,
    };
    Projection::onto_rows(a, &basis(&a.f_tr()?.f_matmul(&sample)?)?)
}
