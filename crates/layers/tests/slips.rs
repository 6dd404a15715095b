//! What goes wrong in other implementations of compressed activations, one test each; those of a
//! decomposition alone (a view that keeps a larger storage alive, the global generator) stand in
//! `compression/tests/methods.rs`, those of a configuration (a rank that rounds to zero or saves
//! nothing) in `trainer/src/policy.rs`, and Gemma's norm and gate, which are no RMSNorm and SiLU,
//! in `tests/verify.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::{Arc, Mutex};

use tch::{Device, Kind, Tensor};

use compression::{Method, Options, Rank, TestMatrix};
use layers::{ActivationStore, Lora, Projection, RmsWeight, SavePolicy, Scope, Site, recompute};
use loract_layers as layers;

use drawing::{assert_close, gradients, normal};

/// Held by the tests that draw from the global generator, which threads share.
static GLOBAL_GENERATOR: Mutex<()> = Mutex::new(());

fn code(method: Method) -> SavePolicy {
    SavePolicy::Code(Options {
        method,
        rank: Rank::Components(4),
        keep_norms: true,
        factors: Kind::Double,
    })
}

fn random_methods() -> [SavePolicy; 5] {
    [
        code(Method::Qb { test_matrix: TestMatrix::Uniform }),
        code(Method::Qb { test_matrix: TestMatrix::Gaussian }),
        code(Method::Qb { test_matrix: TestMatrix::Warm }),
        code(Method::Rsvd { oversampling: 2, power_iterations: 1 }),
        code(Method::Nystrom),
    ]
}

fn scope() -> Scope {
    Scope::training(9, Arc::default()).layer(3)
}

/// A block with dropout in it: `x + W x + B A dropout(x)`.
fn block(
    leaves: &[Tensor],
) -> impl Fn(&Tensor, SavePolicy, &Scope) -> Result<Tensor, layers::Error> + Send + use<> {
    let leaves: Vec<Tensor> = leaves.iter().map(Tensor::shallow_clone).collect();
    move |x, policy, scope| {
        let lora =
            Some(Lora { a: &leaves[2], b: &leaves[3], scale: 0.5, dropout: 0.4, magnitude: None });
        let projection = Projection { lora, ..Projection::new(&leaves[1]) };
        Ok(layers::project(x, &[projection], policy, &scope.site(Site::MlpIn))?.remove(0) + x)
    }
}

fn leaves() -> Vec<Tensor> {
    [&[12i64, 16][..], &[16, 16], &[2, 16], &[16, 2]]
        .iter()
        .enumerate()
        .map(|(index, shape)| normal(shape, index as u64).set_requires_grad(true))
        .collect()
}

#[test]
fn the_generator_state_saved_after_the_forward() {
    // Dropout of the recomputation is that of the forward, however the block's input is kept. The
    // global generator moves in between.
    let _alone = GLOBAL_GENERATOR.lock().unwrap();
    let leaves = leaves();
    let plain = block(&leaves);
    let direct = plain(&leaves[0], SavePolicy::Exact, &scope()).unwrap();
    let expected = gradients(&leaves, vec![direct.shallow_clone()]);
    let inner = scope();
    let again = block(&leaves);
    let run = move |x: &Tensor| again(x, SavePolicy::Exact, &inner);
    let y = recompute(
        run,
        &leaves[0],
        &[&leaves[1], &leaves[2], &leaves[3]],
        SavePolicy::Exact,
        &scope().site(Site::Layer),
    )
    .unwrap();
    assert_eq!(y, direct);
    let _ = Tensor::rand([100], (Kind::Float, Device::Cpu));
    for (ours, expected) in gradients(&leaves, vec![y]).iter().zip(&expected) {
        assert_close(ours, expected, 1e-12, "a dropout mask that differs would show");
    }
}

#[test]
fn the_global_generator_consumed() {
    // Compression on or off, of whatever kind: the same dropout masks, and the global generator
    // where it was.
    let _alone = GLOBAL_GENERATOR.lock().unwrap();
    let leaves = leaves();
    let exact = block(&leaves)(&leaves[0], SavePolicy::Exact, &scope()).unwrap();
    tch::manual_seed(5);
    let next = Tensor::rand([1], (Kind::Double, Device::Cpu));
    for policy in random_methods() {
        tch::manual_seed(5);
        let y = block(&leaves)(&leaves[0], policy, &scope()).unwrap();
        assert_eq!(y, exact, "{policy:?}");
        gradients(&leaves, vec![y]);
        assert_eq!(Tensor::rand([1], (Kind::Double, Device::Cpu)), next, "{policy:?}");
    }
}

#[test]
fn stale_factors_after_an_edit_in_place() {
    let leaves = leaves();
    for policy in [SavePolicy::Exact, code(Method::Svd)] {
        let x = normal(&[12, 16], 7);
        let y = block(&leaves)(&x, policy, &scope()).unwrap();
        let _ = x.shallow_clone().zero_();
        let gradient =
            autograd::grad(&[&y.sum(Kind::Double)], &[&leaves[1]], &[None], false, false);
        match policy {
            // What is kept as it is has changed under us: an error, and not the gradient of another
            // tensor.
            SavePolicy::Exact => {
                let error = gradient.unwrap_err().to_string();
                assert!(error.contains("layer 3, mlp_in: the saved tensor was edited in place before backward read it"), "{error}");
            }
            // A code is of the tensor as it was when it was read, and so is the gradient.
            SavePolicy::Code(_) | SavePolicy::Delta(_) => {
                let saved = policy
                    .save(&normal(&[12, 16], 7), &scope().site(Site::MlpIn))
                    .unwrap()
                    .restore()
                    .unwrap();
                let expected = Tensor::ones([16, 12], (Kind::Double, Device::Cpu)).matmul(&saved);
                assert_close(
                    gradient.unwrap()[0].as_ref().unwrap(),
                    &expected,
                    1e-10,
                    "of the tensor before the edit",
                );
            }
        }
        // The edited tensor, kept again, is kept as it is now: nothing is remembered by identity.
        assert_eq!(policy.save(&x, &scope()).unwrap().restore().unwrap(), x);
    }
}

#[test]
fn inputs_of_frozen_layers_compressed_for_nothing() {
    let store = Arc::new(ActivationStore::default());
    let scope = Scope::training(1, store.clone());
    let (x, weight) = (normal(&[12, 16], 1).set_requires_grad(true), normal(&[8, 16], 2));
    let frozen = Projection::new(&weight);
    for policy in random_methods() {
        let y = layers::project(&x, &[frozen], policy, &scope).unwrap();
        assert_eq!(store.saved_bytes().held() + store.state_bytes(), 0, "{policy:?}");
        drop(y);
    }
}

#[test]
fn a_norm_weight_of_zero() {
    for policy in
        [SavePolicy::Exact, code(Method::Svd), code(Method::Quantized { bits: 4, group: 8 })]
    {
        let x = normal(&[12, 16], 1).set_requires_grad(true);
        let weight = normal(&[16], 2);
        let _ = weight.narrow(0, 3, 5).zero_();
        let weight = weight.set_requires_grad(true);
        let y = layers::rms_norm(&x, &weight, 1e-6, RmsWeight::Rounded, &policy, &scope()).unwrap();
        for gradient in gradients(&[x, weight], vec![y]) {
            assert!(bool::try_from(gradient.isfinite().all()).unwrap(), "{policy:?}");
        }
    }
}

#[test]
fn one_nan_spreading() {
    let x = normal(&[12, 16], 1);
    let _ = x.get(5).get(2).fill_(f64::NAN);
    for policy in
        random_methods().into_iter().chain([code(Method::Quantized { bits: 8, group: 8 })])
    {
        let error = policy.save(&x, &scope().site(Site::AttnIn)).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "layer 3, attn_in: decompose: the [12, 16] matrix holds NaN or infinity"
            ),
            "{error}"
        );
    }
}

#[test]
fn a_view_that_keeps_a_larger_storage_alive() {
    let x = normal(&[64, 64], 1);
    for method in [
        Method::Svd,
        Method::Qb { test_matrix: TestMatrix::Norm },
        Method::Quantized { bits: 4, group: 32 },
    ] {
        let options = Options { method, rank: Rank::Components(3), ..Options::default() };
        let code = compression::decompose(&x, &options, 0, &mut compression::SiteState::default())
            .unwrap();
        for tensor in code.tensors() {
            assert!(tensor.internal_has_same_storage_numel(&tensor.empty_like()), "{method:?}");
        }
        assert_eq!(code.bytes(), options.bytes(64, 64).unwrap());
    }
}
