//! Inputs of blocks kept as differences: what comes back, in which order, and the gradients at it.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::Arc;

use tch::{Kind, Tensor};

use compression::coded::{Rate, Rounding};
use compression::{Method, Options, Rank};
use layers::{ActivationStore, Error, SavePolicy, SavedActivation, Scope, Site, recompute};
use loract_layers as layers;

use drawing::{assert_close, normal, relative};

const ROWS: i64 = 96;
const WIDTH: i64 = 24;

fn options(rotate: bool) -> Options {
    Options {
        method: Method::Coded {
            rate: Rate::Bits(3.0),
            rounding: Rounding::Trellis,
            drift: f64::INFINITY,
            rotate,
        },
        rank: Rank::Fraction(1.0),
        keep_norms: true,
        factors: Kind::Float,
    }
}

/// A stream that changes a little at each of `count` blocks.
fn stream(count: u64) -> Vec<Tensor> {
    let mut x = normal(&[2, ROWS / 2, WIDTH], 1);
    (0..count)
        .map(|block| {
            x = &x + normal(&[2, ROWS / 2, WIDTH], 2 + block) * 0.2;
            x.shallow_clone()
        })
        .collect()
}

fn saved(
    stream: &[Tensor],
    policy: SavePolicy,
    store: &Arc<ActivationStore>,
) -> Vec<SavedActivation> {
    let scope = Scope::training(3, store.clone());
    stream
        .iter()
        .enumerate()
        .map(|(layer, x)| policy.save(x, &scope.layer(layer).site(Site::Layer)).unwrap())
        .collect()
}

#[test]
fn differences_have_a_fraction_of_the_error_in_the_same_bytes() {
    let stream = stream(6);
    for rotate in [true, false] {
        let store = Arc::new(ActivationStore::default());
        let differences = saved(&stream, SavePolicy::Delta(options(rotate)), &store);
        let alone = saved(&stream, SavePolicy::Code(options(rotate)), &store);
        let one = (3 * ROWS * WIDTH / 8) as u64;
        assert!(differences.iter().chain(&alone).all(|saved| saved.bytes() == one));
        assert_eq!(
            (store.saved_bytes().held(), store.saved_bytes().exact()),
            (12 * one, 12 * (8 * ROWS * WIDTH) as u64)
        );
        for (block, x) in stream.iter().enumerate().rev() {
            let (near, far) =
                (differences[block].restore().unwrap(), alone[block].restore().unwrap());
            assert_eq!((near.size(), near.kind()), (x.size(), x.kind()));
            let (near, far) = (relative(&near, x), relative(&far, x));
            if block == 0 {
                assert!((near - far).abs() < 1e-9, "{near} {far}");
            } else {
                assert!(near < 0.4 * far, "rotate {rotate}, block {block}: {near} {far}");
            }
        }
    }
}

/// A residual stream grows from block to block. Were the sum held in bf16, the rounding of its end
/// would be larger than its beginning.
#[test]
fn the_end_of_a_growing_stream_does_not_drown_its_beginning() {
    let mut x = normal(&[ROWS, WIDTH], 1);
    let stream: Vec<Tensor> = (0..24)
        .map(|block| {
            x = &x * 1.2 + normal(&[ROWS, WIDTH], 2 + block) * 0.1;
            x.to_kind(Kind::BFloat16)
        })
        .collect();
    let differences = saved(&stream, SavePolicy::Delta(options(false)), &Arc::default());
    let errors: Vec<f64> = differences
        .iter()
        .zip(&stream)
        .rev()
        .map(|(saved, x)| relative(&saved.restore().unwrap(), x))
        .collect();
    let alone = saved(&stream[..1], SavePolicy::Code(options(false)), &Arc::default());
    let first = relative(&alone[0].restore().unwrap(), &stream[0]);
    assert!((errors[23] / first - 1.0).abs() < 0.02, "{} {first}", errors[23]);
}

#[test]
fn they_come_back_once_and_from_the_last_to_the_first() {
    let store = Arc::new(ActivationStore::default());
    let differences = saved(&stream(3), SavePolicy::Delta(options(false)), &store);
    let refused =
        |saved: &SavedActivation| matches!(saved.restore(), Err(Error::OutOfOrder { .. }));
    assert!(refused(&differences[1]), "not before the last");
    drop(differences[2].restore().unwrap());
    assert!(refused(&differences[2]), "not twice");
    assert!(refused(&differences[0]), "not before the one behind it");
    drop(differences[1].restore().unwrap());
    let message = differences[1].restore().unwrap_err().to_string();
    assert!(message.starts_with("layer 1, layer: inputs saved as deltas are restored once, from the last block to the first"), "{message}");
    drop(differences[0].restore().unwrap());

    let scope = Scope::training(3, store);
    let policy = SavePolicy::Delta(options(false));
    policy.save(&normal(&[ROWS, WIDTH], 1), &scope).unwrap();
    assert!(
        policy
            .save(&normal(&[ROWS, WIDTH + 1], 1), &scope)
            .unwrap_err()
            .to_string()
            .contains("[96, 24] as before")
    );
}

/// Of three blocks `x + tanh(x wᵀ)`: the exact forward, and the gradients of each block at its
/// restored input.
#[test]
fn gradients_are_those_at_the_restored_inputs() {
    let weights: Vec<Tensor> = (0..3)
        .map(|block| (normal(&[WIDTH, WIDTH], 20 + block) * 0.1).set_requires_grad(true))
        .collect();
    let block = |x: &Tensor, w: &Tensor| x + x.matmul(&w.tr()).tanh() * 0.3;
    let x = normal(&[ROWS, WIDTH], 7);
    let dy = normal(&[ROWS, WIDTH], 8);

    let store = Arc::new(ActivationStore::default());
    let scope = Scope::training(3, store.clone());
    let mut y = x.shallow_clone();
    for (layer, w) in weights.iter().enumerate() {
        let held = w.shallow_clone();
        let policy = SavePolicy::Delta(options(true));
        y = recompute(
            move |x| Ok(block(x, &held)),
            &y,
            &[w],
            policy,
            &scope.layer(layer).site(Site::Layer),
        )
        .unwrap();
    }
    (&y * &dy).sum(Kind::Double).backward();
    let ours: Vec<Tensor> = weights.iter().map(Tensor::grad).collect();

    // The same forward without recomputation, and what its inputs are restored to.
    let mut inputs = vec![x];
    for w in &weights {
        inputs.push(block(&inputs[inputs.len() - 1], &w.detach()));
    }
    assert_eq!(y.detach(), inputs[3]);
    let differences = saved(&inputs[..3], SavePolicy::Delta(options(true)), &Arc::default());
    let mut gradient = dy;
    for (layer, w) in weights.iter().enumerate().rev() {
        let restored = differences[layer].restore().unwrap().set_requires_grad(true);
        let found = Tensor::run_backward(
            &[(block(&restored, w) * &gradient).sum(Kind::Double)],
            &[&restored, w],
            false,
            false,
        );
        assert_close(&ours[layer], &found[1], 1e-9, &format!("block {layer}"));
        gradient = found[0].shallow_clone();
    }
}
