mod bias;
mod eager;
pub(crate) mod footprint;
mod fused;
mod kernel;
mod kv_groups;
mod query_chunk;
mod saved_context;
mod scores;

pub use bias::Bias;
pub use scores::Scores;

use tch::Tensor;

use autograd::apply;

use self::eager::EagerAttention;
use self::fused::Fused;
use self::kernel::Kernel;
use self::saved_context::{SavedContext, SavedOutput};
use crate::{Error, Mask, SavePolicy, SavedActivation, Scope};

/// Scaled dot-product attention: `q` `[batch, tokens, heads, d]`, `k` `[batch, keys, kv_heads, d]`
/// and `v` `[batch, keys, kv_heads, e]` with `heads` a multiple of `kv_heads` (grouped heads, arXiv
/// 2305.13245), to `[batch, tokens, heads · e]`. It runs on libtorch's fused kernels unless scores
/// are capped or weights dropped, which these cannot do.
///
/// Saved are q, k, v (before `repeat_kv`) and one number for each token and head, at
/// [`Site::Core`](crate::Site::Core) of `scope`, and the output as `policy` says, at
/// [`Site::AttnOut`](crate::Site::AttnOut). The output's `SavedActivation` is returned, for the
/// linear map that reads it next.
///
/// # Errors
/// [`Error::Shape`] if the tensors do not fit together; those of saving and of libtorch.
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

/// [`attention`] of `q, k, v` with a bias, whose weight gets a gradient if it requires one. It
/// needs the scores written out, but for a table that is frozen, which the mask takes in.
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
            expected: format!(
                "k and v [{}, keys, a divisor of {} heads, {}]",
                size[0], size[2], size[3]
            ),
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
    let kernel = if plain { Kernel::choose(q, k, v, mask) } else { None };
    let output = SavedOutput::default();
    let saved = SavedContext {
        policy: *policy,
        scope: scope.clone(),
        output: output.clone(),
        tensors: None,
    };
    let mask = mask.shallow_clone();
    let mut out = match kernel {
        Some(kernel) => apply(Fused { kernel, mask, scale: scores.scale, saved }, &[q, k, v])?,
        None => {
            let inputs: Vec<&Tensor> =
                [q, k, v].into_iter().chain(bias.map(Bias::weight)).collect();
            apply(EagerAttention { mask, scores, bias: bias.map(Bias::rule), saved }, &inputs)?
        }
    };
    let saved = output.lock().map_or(None, |mut saved| saved.take());
    Ok((out.remove(0), saved))
}
