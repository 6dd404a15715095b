//! Random matrices and norms, on the device that `LORACT_TEST_DEVICE` names.
#![allow(dead_code)]

#[path = "../../../test_device.rs"]
mod test_device;

pub use test_device::device;

use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use tch::{Kind, Tensor};

pub fn values<T: tch::kind::Element>(values: &[T]) -> Tensor {
    Tensor::from_slice(values).to_device(device())
}

pub fn normal(rows: i64, columns: i64, seed: u64) -> Tensor {
    let random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> =
        random.sample_iter(StandardNormal).take((rows * columns) as usize).collect();
    self::values(&values).view([rows, columns])
}

pub fn norm(tensor: &Tensor) -> f64 {
    tensor.to_kind(Kind::Double).norm().double_value(&[])
}
