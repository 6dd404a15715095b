//! Keys and values that several heads share (grouped-query attention, arXiv 2305.13245).

use tch::{TchError, Tensor};

/// `[batch, keys, kv_heads, d]` to `[batch, heads, keys, d]`, each head of a group given its own
/// copy.
pub(super) fn repeat_kv(x: &Tensor, groups: i64) -> Result<Tensor, TchError> {
    let x = x.f_transpose(1, 2)?;
    if groups == 1 { Ok(x) } else { x.f_repeat_interleave_self_int(groups, 1, None) }
}

/// The inverse for gradients: the sum over each group, back to `[batch, keys, kv_heads, d]`.
pub(super) fn sum_kv_groups(gradient: &Tensor, groups: i64) -> Result<Tensor, TchError> {
    let size = gradient.size();
    let summed = match groups {
        1 => gradient.shallow_clone(),
        _ => gradient
            .f_reshape([size[0], size[1] / groups, groups, size[2], size[3]])?
            .f_sum_dim_intlist(2, false, gradient.kind())?,
    };
    summed.f_transpose(1, 2)
}
