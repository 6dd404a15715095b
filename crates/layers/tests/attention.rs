//! Attention by the fused kernel and by its scores, with every mask, against its plain reference: outputs and all gradients, in f64.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use drawing::{agree, assert_close, normal};
use layers::{Keep, Mask, Scope, Scores, causal_mask, reference, segment_mask};
use loract_layers as layers;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

fn scope() -> Scope {
    Scope::training(1, Arc::default())
}

/// Queries `[2, 7, heads, 8]`, keys alike and values of another width.
fn leaves(heads: i64, kv_heads: i64, value_width: i64) -> [Tensor; 3] {
    [normal(&[2, 7, heads, 8], 1), normal(&[2, 7, kv_heads, 8], 2), normal(&[2, 7, kv_heads, value_width], 3)]
        .map(|leaf| leaf.set_requires_grad(true))
}

fn masks() -> Vec<Mask> {
    let segments = Tensor::from_slice(&[0i64, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 2, 2, 2]).view([2, 7]);
    vec![
        Mask::Full,
        Mask::Causal,
        causal_mask(7, 0, Some(3), Kind::Double, Device::Cpu).unwrap(),
        segment_mask(&segments, None, Kind::Double).unwrap(),
        segment_mask(&segments, Some(2), Kind::Double).unwrap(),
    ]
}

#[test]
fn every_mask_grouping_and_width_of_values_with_a_soft_cap_and_without() {
    for (heads, kv_heads, value_width) in [(4, 4, 8), (6, 2, 8), (3, 1, 5), (4, 2, 11)] {
        for mask in masks() {
            for soft_cap in [None, Some(0.8)] {
                let scores = Scores { soft_cap, ..Scores::from(0.3) };
                agree(
                    &leaves(heads, kv_heads, value_width),
                    |leaf| vec![layers::attention(&leaf[0], &leaf[1], &leaf[2], &mask, scores, &Keep::Exact, &scope()).unwrap().0],
                    |leaf| vec![reference::attention(&leaf[0], &leaf[1], &leaf[2], &mask, scores)],
                );
            }
        }
    }
}

#[test]
fn a_window_lets_a_token_see_itself_and_those_just_before_it() {
    let rows = |mask: Mask| match mask {
        Mask::Additive(mask) => mask.eq(0.0).to_kind(Kind::Int64).view([-1, mask.size()[3]]),
        other => panic!("{other:?}"),
    };
    let seen = rows(causal_mask(2, 3, Some(3), Kind::Float, Device::Cpu).unwrap());
    assert_eq!(seen, Tensor::from_slice(&[0i64, 1, 1, 1, 0, 0, 0, 1, 1, 1]).view([2, 5]));
    let one = rows(causal_mask(1, 3, Some(2), Kind::Float, Device::Cpu).unwrap());
    assert_eq!(one, Tensor::from_slice(&[0i64, 0, 1, 1]).view([1, 4]));
    // A tensor is made only where it is needed.
    assert!(matches!(causal_mask(4, 0, Some(4), Kind::Float, Device::Cpu), Ok(Mask::Causal)));
    assert!(matches!(causal_mask(1, 3, Some(4), Kind::Float, Device::Cpu), Ok(Mask::Full)));
}

#[test]
fn dropped_weights_are_the_same_forward_and_backward() {
    // The output is linear in the values: with the identity as values it is the weights themselves, and the mask can be read off.
    let scores = Scores { dropout: 0.4, ..Scores::from(0.3) };
    let [q, k, _] = leaves(1, 1, 7);
    let identity = Tensor::eye(7, (Kind::Double, Device::Cpu)).view([1, 7, 1, 7]).repeat([2, 1, 1, 1]);
    let run = |q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores| {
        layers::attention(q, k, v, &Mask::Causal, scores, &Keep::Exact, &scope()).unwrap().0
    };
    let plain = reference::attention(&q, &k, &identity, &Mask::Causal, 0.3);
    let factor = (run(&q, &k, &identity, scores) / plain.clamp_min(1e-30)).detach();
    assert!(i64::try_from(factor.tril(0).eq(0.0).sum(Kind::Int64)).unwrap() > 2 * 21 + 5, "some weights are dropped");
    agree(
        &leaves(1, 1, 5),
        |leaf| vec![run(&leaf[0], &leaf[1], &leaf[2], scores)],
        |leaf| {
            let weights = reference::attention(&leaf[0], &leaf[1], &identity, &Mask::Causal, 0.3) * &factor;
            vec![weights.matmul(&leaf[2].squeeze_dim(2))]
        },
    );
    let evaluation = layers::attention(&q, &k, &identity, &Mask::Causal, scores, &Keep::Exact, &Scope::evaluation()).unwrap().0;
    assert_close(&evaluation, &plain, 1e-12, "evaluation drops nothing");
}
