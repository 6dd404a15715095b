//! The same operations, plain: written for reading, with libtorch's own differentiable operations,
//! saving whatever those save.

use tch::{Kind, Tensor};

use crate::{Activation, Mask, Pairs, RmsWeight, Routing, Scores, Scoring};

/// [`crate::project`] of one map, without dropout.
pub fn linear(x: &Tensor, projection: &crate::Projection<'_>) -> Tensor {
    let weight = projection.weight.dense().expect("a weight that can be expanded");
    let weight = if projection.fan_in_fan_out { weight.tr() } else { weight };
    let Some(lora) = projection.lora else { return x.linear(&weight, projection.bias) };
    let update = lora.b.matmul(lora.a) * lora.scale;
    let y = x.matmul(&weight.tr()) + x.matmul(&update.tr());
    let y = match lora.magnitude {
        Some(magnitude) => {
            let norms =
                (weight + update).detach().square().sum_dim_intlist(1, false, x.kind()).sqrt();
            y * (magnitude / norms)
        }
        None => y,
    };
    match projection.bias {
        Some(bias) => y + bias,
        None => y,
    }
}

/// [`crate::rms_norm`] (in one dtype, where the order of rounding does not matter).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, rule: RmsWeight) -> Tensor {
    let factor = if rule == RmsWeight::OnePlus { weight + 1.0 } else { weight.shallow_clone() };
    x * (x.square().mean_dim(-1, true, x.kind()) + eps).rsqrt() * factor
}

/// [`crate::layer_norm`].
pub fn layer_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
    let width = x.size().last().copied().unwrap_or(1);
    let mut y = x.layer_norm::<Tensor>([width], None, None, eps, false);
    if let Some(weight) = weight {
        y *= weight;
    }
    if let Some(bias) = bias {
        y += bias;
    }
    y
}

/// [`crate::activate`], by the formulas of transformers' `activations.py`.
pub fn activate(activation: Activation, x: &Tensor) -> Tensor {
    match activation {
        Activation::Silu => x * x.sigmoid(),
        Activation::Gelu => x * 0.5 * ((x / std::f64::consts::SQRT_2).erf() + 1.0),
        Activation::GeluTanh => {
            x * 0.5
                * (((x + x.pow_tensor_scalar(3) * 0.044715) * (2.0 / std::f64::consts::PI).sqrt())
                    .tanh()
                    + 1.0)
        }
        Activation::QuickGelu => x * (x * 1.702).sigmoid(),
        Activation::Relu => x.clamp_min(0.0),
        Activation::ReluSquared => x.clamp_min(0.0).square(),
        Activation::Relu6 => x.clamp_min(0.0).clamp_max(6.0),
        Activation::LeakyRelu => x.clamp_min(0.0) + x.clamp_max(0.0) * 0.01,
        Activation::Sigmoid => ((-x).exp() + 1.0).reciprocal(),
        Activation::Tanh => x.tanh(),
        Activation::Mish => x * x.exp().log1p().tanh(),
        Activation::Identity => x * 1.0,
    }
}

/// [`crate::gated`].
pub fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Tensor {
    activate(activation, gate) * up
}

/// [`crate::rotary`] from column `first` on for the positions `0..tokens`, with complex numbers: a
/// pair is a point in the plane.
pub fn rotary(x: &Tensor, inverse_frequencies: &Tensor, pairs: Pairs, first: i64) -> Tensor {
    let (size, half) = (x.size(), inverse_frequencies.size()[0]);
    let positions = Tensor::arange(size[1], (x.kind(), x.device()));
    let angles = positions.outer(inverse_frequencies).view([size[1], 1, half]);
    let turn = Tensor::complex(&angles.cos(), &angles.sin());
    let inside = x.narrow(3, first, 2 * half);
    let points = match pairs {
        Pairs::Halves => inside.view([size[0], size[1], size[2], 2, half]).transpose(3, 4),
        Pairs::Neighbours => inside.reshape([size[0], size[1], size[2], half, 2]),
    };
    let turned =
        Tensor::complex(&points.select(4, 0).contiguous(), &points.select(4, 1).contiguous())
            * turn;
    let turned = match pairs {
        Pairs::Halves => Tensor::cat(&[turned.real(), turned.imag()], 3),
        Pairs::Neighbours => Tensor::stack(&[turned.real(), turned.imag()], 4).flatten(3, 4),
    };
    let behind = first + 2 * half;
    Tensor::cat(&[x.narrow(3, 0, first), turned, x.narrow(3, behind, size[3] - behind)], 3)
}

/// [`crate::attention`], without dropout.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Mask,
    scores: impl Into<Scores>,
) -> Tensor {
    let (size, groups, rule) = (q.size(), q.size()[2] / k.size()[2], scores.into());
    let heads = |x: &Tensor| x.transpose(1, 2);
    let spread = |x: &Tensor| heads(x).repeat_interleave_self_int(groups, 1, None);
    let scores = heads(q).matmul(&spread(k).transpose(2, 3)) * rule.scale;
    let scores = match rule.soft_cap {
        Some(cap) => (scores / cap).tanh() * cap,
        None => scores,
    };
    let scores = match mask {
        Mask::Full => scores,
        Mask::Causal => {
            let shape = [scores.size()[2], scores.size()[3]];
            let later = Tensor::ones(shape, (Kind::Bool, q.device())).triu(1);
            scores.masked_fill(&later, f64::NEG_INFINITY)
        }
        Mask::Additive(mask) => scores + mask,
    };
    scores.softmax(-1, q.kind()).matmul(&spread(v)).transpose(1, 2).reshape([size[0], size[1], -1])
}

/// [`crate::biased_attention`] for distances, without dropout: the scores of each pair of tokens by
/// their distance, then [`attention`] with them in the mask.
pub fn attention_by_distance(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    embedding: &Tensor,
    of_keys: bool,
    mask: &Mask,
    scale: f64,
) -> Tensor {
    let (tokens, keys, longest) = (q.size()[1], k.size()[1], embedding.size()[0] / 2);
    let rows: Vec<Tensor> = (0..tokens)
        .map(|i| {
            let row: Vec<Tensor> = (0..keys)
                .map(|j| {
                    let e = embedding.get(i - j + longest);
                    let of_query = q.select(1, i).matmul(&e);
                    if of_keys { of_query + k.select(1, j).matmul(&e) } else { of_query }
                })
                .collect();
            Tensor::stack(&row, -1)
        })
        .collect();
    let added = Tensor::stack(&rows, 2) * scale;
    let added = match mask {
        Mask::Additive(mask) => added + mask,
        _ => added,
    };
    attention(q, k, v, &Mask::Additive(added), scale)
}

/// The weights of [`crate::route`] for experts chosen already.
pub fn routing_weights(scores: &Tensor, chosen: &Tensor, routing: &Routing) -> Tensor {
    let probabilities = match routing.scoring {
        Scoring::Softmax => scores.softmax(-1, scores.kind()),
        Scoring::Sigmoid => scores.sigmoid(),
    };
    let weights = probabilities.gather(-1, chosen, false);
    let weights = match routing.normalised {
        Some(added) => &weights / (weights.sum_dim_intlist(-1, true, weights.kind()) + added),
        None => weights,
    };
    weights * routing.scale
}

/// A mixture of gated experts, `(gate, up, down)` each, every expert run on all tokens:
/// [`crate::expert_inputs`], [`crate::gated`] and [`crate::expert_outputs`] one after another.
pub fn mixture(
    x: &Tensor,
    experts: &[[crate::Projection<'_>; 3]],
    chosen: &Tensor,
    weights: &Tensor,
    activation: Activation,
) -> Tensor {
    let mut sum = x.zeros_like();
    for (expert, [gate, up, down]) in experts.iter().enumerate() {
        let own = chosen.eq(expert as i64).to_kind(x.kind()) * weights;
        let y = linear(&gated(activation, &linear(x, gate), &linear(x, up)), down);
        sum += y * own.sum_dim_intlist(-1, true, x.kind());
    }
    sum
}

/// The sum of the cross-entropies of `logits` `[tokens, vocabulary]` against `targets` `[tokens]`,
/// −100 ignored.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Tensor {
    logits.cross_entropy_loss::<Tensor>(targets, None, tch::Reduction::Sum, -100, 0.0)
}
