use tch::{Kind, TchError, Tensor};

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::footprint::{Allocation, MemorySim, SavedTensor};
use crate::{Error, SavePolicy, SavedActivation, Scope, wide};

/// How the weight of an [`rms_norm`] enters, which differs between model classes of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RmsWeight {
    /// `w · n` after the normed `n` was rounded to the dtype of the input (`LlamaRMSNorm`).
    Rounded,
    /// `w · n` in f32, rounded afterwards (`Olmo2RMSNorm`).
    Precise,
    /// `(1 + w) · n` in f32, rounded afterwards (`GemmaRMSNorm`).
    OnePlus,
}

impl RmsWeight {
    /// What the normed input is multiplied with, as `kind`.
    fn factor(self, weight: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
        let weight = weight.f_to_kind(kind)?;
        if self == Self::OnePlus { weight.f_add_scalar(1.0) } else { Ok(weight) }
    }
}

/// RMSNorm over the last dimension, `y = w · x / sqrt(mean(x²) + eps)`, computed in f32 or better
/// (Zhang and Sennrich 2019, arXiv 1910.07467).
///
/// `x` `[.., width]` is saved as `policy` says if its gradient or the weight's is needed; `weight`
/// is `[width]` and enters as `rule` says.
///
/// # Errors
/// [`Error::Shape`] if the weight does not fit; those of saving.
pub fn rms_norm(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    rule: RmsWeight,
    policy: &SavePolicy,
    scope: &Scope,
) -> Result<Tensor, Error> {
    let width = x.size().last().copied().unwrap_or(0);
    if weight.size() != [width] {
        return Err(Error::Shape {
            operation: "rms_norm",
            expected: format!("a weight [{width}]"),
            got: weight.size(),
        });
    }
    let function = RmsNorm { eps, rule, policy: *policy, scope: scope.clone(), saved: None };
    Ok(apply(function, &[x, weight])?.remove(0))
}

struct RmsNorm {
    eps: f64,
    rule: RmsWeight,
    policy: SavePolicy,
    scope: Scope,
    saved: Option<SavedActivation>,
}

impl RmsNorm {
    /// `1 / sqrt(mean(x²) + eps)`, `[.., 1]`.
    fn inverse_rms(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_square()?.f_mean_dim(-1, true, x.kind())?.f_add_scalar(self.eps)?.f_rsqrt()
    }
}

impl Function for RmsNorm {
    fn name(&self) -> String {
        "rms_norm".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let (x, weight) = (inputs[0], inputs[1]);
        let precise = x.f_to_kind(wide(x.kind()))?;
        let normed = precise.f_mul(&self.inverse_rms(&precise)?)?;
        let y = match self.rule {
            RmsWeight::Rounded => {
                normed.f_to_kind(x.kind())?.f_mul(&weight.f_to_kind(x.kind())?)?
            }
            rule => normed.f_mul(&rule.factor(weight, normed.kind())?)?.f_to_kind(x.kind())?,
        };
        if context.any_needs_grad() {
            self.saved = Some(self.policy.save(x, &self.scope)?);
            context.save(weight);
        }
        Ok(vec![y])
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(dy), Some(saved)) = (&gradients[0], &self.saved) else {
            return Ok(vec![None, None]);
        };
        let weight = &context.saved()?[0];
        let x = saved.restore()?;
        let kind = wide(x.kind());
        let (x, dy) = (x.f_to_kind(kind)?, dy.f_to_kind(kind)?);
        let inverse = self.inverse_rms(&x)?;
        let normed = x.f_mul(&inverse)?;
        let d_weight = if context.needs_grad(1) {
            let width = weight.size()[0];
            Some(
                dy.f_mul(&normed)?
                    .f_reshape([-1, width])?
                    .f_sum_dim_intlist(0, false, kind)?
                    .f_to_kind(weight.kind())?,
            )
        } else {
            None
        };
        let d_x = if context.needs_grad(0) {
            // d x = (g − n · mean(g · n)) / rms, with g = w · dy and n the normed x.
            let g = dy.f_mul(&self.rule.factor(weight, kind)?)?;
            let mean = g.f_mul(&normed)?.f_mean_dim(-1, true, kind)?;
            Some(g.f_sub(&normed.f_mul(&mean)?)?.f_mul(&inverse)?)
        } else {
            None
        };
        Ok(vec![d_x, d_weight])
    }
}

impl MemorySim {
    /// A norm of `elements` elements: RMSNorm with this weight, or LayerNorm.
    pub fn norm(&self, x: &Allocation, elements: u64, weight: Option<RmsWeight>) -> Allocation {
        let precise = self.widened(x, elements);
        drop(self.wide(elements)); // squares
        let normed = self.wide(elements);
        match weight {
            Some(RmsWeight::Rounded) => {
                drop(precise);
                let _rounded = self.narrowed(normed, elements);
                self.tensor(elements)
            }
            _ => {
                let weighted = self.wide(elements);
                let _alive = (precise, normed);
                self.narrowed(weighted, elements)
            }
        }
    }

    /// The gradient of its input, from that of its output.
    pub fn norm_backward(
        &self,
        saved: &SavedTensor,
        dy: &Allocation,
        elements: u64,
        weight_trained: bool,
    ) -> Allocation {
        let dx = {
            let restored = self.restore(saved);
            let (_x, _dy) = (self.widened(&restored, elements), self.widened(dy, elements));
            drop(self.wide(elements)); // squares
            let _normed = self.wide(elements);
            if weight_trained {
                drop(self.wide(elements));
            }
            let _g = self.wide(elements);
            drop(self.wide(elements)); // g · n
            let (_scaled, _difference) = (self.wide(elements), self.wide(elements));
            self.wide(elements)
        };
        // The engine makes it what the input is.
        self.narrowed(dx, elements)
    }
}
