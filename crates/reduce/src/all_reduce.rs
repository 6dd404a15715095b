//! All-reduces of flat buffers, with the bytes that they hand over.

use tch::Tensor;

use collective::{ProcessGroup, Reduce};

use crate::error::Result;

/// Replaces a flat buffer by its mean over the ranks; returns the bytes handed over.
pub(crate) fn all_reduce_mean(group: &dyn ProcessGroup, flat: &mut Tensor) -> Result<u64> {
    let bytes = all_reduce_sum(group, flat)?;
    if group.world_size() > 1 {
        let _ = flat.f_divide_scalar_(group.world_size() as f64)?;
    }
    Ok(bytes)
}

/// Replaces a flat buffer by its sum over the ranks; returns the bytes handed over.
pub(crate) fn all_reduce_sum(group: &dyn ProcessGroup, flat: &mut Tensor) -> Result<u64> {
    all_reduce(group, flat, Reduce::Sum)
}

/// Replaces a flat buffer by its combination over the ranks; returns the bytes handed over. All
/// ranks skip an empty one.
pub(crate) fn all_reduce(
    group: &dyn ProcessGroup,
    flat: &mut Tensor,
    operation: Reduce,
) -> Result<u64> {
    let bytes = flat.numel() * flat.kind().elt_size_in_bytes();
    if bytes > 0 {
        let _span = tracing::trace_span!("all_reduce", bytes).entered();
        group.all_reduce(flat, operation)?;
    }
    Ok(bytes as u64)
}

/// Whether no element is NaN or infinite. Makes the host wait for a GPU.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}
