use tch::{Kind, Tensor};

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::{Error, SavePolicy, SavedActivation, Scope, wide};

/// How a router turns its scores into the choice of some experts and their weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// How many experts process each token.
    pub per_token: i64,
    /// What makes probabilities of scores.
    pub scoring: Scoring,
    /// Whether the weights of the chosen experts are divided by their sum, to which this is added
    /// first.
    pub normalised: Option<f64>,
    /// What the weights are multiplied with at the end.
    pub scale: f64,
    /// Whether experts are chosen within the best groups only.
    pub groups: Option<Groups>,
}

/// What makes probabilities of a router's scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// The softmax over all experts.
    Softmax,
    /// Each expert's sigmoid.
    Sigmoid,
}

/// Experts in groups, of which only the best are looked at; a group is as good as its two best
/// experts together (DeepSeek-V3, arXiv 2412.19437).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// How many there are.
    pub count: i64,
    /// How many are looked at.
    pub chosen: i64,
}

/// Chooses experts for each token: from `scores` `[tokens, experts]` the chosen ones `[tokens,
/// per_token]` (integers) and their weights, alike. `correction` `[experts]` is added for the
/// choice, not to the weights. The scores are saved exactly at the site of `scope`.
///
/// # Errors
/// Those of libtorch, as more experts per token than there are.
pub fn route(
    scores: &Tensor,
    correction: Option<&Tensor>,
    routing: &Routing,
    scope: &Scope,
) -> Result<(Tensor, Tensor), Error> {
    let function = Route {
        routing: *routing,
        correction: correction.map(Tensor::shallow_clone),
        scope: scope.clone(),
        saved: None,
    };
    let mut outputs = apply(function, &[scores])?;
    let chosen = outputs.remove(1);
    Ok((chosen, outputs.remove(0)))
}

struct Route {
    routing: Routing,
    correction: Option<Tensor>,
    scope: Scope,
    /// The scores and the choice.
    saved: Option<(SavedActivation, SavedActivation)>,
}

impl Route {
    fn probabilities(&self, scores: &Tensor) -> Result<Tensor, Error> {
        let scores = scores.f_to_kind(wide(scores.kind()))?;
        Ok(match self.routing.scoring {
            Scoring::Softmax => scores.f_softmax(-1, None)?,
            Scoring::Sigmoid => scores.f_sigmoid()?,
        })
    }

    fn choose(&self, probabilities: &Tensor) -> Result<Tensor, Error> {
        let mut by = match &self.correction {
            Some(correction) => {
                probabilities.f_add(&correction.f_to_kind(probabilities.kind())?)?
            }
            None => probabilities.shallow_clone(),
        };
        if let Some(Groups { count, chosen }) = self.routing.groups {
            let size = by.size();
            let grouped = by.f_view([size[0], count, -1])?;
            let best = grouped
                .f_topk(2, -1, true, true)?
                .0
                .f_sum_dim_intlist(-1, false, by.kind())?
                .f_topk(chosen, -1, true, false)?
                .1;
            let open = Tensor::f_zeros([size[0], count], (Kind::Bool, by.device()))?
                .f_scatter_value(1, &best, 1)?;
            by = grouped
                .f_masked_fill(&open.f_logical_not()?.f_unsqueeze(-1)?, 0.0)?
                .f_view(&size[..])?;
        }
        Ok(by.f_topk(self.routing.per_token, -1, true, true)?.1)
    }

    /// The chosen probabilities, and what they are divided by.
    fn raw_weights(
        &self,
        probabilities: &Tensor,
        chosen: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>), Error> {
        let weights = probabilities.f_gather(-1, chosen, false)?;
        let sum = match self.routing.normalised {
            Some(added) => {
                Some(weights.f_sum_dim_intlist(-1, true, weights.kind())?.f_add_scalar(added)?)
            }
            None => None,
        };
        Ok((weights, sum))
    }
}

impl Function for Route {
    fn name(&self) -> String {
        "route".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let probabilities = self.probabilities(inputs[0])?;
        let chosen = self.choose(&probabilities)?;
        if context.any_needs_grad() {
            let exact = |x: &Tensor| SavePolicy::Exact.save(x, &self.scope);
            self.saved = Some((exact(inputs[0])?, exact(&chosen)?));
        }
        context.mark_constant(1);
        let (weights, sum) = self.raw_weights(&probabilities, &chosen)?;
        let weights = match sum {
            Some(sum) => weights.f_div(&sum)?,
            None => weights,
        };
        Ok(vec![weights.f_mul_scalar(self.routing.scale)?.f_to_kind(inputs[0].kind())?, chosen])
    }

    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(dy), Some((scores, chosen))) = (&gradients[0], &self.saved) else {
            return Ok(vec![None]);
        };
        let (scores, chosen) = (scores.restore()?, chosen.restore()?);
        let p = self.probabilities(&scores)?;
        let kind = p.kind();
        let (weights, sum) = self.raw_weights(&p, &chosen)?;
        let mut d_weights = dy.f_to_kind(kind)?.f_mul_scalar(self.routing.scale)?;
        if let Some(sum) = sum {
            // w / s, with s the sum of all w: (dy − Σ dy · w / s) / s.
            let along =
                d_weights.f_mul(&weights)?.f_sum_dim_intlist(-1, true, kind)?.f_div(&sum)?;
            d_weights = d_weights.f_sub(&along)?.f_div(&sum)?;
        }
        let dp = p.f_zeros_like()?.f_scatter(-1, &chosen, &d_weights)?;
        let d_scores = match self.routing.scoring {
            Scoring::Softmax => {
                dp.f_sub(&dp.f_mul(&p)?.f_sum_dim_intlist(-1, true, kind)?)?.f_mul(&p)?
            }
            Scoring::Sigmoid => dp.f_mul(&p)?.f_mul(&p.f_neg()?.f_add_scalar(1.0)?)?,
        };
        Ok(vec![Some(d_scores.f_to_kind(scores.kind())?)])
    }
}
