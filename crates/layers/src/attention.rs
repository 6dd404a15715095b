mod bias;
mod eager;
mod fused;
mod kernel;

pub use bias::Bias;

use self::{fused::Fused, kernel::Kernel};
use crate::{Error, Mask, SavePolicy, SavedActivation, Scope, Site};
use autograd::{BoxError, apply};
use std::sync::{Arc, Mutex};
use tch::{TchError, Tensor};

/// How attention weighs keys: `softmax(cap · tanh(scale · q kᵀ / cap))`, the cap and the dropout of weights being absent in most models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// What the products are multiplied with, mostly `1 / sqrt(d)`.
    pub scale: f64,
    /// The largest score (`attn_logit_softcapping` of Gemma 2).
    pub soft_cap: Option<f64>,
    /// The probability with which a weight is dropped, in training.
    pub dropout: f64,
}

impl From<f64> for Scores {
    /// A scale alone.
    fn from(scale: f64) -> Self {
        Self { scale, soft_cap: None, dropout: 0.0 }
    }
}

/// Scaled dot-product attention: `q` `[batch, tokens, heads, d]`, `k` `[batch, keys, kv_heads, d]` and `v` `[batch, keys, kv_heads, e]` with
/// `heads` a multiple of `kv_heads` (grouped heads, arXiv 2305.13245), to `[batch, tokens, heads · e]`. It runs on libtorch's fused kernels
/// unless scores are capped or weights dropped, which these cannot do.
///
/// Kept are q, k, v (before the groups are spread out) and one number for each token and head, at [`Site::Core`] of `scope`, and the output as
/// `policy` says, at [`Site::AttnOut`]. The output's `SavedActivation` is returned, for the linear map that reads it next.
///
/// # Errors
/// [`Error::Shape`] if the tensors do not fit together; those of keeping and of libtorch.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Mask,
    scores: impl Into<Scores>,
    policy: &SavePolicy,
    scope: &Scope,
) -> Result<(Tensor, Option<SavedActivation>), Error> {
    biased_attention([q, k, v], None, mask, scores, policy, scope)
}

/// [`attention`] of `q, k, v` with a bias, whose weight gets a gradient if it requires one. It needs the scores written out, but for a table that is
/// frozen, which the mask takes in.
///
/// # Errors
/// As [`attention`]; [`Error::Shape`] if the bias does not fit.
pub fn biased_attention(
    [q, k, v]: [&Tensor; 3],
    bias: Option<&Bias<'_>>,
    mask: &Mask,
    scores: impl Into<Scores>,
    policy: &SavePolicy,
    scope: &Scope,
) -> Result<(Tensor, Option<SavedActivation>), Error> {
    let (size, keys, values) = (q.size(), k.size(), v.size());
    let fits = size.len() == 4
        && keys.len() == 4
        && values.len() == 4
        && values[..3] == keys[..3]
        && size[0] == keys[0]
        && size[3] == keys[3]
        && keys[2] > 0
        && size[2] % keys[2] == 0;
    if !fits {
        return Err(Error::Shape {
            operation: "attention",
            expected: format!("k and v [{}, keys, a divisor of {} heads, {}]", size[0], size[2], size[3]),
            got: keys,
        });
    }
    let mut scores = scores.into();
    if !scope.is_training() {
        scores.dropout = 0.0;
    }
    if let Some(bias) = bias {
        bias.check(&size, &keys)?;
    }
    let taken_in = bias.and_then(|bias| bias.within(mask, q.kind()).transpose()).transpose()?;
    let (bias, mask) = match &taken_in {
        Some(mask) => (None, mask),
        None => (bias, mask),
    };
    let plain = scores.soft_cap.is_none() && scores.dropout <= 0.0 && bias.is_none();
    let kernel = if plain { Kernel::of(q, k, v, mask) } else { None };
    let output = SavedOutput::default();
    let saved = SavedContext { policy: *policy, scope: scope.clone(), output: output.clone(), tensors: None };
    let mask = mask.shallow_clone();
    let mut out = match kernel {
        Some(kernel) => apply(Fused { kernel, mask, scale: scores.scale, saved }, &[q, k, v])?,
        None => {
            let inputs: Vec<&Tensor> = [q, k, v].into_iter().chain(bias.map(Bias::weight)).collect();
            apply(eager::EagerAttention { mask, scores, bias: bias.map(Bias::rule), saved }, &inputs)?
        }
    };
    let saved = output.lock().map_or(None, |mut saved| saved.take());
    Ok((out.remove(0), saved))
}

/// Takes the output's `SavedActivation` out to the caller.
type SavedOutput = Arc<Mutex<Option<SavedActivation>>>;

/// What either way of computing attention keeps.
struct SavedContext {
    policy: SavePolicy,
    scope: Scope,
    output: SavedOutput,
    tensors: Option<SavedTensors>,
}

struct SavedTensors {
    q: SavedActivation,
    k: SavedActivation,
    v: SavedActivation,
    /// `[batch, tokens, heads · e]`.
    out: SavedActivation,
    /// Log of the sum of exponentials, `[batch, heads, tokens]`, in f32 or better.
    log_sums: SavedActivation,
}

impl SavedContext {
    fn save(&mut self, inputs: &[&Tensor], out: &Tensor, log_sums: &Tensor) -> Result<(), BoxError> {
        let core = self.scope.site(Site::Core);
        let exact = |x: &Tensor| SavePolicy::Exact.save(x, &core);
        let out = self.policy.save(out, &self.scope.site(Site::AttnOut))?;
        *self.output.lock().map_err(|_| "a thread panicked")? = Some(out.clone());
        self.tensors =
            Some(SavedTensors { q: exact(inputs[0])?, k: exact(inputs[1])?, v: exact(inputs[2])?, out, log_sums: exact(log_sums)? });
        Ok(())
    }
}

/// `[batch, keys, kv_heads, d]` to `[batch, heads, keys, d]`, each head of a group given its own copy.
fn repeat_kv(x: &Tensor, groups: i64) -> Result<Tensor, TchError> {
    let x = x.f_transpose(1, 2)?;
    if groups == 1 { Ok(x) } else { x.f_repeat_interleave_self_int(groups, 1, None) }
}

/// The inverse for gradients: the sum over each group, back to `[batch, keys, kv_heads, d]`.
fn sum_kv_groups(gradient: &Tensor, groups: i64) -> Result<Tensor, TchError> {
    let size = gradient.size();
    let summed = match groups {
        1 => gradient.shallow_clone(),
        _ => gradient.f_reshape([size[0], size[1] / groups, groups, size[2], size[3]])?.f_sum_dim_intlist(2, false, gradient.kind())?,
    };
    summed.f_transpose(1, 2)
}
