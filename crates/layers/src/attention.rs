use crate::{Error, Keep, Kept, Scope, Site};
use autograd::{Backward, BoxError, Forward, Function, apply};
use tch::{Device, Kind, Tensor};

/// Which tokens a token attends to.
#[derive(Debug)]
pub enum Mask {
    /// All.
    Full,
    /// Itself and those before it.
    Causal,
    /// Those where this is 0 and not −∞: `[batch or 1, 1, queries, keys]`, in the dtype of the queries.
    Additive(Tensor),
}

impl Mask {
    /// The same mask, sharing its storage.
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Causal => Self::Causal,
            Self::Additive(mask) => Self::Additive(mask.shallow_clone()),
        }
    }

    fn additive(&self) -> Option<&Tensor> {
        match self {
            Self::Additive(mask) => Some(mask),
            _ => None,
        }
    }
}

/// The mask of packed rows: a token attends to itself and those before it of its own segment. `segments` `[batch, tokens]` are integers.
///
/// # Errors
/// Those of libtorch.
pub fn segment_mask(segments: &Tensor, kind: Kind) -> Result<Mask, Error> {
    let tokens = segments.size()[1];
    let same = segments.f_unsqueeze(2)?.f_eq_tensor(&segments.f_unsqueeze(1)?)?;
    let allowed = same.f_tril(0)?.f_view([-1, 1, tokens, tokens])?;
    let mask = Tensor::f_zeros(allowed.size(), (kind, segments.device()))?;
    Ok(Mask::Additive(mask.f_masked_fill(&allowed.f_logical_not()?, f64::NEG_INFINITY)?))
}

/// Scaled dot-product attention by libtorch's fused kernels: `q` `[batch, tokens, heads, d]`, `k` and `v` `[batch, keys, kv_heads, d]` with
/// `heads` a multiple of `kv_heads` (grouped heads, arXiv 2305.13245), to `[batch, tokens, heads · d]`.
///
/// Kept are q, k, v (before the groups are spread out) and one number for each token and head, at [`Site::Core`] of `scope`, and the output as
/// `keep` says, at [`Site::AttnOut`]. The output's `Kept` is returned, for the linear map that reads it next.
///
/// # Errors
/// [`Error::Shape`] if the tensors do not fit together; those of keeping and of libtorch.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Mask,
    scale: f64,
    keep: &Keep,
    scope: &Scope,
) -> Result<(Tensor, Option<Kept>), Error> {
    let (size, keys) = (q.size(), k.size());
    let fits = size.len() == 4
        && keys.len() == 4
        && v.size() == keys
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
    if q.device() != Device::Cpu {
        return Ok((on_device(q, k, v, mask, scale)?, None));
    }
    let handover = std::sync::Arc::new(std::sync::Mutex::new(None));
    let function =
        Attention { mask: mask.shallow_clone(), scale, keep: *keep, scope: scope.clone(), kept: None, handover: handover.clone() };
    let out = apply(function, &[q, k, v])?.remove(0);
    let kept = handover.lock().map_or(None, |mut kept| kept.take());
    Ok((out, kept))
}

/// Elsewhere than on the CPU libtorch picks the kernel and keeps what that kernel needs.
fn on_device(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Mask, scale: f64) -> Result<Tensor, Error> {
    let (size, grouped) = (q.size(), q.size()[2] != k.size()[2]);
    let causal = matches!(mask, Mask::Causal);
    let heads_first = |x: &Tensor| x.f_transpose(1, 2);
    let (q, k, v) = (heads_first(q)?, heads_first(k)?, heads_first(v)?);
    let out = Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask.additive(), 0.0, causal, scale, grouped)?;
    Ok(out.f_transpose(1, 2)?.f_reshape([size[0], size[1], size[2] * size[3]])?)
}

struct Attention {
    mask: Mask,
    scale: f64,
    keep: Keep,
    scope: Scope,
    kept: Option<Saved>,
    /// Takes the output's `Kept` out to the caller.
    handover: std::sync::Arc<std::sync::Mutex<Option<Kept>>>,
}

struct Saved {
    q: Kept,
    k: Kept,
    v: Kept,
    /// `[batch, tokens, heads · d]`.
    out: Kept,
    /// Log of the sum of exponentials, `[batch, heads, tokens]`, in f32 or better.
    log_sums: Kept,
}

/// `[batch, keys, kv_heads, d]` to `[batch, heads, keys, d]`, each head of a group given its own copy.
fn spread(x: &Tensor, groups: i64) -> Result<Tensor, tch::TchError> {
    let x = x.f_transpose(1, 2)?;
    if groups == 1 { Ok(x) } else { x.f_repeat_interleave_self_int(groups, 1, None) }
}

/// The inverse for gradients: the sum over each group, back to `[batch, keys, kv_heads, d]`.
fn gather(gradient: &Tensor, groups: i64) -> Result<Tensor, tch::TchError> {
    let size = gradient.size();
    let summed = match groups {
        1 => gradient.shallow_clone(),
        _ => gradient.f_reshape([size[0], size[1] / groups, groups, size[2], size[3]])?.f_sum_dim_intlist(2, false, gradient.kind())?,
    };
    summed.f_transpose(1, 2)
}

impl Function for Attention {
    fn name(&self) -> String {
        "attention".into()
    }

    fn forward(&mut self, context: &mut Forward<'_>, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let (size, groups) = (q.size(), q.size()[2] / k.size()[2]);
        let (out, log_sums) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(
            &q.f_transpose(1, 2)?,
            &spread(k, groups)?,
            &spread(v, groups)?,
            0.0,
            matches!(self.mask, Mask::Causal),
            self.mask.additive(),
            self.scale,
        )?;
        let out = out.f_transpose(1, 2)?.f_reshape([size[0], size[1], size[2] * size[3]])?;
        if context.any_needs_grad() {
            let core = self.scope.site(Site::Core);
            let exact = |x: &Tensor| Keep::Exact.keep(x, &core);
            let out = self.keep.keep(&out, &self.scope.site(Site::AttnOut))?;
            *self.handover.lock().map_err(|_| "a thread panicked")? = Some(out.clone());
            self.kept = Some(Saved { q: exact(q)?, k: exact(k)?, v: exact(v)?, out, log_sums: exact(&log_sums)? });
        }
        Ok(vec![out])
    }

    fn backward(&self, _: &Backward<'_>, gradients: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(dy), Some(kept)) = (&gradients[0], &self.kept) else { return Ok(vec![None, None, None]) };
        let (q, k, v) = (kept.q.restore()?, kept.k.restore()?, kept.v.restore()?);
        let (size, groups) = (q.size(), q.size()[2] / k.size()[2]);
        let heads = |x: &Tensor| x.f_reshape(&size[..])?.f_transpose(1, 2);
        let (dq, dk, dv) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
            &heads(dy)?,
            &q.f_transpose(1, 2)?,
            &spread(&k, groups)?,
            &spread(&v, groups)?,
            &heads(&kept.out.restore()?)?,
            &kept.log_sums.restore()?,
            0.0,
            matches!(self.mask, Mask::Causal),
            self.mask.additive(),
            self.scale,
        )?;
        Ok(vec![Some(dq.f_transpose(1, 2)?), Some(gather(&dk, groups)?), Some(gather(&dv, groups)?)])
    }
}
