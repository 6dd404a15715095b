use tch::{Kind, TchError, Tensor};

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::{Error, SavePolicy, SavedActivation, Scope, wide};

/// LayerNorm over the last dimension, `y = w · (x − mean(x)) / sqrt(var(x) + eps) + b` (Ba et al.
/// 2016, arXiv 1607.06450), computed in f32 or better.
///
/// `x` `[.., width]` is saved as `policy` says if any gradient is needed. `weight` and `bias` may
/// be absent; their shape is `[width]`, or more of the last dimensions of `x` where these have a
/// weight of their own (`CohereLayerNorm` on heads: `[heads, width]`).
///
/// # Errors
/// [`Error::Shape`] if weight or bias do not fit; those of saving.
pub fn layer_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    policy: &SavePolicy,
    scope: &Scope,
) -> Result<Tensor, Error> {
    let size = x.size();
    for parameter in weight.iter().chain(&bias) {
        if parameter.size().is_empty() || !size.ends_with(&parameter.size()) {
            let expected = format!("a weight and a bias of the last dimensions of {size:?}");
            return Err(Error::Shape { operation: "layer_norm", expected, got: parameter.size() });
        }
    }
    let inputs: Vec<&Tensor> = [Some(x), weight, bias].into_iter().flatten().collect();
    let function = LayerNorm {
        weighted: weight.is_some(),
        eps,
        policy: *policy,
        scope: scope.clone(),
        saved: None,
    };
    Ok(apply(function, &inputs)?.remove(0))
}

struct LayerNorm {
    /// Whether the second input is a weight; a bias is the last input.
    weighted: bool,
    eps: f64,
    policy: SavePolicy,
    scope: Scope,
    saved: Option<SavedActivation>,
}

impl LayerNorm {
    /// The centred `x` over its deviation, and the inverse of that, `[.., 1]`.
    fn norm(&self, x: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let centred = x.f_sub(&x.f_mean_dim(-1, true, x.kind())?)?;
        let inverse = centred
            .f_square()?
            .f_mean_dim(-1, true, x.kind())?
            .f_add_scalar(self.eps)?
            .f_rsqrt()?;
        Ok((centred.f_mul(&inverse)?, inverse))
    }
}

/// The sum of `x` over the leading dimensions that `like` has not, in its shape and dtype.
fn sum_to(x: &Tensor, like: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
    let mut shape = vec![-1];
    shape.extend(like.size());
    x.f_reshape(&shape[..])?.f_sum_dim_intlist(0, false, kind)?.f_to_kind(like.kind())
}

impl Function for LayerNorm {
    fn name(&self) -> String {
        "layer_norm".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let x = inputs[0];
        let kind = wide(x.kind());
        let mut y = self.norm(&x.f_to_kind(kind)?)?.0;
        if self.weighted {
            y = y.f_mul_(&inputs[1].f_to_kind(kind)?)?;
        }
        if let Some(bias) = inputs.get(1 + usize::from(self.weighted)) {
            y = y.f_add_(&bias.f_to_kind(kind)?)?;
        }
        if context.any_needs_grad() {
            self.saved = Some(self.policy.save(x, &self.scope)?);
            inputs[1..].iter().for_each(|parameter| context.save(parameter));
        }
        Ok(vec![y.f_to_kind(x.kind())?])
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let parameters = context.saved()?;
        let mut grad_inputs: Vec<Option<Tensor>> = (0..=parameters.len()).map(|_| None).collect();
        let (Some(dy), Some(saved)) = (&gradients[0], &self.saved) else { return Ok(grad_inputs) };
        let x = saved.restore()?;
        let kind = wide(x.kind());
        let dy = dy.f_to_kind(kind)?;
        let (normed, inverse) = self.norm(&x.f_to_kind(kind)?)?;
        for (index, parameter) in
            parameters.iter().enumerate().filter(|(index, _)| context.needs_grad(index + 1))
        {
            let of_weight = self.weighted && index == 0;
            grad_inputs[index + 1] = Some(if of_weight {
                sum_to(&dy.f_mul(&normed)?, parameter, kind)?
            } else {
                sum_to(&dy, parameter, kind)?
            });
        }
        if context.needs_grad(0) {
            // d x = (g − mean(g) − n · mean(g · n)) / deviation, with g = w · dy and n the normed
            // x.
            let g = if self.weighted { dy.f_mul(&parameters[0].f_to_kind(kind)?)? } else { dy };
            let along = normed.f_mul(&g.f_mul(&normed)?.f_mean_dim(-1, true, kind)?)?;
            let d_x = g.f_sub(&g.f_mean_dim(-1, true, kind)?)?.f_sub_(&along)?.f_mul_(&inverse)?;
            grad_inputs[0] = Some(d_x);
        }
        Ok(grad_inputs)
    }
}
