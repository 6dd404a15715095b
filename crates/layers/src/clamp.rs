use tch::{Kind, Tensor};

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::{Error, SavePolicy, SavedActivation, Scope};

/// Limits each element of `x` to ±`limit` (`clip_qkv` of `OlmoAttention`). Kept is one bit's worth
/// of knowledge per element, in a byte, at the site of `scope`: whether it was within the limits.
///
/// # Errors
/// Those of libtorch.
pub fn clamp(x: &Tensor, limit: f64, scope: &Scope) -> Result<Tensor, Error> {
    Ok(apply(Clamp { limit, scope: scope.clone(), within: None }, &[x])?.remove(0))
}

struct Clamp {
    limit: f64,
    scope: Scope,
    /// 1 where the element was left as it is, as bytes.
    within: Option<SavedActivation>,
}

impl Function for Clamp {
    fn name(&self) -> String {
        "clamp".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let x = inputs[0];
        if context.any_needs_grad() {
            let within = x.f_abs()?.f_le(self.limit)?.f_to_kind(Kind::Uint8)?;
            self.within = Some(SavePolicy::Exact.save(&within, &self.scope)?);
        }
        Ok(vec![x.f_clamp(-self.limit, self.limit)?])
    }

    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(dy), Some(within)) = (&gradients[0], &self.within) else { return Ok(vec![None]) };
        Ok(vec![Some(dy.f_mul(&within.restore()?.f_to_kind(dy.kind())?)?)])
    }
}
