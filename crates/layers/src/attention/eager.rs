//! Attention with its scores written out, a stretch of queries at a time, for what the fused
//! kernels cannot do.

use tch::{Kind, Tensor};

use autograd::{Backward, BoxError, Forward, Function};

use super::bias::Rule;
use super::kv_groups::{repeat_kv, sum_kv_groups};
use super::query_chunk::QueryChunk;
use super::saved_context::SavedContext;
use super::scores::Scores;
use crate::{Error, Mask, Site, dropout, wide};

pub(super) struct EagerAttention {
    pub mask: Mask,
    pub scores: Scores,
    /// Its weight is the fourth input.
    pub bias: Option<Rule>,
    pub saved: SavedContext,
}

/// The scores that exist at a time: 2²⁴, that is 64 MiB in f32. With 8 heads and 4,096 keys,
/// 16,777,216 / (8 · 4,096) = 512 queries.
pub(super) const AT_A_TIME: i64 = 1 << 24;

impl EagerAttention {
    /// Cuts `q` `[batch, heads, tokens, d]` against `keys`.
    fn query_chunks(&self, q: &Tensor, keys: i64) -> Vec<QueryChunk> {
        let size = q.size();
        let step = (AT_A_TIME / (size[0] * size[1] * keys).max(1)).max(1);
        let chunk = |first: i64| {
            let queries = step.min(size[2] - first);
            QueryChunk {
                first,
                queries,
                keys: if matches!(self.mask, Mask::Causal) {
                    keys.min(first + queries)
                } else {
                    keys
                },
            }
        };
        (0..size[2]).step_by(step as usize).map(chunk).collect()
    }

    /// The capped scores in f32 or better before the mask, and with it, `[batch, heads, queries,
    /// keys]`.
    fn capped(
        &self,
        q: &Tensor,
        k: &Tensor,
        weight: Option<&Tensor>,
        at: &QueryChunk,
    ) -> Result<(Tensor, Tensor), Error> {
        let (q, k) = (q.f_narrow(2, at.first, at.queries)?, k.f_narrow(2, 0, at.keys)?);
        let bias = self.bias.as_ref().zip(weight);
        let mut products = q.f_matmul(&k.f_transpose(2, 3)?)?;
        if let Some((rule, weight)) = bias
            && let Some(added) = rule.to_products(weight, &q, &k, at)?
        {
            products = products.f_add_(&added)?;
        }
        let mut scores = products.f_to_kind(wide(q.kind()))?.f_mul_scalar(self.scores.scale)?;
        if let Some((rule, weight)) = bias
            && let Some(added) = rule.to_scores(weight, at, scores.kind())?
        {
            scores = scores.f_add_(&added)?;
        }
        let capped = match self.scores.soft_cap {
            Some(cap) => scores.f_mul_scalar(1.0 / cap)?.f_tanh()?.f_mul_scalar(cap)?,
            None => scores,
        };
        let masked = match &self.mask {
            Mask::Full => capped.shallow_clone(),
            Mask::Causal => {
                let later = Tensor::f_ones([at.queries, at.keys], (Kind::Bool, q.device()))?
                    .f_triu(at.first + 1)?;
                capped.f_masked_fill(&later, f64::NEG_INFINITY)?
            }
            Mask::Additive(mask) => {
                // One row of a mask may serve all queries.
                let mask = if mask.size()[2] == 1 {
                    mask.shallow_clone()
                } else {
                    mask.f_narrow(2, at.first, at.queries)?
                };
                capped.f_add(&mask)?
            }
        };
        Ok((capped, masked))
    }

    /// What the weights of a stretch are multiplied with in training.
    fn dropout_mask(&self, weights: &Tensor, at: &QueryChunk) -> Result<Option<Tensor>, Error> {
        if self.scores.dropout <= 0.0 {
            return Ok(None);
        }
        let seed = self.saved.scope.site(Site::Core).at(at.first as u64).seed();
        Ok(Some(dropout::mask(weights, self.scores.dropout, seed)?))
    }

    /// The gradients of a chunk's queries, and of the keys that they attend to; those of values and
    /// of the bias are added to `dv` and `d_weight`.
    fn chunk_backward(
        &self,
        whole: &Whole<'_>,
        dv: &Tensor,
        d_weight: Option<&mut Tensor>,
        at: &QueryChunk,
    ) -> Result<(Tensor, Tensor), Error> {
        let (capped, masked) = self.capped(whole.q, whole.k, whole.weight, at)?;
        let weights = masked.f_sub(&at.queries_of(whole.log_sums)?)?.f_exp()?;
        let mask = self.dropout_mask(&weights, at)?;
        let dy = at.queries_of(whole.dy)?;
        let used = match &mask {
            Some(mask) => weights.f_mul(mask)?,
            None => weights.shallow_clone(),
        };
        let _ = at
            .keys_of(dv)?
            .f_add_(&used.f_to_kind(whole.v.kind())?.f_transpose(2, 3)?.f_matmul(&dy)?)?;
        let mut d_weights = dy
            .f_matmul(&at.keys_of(whole.v)?.f_transpose(2, 3)?)?
            .f_to_kind(wide(whole.q.kind()))?;
        if let Some(mask) = &mask {
            d_weights = d_weights.f_mul_(mask)?;
        }
        let mut d_scores = d_weights.f_sub(&at.queries_of(whole.along)?)?.f_mul_(&weights)?;
        if let Some(cap) = self.scores.soft_cap {
            // d tanh = 1 − tanh².
            let slope = capped.f_mul_scalar(1.0 / cap)?.f_square()?.f_neg()?.f_add_scalar(1.0)?;
            d_scores = d_scores.f_mul_(&slope)?;
        }
        let d_products = d_scores.f_mul_scalar(self.scores.scale)?.f_to_kind(whole.q.kind())?;
        let (q, k) = (at.queries_of(whole.q)?, at.keys_of(whole.k)?);
        let mut of_queries = d_products.f_matmul(&k)?;
        let mut of_keys = d_products.f_transpose(2, 3)?.f_matmul(&q)?;
        if let (Some(rule), Some(weight), Some(d_weight)) = (&self.bias, whole.weight, d_weight) {
            let [to_queries, to_keys] =
                rule.backward(weight, [&q, &k], [&d_scores, &d_products], at, d_weight)?;
            if let Some(added) = to_queries {
                of_queries = of_queries.f_add_(&added)?;
            }
            if let Some(added) = to_keys {
                of_keys = of_keys.f_add_(&added)?;
            }
        }
        Ok((of_queries, of_keys))
    }
}

/// What the backward of each chunk reads, of all queries and keys, `[batch, heads, .., ..]`.
struct Whole<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    dy: &'a Tensor,
    log_sums: &'a Tensor,
    /// Each query's `dy · out`.
    along: &'a Tensor,
    /// Of the bias.
    weight: Option<&'a Tensor>,
}

impl Function for EagerAttention {
    fn name(&self) -> String {
        "eager attention".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let (size, groups) = (inputs[0].size(), inputs[0].size()[2] / inputs[1].size()[2]);
        let (q, k, v) = (
            inputs[0].f_transpose(1, 2)?,
            repeat_kv(inputs[1], groups)?,
            repeat_kv(inputs[2], groups)?,
        );
        let (mut outputs, mut sums) = (Vec::new(), Vec::new());
        for at in self.query_chunks(&q, k.size()[2]) {
            let scores = self.capped(&q, &k, inputs.get(3).copied(), &at)?.1;
            let log_sums = scores.f_logsumexp(-1, true)?;
            let mut weights = scores.f_sub(&log_sums)?.f_exp()?;
            if let Some(saved) = self.dropout_mask(&weights, &at)? {
                weights = weights.f_mul_(&saved)?;
            }
            outputs.push(weights.f_to_kind(v.kind())?.f_matmul(&v.f_narrow(2, 0, at.keys)?)?);
            sums.push(log_sums.f_squeeze_dim(-1)?);
        }
        let out =
            Tensor::f_cat(&outputs, 2)?.f_transpose(1, 2)?.f_reshape([size[0], size[1], -1])?;
        if context.any_needs_grad() {
            self.saved.save(inputs, &out, &Tensor::f_cat(&sums, 2)?)?;
            inputs[3..].iter().for_each(|weight| context.save(weight));
        }
        Ok(vec![out])
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let weight = context.saved()?.pop();
        let nothing = || (0..3 + usize::from(weight.is_some())).map(|_| None).collect();
        let (Some(dy), Some(saved)) = (&gradients[0], &self.saved.tensors) else {
            return Ok(nothing());
        };
        let (q, k, v, out) =
            (saved.q.restore()?, saved.k.restore()?, saved.v.restore()?, saved.out.restore()?);
        let log_sums = saved.log_sums.restore()?.f_unsqueeze(-1)?;
        let (size, groups, kind) = (q.size(), q.size()[2] / k.size()[2], wide(q.kind()));
        let (q, k, v) = (q.f_transpose(1, 2)?, repeat_kv(&k, groups)?, repeat_kv(&v, groups)?);
        let heads = |x: &Tensor| x.f_reshape([size[0], size[1], size[2], -1])?.f_transpose(1, 2);
        let (dy, out) = (heads(dy)?, heads(&out)?);
        // Each query's Σ weight · d weight equals dy · out.
        let along = dy.f_mul(&out)?.f_sum_dim_intlist(-1, true, kind)?;
        let (mut dq, dk, dv) = (Vec::new(), k.f_zeros_like()?, v.f_zeros_like()?);
        let mut d_weight = match &weight {
            Some(weight) => Some(weight.f_zeros_like()?.f_to_kind(kind)?),
            None => None,
        };
        let whole = Whole {
            q: &q,
            k: &k,
            v: &v,
            dy: &dy,
            log_sums: &log_sums,
            along: &along,
            weight: weight.as_ref(),
        };
        for at in self.query_chunks(&q, k.size()[2]) {
            let (of_queries, of_keys) = self.chunk_backward(&whole, &dv, d_weight.as_mut(), &at)?;
            dq.push(of_queries);
            let _ = at.keys_of(&dk)?.f_add_(&of_keys)?;
        }
        let dq = Tensor::f_cat(&dq, 2)?.f_transpose(1, 2)?;
        let mut grad_inputs =
            vec![Some(dq), Some(sum_kv_groups(&dk, groups)?), Some(sum_kv_groups(&dv, groups)?)];
        if let (Some(weight), Some(gradient)) = (&weight, d_weight) {
            grad_inputs.push(Some(gradient.f_to_kind(weight.kind())?));
        }
        Ok(grad_inputs)
    }
}
