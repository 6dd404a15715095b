use tch::Tensor;

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::Error;

/// Cuts the last dimension of `x` into pieces of these `widths`, as a fused projection is. Each
/// piece has a storage of its own, so that saving one does not hold the others; nothing is saved
/// here.
///
/// # Errors
/// [`Error::Shape`] if the widths do not add up to that of `x`.
pub fn split(x: &Tensor, widths: &[i64]) -> Result<Vec<Tensor>, Error> {
    let size = x.size();
    if size.last().copied() != Some(widths.iter().sum()) {
        return Err(Error::Shape {
            operation: "split",
            expected: format!("a last dimension that is the sum of {widths:?}"),
            got: size,
        });
    }
    Ok(apply(Split { widths: widths.to_vec(), shape: size }, &[x])?)
}

struct Split {
    widths: Vec<i64>,
    /// Of `x`.
    shape: Vec<i64>,
}

impl Function for Split {
    fn name(&self) -> String {
        "split".into()
    }

    fn forward(
        &mut self,
        _: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let mut start = 0;
        let mut pieces = Vec::with_capacity(self.widths.len());
        for width in &self.widths {
            pieces.push(inputs[0].f_narrow(-1, start, *width)?.copy());
            start += width;
        }
        Ok(pieces)
    }

    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(first) = gradients.iter().flatten().next() else { return Ok(vec![None]) };
        let dx = Tensor::f_zeros(&self.shape[..], (first.kind(), first.device()))?;
        let mut start = 0;
        for (gradient, width) in gradients.iter().zip(&self.widths) {
            if let Some(gradient) = gradient {
                dx.f_narrow(-1, start, *width)?.f_copy_(gradient)?;
            }
            start += width;
        }
        Ok(vec![Some(dx)])
    }
}
