//! With compression, gradients equal the same formula applied to the restored tensor; and what is
//! kept is what the formula says.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::Arc;

use tch::{Kind, Tensor};

use compression::{Method, Options, Rank, TestMatrix};
use layers::{
    Activation, ActivationStore, Lora, Mask, Projection, RmsWeight, SavePolicy, Scope, Scores,
    SharedSave, Site, reference,
};
use loract_layers as layers;

use drawing::{assert_close, gradients, normal, relative};

const POLICY: SavePolicy = SavePolicy::Code(Options {
    method: Method::Qb { test_matrix: TestMatrix::Uniform },
    rank: Rank::Fraction(0.25),
    keep_norms: true,
    factors: Kind::Double,
});

fn scope(store: &Arc<ActivationStore>) -> Scope {
    Scope::training(5, store.clone())
}

/// What `POLICY` makes of a tensor in this scope.
fn restored(x: &Tensor, scope: &Scope) -> Tensor {
    let saved = POLICY.save(x, scope).unwrap();
    assert!(saved.bytes() < saved.exact_bytes());
    let restored = saved.restore().unwrap();
    assert!(relative(&restored, x) > 0.01, "a test of compression needs an error to see");
    restored
}

#[test]
fn linear_gradients_are_contracted_through_the_factors() {
    let store = Arc::new(ActivationStore::default());
    let leaves: Vec<Tensor> = [&[3i64, 8, 16][..], &[12, 16], &[4, 16], &[12, 4]]
        .iter()
        .enumerate()
        .map(|(i, shape)| normal(shape, i as u64).set_requires_grad(true))
        .collect();
    let run = |x: &Tensor, policy: SavePolicy| {
        let lora =
            Some(Lora { a: &leaves[2], b: &leaves[3], scale: 2.0, dropout: 0.0, magnitude: None });
        let projection = Projection { lora, ..Projection::new(&leaves[1]) };
        layers::project(x, &[projection], policy, &scope(&store)).unwrap().remove(0)
    };
    let y = run(&leaves[0], POLICY);
    assert_eq!(y, run(&leaves[0], SavePolicy::Exact), "the forward is exact");
    drop(run(&leaves[0], POLICY));
    assert_eq!(store.saved_bytes().held(), (4 * (24 + 16) * 8) as u64);
    assert_eq!(store.saved_bytes().exact(), (24 * 16 * 8) as u64);
    let ours = gradients(&leaves, vec![y]);
    assert_eq!(
        (store.saved_bytes().held(), store.saved_bytes().exact()),
        (0, 0),
        "backward frees what was kept"
    );
    // dx does not depend on x; the weights' gradients are those at the restored input.
    let x = restored(&leaves[0].view([24, 16]).detach(), &scope(&store))
        .view([3, 8, 16])
        .set_requires_grad(true);
    let y = run(&x, SavePolicy::Exact);
    let leaves =
        [x, leaves[1].shallow_clone(), leaves[2].shallow_clone(), leaves[3].shallow_clone()];
    for (index, (ours, formula)) in ours.iter().zip(gradients(&leaves, vec![y])).enumerate() {
        assert_close(ours, &formula, 1e-10, &format!("leaf {index}"));
    }
}

#[test]
fn norm_and_activation_gradients_are_those_at_the_restored_input() {
    let store = Arc::new(ActivationStore::default());
    let (x, weight) =
        (normal(&[9, 16], 1).set_requires_grad(true), normal(&[16], 2).set_requires_grad(true));
    for rule in [RmsWeight::Rounded, RmsWeight::Precise, RmsWeight::OnePlus] {
        let y = layers::rms_norm(&x, &weight, 1e-5, rule, &POLICY, &scope(&store)).unwrap();
        let ours = gradients(&[x.shallow_clone(), weight.shallow_clone()], vec![y]);
        let at = restored(&x.detach(), &scope(&store)).set_requires_grad(true);
        let formula = gradients(
            &[at.shallow_clone(), weight.shallow_clone()],
            vec![reference::rms_norm(&at, &weight, 1e-5, rule)],
        );
        assert_close(&ours[0], &formula[0], 1e-9, "rms norm: x");
        assert_close(&ours[1], &formula[1], 1e-9, "rms norm: weight");
    }
    let bias = normal(&[16], 5).set_requires_grad(true);
    let y =
        layers::layer_norm(&x, Some(&weight), Some(&bias), 1e-5, &POLICY, &scope(&store)).unwrap();
    let ours =
        gradients(&[x.shallow_clone(), weight.shallow_clone(), bias.shallow_clone()], vec![y]);
    let at = restored(&x.detach(), &scope(&store)).set_requires_grad(true);
    let y = reference::layer_norm(&at, Some(&weight), Some(&bias), 1e-5);
    let formula =
        gradients(&[at.shallow_clone(), weight.shallow_clone(), bias.shallow_clone()], vec![y]);
    for (index, (ours, formula)) in ours.iter().zip(&formula).enumerate() {
        assert_close(ours, formula, 1e-9, &format!("layer norm: leaf {index}"));
    }

    let places = || [scope(&store).site(Site::Gate), scope(&store).site(Site::Up)];
    for activation in [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::ReluSquared,
    ] {
        let (gate, up) = (
            normal(&[9, 16], 3).set_requires_grad(true),
            normal(&[9, 16], 4).set_requires_grad(true),
        );
        let y = layers::gated(activation, &gate, &up, &POLICY, places()).unwrap();
        let ours = gradients(&[gate.shallow_clone(), up.shallow_clone()], vec![y]);
        let plain =
            layers::activate(activation, &gate, &POLICY, scope(&store).site(Site::Gate)).unwrap();
        let of_plain = gradients(&[gate.shallow_clone()], vec![plain]).remove(0);
        let gate =
            restored(&gate.detach(), &scope(&store).site(Site::Gate)).set_requires_grad(true);
        let up = restored(&up.detach(), &scope(&store).site(Site::Up)).set_requires_grad(true);
        let formula = gradients(
            &[gate.shallow_clone(), up.shallow_clone()],
            vec![reference::gated(activation, &gate, &up)],
        );
        assert_close(&ours[0], &formula[0], 1e-9, &format!("{activation:?}: gate"));
        assert_close(&ours[1], &formula[1], 1e-9, &format!("{activation:?}: up"));
        let formula =
            gradients(&[gate.shallow_clone()], vec![reference::activate(activation, &gate)])
                .remove(0);
        assert_close(&of_plain, &formula, 1e-9, &format!("{activation:?} without a gate"));
    }
}

#[test]
fn capped_attention_reads_the_restored_output_as_the_fused_kernel_does() {
    let store = Arc::new(ActivationStore::default());
    let leaves = [1, 2, 3].map(|seed| normal(&[2, 6, 4, 4], seed).set_requires_grad(true));
    let scores = Scores { soft_cap: Some(1e9), ..Scores::from(0.5) };
    let run = |scores: Scores| {
        let (y, saved) = layers::attention(
            &leaves[0],
            &leaves[1],
            &leaves[2],
            &Mask::Causal,
            scores,
            &POLICY,
            &scope(&store),
        )
        .unwrap();
        assert!(saved.unwrap().bytes() < 2 * 6 * 16 * 8);
        gradients(&leaves, vec![y])
    };
    // A cap out of reach changes nothing but the way.
    for (capped, fused) in run(scores).iter().zip(run(Scores::from(0.5))) {
        assert_close(capped, &fused, 1e-8, "gradient");
    }
}

#[test]
fn operations_that_share_an_input_save_it_once_when_the_first_needs_it() {
    let store = Arc::new(ActivationStore::default());
    let x = normal(&[8, 16], 1);
    let (frozen, trained) = (normal(&[4, 16], 2), normal(&[4, 16], 3).set_requires_grad(true));
    let shared = SharedSave::new(SavePolicy::Exact);
    let run = |weight: &Tensor| {
        layers::project(&x, &[Projection::new(weight)], &shared, &scope(&store)).unwrap().remove(0)
    };
    let first = run(&frozen);
    assert_eq!(store.saved_bytes().held(), 0, "a frozen map keeps nothing for the others");
    let outputs = [run(&trained), run(&trained)];
    assert_eq!(store.saved_bytes().held(), 8 * 16 * 8);
    drop((first, outputs));
    drop(shared);
    assert_eq!(store.saved_bytes().held(), 0);
}

#[test]
fn a_recomputed_block_is_differentiated_at_the_restored_input() {
    let store = Arc::new(ActivationStore::default());
    let (x, weight) = (
        normal(&[2, 6, 16], 1).set_requires_grad(true),
        normal(&[16, 16], 2).set_requires_grad(true),
    );
    let run = |weight: Tensor| move |x: &Tensor| Ok(x.matmul(&weight).tanh() + x);
    let y = layers::recompute(run(weight.shallow_clone()), &x, &[&weight], POLICY, &scope(&store))
        .unwrap();
    assert_close(&y, &(x.matmul(&weight).tanh() + &x), 1e-14, "the forward is exact");
    assert_eq!(store.saved_bytes().held(), (4 * (12 + 16) * 8) as u64);
    let ours = gradients(&[x.shallow_clone(), weight.shallow_clone()], vec![y]);
    let at = restored(&x.detach(), &scope(&store)).set_requires_grad(true);
    let formula = gradients(
        &[at.shallow_clone(), weight.shallow_clone()],
        vec![at.matmul(&weight).tanh() + &at],
    );
    assert_close(&ours[0], &formula[0], 1e-10, "x");
    assert_close(&ours[1], &formula[1], 1e-10, "weight");
}

#[test]
fn what_needs_no_gradient_is_not_saved() {
    let store = Arc::new(ActivationStore::default());
    let scope = scope(&store);
    let x = normal(&[8, 16], 1).set_requires_grad(true);
    let weight = normal(&[4, 16], 2);
    let frozen = Projection::new(&weight);
    let y = layers::project(&x, &[frozen], SavePolicy::Exact, &scope).unwrap();
    assert_eq!(store.saved_bytes().held(), 0, "a frozen linear layer keeps nothing");
    assert!(y[0].requires_grad());
    let norm = normal(&[16], 3);
    let y =
        layers::rms_norm(&x.detach(), &norm, 1e-5, RmsWeight::Rounded, &SavePolicy::Exact, &scope)
            .unwrap();
    assert_eq!(store.saved_bytes().held(), 0, "a frozen norm of a frozen input keeps nothing");
    drop(y);
    let _mode = autograd::GradMode::disabled();
    let y =
        layers::gated(Activation::Silu, &x, &x, &SavePolicy::Exact, [scope.clone(), scope.clone()])
            .unwrap();
    assert_eq!(store.saved_bytes().held(), 0, "with gradients off nothing is kept");
    drop(y);
}

#[test]
fn three_maps_and_the_attention_before_them_share_one_saved_tensor() {
    let store = Arc::new(ActivationStore::default());
    let scope = scope(&store);
    let q = normal(&[2, 5, 2, 4], 1).set_requires_grad(true);
    let (out, saved) =
        layers::attention(&q, &q, &q, &Mask::Causal, 0.5, &SavePolicy::Exact, &scope).unwrap();
    // q, k, v, the output [2, 5, 8] and a sum for each head and token, all f64.
    let bytes = (3 * 80 + 80 + 2 * 2 * 5) * 8;
    assert_eq!(store.saved_bytes().held(), bytes);
    let weight = normal(&[3, 8], 2).set_requires_grad(true);
    let one = Projection::new(&weight);
    let y =
        layers::project(&out, &[one, one, one], layers::SavedInput::Saved(saved.unwrap()), &scope)
            .unwrap();
    assert_eq!(store.saved_bytes().held(), bytes, "the maps read what the attention kept");
    drop((out, y));
    assert_eq!(store.saved_bytes().held(), 0);
}

#[test]
fn a_pair_that_would_be_no_smaller_is_not_made() {
    let store = Arc::new(ActivationStore::default());
    let x = normal(&[3, 16], 1);
    let options =
        Options { rank: Rank::Components(3), factors: Kind::Double, ..Options::default() };
    let saved = SavePolicy::Code(options).save(&x, &scope(&store)).unwrap();
    assert_eq!((saved.bytes(), saved.restore().unwrap()), (3 * 16 * 8, x));
}

#[test]
fn a_number_of_bits_that_no_code_has_is_refused_and_not_saved_exactly() {
    let options = Options { method: Method::Quantized { bits: 3, group: 8 }, ..Options::default() };
    let refused = SavePolicy::Code(options)
        .save(&normal(&[40, 64], 1), &scope(&Arc::default()))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("bits = 3; it must be 4 or 8"), "{refused}");
}

#[test]
fn every_method_saves_less_and_gives_the_gradients_of_what_it_restores() {
    let store = Arc::new(ActivationStore::default());
    let x = normal(&[40, 64], 1);
    let (weight, dy) = (normal(&[12, 64], 2).set_requires_grad(true), normal(&[40, 12], 3));
    for method in [
        Method::Qb { test_matrix: TestMatrix::Norm },
        Method::RowSpace { test_matrix: TestMatrix::Gaussian, unit_rows: true },
        Method::Rsvd { oversampling: 4, power_iterations: 1 },
        Method::Svd,
        Method::Nystrom,
        Method::Quantized { bits: 8, group: 32 },
        Method::Quantized { bits: 4, group: 32 },
    ] {
        let options = Options { method, rank: Rank::Components(6), ..Options::default() };
        let projection = Projection::new(&weight);
        let y = layers::project(&x, &[projection], SavePolicy::Code(options), &scope(&store))
            .unwrap()
            .remove(0);
        assert_eq!(store.saved_bytes().held(), options.bytes(40, 64).unwrap(), "{method:?}");
        let ours = autograd::grad(&[&y], &[&weight], &[Some(&dy)], false, false)
            .unwrap()
            .remove(0)
            .unwrap();
        let restored =
            SavePolicy::Code(options).save(&x, &scope(&store)).unwrap().restore().unwrap();
        assert_close(&ours, &dy.tr().matmul(&restored), 1e-5, &format!("{method:?}"));
    }
}

#[test]
fn a_nan_in_an_activation_is_an_error_and_not_spread() {
    // On a GPU nobody waits to know; the loss tells.
    if drawing::device() != tch::Device::Cpu {
        return;
    }
    let store = Arc::new(ActivationStore::default());
    let x = normal(&[40, 64], 1);
    let _ = x.get(3).get(5).fill_(f64::NAN);
    let weight = normal(&[12, 64], 2).set_requires_grad(true);
    let projection = Projection::new(&weight);
    let error = layers::project(&x, &[projection], POLICY, &scope(&store)).unwrap_err().to_string();
    assert!(error.contains("forward of linear"), "{error}");
    assert_eq!(store.saved_bytes().held(), 0);
}
