//! Attention by the fused kernel and by its scores, with every mask, against its plain reference:
//! outputs and all gradients, in f64.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use layers::{
    Bias, Mask, SavePolicy, Scope, Scores, biased_attention, causal_mask, drop_path, padding_mask,
    reference, segment_mask, window_mask,
};
use loract_layers as layers;

use drawing::{agree, assert_close, device, gradients, normal, values};

fn scope() -> Scope {
    Scope::training(1, Arc::default())
}

/// Queries `[2, 7, heads, 8]`, keys alike and values of another width.
fn leaves(heads: i64, kv_heads: i64, value_width: i64) -> [Tensor; 3] {
    [
        normal(&[2, 7, heads, 8], 1),
        normal(&[2, 7, kv_heads, 8], 2),
        normal(&[2, 7, kv_heads, value_width], 3),
    ]
    .map(|leaf| leaf.set_requires_grad(true))
}

fn masks() -> Vec<Mask> {
    let segments = values(&[0i64, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 2, 2, 2]).view([2, 7]);
    vec![
        Mask::Full,
        Mask::Causal,
        causal_mask(7, 0, Some(3), Kind::Double, device()).unwrap(),
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
                    |leaf| {
                        vec![
                            layers::attention(
                                &leaf[0],
                                &leaf[1],
                                &leaf[2],
                                &mask,
                                scores,
                                &SavePolicy::Exact,
                                &scope(),
                            )
                            .unwrap()
                            .0,
                        ]
                    },
                    |leaf| vec![reference::attention(&leaf[0], &leaf[1], &leaf[2], &mask, scores)],
                );
            }
        }
    }
}

/// The kernels are others for f32 and bf16: on a GPU memory-efficient and flash attention, which
/// f64 never reaches.
#[test]
fn shorter_floats_agree_with_f64() {
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
        for (heads, kv_heads, value_width) in [(4, 4, 8), (6, 2, 8), (3, 1, 5), (4, 2, 11)] {
            for mask in masks() {
                let exact = leaves(heads, kv_heads, value_width).map(|leaf| {
                    leaf.detach().to_kind(kind).to_kind(Kind::Double).set_requires_grad(true)
                });
                let short = [0, 1, 2].map(|index: usize| {
                    exact[index].detach().to_kind(kind).set_requires_grad(true)
                });
                let own = match &mask {
                    Mask::Additive(mask) => Mask::Additive(mask.to_kind(kind)),
                    other => other.shallow_clone(),
                };
                let [q, k, v] = &short;
                let y =
                    layers::attention(q, k, v, &own, 0.3, &SavePolicy::Exact, &scope()).unwrap().0;
                let [q, k, v] = &exact;
                let expected = reference::attention(q, k, v, &mask, Scores::from(0.3));
                let what = format!("{kind:?} {heads} {kv_heads} {value_width} {mask:?}");
                assert_close(&y, &expected, tolerance, &what);
                for (ours, exact) in
                    gradients(&short, vec![y]).iter().zip(gradients(&exact, vec![expected]))
                {
                    assert_close(ours, &exact, tolerance, &what);
                }
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
    let seen = rows(causal_mask(2, 3, Some(3), Kind::Float, device()).unwrap());
    assert_eq!(seen, values(&[0i64, 1, 1, 1, 0, 0, 0, 1, 1, 1]).view([2, 5]));
    let one = rows(causal_mask(1, 3, Some(2), Kind::Float, device()).unwrap());
    assert_eq!(one, values(&[0i64, 0, 1, 1]).view([1, 4]));
    // A tensor is made only where it is needed.
    assert!(matches!(causal_mask(4, 0, Some(4), Kind::Float, device()), Ok(Mask::Causal)));
    assert!(matches!(causal_mask(1, 3, Some(4), Kind::Float, device()), Ok(Mask::Full)));
}

#[test]
fn dropped_weights_are_the_same_forward_and_backward() {
    // The output is linear in the values: with the identity as values it is the weights themselves,
    // and the mask can be read off.
    let scores = Scores { dropout: 0.4, ..Scores::from(0.3) };
    let [q, k, _] = leaves(1, 1, 7);
    let identity = Tensor::eye(7, (Kind::Double, device())).view([1, 7, 1, 7]).repeat([2, 1, 1, 1]);
    let run = |q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores| {
        layers::attention(q, k, v, &Mask::Causal, scores, &SavePolicy::Exact, &scope()).unwrap().0
    };
    let plain = reference::attention(&q, &k, &identity, &Mask::Causal, 0.3);
    let factor = (run(&q, &k, &identity, scores) / plain.clamp_min(1e-30)).detach();
    assert!(
        i64::try_from(factor.tril(0).eq(0.0).sum(Kind::Int64)).unwrap() > 2 * 21 + 5,
        "some weights are dropped"
    );
    agree(
        &leaves(1, 1, 5),
        |leaf| vec![run(&leaf[0], &leaf[1], &leaf[2], scores)],
        |leaf| {
            let weights =
                reference::attention(&leaf[0], &leaf[1], &identity, &Mask::Causal, 0.3) * &factor;
            vec![weights.matmul(&leaf[2].squeeze_dim(2))]
        },
    );
    let evaluation = layers::attention(
        &q,
        &k,
        &identity,
        &Mask::Causal,
        scores,
        &SavePolicy::Exact,
        &Scope::evaluation(),
    )
    .unwrap()
    .0;
    assert_close(&evaluation, &plain, 1e-12, "evaluation drops nothing");
}

/// A table of 5 rows for 4 heads, and the row of each of the 7 × 7 pairs.
fn table() -> (Tensor, Tensor) {
    let rows: Vec<i64> = (0..49).map(|pair| (pair * 3 + pair / 7) % 5).collect();
    (normal(&[5, 4], 9), values(&rows).view([7, 7]))
}

fn padding() -> Mask {
    padding_mask(&values(&[1i64, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]).view([2, 7]), Kind::Double)
        .unwrap()
}

#[test]
fn a_table_of_biases_is_added_and_trained() {
    let (table, rows) = table();
    let as_mask = |table: &Tensor| {
        table.index_select(0, &rows.flatten(0, -1)).view([7, 7, 4]).permute([2, 0, 1]).unsqueeze(0)
    };
    let mut trained: Vec<Tensor> = leaves(4, 4, 8).into();
    trained.push(table.copy().set_requires_grad(true));
    for mask in [Mask::Full, padding()] {
        let ours = |leaf: &[Tensor], table: &Tensor| {
            let bias = Bias::Table { table, rows: &rows };
            vec![
                biased_attention(
                    [&leaf[0], &leaf[1], &leaf[2]],
                    Some(&bias),
                    &mask,
                    0.3,
                    &SavePolicy::Exact,
                    &scope(),
                )
                .unwrap()
                .0,
            ]
        };
        let plain = |leaf: &[Tensor], table: &Tensor| {
            let added = match &mask {
                Mask::Additive(mask) => as_mask(table) + mask,
                _ => as_mask(table),
            };
            vec![reference::attention(&leaf[0], &leaf[1], &leaf[2], &Mask::Additive(added), 0.3)]
        };
        agree(&trained, |leaf| ours(leaf, &leaf[3]), |leaf| plain(leaf, &leaf[3]));
        // A frozen one goes into the mask of the fused kernel.
        agree(&trained[..3], |leaf| ours(leaf, &table), |leaf| plain(leaf, &table));
    }
}

#[test]
fn embeddings_of_distances_meet_queries_and_keys() {
    // For up to 9 tokens, of which there are 7.
    let mut trained: Vec<Tensor> = leaves(4, 4, 8).into();
    trained.push(normal(&[17, 8], 9).set_requires_grad(true));
    for of_keys in [false, true] {
        for mask in [Mask::Full, padding()] {
            agree(
                &trained,
                |leaf| {
                    let bias = Bias::Distances { embedding: &leaf[3], of_keys };
                    vec![
                        biased_attention(
                            [&leaf[0], &leaf[1], &leaf[2]],
                            Some(&bias),
                            &mask,
                            0.3,
                            &SavePolicy::Exact,
                            &scope(),
                        )
                        .unwrap()
                        .0,
                    ]
                },
                |leaf| {
                    vec![reference::attention_by_distance(
                        &leaf[0], &leaf[1], &leaf[2], &leaf[3], of_keys, &mask, 0.3,
                    )]
                },
            );
        }
    }
    let [q, k, v] = leaves(4, 4, 8);
    let short = normal(&[11, 8], 9);
    let bias = Bias::Distances { embedding: &short, of_keys: false };
    let refused =
        biased_attention([&q, &k, &v], Some(&bias), &Mask::Full, 0.3, &SavePolicy::Exact, &scope())
            .unwrap_err()
            .to_string();
    assert_eq!(
        refused,
        "attention: expected embeddings [2 n - 1, 8] of distances for n = 7 tokens or more, got [11, 8]"
    );
}

#[test]
fn rows_without_padding_need_no_mask_and_windows_see_their_own_region() {
    // On a GPU nobody waits to know whether there is padding.
    let is_full = matches!(
        padding_mask(&Tensor::ones([2, 3], (Kind::Int64, device())), Kind::Float),
        Ok(Mask::Full)
    );
    assert_eq!(is_full, device() == Device::Cpu);
    let regions = values(&[0i64, 0, 0, 1, 2, 1]).view([2, 3]);
    let Mask::Additive(mask) = window_mask(&regions, 2, Kind::Float).unwrap() else {
        panic!("a tensor")
    };
    let seen = mask.eq(0.0).to_kind(Kind::Int64);
    assert_eq!(seen.size(), [4, 1, 3, 3]);
    assert_eq!(seen.get(0).flatten(0, -1), Tensor::ones([9], (Kind::Int64, device())));
    assert_eq!(seen.get(3).flatten(0, -1), values(&[1i64, 0, 1, 0, 1, 0, 1, 0, 1]));
}

#[test]
fn whole_samples_are_dropped_and_the_others_scaled_up() {
    let x = Tensor::ones([400, 2, 3], (Kind::Double, device()));
    let dropped = drop_path(&x, 0.25, &scope()).unwrap();
    let samples = dropped.view([400, 6]);
    let first = samples.select(1, 0);
    assert_eq!(
        samples,
        first.unsqueeze(1).expand([400, 6], false).contiguous(),
        "a sample is dropped as a whole"
    );
    let saved = i64::try_from(first.ne(0.0).sum(Kind::Int64)).unwrap();
    assert!((270..330).contains(&saved), "{saved} of 400");
    assert!((first.max().double_value(&[]) - 4.0 / 3.0).abs() < 1e-12);
    assert_eq!(drop_path(&x, 0.25, &Scope::evaluation()).unwrap(), x);
}
