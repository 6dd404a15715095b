use crate::Error;
use autograd::{Backward, BoxError, Forward, Function, apply};
use tch::{Kind, Tensor};

/// Cosines and sines of the rotary embedding for the positions of a batch (RoPE, arXiv 2104.09864), shared by all layers.
#[derive(Debug)]
pub struct RotaryTable {
    /// `[batch or 1, tokens, 1, head_dim / 2]`.
    cosines: Tensor,
    sines: Tensor,
}

impl RotaryTable {
    /// From `positions` `[batch or 1, tokens]` (integers) and the frequency of each pair `inverse_frequencies` `[head_dim / 2]`. Angles are
    /// computed in f32 as transformers does (in f64 for an f64 model), then rounded to `kind`. `scale` multiplies both tables.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(positions: &Tensor, inverse_frequencies: &Tensor, scale: f64, kind: Kind) -> Result<Self, Error> {
        let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        let angles = positions.f_to_kind(wide)?.f_unsqueeze(-1)?.f_mul(&inverse_frequencies.f_to_kind(wide)?)?.f_unsqueeze(2)?;
        let table = |values: Tensor| values.f_mul_scalar(scale)?.f_to_kind(kind);
        Ok(Self { cosines: table(angles.f_cos()?)?, sines: table(angles.f_sin()?)? })
    }

    /// The same table, sharing its storage.
    pub fn shallow_clone(&self) -> Self {
        Self { cosines: self.cosines.shallow_clone(), sines: self.sines.shallow_clone() }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        2 * (self.cosines.numel() * self.cosines.kind().elt_size_in_bytes()) as u64
    }
}

/// Rotates each head's pairs `(x_i, x_{i + d/2})` of `x` `[batch, tokens, heads, d]` by its token's angles (the half-split layout of
/// transformers). Nothing is kept: the backward is the rotation back.
///
/// # Errors
/// [`Error::Shape`] if `x` is not of that shape or `d` not twice the table's width.
pub fn rotary(x: &Tensor, table: &RotaryTable) -> Result<Tensor, Error> {
    let half = table.cosines.size()[3];
    let size = x.size();
    if size.len() != 4 || size[3] != 2 * half {
        return Err(Error::Shape { operation: "rotary", expected: format!("[batch, tokens, heads, {}]", 2 * half), got: size });
    }
    Ok(apply(Rotary(table.shallow_clone()), &[x])?.remove(0))
}

struct Rotary(RotaryTable);

impl Rotary {
    /// By the angles, or back.
    fn rotate(&self, x: &Tensor, back: bool) -> Result<Tensor, tch::TchError> {
        let RotaryTable { cosines, sines } = &self.0;
        let half = cosines.size()[3];
        let (first, second) = (x.f_narrow(3, 0, half)?, x.f_narrow(3, half, half)?);
        let out = Tensor::f_empty(x.size(), (x.kind(), x.device()))?;
        let (mut out_first, mut out_second) = (out.f_narrow(3, 0, half)?, out.f_narrow(3, half, half)?);
        let sign = if back { 1.0 } else { -1.0 };
        // (a, b) -> (a cos − b sin, b cos + a sin); back: the sine changes its sign.
        out_first.f_copy_(&first.f_mul(cosines)?)?;
        let _ = out_first.f_addcmul_(&second, &sines.f_mul_scalar(sign)?)?;
        out_second.f_copy_(&second.f_mul(cosines)?)?;
        let _ = out_second.f_addcmul_(&first, &sines.f_mul_scalar(-sign)?)?;
        Ok(out)
    }
}

impl Function for Rotary {
    fn name(&self) -> String {
        "rotary".into()
    }

    fn forward(&mut self, _: &mut Forward<'_>, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        Ok(vec![self.rotate(inputs[0], false)?])
    }

    fn backward(&self, _: &Backward<'_>, gradients: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        Ok(vec![Some(self.rotate(dy, true)?)])
    }
}
