use rand::seq::index;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use tch::Tensor;

use crate::inputs::Inputs;
use crate::orthonormalize::basis;
use crate::projection::Projection;
use crate::{Error, TestMatrix};

/// The projection onto the columns of `A Ω` (LoRAct, arXiv 2509.23472, algorithm 1). Costs about `2
/// rows rank² · 2 + 2 rows columns rank` operations.
pub(crate) fn qb(
    inputs: &Inputs<'_>,
    rank: i64,
    test_matrix: TestMatrix,
) -> Result<Projection, Error> {
    let a = inputs.a;
    let energies = || Ok(a.f_square()?.f_sum_dim_intlist(0, false, a.kind())?);
    Projection::onto_columns(a, basis(&sample(inputs, rank, test_matrix, energies)?)?)
}

/// `A Ω` `[rows, rank]`; `energies` gives the columns' squared norms, where they are asked for.
pub(crate) fn sample(
    inputs: &Inputs<'_>,
    rank: i64,
    test_matrix: TestMatrix,
    energies: impl FnOnce() -> Result<Tensor, Error>,
) -> Result<Tensor, Error> {
    let a = inputs.a;
    let columns = a.size2()?.1;
    let largest = |count| -> Result<Tensor, Error> {
        Ok(a.f_index_select(1, &energies()?.f_topk(count, 0, true, false)?.1)?)
    };
    match test_matrix {
        TestMatrix::Norm => largest(rank),
        TestMatrix::Uniform => {
            let mut random = ChaCha8Rng::seed_from_u64(inputs.seed);
            let drawn: Vec<i64> = index::sample(&mut random, columns as usize, rank as usize)
                .into_iter()
                .map(|column| column as i64)
                .collect();
            Ok(a.f_index_select(1, &Tensor::f_from_slice(&drawn)?.f_to_device(a.device())?)?)
        }
        TestMatrix::Gaussian => Ok(a.f_matmul(&gaussian(columns, rank, a, inputs.seed)?)?),
        TestMatrix::Warm => {
            let Some(warm) = inputs.warm else { return largest(rank) };
            let known = warm.size2()?.1.min(rank);
            let sample = a.f_matmul(&warm.f_narrow(1, 0, known)?)?;
            if known == rank {
                Ok(sample)
            } else {
                Ok(Tensor::f_cat(&[sample, largest(rank - known)?], 1)?)
            }
        }
    }
}

/// Independent standard normals `[rows, columns]`, of the dtype and on the device of `like`.
pub(crate) fn gaussian(rows: i64, columns: i64, like: &Tensor, seed: u64) -> Result<Tensor, Error> {
    let random = ChaCha8Rng::seed_from_u64(seed);
    let drawn: Vec<f32> =
        random.sample_iter(StandardNormal).take((rows * columns) as usize).collect();
    Ok(Tensor::f_from_slice(&drawn)?
        .f_view([rows, columns])?
        .f_to_device(like.device())?
        .f_to_kind(like.kind())?)
}
