//! A linear layer that keeps its input as a low-rank pair: what that saves, and what it does to the
//! weight's gradient.
//!
//! `cargo run --release -p loract-examples --bin compressed_linear`

use autograd::random::{Distribution, draw};
use compression::{Options, Rank};
use layers::{ActivationStore, Projection, SavePolicy, Scope, project};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

fn main() -> anyhow::Result<()> {
    let (tokens, width, outputs) = (2048, 512, 256);
    let normal =
        |shape: &[i64], seed| draw(Distribution::Normal, shape, Kind::Float, Device::Cpu, seed);
    // Activations are nearly of low rank: columns whose sizes fall off.
    let sizes = (Tensor::arange(width, (Kind::Float, Device::Cpu)) * -0.02).exp();
    let x = normal(&[tokens, width], 1)? * sizes;
    let x = x.matmul(&normal(&[width, width], 2)?) / (width as f64).sqrt();
    let weight = normal(&[outputs, width], 3)?.set_requires_grad(true);
    let dy = normal(&[tokens, outputs], 4)?;

    let gradient = |policy: SavePolicy| -> anyhow::Result<(Tensor, u64)> {
        let store = Arc::new(ActivationStore::default());
        let projection = Projection::new(&weight);
        let y = project(&x, &[projection], policy, &Scope::training(0, store.clone()))?.remove(0);
        let saved = store.saved_bytes().held();
        let found = autograd::grad(&[&y], &[&weight], &[Some(&dy)], false, false)?.remove(0);
        Ok((found.ok_or_else(|| anyhow::anyhow!("the weight has no gradient"))?, saved))
    };
    let (exact, exact_bytes) = gradient(SavePolicy::Exact)?;
    println!("{:>10} {:>12} {:>22}", "rank", "kept bytes", "gradient error");
    println!("{:>10} {exact_bytes:>12} {:>22}", "exact", 0.0);
    for rank in [32, 64, 128, 256] {
        let options =
            Options { rank: Rank::Components(rank), keep_norms: false, ..Options::default() };
        let policy = SavePolicy::Code(options);
        let (found, bytes) = gradient(policy)?;
        let error = ((found - &exact).norm() / exact.norm()).double_value(&[]);
        println!("{rank:>10} {bytes:>12} {error:>22.4}");
        anyhow::ensure!(
            bytes == (2 * rank * (tokens + width)) as u64,
            "kept bytes are not by the formula"
        );
    }
    Ok(())
}
