//! The kernels, as functions of queries, keys and values `[batch, tokens, heads, width]`.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use cuda::Gpu;

use super::kv_groups::repeat_kv;
use crate::Mask;

/// One of libtorch's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// The one for processors.
    Cpu,
    /// FlashAttention-2 (arXiv 2307.08691), for 16-bit floats without a written-out mask, on GPUs
    /// from Ampere on.
    Flash,
    /// Memory-efficient attention (arXiv 2112.05682), for other floats of up to 32 bits, with any
    /// mask.
    Efficient,
}

/// What a call of a kernel is told besides the tensors.
pub(super) struct Call<'a> {
    pub mask: &'a Mask,
    pub scale: f64,
    /// Heads that share a key.
    pub groups: i64,
    /// The width that queries, keys and values are brought to.
    pub width: i64,
}

impl Call<'_> {
    fn is_causal(&self) -> bool {
        matches!(self.mask, Mask::Causal)
    }

    /// `x` with zeros after its last dimension: the kernels want one width for all, and zeros
    /// change nothing.
    fn widened(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self.width - x.size().last().copied().unwrap_or(self.width) {
            0 => Ok(x.shallow_clone()),
            missing => x.f_constant_pad_nd([0, missing]),
        }
    }

    /// Keys or values `[batch, heads, keys, width]`, each head of a group given its own copy.
    fn repeat_kv(&self, x: &Tensor) -> Result<Tensor, TchError> {
        repeat_kv(&self.widened(x)?, self.groups)
    }

    /// The written-out mask `[batch, heads, queries, keys]`, in rows of a length that the efficient
    /// kernel can read.
    fn bias(&self, q: &Tensor, k: &Tensor) -> Result<Option<Tensor>, TchError> {
        let Some(mask) = self.mask.additive() else { return Ok(None) };
        let (size, keys) = (q.size(), k.size()[1]);
        let unfilled = (8 - keys % 8) % 8;
        // A padded copy has its elements in the order of the original, whatever that is.
        let mask = mask.f_to_kind(q.kind())?.f_contiguous()?;
        let aligned = if unfilled == 0 {
            mask
        } else {
            mask.f_constant_pad_nd([0, unfilled])?.f_narrow(3, 0, keys)?
        };
        Ok(Some(aligned.f_expand([size[0], size[2], size[1], keys], false)?))
    }
}

impl Kernel {
    /// The kernel for such tensors, if there is one.
    pub fn choose(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Mask) -> Option<Kernel> {
        let Device::Cuda(index) = q.device() else {
            return (q.device() == Device::Cpu).then_some(Kernel::Cpu);
        };
        let half = matches!(q.kind(), Kind::BFloat16 | Kind::Half);
        let square = !matches!(mask, Mask::Causal) || q.size()[1] == k.size()[1];
        if half
            && square
            && mask.additive().is_none()
            && q.size()[3].max(v.size()[3]) <= 256
            && has_flash(index)
        {
            return Some(Kernel::Flash);
        }
        (half || q.kind() == Kind::Float).then_some(Kernel::Efficient)
    }

    /// The width that it takes for one of `width`.
    pub fn width(self, width: i64) -> i64 {
        if self == Kernel::Cpu { width } else { (width + 7) / 8 * 8 }
    }

    /// The output `[batch, tokens, heads, width]`, and the logs of the sums of exponentials, as
    /// backward wants them.
    pub fn forward(
        self,
        call: &Call<'_>,
        [q, k, v]: [&Tensor; 3],
    ) -> Result<(Tensor, Tensor), TchError> {
        let (causal, scale) = (call.is_causal(), call.scale);
        let q = call.widened(q)?;
        let (out, log_sums) = match self {
            Kernel::Flash => {
                return flash_forward(&q, &call.widened(k)?, &call.widened(v)?, causal, scale);
            }
            Kernel::Cpu => Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(
                &q.f_transpose(1, 2)?,
                &call.repeat_kv(k)?,
                &call.repeat_kv(v)?,
                0.0,
                causal,
                call.mask.additive(),
                scale,
            )?,
            Kernel::Efficient => {
                let (k_heads, v_heads, bias) =
                    (call.repeat_kv(k)?, call.repeat_kv(v)?, call.bias(&q, k)?);
                let q = q.f_transpose(1, 2)?;
                let (out, log_sums, ..) =
                    Tensor::f_internal_scaled_dot_product_efficient_attention(
                        &q, &k_heads, &v_heads, bias, true, 0.0, causal, scale,
                    )?;
                (out, log_sums)
            }
        };
        Ok((out.f_transpose(1, 2)?, log_sums))
    }

    /// The gradients of queries, keys and values, like `forward`'s; those of keys and values for
    /// each head, or for each group.
    pub fn backward(
        self,
        call: &Call<'_>,
        dy: &Tensor,
        [q, k, v]: [&Tensor; 3],
        out: &Tensor,
        log_sums: &Tensor,
    ) -> Result<[Tensor; 3], TchError> {
        let saved = Saved { q: call.widened(q)?, k, v, out: call.widened(out)?, log_sums };
        let dy = call.widened(dy)?;
        match self {
            Kernel::Flash => flash_backward(call, &dy, &saved),
            Kernel::Efficient => efficient_backward(call, &dy, &saved),
            Kernel::Cpu => cpu_backward(call, &dy, &saved),
        }
    }
}

/// What the kernels' backward reads, queries and output in their width.
struct Saved<'a> {
    q: Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    out: Tensor,
    log_sums: &'a Tensor,
}

impl Saved<'_> {
    /// The numbers of queries and of keys.
    fn lengths(&self) -> (i64, i64) {
        (self.q.size()[1], self.k.size()[1])
    }
}

fn flash_backward(
    call: &Call<'_>,
    dy: &Tensor,
    saved: &Saved<'_>,
) -> Result<[Tensor; 3], TchError> {
    let (queries, keys) = saved.lengths();
    // Of sequences of several lengths, and of dropout.
    let none = Tensor::new();
    let (dq, dk, dv) = Tensor::f_internal_flash_attention_backward(
        &dy.f_contiguous()?,
        &saved.q,
        &call.widened(saved.k)?,
        &call.widened(saved.v)?,
        &saved.out,
        saved.log_sums,
        &none,
        &none,
        queries,
        keys,
        0.0,
        call.is_causal(),
        &none,
        &none,
        call.scale,
        None,
        None,
    )?;
    Ok([dq, dk, dv])
}

fn efficient_backward(
    call: &Call<'_>,
    dy: &Tensor,
    saved: &Saved<'_>,
) -> Result<[Tensor; 3], TchError> {
    let (queries, keys) = saved.lengths();
    let none = Tensor::new();
    let by_token = |x: Tensor| x.f_transpose(1, 2);
    let (dq, dk, dv, _) = Tensor::f_internal_efficient_attention_backward(
        &dy.f_contiguous()?,
        &saved.q,
        &by_token(call.repeat_kv(saved.k)?)?,
        &by_token(call.repeat_kv(saved.v)?)?,
        call.bias(&saved.q, saved.k)?,
        &saved.out,
        None,
        None,
        queries,
        keys,
        saved.log_sums,
        0.0,
        &none,
        &none,
        i64::from(call.is_causal()),
        false,
        call.scale,
        None,
        None,
        false,
    )?;
    Ok([dq, dk, dv])
}

fn cpu_backward(call: &Call<'_>, dy: &Tensor, saved: &Saved<'_>) -> Result<[Tensor; 3], TchError> {
    let heads = |x: &Tensor| x.f_transpose(1, 2);
    let (dq, dk, dv) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
        &heads(dy)?,
        &heads(&saved.q)?,
        &call.repeat_kv(saved.k)?,
        &call.repeat_kv(saved.v)?,
        &heads(&saved.out)?,
        saved.log_sums,
        0.0,
        call.is_causal(),
        call.mask.additive(),
        call.scale,
    )?;
    Ok([heads(&dq)?, heads(&dk)?, heads(&dv)?])
}

/// Whether a GPU is an Ampere or later.
fn has_flash(index: usize) -> bool {
    // One host has GPUs of one kind.
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let generation = Gpu::open(index).and_then(|gpu| gpu.architecture());
        generation.is_ok_and(|name| {
            name.trim_start_matches("sm_").parse::<u32>().is_ok_and(|number| number >= 80)
        })
    })
}

unsafe extern "C" {
    /// `flash.cpp`. Null, or what went wrong, until the next call on this thread.
    fn loract_flash_forward(
        q: *mut C_tensor,
        k: *mut C_tensor,
        v: *mut C_tensor,
        causal: bool,
        scale: f64,
        out: *mut *mut C_tensor,
        log_sums: *mut *mut C_tensor,
    ) -> *const c_char;
}

/// As tch has no function for it.
fn flash_forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    causal: bool,
    scale: f64,
) -> Result<(Tensor, Tensor), TchError> {
    let mut made = [std::ptr::null_mut(); 2];
    let [out, log_sums] = &mut made;
    // SAFETY: the tensors live through the call, which changes none of them; it writes two new
    // ones, or says why not.
    unsafe {
        let fault = loract_flash_forward(
            q.as_ptr().cast_mut(),
            k.as_ptr().cast_mut(),
            v.as_ptr().cast_mut(),
            causal,
            scale,
            out,
            log_sums,
        );
        if !fault.is_null() {
            return Err(TchError::Torch(CStr::from_ptr(fault).to_string_lossy().into_owned()));
        }
        Ok((Tensor::from_ptr(made[0]), Tensor::from_ptr(made[1])))
    }
}
