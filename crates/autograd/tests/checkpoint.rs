//! Checkpointing: the same gradients, the same dropout, parameters, nesting, errors.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

use autograd::{BoxError, backward, checkpoint, random};
use loract_autograd as autograd;

/// Dropout draws from the global generator, so these tests take turns.
static GENERATOR: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn normal(shape: &[i64], seed: u64) -> Tensor {
    random::draw(random::Distribution::Normal, shape, Kind::Double, Device::Cpu, seed).unwrap()
}

fn block(x: &Tensor, weight: &Tensor) -> Tensor {
    x.matmul(weight).gelu("none").dropout(0.3, true) + x
}

/// The gradients of input and weight after `depth` blocks, each inside `nesting` checkpoints.
fn gradients(depth: usize, nesting: usize, input_needs: bool) -> (Tensor, Tensor) {
    tch::manual_seed(7);
    let x = normal(&[6, 5], 1).set_requires_grad(input_needs);
    let weight = normal(&[5, 5], 2).set_requires_grad(true);
    fn nested(x: &Tensor, weight: &Tensor, nesting: usize) -> Tensor {
        if nesting == 0 {
            return block(x, weight);
        }
        let inner = weight.shallow_clone();
        let run = move |inputs: &[Tensor]| {
            Ok::<_, BoxError>(vec![nested(&inputs[0], &inner, nesting - 1)])
        };
        checkpoint(run, &[x], &[weight]).unwrap().remove(0)
    }
    let mut y = x.shallow_clone();
    for _ in 0..depth {
        y = nested(&y, &weight, nesting);
    }
    backward(&[&y.square().sum(Kind::Double)], &[None], false).unwrap();
    (x.grad(), weight.grad())
}

#[test]
fn gradients_with_dropout_are_the_same_to_the_bit() {
    let _alone = alone();
    for nesting in [1, 2, 12] {
        let (x, weight) = gradients(3, 0, true);
        let (x_again, weight_again) = gradients(3, nesting, true);
        assert_eq!(x, x_again, "nesting {nesting}");
        assert!((&weight - &weight_again).abs().max().double_value(&[]) < 1e-12);
    }
}

#[test]
fn a_block_whose_input_needs_no_gradient_still_trains_its_parameters() {
    let _alone = alone();
    let (x, weight) = gradients(2, 1, false);
    assert!(!x.defined());
    let (_, expected) = gradients(2, 0, false);
    assert!(weight.allclose(&expected, 1e-12, 1e-12, false));
}

#[test]
fn the_generator_is_where_a_plain_run_leaves_it() {
    let _alone = alone();
    let after = |nesting| {
        let _ = gradients(2, nesting, true);
        random::state(Device::Cpu).unwrap()
    };
    assert_eq!(after(0), after(2));
}

#[test]
fn an_error_or_panic_in_the_repetition_comes_out_and_restores_the_generator() {
    let _alone = alone();
    for panics in [false, true] {
        let x = normal(&[3], 1).set_requires_grad(true);
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let run = move |inputs: &[Tensor]| {
            if calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                return Ok(vec![inputs[0].dropout(0.5, true)]);
            }
            assert!(!panics, "repetition panicked");
            Err::<Vec<Tensor>, BoxError>("repetition failed".into())
        };
        let out = checkpoint(run, &[&x], &[]).unwrap();
        let error = backward(&[&out[0].sum(Kind::Double)], &[None], false).unwrap_err().to_string();
        assert!(
            error.contains("backward of checkpoint") && error.contains("repetition"),
            "{error}"
        );
        assert!(autograd::grad_enabled());
    }
}

#[test]
fn seeds_determine_draws_and_the_global_generator_stays() {
    let _alone = alone();
    let before = random::state(Device::Cpu).unwrap();
    let draw = |seed| {
        random::draw(
            random::Distribution::Bernoulli(0.25),
            &[100_000],
            Kind::Float,
            Device::Cpu,
            seed,
        )
        .unwrap()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let mean = draw(3).mean(Kind::Float).double_value(&[]);
    assert!((mean - 0.25).abs() < 0.01, "{mean}");
    assert_eq!(before, random::state(Device::Cpu).unwrap());
    let seeds: std::collections::HashSet<u64> =
        (0..50).flat_map(|a| (0..50).map(move |b| random::derive_seed(&[0, a, b]))).collect();
    assert_eq!(seeds.len(), 2500);
    assert_ne!(random::derive_seed(&[1, 2]), random::derive_seed(&[2, 1]));
}
