use tch::{Kind, TchError, Tensor};

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::Error;
use crate::footprint::{Allocation, MemorySim};

/// Which columns of a head are turned together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairs {
    /// `(x_i, x_{i + d/2})`: the layout of most models in transformers.
    #[default]
    Halves,
    /// `(x_{2i}, x_{2i+1})`: interleaved, as in Cohere, GLM and DeepSeek.
    Neighbours,
}

/// Cosines and sines of the rotary embedding for the positions of a batch (RoPE, arXiv 2104.09864),
/// shared by all layers.
#[derive(Debug)]
pub struct RotaryTable {
    /// `[batch or 1, tokens, 1, turned / 2]`.
    cosines: Tensor,
    sines: Tensor,
    pairs: Pairs,
    /// The first column of a head that is turned.
    first: i64,
}

impl RotaryTable {
    /// From `positions` `[batch or 1, tokens]` (integers) and the frequency of each pair
    /// `inverse_frequencies` `[turned / 2]`. Angles are computed in f32 as transformers does (in
    /// f64 for an f64 model), then rounded to `kind`. `scale` multiplies both tables.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(
        positions: &Tensor,
        inverse_frequencies: &Tensor,
        scale: f64,
        kind: Kind,
    ) -> Result<Self, Error> {
        let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        let angles = positions
            .f_to_kind(wide)?
            .f_unsqueeze(-1)?
            .f_mul(&inverse_frequencies.f_to_kind(wide)?)?
            .f_unsqueeze(2)?;
        let table = |values: Tensor| values.f_mul_scalar(scale)?.f_to_kind(kind);
        Ok(Self {
            cosines: table(angles.f_cos()?)?,
            sines: table(angles.f_sin()?)?,
            pairs: Pairs::Halves,
            first: 0,
        })
    }

    /// The same table for heads whose columns are paired so.
    pub fn with_pairs(self, pairs: Pairs) -> Self {
        Self { pairs, ..self }
    }

    /// The same table for heads that are turned from column `first` on.
    pub fn from_column(self, first: i64) -> Self {
        Self { first, ..self }
    }

    /// The same table, sharing its storage.
    pub fn shallow_clone(&self) -> Self {
        Self { cosines: self.cosines.shallow_clone(), sines: self.sines.shallow_clone(), ..*self }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        2 * (self.cosines.numel() * self.cosines.kind().elt_size_in_bytes()) as u64
    }
}

/// Rotates each head's pairs of `x` `[batch, tokens, heads, d]` by its token's angles: as many
/// columns as the table has angles for, the others being left as they are. Nothing is saved: the
/// backward is the rotation back.
///
/// # Errors
/// [`Error::Shape`] if `x` is not of that shape or narrower than the table.
pub fn rotary(x: &Tensor, table: &RotaryTable) -> Result<Tensor, Error> {
    let turned = 2 * table.cosines.size()[3];
    let size = x.size();
    if size.len() != 4 || size[3] < table.first + turned {
        let expected = format!("[batch, tokens, heads, {} or more]", table.first + turned);
        return Err(Error::Shape { operation: "rotary", expected, got: size });
    }
    Ok(apply(Rotary(table.shallow_clone()), &[x])?.remove(0))
}

struct Rotary(RotaryTable);

impl Rotary {
    /// The first and the second members of all pairs.
    fn members(&self, x: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let RotaryTable { cosines, pairs, first, .. } = &self.0;
        let half = cosines.size()[3];
        match pairs {
            Pairs::Halves => Ok((x.f_narrow(3, *first, half)?, x.f_narrow(3, first + half, half)?)),
            Pairs::Neighbours => {
                let end = first + 2 * half;
                Ok((x.f_slice(3, *first, end, 2)?, x.f_slice(3, first + 1, end, 2)?))
            }
        }
    }

    /// By the angles, or back.
    fn rotate(&self, x: &Tensor, back: bool) -> Result<Tensor, TchError> {
        let RotaryTable { cosines, sines, first: start, .. } = &self.0;
        let (first, second) = self.members(x)?;
        let out = Tensor::f_empty(x.size(), (x.kind(), x.device()))?;
        let (mut out_first, mut out_second) = self.members(&out)?;
        let sign = if back { 1.0 } else { -1.0 };
        // (a, b) -> (a cos − b sin, b cos + a sin); back: the sine changes its sign.
        out_first.f_copy_(&first.f_mul(cosines)?)?;
        let _ = out_first.f_addcmul_(&second, &sines.f_mul_scalar(sign)?)?;
        out_second.f_copy_(&second.f_mul(cosines)?)?;
        let _ = out_second.f_addcmul_(&first, &sines.f_mul_scalar(-sign)?)?;
        let (end, width) = (start + 2 * cosines.size()[3], x.size()[3]);
        for (from, length) in [(0, *start), (end, width - end)] {
            if length > 0 {
                out.f_narrow(3, from, length)?.f_copy_(&x.f_narrow(3, from, length)?)?;
            }
        }
        Ok(out)
    }
}

impl Function for Rotary {
    fn name(&self) -> String {
        "rotary".into()
    }

    fn forward(
        &mut self,
        _: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        Ok(vec![self.rotate(inputs[0], false)?])
    }

    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        Ok(vec![Some(self.rotate(dy, true)?)])
    }
}

impl MemorySim {
    /// Queries or keys with rotary embeddings.
    pub fn rotary(&self, elements: u64) -> Allocation {
        let out = self.tensor(elements);
        drop(self.tensor(elements / 2));
        out
    }
}
