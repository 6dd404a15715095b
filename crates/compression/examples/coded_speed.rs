//! What coding and decoding a matrix costs beside the two multiplications with the basis that they
//! cannot do without, and beside a copy of the matrix, which moves as many bytes as any pass over
//! it must.
//!
//! `cargo run --release -p loract-compression --example coded_speed [TOKENSxWIDTH ...]`:
//! milliseconds, the least of several, on a GPU if there is one. The last two columns are of the
//! matrix column by column, without a multiplication: so many bytes of it are coded and decoded in
//! a second, as a share of those that are copied.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use tch::{Cuda, Device, Kind, Tensor};

use loract_compression::coded::{Basis, Coded, Coding};

fn least<T>(
    device: Device,
    mut work: impl FnMut() -> Result<T, Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let finish = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    let mut least = f64::INFINITY;
    for _ in 0..9 {
        finish();
        let start = Instant::now();
        let done = work()?;
        finish();
        least = least.min(1e3 * start.elapsed().as_secs_f64());
        drop(done);
    }
    Ok(least)
}

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(1);
    let device = Device::cuda_if_available();
    println!("On {device:?}:\n");
    println!(
        "| dtype | tokens | width | two multiplications | code | decode | both / multiplications | copy | coding / copy | decoding / copy |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let size = |text: String| {
        text.split_once('x')
            .and_then(|(tokens, width)| Some((tokens.parse().ok()?, width.parse().ok()?)))
    };
    let asked: Option<Vec<(i64, i64)>> = std::env::args().skip(1).map(size).collect();
    let mut sizes = asked.ok_or("a size is written 4096x576")?;
    if sizes.is_empty() {
        sizes = vec![(512, 576), (1024, 576), (4096, 512), (4096, 576), (4096, 1024)];
        if device != Device::Cpu {
            sizes.extend([(16384, 2048), (32768, 4096)]);
        }
    }
    for kind in [Kind::Float, Kind::BFloat16] {
        for &(tokens, width) in &sizes {
            // Energies that fall as those of a residual stream do.
            let falling = Tensor::arange(width, (Kind::Float, device))
                .f_add_scalar(3.0)?
                .f_pow_tensor_scalar(-0.7)?;
            let matrix = Tensor::f_randn([tokens, width], (Kind::Float, device))?
                .f_mul(&falling)?
                .f_to_kind(kind)?;
            let basis = Arc::new(Basis::from_matrix(&matrix)?.rounded(Kind::BFloat16)?);
            let vectors = basis.vectors(kind)?;
            let products =
                least(device, || Ok(matrix.f_matmul(&vectors)?.f_matmul(&vectors.f_tr()?)?))?;
            let code = Coded::new(&matrix, &basis, &Coding::default(), 0)?;
            let coding = least(device, || Ok(Coded::new(&matrix, &basis, &Coding::default(), 0)?))?;
            let decoding = least(device, || Ok(code.restore(kind)?))?;
            let ratio = (coding + decoding) / products;

            let copy = least(device, || Ok(matrix.f_detach_copy()?))?;
            let columns = Coded::by_columns(&matrix, &Coding::default(), 0)?;
            let of_columns =
                least(device, || Ok(Coded::by_columns(&matrix, &Coding::default(), 0)?))?;
            let restored = least(device, || Ok(columns.restore(kind)?))?;
            println!(
                "| {kind:?} | {tokens} | {width} | {products:.2} | {coding:.2} | {decoding:.2} | {ratio:.1} | {copy:.2} | {:.3} | {:.3} |",
                copy / of_columns,
                copy / restored
            );
        }
    }
    Ok(())
}
