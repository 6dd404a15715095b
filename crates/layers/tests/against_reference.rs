//! Every operation with exact activations against its plain reference, in f64 on random inputs of
//! odd shapes: outputs and all gradients.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::Arc;

use tch::{Kind, Tensor};

use layers::{
    Activation, Lora, Mask, Pairs, Projection, RmsWeight, RotaryTable, SavePolicy, Scope, Targets,
    reference,
};
use loract_layers as layers;

use drawing::{agree, assert_close, device, gradients, normal, values};

fn scope() -> Scope {
    Scope::training(1, Arc::default())
}

#[test]
fn rms_norm() {
    for (shape, seed) in [(vec![1, 1], 1), (vec![3, 7], 2), (vec![2, 5, 33], 3)] {
        let width = *shape.last().unwrap();
        for rule in [RmsWeight::Rounded, RmsWeight::Precise, RmsWeight::OnePlus] {
            let leaves = [normal(&shape, seed), normal(&[width], seed + 9)]
                .map(|leaf| leaf.set_requires_grad(true));
            agree(
                &leaves,
                |leaf| {
                    vec![
                        layers::rms_norm(
                            &leaf[0],
                            &leaf[1],
                            1e-5,
                            rule,
                            &SavePolicy::Exact,
                            &scope(),
                        )
                        .unwrap(),
                    ]
                },
                |leaf| vec![reference::rms_norm(&leaf[0], &leaf[1], 1e-5, rule)],
            );
        }
    }
}

#[test]
fn a_norm_weight_of_zero_gives_finite_gradients() {
    let x = normal(&[3, 8], 1).set_requires_grad(true);
    let weight = Tensor::zeros([8], (Kind::Double, x.device())).set_requires_grad(true);
    let y = layers::rms_norm(&x, &weight, 1e-6, RmsWeight::Rounded, &SavePolicy::Exact, &scope())
        .unwrap();
    for gradient in gradients(&[x, weight], vec![y]) {
        assert!(bool::try_from(gradient.isfinite().all()).unwrap());
    }
}

#[test]
fn layer_norm_with_and_without_weight_and_bias_also_by_head() {
    for (shape, own) in
        [(vec![3, 7], 1), (vec![2, 5, 33], 1), (vec![2, 5, 3, 8], 1), (vec![2, 5, 3, 8], 2)]
    {
        let parameter = shape[shape.len() - own..].to_vec();
        for (weight, bias) in [(false, false), (true, false), (true, true), (false, true)] {
            let leaves = [normal(&shape, 1), normal(&parameter, 2), normal(&parameter, 3)]
                .map(|leaf| leaf.set_requires_grad(true));
            fn given(has: bool, leaf: &Tensor) -> Option<&Tensor> {
                has.then_some(leaf)
            }
            agree(
                &leaves,
                |leaf| {
                    let (weight, bias) = (given(weight, &leaf[1]), given(bias, &leaf[2]));
                    vec![
                        layers::layer_norm(
                            &leaf[0],
                            weight,
                            bias,
                            1e-5,
                            &SavePolicy::Exact,
                            &scope(),
                        )
                        .unwrap(),
                    ]
                },
                |leaf| {
                    vec![reference::layer_norm(
                        &leaf[0],
                        given(weight, &leaf[1]),
                        given(bias, &leaf[2]),
                        1e-5,
                    )]
                },
            );
        }
    }
}

const ACTIVATIONS: [Activation; 12] = [
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::ReluSquared,
    Activation::Relu6,
    Activation::LeakyRelu,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Mish,
    Activation::Identity,
];

#[test]
fn every_activation_with_a_gate_and_without() {
    for activation in ACTIVATIONS {
        // Wide enough that a ReLU 6 meets its limit.
        let leaves = [normal(&[2, 3, 11], 1) * 4.0, normal(&[2, 3, 11], 2)]
            .map(|leaf| leaf.set_requires_grad(true));
        agree(
            &leaves,
            |leaf| {
                vec![
                    layers::gated(
                        activation,
                        &leaf[0],
                        &leaf[1],
                        &SavePolicy::Exact,
                        [scope(), scope()],
                    )
                    .unwrap(),
                ]
            },
            |leaf| vec![reference::gated(activation, &leaf[0], &leaf[1])],
        );
        agree(
            &leaves[..1],
            |leaf| {
                vec![layers::activate(activation, &leaf[0], &SavePolicy::Exact, scope()).unwrap()]
            },
            |leaf| vec![reference::activate(activation, &leaf[0])],
        );
    }
}

#[test]
fn linear_with_and_without_bias_and_lora_several_at_once() {
    for trained in [0b1_1111_1111u32, 0b0_0001_1000, 0b1_0000_0110, 0b0_1100_0001] {
        let shapes: [&[i64]; 9] =
            [&[2, 5, 7], &[4, 7], &[4], &[2, 7], &[4, 2], &[3, 7], &[1, 7], &[3, 1], &[6, 7]];
        let leaves: Vec<Tensor> = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| {
                normal(shape, index as u64).set_requires_grad(trained >> index & 1 == 1)
            })
            .collect();
        fn maps(leaf: &[Tensor]) -> [Projection<'_>; 3] {
            let lora = |a: usize, b: usize| {
                Some(Lora { a: &leaf[a], b: &leaf[b], scale: 1.5, dropout: 0.0, magnitude: None })
            };
            [
                Projection { bias: Some(&leaf[2]), lora: lora(3, 4), ..Projection::new(&leaf[1]) },
                Projection { lora: lora(6, 7), ..Projection::new(&leaf[5]) },
                Projection { lora: None, ..Projection::new(&leaf[8]) },
            ]
        }
        agree(
            &leaves,
            |leaf| layers::project(&leaf[0], &maps(leaf), SavePolicy::Exact, &scope()).unwrap(),
            |leaf| maps(leaf).iter().map(|one| reference::linear(&leaf[0], one)).collect(),
        );
    }
}

#[test]
fn lora_dropout_is_the_same_mask_forward_and_backward_and_scales() {
    let leaves: Vec<Tensor> = [&[40i64, 6][..], &[5, 6], &[2, 6], &[5, 2]]
        .iter()
        .enumerate()
        .map(|(i, shape)| normal(shape, i as u64).set_requires_grad(true))
        .collect();
    let scope = scope();
    let ours = |leaf: &[Tensor], dropout| {
        let lora = Some(Lora { a: &leaf[2], b: &leaf[3], scale: 0.5, dropout, magnitude: None });
        layers::project(
            &leaf[0],
            &[Projection { lora, ..Projection::new(&leaf[1]) }],
            SavePolicy::Exact,
            &scope,
        )
        .unwrap()
        .remove(0)
    };
    // The output is linear in A for a fixed mask, so the mask can be read off and put into the
    // reference.
    let mask = autograd::random::draw(
        autograd::random::Distribution::Bernoulli(0.75),
        &[40, 6],
        Kind::Double,
        device(),
        scope.at(0).seed(),
    )
    .unwrap()
        / 0.75;
    agree(
        &leaves,
        |leaf| vec![ours(leaf, 0.25)],
        |leaf| {
            vec![
                leaf[0].matmul(&leaf[1].tr())
                    + (&leaf[0] * &mask).matmul(&leaf[2].tr()).matmul(&leaf[3].tr()) * 0.5,
            ]
        },
    );
    let evaluation = {
        let lora =
            Some(Lora { a: &leaves[2], b: &leaves[3], scale: 0.5, dropout: 0.25, magnitude: None });
        let projection = Projection { lora, ..Projection::new(&leaves[1]) };
        layers::project(&leaves[0], &[projection], SavePolicy::Exact, &Scope::evaluation())
            .unwrap()
            .remove(0)
    };
    assert_close(&evaluation, &ours(&leaves, 0.0), 1e-12, "evaluation drops nothing");
}

#[test]
fn a_weight_may_be_stored_the_other_way_round() {
    let shapes: [&[i64]; 5] = [&[2, 5, 7], &[7, 4], &[4], &[2, 7], &[4, 2]];
    let leaves: Vec<Tensor> = shapes
        .iter()
        .enumerate()
        .map(|(index, shape)| normal(shape, index as u64).set_requires_grad(true))
        .collect();
    fn map(leaf: &[Tensor]) -> Projection<'_> {
        let lora =
            Some(Lora { a: &leaf[3], b: &leaf[4], scale: 1.5, dropout: 0.0, magnitude: None });
        Projection { fan_in_fan_out: true, bias: Some(&leaf[2]), lora, ..Projection::new(&leaf[1]) }
    }
    agree(
        &leaves,
        |leaf| layers::project(&leaf[0], &[map(leaf)], SavePolicy::Exact, &scope()).unwrap(),
        |leaf| vec![reference::linear(&leaf[0], &map(leaf))],
    );
}

#[test]
fn rotary_on_all_columns_or_some_in_either_pairing() {
    let frequencies = values(&[1.0f64, 0.3, 0.05, 0.01]);
    let positions = Tensor::arange(5, (Kind::Int64, device())).view([1, 5]);
    let table = RotaryTable::new(&positions, &frequencies, 1.0, Kind::Double).unwrap();
    assert_eq!(table.bytes(), 2 * 5 * 4 * 8);
    for pairs in [Pairs::Halves, Pairs::Neighbours] {
        for (first, width) in [(0, 8), (0, 11), (3, 11), (3, 13)] {
            let leaves = [normal(&[2, 5, 3, width], 1).set_requires_grad(true)];
            let table = table.shallow_clone().with_pairs(pairs).from_column(first);
            agree(
                &leaves,
                |leaf| vec![layers::rotary(&leaf[0], &table).unwrap()],
                |leaf| vec![reference::rotary(&leaf[0], &frequencies, pairs, first)],
            );
        }
    }
    assert!(layers::rotary(&normal(&[2, 5, 3, 7], 1), &table).is_err());
}

#[test]
fn pieces_of_a_fused_projection_and_limits() {
    let leaves = [normal(&[2, 3, 11], 1).set_requires_grad(true)];
    agree(
        &leaves,
        |leaf| layers::split(&leaf[0], &[5, 2, 4]).unwrap(),
        |leaf| leaf[0].split_with_sizes([5, 2, 4], -1),
    );
    agree(
        &leaves,
        |leaf| vec![layers::clamp(&leaf[0], 0.7, &scope()).unwrap()],
        |leaf| vec![leaf[0].clamp(-0.7, 0.7)],
    );
    assert!(layers::split(&leaves[0], &[5, 5]).is_err());
}

#[test]
fn dropout_is_the_same_mask_forward_and_backward_and_off_in_evaluation() {
    let x = normal(&[40, 6], 1).set_requires_grad(true);
    let y = layers::dropout(&x, 0.25, &scope()).unwrap();
    let dropped = y.eq(0.0);
    assert!(i64::try_from(dropped.sum(Kind::Int64)).unwrap() > 30);
    let expected = (&x / 0.75).masked_fill(&dropped, 0.0);
    agree(
        &[x.shallow_clone()],
        |leaf| vec![layers::dropout(&leaf[0], 0.25, &scope()).unwrap()],
        |leaf| vec![(&leaf[0] / 0.75).masked_fill(&dropped, 0.0)],
    );
    assert_close(&y, &expected, 1e-12, "the others are scaled up");
    assert_eq!(layers::dropout(&x, 0.25, &Scope::evaluation()).unwrap(), x);
}

#[test]
fn loss_over_chunks_of_any_size_with_and_without_targets() {
    let ids = [[3i64, -100, 0, 10, -100, 7, 7], [-100; 7]];
    for ids in ids {
        let targets = values(&ids);
        for chunk in [1, 2, 3, 100] {
            for trained in [0b111u32, 0b001, 0b110] {
                let leaves: Vec<Tensor> = [&[7i64, 5][..], &[5], &[11, 5]]
                    .iter()
                    .enumerate()
                    .map(|(i, shape)| {
                        normal(shape, i as u64).set_requires_grad(trained >> i & 1 == 1)
                    })
                    .collect();
                let found = Targets::new(&targets).unwrap();
                let ours = |leaf: &[Tensor]| {
                    let (norm, head) = (leaf[1].shallow_clone(), leaf[2].shallow_clone());
                    let tail = move |x: &Tensor| Ok((x * &norm).matmul(&head.tr()));
                    vec![
                        layers::loss_over_chunks(
                            tail,
                            &leaf[0],
                            &[&leaf[1], &leaf[2]],
                            &found,
                            0.7,
                            chunk,
                            &scope(),
                        )
                        .unwrap(),
                    ]
                };
                agree(&leaves, ours, |leaf| {
                    let logits = (&leaf[0] * &leaf[1]).matmul(&leaf[2].tr());
                    vec![reference::cross_entropy(&logits, &targets) * 0.7]
                });
            }
        }
    }
}

#[test]
fn a_recomputed_block_with_exact_saves_changes_nothing() {
    let leaves = [normal(&[6, 5], 1), normal(&[5, 5], 2)].map(|leaf| leaf.set_requires_grad(true));
    agree(
        &leaves,
        |leaf| {
            let weight = leaf[1].shallow_clone();
            let run = move |x: &Tensor| Ok(x.matmul(&weight).tanh() + x);
            vec![
                layers::recompute(run, &leaf[0], &[&leaf[1]], SavePolicy::Exact, &scope()).unwrap(),
            ]
        },
        |leaf| vec![leaf[0].matmul(&leaf[1]).tanh() + &leaf[0]],
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused_with_their_shapes() {
    let x = normal(&[2, 3, 4], 1);
    let error = layers::rms_norm(
        &x,
        &normal(&[5], 1),
        1e-5,
        RmsWeight::Rounded,
        &SavePolicy::Exact,
        &scope(),
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "rms_norm: expected a weight [4], got [5]");
    let weight = normal(&[7, 5], 1);
    let projection = Projection::new(&weight);
    assert_eq!(
        layers::project(&x, &[projection], SavePolicy::Exact, &scope()).unwrap_err().to_string(),
        "linear: expected a weight [out, 4], got [7, 5]"
    );
    let (q, k) = (normal(&[1, 2, 4, 8], 1), normal(&[1, 2, 3, 8], 1));
    assert!(layers::attention(&q, &k, &k, &Mask::Full, 1.0, &SavePolicy::Exact, &scope()).is_err());
    let targets = Targets::new(&values(&[1i64, 2])).unwrap();
    assert!(
        layers::loss_over_chunks(|x| Ok(x.shallow_clone()), &x, &[], &targets, 1.0, 8, &scope())
            .is_err()
    );
}
