use crate::Error;
use tch::Tensor;

/// Rows of `weight` `[vocabulary, width]` for `ids` `[..]` (integers): `[.., width]`. libtorch keeps the ids for the weight's gradient.
///
/// # Errors
/// Those of libtorch, as an id outside the vocabulary.
pub fn embedding(weight: &Tensor, ids: &Tensor) -> Result<Tensor, Error> {
    Ok(Tensor::f_embedding(weight, ids, -1, false, false)?)
}
