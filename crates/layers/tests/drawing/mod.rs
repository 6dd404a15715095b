//! Random leaves, and gradients pulled back from random directions, on the device that
//! `LORACT_TEST_DEVICE` names.
#![allow(dead_code)]

#[path = "../../../test_device.rs"]
mod test_device;

pub use test_device::device;

use tch::{Kind, Tensor};

use autograd::random::{Distribution, draw};

pub fn values<T: tch::kind::Element>(values: &[T]) -> Tensor {
    Tensor::from_slice(values).to_device(device())
}

pub fn normal(shape: &[i64], seed: u64) -> Tensor {
    draw(Distribution::Normal, shape, Kind::Double, device(), seed).unwrap()
}

/// The gradients of all leaves that require one, for outputs weighted by fixed random directions.
pub fn gradients(leaves: &[Tensor], outputs: Vec<Tensor>) -> Vec<Tensor> {
    let directions: Vec<Tensor> = outputs
        .iter()
        .enumerate()
        .map(|(index, output)| normal(&output.size(), 77 + index as u64).to_kind(output.kind()))
        .collect();
    let outputs: Vec<(&Tensor, Option<&Tensor>)> = outputs
        .iter()
        .zip(&directions)
        .map(|(output, direction)| (output, Some(direction)))
        .filter(|(output, _)| output.requires_grad())
        .collect();
    let (outputs, directions): (Vec<_>, Vec<_>) = outputs.into_iter().unzip();
    let wanted: Vec<&Tensor> = leaves.iter().filter(|leaf| leaf.requires_grad()).collect();
    let found = autograd::grad(&outputs, &wanted, &directions, false, false).unwrap();
    found
        .into_iter()
        .zip(wanted)
        .map(|(gradient, leaf)| gradient.unwrap_or_else(|| leaf.zeros_like()))
        .collect()
}

pub fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    let scale = b.norm().double_value(&[]);
    (a - b).norm().double_value(&[]) / if scale > 0.0 { scale } else { 1.0 }
}

pub fn assert_close(ours: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(ours.size(), expected.size(), "{what}");
    let error = relative(ours, expected);
    assert!(error < tolerance, "{what}: relative error {error:e}");
}

/// Compares outputs and gradients of two ways to compute the same thing from the same leaves.
pub fn agree(
    leaves: &[Tensor],
    ours: impl Fn(&[Tensor]) -> Vec<Tensor>,
    plain: impl Fn(&[Tensor]) -> Vec<Tensor>,
) {
    let (outputs, expected) = (ours(leaves), plain(leaves));
    assert_eq!(outputs.len(), expected.len());
    for (ours, plain) in outputs.iter().zip(&expected) {
        assert_close(ours, plain, 1e-10, "output");
    }
    for (index, (ours, plain)) in
        gradients(leaves, outputs).iter().zip(gradients(leaves, expected)).enumerate()
    {
        assert_close(ours, &plain, 1e-9, &format!("gradient of leaf {index}"));
    }
}
