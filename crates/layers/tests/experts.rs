//! Routing and mixtures of experts against their plain references, exactly and with compression, in
//! f64.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::Arc;

use tch::{Kind, Tensor};

use compression::{Method, Options, Rank, TestMatrix};
use layers::{
    Activation, ActivationStore, Dispatch, Groups, Lora, Projection, Routing, SavePolicy, Scope,
    Scoring, SharedSave, Site, reference,
};
use loract_layers as layers;

use drawing::{agree, assert_close, device, gradients, normal, values};

const POLICY: SavePolicy = SavePolicy::Code(Options {
    method: Method::Qb { test_matrix: TestMatrix::Uniform },
    rank: Rank::Components(3),
    keep_norms: true,
    factors: Kind::Double,
});

const EXPERTS: i64 = 4;

fn scope(store: &Arc<ActivationStore>) -> Scope {
    Scope::training(5, store.clone()).layer(0)
}

fn routings() -> Vec<Routing> {
    let plain = Routing {
        per_token: 2,
        scoring: Scoring::Softmax,
        normalised: None,
        scale: 1.0,
        groups: None,
    };
    vec![
        plain,
        Routing { normalised: Some(0.0), ..plain },
        Routing {
            per_token: 3,
            scoring: Scoring::Sigmoid,
            normalised: Some(1e-20),
            scale: 2.5,
            ..plain
        },
        Routing {
            scoring: Scoring::Sigmoid,
            groups: Some(Groups { count: 3, chosen: 1 }),
            ..plain
        },
    ]
}

#[test]
fn weights_of_chosen_experts() {
    for routing in routings() {
        let scores = normal(&[5, 6], 1).set_requires_grad(true);
        let store = Arc::default();
        let (chosen, _) = layers::route(&scores, None, &routing, &scope(&store)).unwrap();
        agree(
            &[scores],
            |leaf| vec![layers::route(&leaf[0], None, &routing, &scope(&store)).unwrap().1],
            |leaf| vec![reference::routing_weights(&leaf[0], &chosen, &routing)],
        );
    }
}

#[test]
fn the_best_are_chosen_within_the_best_groups_and_a_correction_counts_for_the_choice_alone() {
    // Groups (0, 1), (2, 3), (4, 5): the second is the best together, although 0 is the best alone.
    let scores = values(&[5.0f64, -9.0, 3.0, 3.5, 1.0, 2.0]).view([1, 6]);
    let groups = Some(Groups { count: 3, chosen: 1 });
    let routing =
        Routing { per_token: 2, scoring: Scoring::Sigmoid, normalised: None, scale: 1.0, groups };
    let choose = |correction: Option<&Tensor>, routing: &Routing| {
        let (chosen, weights) =
            layers::route(&scores, correction, routing, &Scope::evaluation()).unwrap();
        (
            Vec::<i64>::try_from(chosen.view([-1])).unwrap(),
            Vec::<f64>::try_from(weights.view([-1])).unwrap(),
        )
    };
    assert_eq!(choose(None, &routing).0, [3, 2]);
    assert_eq!(choose(None, &Routing { groups: None, ..routing }).0, [0, 3]);
    let correction = values(&[0.0f64, 9.0, 0.0, 0.0, 0.0, 0.0]);
    let (chosen, weights) = choose(Some(&correction), &routing);
    assert_eq!(chosen, [1, 0]);
    assert!((weights[0] - 1.0 / (1.0 + 9f64.exp())).abs() < 1e-12, "{weights:?}");
}

/// `x` `[6, 5]`, weights `[6, 2]`, and for each expert gate, up (with a LoRA pair) and down (with
/// one): 7 tensors.
fn leaves(width: i64) -> Vec<Tensor> {
    let mut shapes: Vec<Vec<i64>> = vec![vec![6, 5], vec![6, 2]];
    for _ in 0..EXPERTS {
        shapes.extend([
            vec![width, 5],
            vec![width, 5],
            vec![2, 5],
            vec![width, 2],
            vec![5, width],
            vec![2, width],
            vec![5, 2],
        ]);
    }
    shapes
        .iter()
        .enumerate()
        .map(|(index, shape)| normal(shape, index as u64).set_requires_grad(true))
        .collect()
}

fn maps(leaf: &[Tensor]) -> Vec<[Projection<'_>; 3]> {
    let one = |at: usize| {
        let lora = |a: usize, b: usize| {
            Some(Lora { a: &leaf[a], b: &leaf[b], scale: 0.7, dropout: 0.0, magnitude: None })
        };
        [
            Projection::new(&leaf[at]),
            Projection { lora: lora(at + 2, at + 3), ..Projection::new(&leaf[at + 1]) },
            Projection { lora: lora(at + 5, at + 6), ..Projection::new(&leaf[at + 4]) },
        ]
    };
    (0..EXPERTS as usize).map(|expert| one(2 + 7 * expert)).collect()
}

/// Expert 2 has no token; expert 0 has most.
fn chosen() -> Tensor {
    values(&[0i64, 1, 3, 0, 0, 3, 1, 0, 0, 3, 3, 1]).view([6, 2])
}

fn run(leaf: &[Tensor], policy: [SavePolicy; 3], scope: &Scope) -> Tensor {
    let maps = maps(leaf);
    let dispatch = Dispatch::new(&chosen(), EXPERTS).unwrap();
    let into: Vec<_> = maps.iter().map(|[gate, up, _]| vec![*gate, *up]).collect();
    let down: Vec<_> = maps.iter().map(|[_, _, down]| *down).collect();
    let source = SharedSave::new(policy[0]);
    let pair = layers::expert_inputs(&leaf[0], &into, &dispatch, &source, &scope.site(Site::MlpIn))
        .unwrap();
    let places = [scope.site(Site::Gate), scope.site(Site::Up)];
    let inner = layers::gated(Activation::Silu, &pair[0], &pair[1], &policy[1], places).unwrap();
    layers::expert_outputs(
        &inner,
        &leaf[1],
        &down,
        &dispatch,
        &policy[2],
        &scope.site(Site::MlpOut),
        scope,
    )
    .unwrap()
}

#[test]
fn a_mixture_is_the_weighted_sum_of_its_experts() {
    let store = Arc::default();
    agree(
        &leaves(7),
        |leaf| vec![run(leaf, [SavePolicy::Exact; 3], &scope(&store))],
        |leaf| {
            vec![reference::mixture(&leaf[0], &maps(leaf), &chosen(), &leaf[1], Activation::Silu)]
        },
    );
}

#[test]
fn every_site_of_a_mixture_may_be_compressed_and_its_gradients_are_those_at_the_restored_tensors() {
    let store = Arc::new(ActivationStore::default());
    let scope = scope(&store);
    let leaves = leaves(9);
    let exact = run(&leaves, [SavePolicy::Exact; 3], &scope);
    let y = run(&leaves, [SavePolicy::Exact, SavePolicy::Exact, POLICY], &scope);
    assert_eq!(y, exact, "the forward is exact");
    // x, gate and up as they are, 12 rows of the inner width as a pair, and the weights.
    let bytes = 8 * (6 * 5 + 2 * 12 * 9 + 3 * (12 + 9) + 12);
    drop(exact);
    assert_eq!(store.saved_bytes().held(), bytes as u64);
    let ours = gradients(&leaves, vec![y]);
    assert_eq!(store.saved_bytes().held(), 0);

    // Rows of the inner width as they were kept, and what depends on them.
    let dispatch = Dispatch::new(&chosen(), EXPERTS).unwrap();
    let maps = maps(&leaves);
    let into: Vec<_> = maps.iter().map(|[gate, up, _]| vec![*gate, *up]).collect();
    let pair = layers::expert_inputs(
        &leaves[0],
        &into,
        &dispatch,
        SavePolicy::Exact,
        &Scope::evaluation(),
    )
    .unwrap();
    let inner = reference::gated(Activation::Silu, &pair[0], &pair[1]).detach();
    let restored = POLICY.save(&inner, &scope.site(Site::MlpOut)).unwrap().restore().unwrap();
    let leaf = leaves.iter().map(Tensor::shallow_clone).collect::<Vec<_>>();
    let down: Vec<_> = maps.iter().map(|[_, _, down]| *down).collect();
    let at = restored.set_requires_grad(true);
    let y = layers::expert_outputs(
        &at,
        &leaf[1],
        &down,
        &dispatch,
        &SavePolicy::Exact,
        &Scope::evaluation(),
        &Scope::evaluation(),
    )
    .unwrap();
    let formula = gradients(&leaves, vec![y]);
    for index in [1, 6, 7, 8, 13, 14, 15] {
        assert_close(&ours[index], &formula[index], 1e-9, &format!("leaf {index}"));
    }

    for which in 0..2 {
        let mut policy = [SavePolicy::Exact; 3];
        policy[which] = POLICY;
        let y = run(&leaves, policy, &scope);
        for gradient in gradients(&leaves, vec![y]) {
            assert!(bool::try_from(gradient.isfinite().all()).unwrap());
        }
    }
}

#[test]
fn with_nothing_to_train_or_gradients_off_nothing_is_saved() {
    let store = Arc::new(ActivationStore::default());
    let leaves = leaves(7);
    let frozen: Vec<Tensor> = leaves.iter().map(Tensor::detach).collect();
    let y = run(&frozen, [SavePolicy::Exact; 3], &scope(&store));
    assert_eq!((store.saved_bytes().held(), y.requires_grad()), (0, false));
    let _mode = autograd::GradMode::disabled();
    let y = run(&leaves, [SavePolicy::Exact; 3], &scope(&store));
    assert_eq!((store.saved_bytes().held(), y.device()), (0, device()));
}

#[test]
fn frozen_maps_after_the_activation_save_no_inner_rows_unless_the_router_learns() {
    let store = Arc::new(ActivationStore::default());
    let leaves: Vec<Tensor> = leaves(7).iter().map(Tensor::detach).collect();
    let y = |router_learns: bool| {
        // Only a gate is trained, in the first expert.
        let mut leaf: Vec<Tensor> = leaves.iter().map(Tensor::detach).collect();
        leaf[2] = leaf[2].detach().set_requires_grad(true);
        leaf[1] = leaf[1].detach().set_requires_grad(router_learns);
        let y = run(&leaf, [SavePolicy::Exact; 3], &scope(&store));
        (store.saved_bytes().held(), gradients(&leaf, vec![y]))
    };
    let needed = 8 * (6 * 5 + 2 * 12 * 7 + 12);
    let (frozen, learning) = (y(false), y(true));
    assert_eq!((frozen.0, learning.0), (needed, needed + 8 * 12 * 7));
    assert_close(&frozen.1[0], &learning.1[1], 1e-12, "the gate's gradient is the same");
}
