//! What coding and decoding a matrix costs beside the two multiplications with the basis that they cannot do without.
//!
//! `cargo run --release -p loract-lowrank --example coded_speed`: milliseconds, the least of several.
use loract_lowrank::coded::{Basis, Coded, Coding};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

fn least<T>(times: u32, mut work: impl FnMut() -> Result<T, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut least = f64::INFINITY;
    for _ in 0..times {
        let start = Instant::now();
        let done = work()?;
        least = least.min(1e3 * start.elapsed().as_secs_f64());
        drop(done);
    }
    Ok(least)
}

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(1);
    println!("| dtype | tokens | width | two multiplications | code | decode | both / multiplications |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for kind in [Kind::Float, Kind::BFloat16] {
        for (tokens, width) in [(512, 576), (1024, 576), (4096, 512), (4096, 576), (4096, 1024)] {
            // Energies that fall as those of a residual stream do.
            let falling = Tensor::arange(width, (Kind::Float, Device::Cpu)).f_add_scalar(3.0)?.f_pow_tensor_scalar(-0.7)?;
            let matrix = Tensor::f_randn([tokens, width], (Kind::Float, Device::Cpu))?.f_mul(&falling)?.f_to_kind(kind)?;
            let basis = Arc::new(Basis::of(&matrix)?.rounded(Kind::BFloat16)?);
            let vectors = basis.vectors(kind)?;
            let products = least(9, || Ok(matrix.f_matmul(&vectors)?.f_matmul(&vectors.f_tr()?)?))?;
            let code = Coded::new(&matrix, &basis, &Coding::default(), 0)?;
            let coding = least(9, || Ok(Coded::new(&matrix, &basis, &Coding::default(), 0)?))?;
            let decoding = least(9, || Ok(code.restore(kind)?))?;
            let ratio = (coding + decoding) / products;
            println!("| {kind:?} | {tokens} | {width} | {products:.1} | {coding:.1} | {decoding:.1} | {ratio:.1} |");
        }
    }
    Ok(())
}
