//! The same operations, plain: written for reading, with libtorch's own differentiable operations, keeping whatever those keep.

use crate::Mask;
use tch::{Kind, Tensor};

/// [`crate::project`] of one map, without dropout.
pub fn linear(x: &Tensor, projection: &crate::Projection<'_>) -> Tensor {
    let y = x.linear(projection.weight, projection.bias);
    match projection.lora {
        Some(lora) => y + x.matmul(&lora.a.tr()).matmul(&lora.b.tr()) * lora.scale,
        None => y,
    }
}

/// [`crate::rms_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    x * (x.square().mean_dim(-1, true, x.kind()) + eps).rsqrt() * weight
}

/// [`crate::silu_mul`].
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Tensor {
    gate * gate.sigmoid() * up
}

/// [`crate::rotary`] for the positions `0..tokens`, with complex numbers: a pair is a point in the plane.
pub fn rotary(x: &Tensor, inverse_frequencies: &Tensor) -> Tensor {
    let (tokens, half) = (x.size()[1], x.size()[3] / 2);
    let positions = Tensor::arange(tokens, (x.kind(), x.device()));
    let angles = positions.outer(inverse_frequencies).view([tokens, 1, half]);
    let turn = Tensor::complex(&angles.cos(), &angles.sin());
    let turned = Tensor::complex(&x.narrow(3, 0, half).contiguous(), &x.narrow(3, half, half).contiguous()) * turn;
    Tensor::cat(&[turned.real(), turned.imag()], 3)
}

/// [`crate::attention`].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Mask, scale: f64) -> Tensor {
    let (size, groups) = (q.size(), q.size()[2] / k.size()[2]);
    let heads = |x: &Tensor| x.transpose(1, 2);
    let spread = |x: &Tensor| heads(x).repeat_interleave_self_int(groups, 1, None);
    let scores = heads(q).matmul(&spread(k).transpose(2, 3)) * scale;
    let scores = match mask {
        Mask::Full => scores,
        Mask::Causal => {
            let shape = [scores.size()[2], scores.size()[3]];
            let later = Tensor::ones(shape, (Kind::Bool, q.device())).triu(1);
            scores.masked_fill(&later, f64::NEG_INFINITY)
        }
        Mask::Additive(mask) => scores + mask,
    };
    scores.softmax(-1, q.kind()).matmul(&spread(v)).transpose(1, 2).reshape([size[0], size[1], size[2] * size[3]])
}

/// The sum of the cross-entropies of `logits` `[tokens, vocabulary]` against `targets` `[tokens]`, −100 ignored.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Tensor {
    logits.cross_entropy_loss::<Tensor>(targets, None, tch::Reduction::Sum, -100, 0.0)
}
