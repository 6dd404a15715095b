//! How long Householder QR and Cholesky QR take on this machine, and how orthonormal their bases
//! are.
//!
//! `cargo run --release -p loract-compression --example orthonormalize`
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use loract_compression::{cholesky_qr, orthonormalize};

fn main() {
    let _no_grad = tch::no_grad_guard();
    tch::manual_seed(0);
    println!(
        "{:>14} {:>10} {:>16} {:>16} {:>8} {:>12}",
        "matrix", "condition", "Householder ms", "Cholesky QR ms", "ratio", "off identity"
    );
    for (rows, columns) in
        [(2048, 36), (2048, 72), (2048, 144), (4096, 72), (4096, 144), (576, 144)]
    {
        for condition in [1e1, 1e4] {
            let matrix = with_condition(rows, columns, condition);
            let householder = milliseconds(|| drop(orthonormalize(&matrix).unwrap()));
            let cholesky = milliseconds(|| drop(cholesky_qr(&matrix).unwrap()));
            let shape = format!("[{rows}, {columns}]");
            let off = cholesky_qr(&matrix)
                .unwrap()
                .map_or("falls back".into(), |q| format!("{:.1e}", off_identity(&q)));
            println!(
                "{shape:>14} {condition:>10.0e} {householder:>16.2} {cholesky:>16.2} {:>8.2} {off:>12}",
                householder / cholesky
            );
        }
    }
}

/// Random columns, with singular values between 1 and 1 / `condition`.
fn with_condition(rows: i64, columns: i64, condition: f64) -> Tensor {
    let normal =
        |rows| orthonormalize(&Tensor::randn([rows, columns], (Kind::Float, Device::Cpu))).unwrap();
    let exponents = Tensor::linspace(0.0, -condition.ln(), columns, (Kind::Float, Device::Cpu));
    (normal(rows) * exponents.exp()).matmul(&normal(columns).tr())
}

fn off_identity(q: &Tensor) -> f64 {
    let q = q.to_kind(Kind::Double);
    (q.tr().matmul(&q) - Tensor::eye(q.size()[1], (Kind::Double, Device::Cpu)))
        .norm()
        .double_value(&[])
}

/// The median of nine runs after one to warm up.
fn milliseconds(mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[4]
}
