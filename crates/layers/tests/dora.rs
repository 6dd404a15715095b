//! DoRA against its formula as PEFT has it, against finite differences, and through compressed
//! inputs; LoRA-FA keeps the narrow projection only.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::Arc;

use tch::{Kind, Tensor};

use autograd::random::{Distribution, draw};
use compression::{Method, Options, Rank};
use layers::{ActivationStore, Lora, Projection, SavePolicy, Scope, reference};
use loract_layers as layers;

use drawing::{agree, assert_close, device, gradients, normal};

const SCALE: f64 = 1.5;

fn scope() -> Scope {
    Scope::training(1, Arc::default())
}

/// x `[tokens, 7]`, W `[4, 7]`, b, A, B, m.
fn leaves(tokens: i64, trained: u32) -> Vec<Tensor> {
    let shapes: [&[i64]; 6] = [&[2, tokens, 7], &[4, 7], &[4], &[2, 7], &[4, 2], &[4]];
    let one = |(index, shape): (usize, &&[i64])| {
        normal(shape, index as u64).set_requires_grad(trained >> index & 1 == 1)
    };
    shapes.iter().enumerate().map(one).collect()
}

fn map(leaf: &[Tensor], dropout: f64) -> Projection<'_> {
    let lora =
        Some(Lora { a: &leaf[3], b: &leaf[4], scale: SCALE, dropout, magnitude: Some(&leaf[5]) });
    Projection { bias: Some(&leaf[2]), lora, ..Projection::new(&leaf[1]) }
}

fn ours(leaf: &[Tensor], dropout: f64, policy: SavePolicy, scope: &Scope) -> Tensor {
    layers::project(&leaf[0], &[map(leaf, dropout)], policy, scope).unwrap().remove(0)
}

#[test]
fn outputs_and_gradients_are_those_of_the_formula() {
    for trained in [0b11_1111, 0b11_1001, 0b10_0000, 0b01_0001, 0b00_0011, 0b00_0001] {
        let leaves = leaves(5, trained);
        agree(
            &leaves,
            |leaf| vec![ours(leaf, 0.0, SavePolicy::Exact, &scope())],
            |leaf| vec![reference::linear(&leaf[0], &map(leaf, 0.0))],
        );
    }
}

#[test]
fn a_weight_stored_the_other_way_round_and_no_bias() {
    let mut leaves = leaves(5, 0b11_1111);
    leaves[1] = leaves[1].detach().tr().contiguous().set_requires_grad(true);
    leaves[2] = leaves[2].detach();
    fn other(leaf: &[Tensor]) -> Projection<'_> {
        Projection { fan_in_fan_out: true, bias: None, ..map(leaf, 0.0) }
    }
    agree(
        &leaves,
        |leaf| layers::project(&leaf[0], &[other(leaf)], SavePolicy::Exact, &scope()).unwrap(),
        |leaf| vec![reference::linear(&leaf[0], &other(leaf))],
    );
}

/// PEFT: `base(x) + (g - 1) · dropped Wᵀ + g · s · dropped Aᵀ Bᵀ`, with the bias in the first term
/// only.
#[test]
fn dropout_is_where_peft_has_it() {
    for trained in [0b11_1111, 0b11_1001, 0b10_0001, 0b00_0011] {
        let (leaves, scope) = (leaves(20, trained), scope());
        let mask = draw(
            Distribution::Bernoulli(0.75),
            &[40, 7],
            Kind::Double,
            device(),
            scope.at(0).seed(),
        )
        .unwrap()
        .view([2, 20, 7])
            / 0.75;
        let peft = |leaf: &[Tensor]| {
            let norms = (&leaf[1] + leaf[4].matmul(&leaf[3]) * SCALE)
                .detach()
                .square()
                .sum_dim_intlist(1, false, Kind::Double)
                .sqrt();
            let (gain, dropped) = (&leaf[5] / norms, &leaf[0] * &mask);
            let low_rank = dropped.matmul(&leaf[3].tr()).matmul(&leaf[4].tr()) * SCALE;
            leaf[0].matmul(&leaf[1].tr())
                + &leaf[2]
                + dropped.matmul(&leaf[1].tr()) * (&gain - 1.0)
                + low_rank * gain
        };
        agree(
            &leaves,
            |leaf| vec![ours(leaf, 0.25, SavePolicy::Exact, &scope)],
            |leaf| vec![peft(leaf)],
        );
    }
    let leaves = leaves(5, 0);
    let evaluated = ours(&leaves, 0.25, SavePolicy::Exact, &Scope::evaluation());
    assert_close(
        &evaluated,
        &ours(&leaves, 0.0, SavePolicy::Exact, &scope()),
        1e-12,
        "evaluation drops nothing",
    );
}

#[test]
fn gradients_are_the_finite_differences_with_the_norms_held() {
    for dropout in [0.0, 0.3] {
        let leaves = leaves(6, 0b11_1111);
        let direction = normal(&[2, 6, 4], 77);
        let norms = |leaf: &[Tensor]| {
            (&leaf[1] + leaf[4].matmul(&leaf[3]) * SCALE)
                .square()
                .sum_dim_intlist(1, false, Kind::Double)
                .sqrt()
        };
        let plain: Vec<Tensor> = leaves.iter().map(Tensor::detach).collect();
        // The norm is a constant to backward: where it moves, the magnitude moves with it.
        let value = |mut leaf: Vec<Tensor>| {
            leaf[5] = &leaf[5] * norms(&leaf) / norms(&plain);
            (ours(&leaf, dropout, SavePolicy::Exact, &scope()) * &direction)
                .sum(Kind::Double)
                .double_value(&[])
        };
        let found = gradients(&leaves, vec![ours(&leaves, dropout, SavePolicy::Exact, &scope())]);
        for (index, gradient) in found.iter().enumerate() {
            let along = normal(&leaves[index].size(), 500 + index as u64);
            let moved = |by: f64| {
                let mut leaf: Vec<Tensor> = plain.iter().map(Tensor::shallow_clone).collect();
                leaf[index] = &plain[index] + &along * by;
                value(leaf)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let expected = (gradient * &along).sum(Kind::Double).double_value(&[]);
            assert!(
                (difference - expected).abs() < 1e-6 * expected.abs().max(1.0),
                "leaf {index}: {difference} and {expected}"
            );
        }
    }
}

#[test]
fn gradients_are_contracted_through_the_factors_of_a_compressed_input() {
    let policy = SavePolicy::Code(Options {
        method: Method::Svd,
        rank: Rank::Components(3),
        keep_norms: false,
        factors: Kind::Double,
    });
    let leaves = leaves(9, 0b11_1111);
    let rows = leaves[0].detach().view([18, 7]);
    let store = Arc::new(ActivationStore::default());
    let scope = Scope::training(1, store.clone());
    let restored = policy.save(&rows, &scope).unwrap().restore().unwrap();
    let y = ours(&leaves, 0.0, policy, &scope);
    assert_eq!(y, ours(&leaves, 0.0, SavePolicy::Exact, &scope), "the forward is exact");
    let found = gradients(&leaves, vec![y]);
    let mut at: Vec<Tensor> = leaves.iter().map(Tensor::shallow_clone).collect();
    at[0] = restored.view([2, 9, 7]).set_requires_grad(true);
    let expected = gradients(&at, vec![reference::linear(&at[0], &map(&at, 0.0))]);
    for (index, (ours, expected)) in found.iter().zip(&expected).enumerate() {
        assert_close(ours, expected, 1e-9, &format!("leaf {index}"));
    }
    assert_eq!(store.saved_bytes().held(), 0);
}

#[test]
fn a_row_of_zeros_gives_finite_gradients() {
    let leaves = leaves(5, 0b11_1111);
    let _mode = autograd::GradMode::disabled();
    [1, 4, 5].iter().for_each(|leaf| drop(leaves[*leaf].get(2).zero_()));
    drop(_mode);
    for gradient in gradients(&leaves, vec![ours(&leaves, 0.0, SavePolicy::Exact, &scope())]) {
        assert!(bool::try_from(gradient.isfinite().all()).unwrap());
    }
}

#[test]
fn a_small_change_of_magnitude_is_not_lost_in_bfloat16() {
    let leaves = leaves(50, 0);
    let narrow = |leaf: &Tensor| leaf.to_kind(Kind::BFloat16);
    let change = |factor: f64| {
        let leaf = [
            narrow(&leaves[0]),
            narrow(&leaves[1]),
            narrow(&leaves[2]),
            leaves[3].to_kind(Kind::Float),
            leaves[4].to_kind(Kind::Float),
        ];
        let leaf: Vec<Tensor> =
            leaf.into_iter().chain([(&leaves[5] * factor).to_kind(Kind::Float)]).collect();
        ours(&leaf, 0.0, SavePolicy::Exact, &scope())
            .to_kind(Kind::Double)
            .abs()
            .mean(Kind::Double)
            .double_value(&[])
    };
    // A quarter of the spacing of bf16 at 1; roundings average out over 400 outputs.
    assert!(change(1.002) > change(1.0));
}

#[test]
fn a_frozen_a_saves_the_narrow_projection_and_no_input() {
    for dropout in [0.0, 0.25] {
        let mut leaves = leaves(20, 0b01_0001);
        leaves.truncate(5);
        let store = Arc::new(ActivationStore::default());
        let scope = Scope::training(1, store.clone());
        let run = |leaf: &[Tensor]| {
            let lora =
                Some(Lora { a: &leaf[3], b: &leaf[4], scale: SCALE, dropout, magnitude: None });
            layers::project(
                &leaf[0],
                &[Projection { lora, ..Projection::new(&leaf[1]) }],
                SavePolicy::Exact,
                &scope,
            )
            .unwrap()
            .remove(0)
        };
        let y = run(&leaves);
        assert_eq!(store.saved_bytes().held(), (40 * 2 * 8) as u64);
        let frozen = gradients(&leaves, vec![y]);
        assert_eq!(store.saved_bytes().held(), 0);
        let mut all: Vec<Tensor> = leaves.iter().map(Tensor::shallow_clone).collect();
        all[3] = leaves[3].detach().copy().set_requires_grad(true);
        let y = run(&all);
        assert_eq!(store.saved_bytes().held(), (40 * 7 * 8) as u64);
        let both = gradients(&all, vec![y]);
        assert_close(&frozen[0], &both[0], 1e-12, "x");
        assert_close(&frozen[1], &both[2], 1e-12, "B");
    }
}
