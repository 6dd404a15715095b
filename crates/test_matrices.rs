//! Matrices of many kinds for the tests of several packages.
#![allow(dead_code, reason = "not every test draws all of them")]

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use tch::{Device, Kind, Tensor};

/// Independent standard normal numbers.
pub fn normal(count: usize, seed: u64) -> Vec<f32> {
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).sample_iter(StandardNormal).take(count).collect()
}

/// What a matrix can be like, and what it must survive.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Falling,
    /// Half as many directions as columns.
    Deficient,
    Constant,
    ZeroRows,
    /// One row a million times as large as the others.
    Outlier,
    /// One element that is nearly all of its row.
    Spike,
}

pub fn matrix(shape: Shape, rows: i64, columns: i64, seed: u64) -> Tensor {
    let noise = |rows: i64, columns: i64, seed| {
        Tensor::from_slice(&normal((rows * columns) as usize, seed)).view([rows, columns])
    };
    let falling = noise(rows, columns, seed)
        * Tensor::arange(columns, (Kind::Float, Device::Cpu)).neg().multiply_scalar(0.1).exp();
    match shape {
        Shape::Falling => falling.matmul(&noise(columns, columns, seed + 1).qr(true).0),
        Shape::Deficient => {
            let inner = (columns / 2).max(1);
            noise(rows, inner, seed).matmul(&noise(inner, columns, seed + 1))
        }
        Shape::Constant => Tensor::full([rows, columns], 0.75, (Kind::Float, Device::Cpu)),
        Shape::ZeroRows => {
            let zeroed =
                Tensor::arange(rows, (Kind::Int64, Device::Cpu)).remainder(3).eq(0).unsqueeze(1);
            falling.masked_fill(&zeroed, 0.0)
        }
        Shape::Outlier => {
            let _ = falling.get(rows / 2).multiply_scalar_(1e6);
            falling
        }
        Shape::Spike => {
            let _ = falling.get(rows / 3).get(columns / 2).fill_(1e4);
            falling
        }
    }
}

pub fn shapes() -> impl Strategy<Value = Shape> {
    prop::sample::select(vec![
        Shape::Falling,
        Shape::Deficient,
        Shape::Constant,
        Shape::ZeroRows,
        Shape::Outlier,
        Shape::Spike,
    ])
}
