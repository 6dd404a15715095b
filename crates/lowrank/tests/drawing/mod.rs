//! Random matrices and norms.
#![allow(dead_code)]

use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use tch::{Kind, Tensor};

pub fn normal(rows: i64, columns: i64, seed: u64) -> Tensor {
    let random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = random.sample_iter(StandardNormal).take((rows * columns) as usize).collect();
    Tensor::from_slice(&values).view([rows, columns])
}

pub fn norm(tensor: &Tensor) -> f64 {
    tensor.to_kind(Kind::Double).norm().double_value(&[])
}
