//! The backward of a linear layer with LoRA whose input is kept exactly, and as factors:
//! milliseconds of each, and the ratio.
//!
//! `cargo run --release -p loract-layers --example linear_backward`
//!
//! A's gradient is `sᵀ x` and B's needs `x Aᵀ`, with `s = dy B` `[rows, r]`. Exactly that is `4
//! rows r n` operations, through factors of rank k `4 k r (rows + n)`, and as much of x is read as
//! is kept. The input's gradient, `2 rows m n` of the frozen weight, is the same in both and much
//! larger; it is measured with and without.

use std::sync::Arc;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use autograd::random::{Distribution, draw};
use compression::{Options, Rank};
use layers::{Lora, Projection, SavePolicy, Scope, project};
use loract_layers as layers;

const RUNS: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "| tokens | in | out | rank | input's gradient too | exact, ms | through factors, ms | ratio |\n|---:|---:|---:|---:|---|---:|---:|---:|"
    );
    for (rows, width, out) in [(4096, 576, 1536), (4096, 1536, 576), (2048, 2048, 2048)] {
        for part in [0.125, 0.25] {
            for input in [false, true] {
                let (exact, factors) = (times(rows, width, out, input, SavePolicy::Exact)?, {
                    let options = Options { rank: Rank::Fraction(part), ..Options::default() };
                    times(rows, width, out, input, SavePolicy::Code(options))?
                });
                println!(
                    "| {rows} | {width} | {out} | {part} | {input} | {exact:.2} | {factors:.2} | {:.2} |",
                    factors / exact
                );
            }
        }
    }
    Ok(())
}

/// The median time of a backward, in milliseconds.
fn times(
    rows: i64,
    width: i64,
    out: i64,
    input: bool,
    policy: SavePolicy,
) -> Result<f64, Box<dyn std::error::Error>> {
    let normal =
        |shape: &[i64], seed| draw(Distribution::Normal, shape, Kind::Float, Device::Cpu, seed);
    let x = normal(&[rows, width], 1)?.set_requires_grad(input);
    let weight = normal(&[out, width], 2)?;
    let (a, b) = (
        normal(&[8, width], 3)?.set_requires_grad(true),
        normal(&[out, 8], 4)?.set_requires_grad(true),
    );
    let dy = normal(&[rows, out], 5)?;
    let mut times = Vec::new();
    for _ in 0..=RUNS {
        let lora = Some(Lora { a: &a, b: &b, scale: 2.0, dropout: 0.0, magnitude: None });
        let y = project(
            &x,
            &[Projection { lora, ..Projection::new(&weight) }],
            policy,
            &Scope::training(0, Arc::default()),
        )?
        .remove(0);
        let wanted: Vec<&Tensor> = if input { vec![&a, &b, &x] } else { vec![&a, &b] };
        let start = Instant::now();
        autograd::grad(&[&y], &wanted, &[Some(&dy)], false, false)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    // The first warms up.
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
