use tch::Tensor;

use crate::Error;
use crate::linalg::ready;
use crate::projection::{Basis, Projection};
use crate::qb::gaussian;

/// Generalised Nyström: `A ≈ A Ω (Ψᵀ A Ω)⁺ Ψᵀ A` with Gaussian `Ω` `[columns, rank]` and `Ψ`
/// `[rows, ⌈1.5 rank⌉]`.
///
/// Source: Nakatsukasa, "Fast and stable randomized low-rank matrix approximation" (arXiv
/// 2009.11392): the oversampling of one half is that paper's choice, and its stabilisation is ours
/// too, with singular vectors in place of a pivoted QR: with `Ψᵀ A Ω = U Σ Vᵀ`, singular values
/// below rounding dropped, the factors are `left = A Ω V Σ⁻¹` and `right = Uᵀ Ψᵀ A`.
///
/// `A` is read once and nothing tall is orthonormalised; in exchange the error is above that of a
/// projection onto `A Ω`, by about `sqrt(1 + rank / (0.5 rank − 1))` in expectation.
pub(crate) fn nystrom(a: &Tensor, rank: i64, seed: u64) -> Result<Projection, Error> {
    let (rows, columns) = a.size2()?;
    let more = (rank + (rank + 1) / 2).min(rows);
    let sketch = a.f_matmul(&gaussian(columns, rank, a, seed)?)?;
    // Another stream than that of Ω.
    let psi = gaussian(rows, more, a, seed ^ 0x5bd1_e995_9e37_79b9)?.f_tr()?;
    let (u, s, v) = ready(&psi.f_matmul(&sketch)?).f_svd(true, true)?;
    let epsilon =
        if a.kind() == tch::Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let floor = s.f_amax([0], true)?.f_mul_scalar(epsilon * more as f64)?;
    let inverse = s.f_reciprocal()?.f_masked_fill(&s.f_le_tensor(&floor)?, 0.0)?;
    Ok(Projection {
        left: sketch.f_matmul(&v.f_mul(&inverse)?)?,
        right: u.f_tr()?.f_matmul(&psi.f_matmul(a)?)?,
        basis: Basis::Neither,
    })
}
