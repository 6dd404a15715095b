use tch::Tensor;

use crate::{Error, Matrix};

/// Rows of `weight` `[vocabulary, width]` for `ids` `[..]` (integers): `[.., width]`. libtorch
/// keeps the ids for the weight's gradient. The row of `padding` gets no gradient from here
/// (`padding_idx` of `nn.Embedding`).
///
/// # Errors
/// Those of libtorch, as an id outside the vocabulary.
pub fn embedding<'a>(
    weight: impl Into<Matrix<'a>>,
    ids: &Tensor,
    padding: Option<i64>,
) -> Result<Tensor, Error> {
    match weight.into() {
        Matrix::Dense(weight) => {
            Ok(Tensor::f_embedding(weight, ids, padding.unwrap_or(-1), false, false)?)
        }
        Matrix::Quantized(weight) => Ok(weight.rows(ids)?),
    }
}
