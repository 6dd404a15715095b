//! The magnitude of DoRA (arXiv 2402.09353, section 4), as PEFT computes it.

use tch::{Kind, TchError, Tensor};

use crate::wide;

/// `‖w + scale · b a‖` for each row of `w` `[out, in]`: `[out]`, in f32 or better.
///
/// The updated weight is not made: `‖w + s b A‖² = ‖w‖² + 2 s b (A w) + s² b (A Aᵀ) bᵀ`.
pub(super) fn norms(
    weight: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Result<Tensor, TchError> {
    let kind = wide(weight.kind());
    let (a, b) = (a.f_to_kind(kind)?, b.f_to_kind(kind)?);
    let along = |x: &Tensor, y: &Tensor| x.f_mul(y)?.f_sum_dim_intlist(1, false, kind);
    let crossed = weight.f_matmul(&a.f_to_kind(weight.kind())?.f_tr()?)?.f_to_kind(kind)?;
    let squares =
        weight.f_norm_scalaropt_dim_dtype(2.0, [1_i64].as_slice(), false, kind)?.f_square()?;
    let update = along(&b.f_matmul(&a.f_matmul(&a.f_tr()?)?)?, &b)?.f_mul_scalar(scale * scale)?;
    squares
        .f_add(&along(&crossed, &b)?.f_mul_scalar(2.0 * scale)?)?
        .f_add(&update)?
        .f_clamp_min(0.0)?
        .f_sqrt()
}

/// What the rows of the updated weight are multiplied with. A row of zeros is not divided by.
pub(super) fn gain(magnitude: &Tensor, norms: &Tensor) -> Result<Tensor, TchError> {
    let least =
        if norms.kind() == Kind::Double { f64::MIN_POSITIVE } else { f64::from(f32::MIN_POSITIVE) };
    magnitude.f_to_kind(norms.kind())?.f_div(&norms.f_clamp_min(least)?)
}

/// `y` `[rows, out]` with its columns multiplied, in its own dtype: a gain near 1 would be lost in
/// bf16.
pub(super) fn scaled(y: &Tensor, gain: &Tensor) -> Result<Tensor, TchError> {
    y.f_mul(gain)?.f_to_kind(y.kind())
}
