use crate::decompose::{Inputs, decompose};
use crate::orthonormalize::basis;
use crate::projection::Projection;
use crate::{Code, Error, Factors, Method, Options, Rank, TestMatrix};
use rand::seq::index;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use tch::{Kind, Tensor};

/// How [`qb`] decomposes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Qb {
    /// Components kept, `1 ..= min(rows, columns)`.
    pub rank: i64,
    /// What the test matrix is made of.
    pub test_matrix: TestMatrix,
    /// Rescale each row of the approximation to the row's exact norm (folded into the left factor, so it takes no space).
    pub keep_norms: bool,
    /// The dtype in which the factors are held; all arithmetic is in f32 (in f64 for an f64 matrix).
    pub factors: Kind,
}

/// Decomposes `matrix` `[rows, columns]` into `Q B`: `Q` `[rows, rank]` an orthonormal basis of `A Ω`, `B = Qᵀ A`.
///
/// The same as [`decompose`] with [`Method::Qb`], for whoever needs no other. Source: LoRAct (arXiv 2509.23472), algorithm 1.
///
/// # Errors
/// As [`decompose`].
pub fn qb(matrix: &Tensor, options: &Qb, seed: u64) -> Result<Factors, Error> {
    let Qb { rank, test_matrix, keep_norms, factors } = *options;
    let options = Options { method: Method::Qb { test_matrix }, rank: Rank::Components(rank), keep_norms, factors };
    match decompose(matrix, &options, seed, None)? {
        Code::Factors(factors) => Ok(factors),
        // Method::Qb has no other code; whoever changes that sees it here.
        Code::Quantized(_) => {
            Err(Error::Setting { operation: "qb", option: "method", expected: "one with factors", got: "quantized".into() })
        }
    }
}

/// The projection onto the columns of `A Ω`. Costs about `2 rows rank² · 2 + 2 rows columns rank` operations.
pub(crate) fn qb_of(inputs: &Inputs<'_>, rank: i64, test_matrix: TestMatrix) -> Result<Projection, Error> {
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
    let largest = |count| -> Result<Tensor, Error> { Ok(a.f_index_select(1, &energies()?.f_topk(count, 0, true, false)?.1)?) };
    match test_matrix {
        TestMatrix::Norm => largest(rank),
        TestMatrix::Uniform => {
            let mut random = ChaCha8Rng::seed_from_u64(inputs.seed);
            let drawn: Vec<i64> =
                index::sample(&mut random, columns as usize, rank as usize).into_iter().map(|column| column as i64).collect();
            Ok(a.f_index_select(1, &Tensor::f_from_slice(&drawn)?.f_to_device(a.device())?)?)
        }
        TestMatrix::Gaussian => Ok(a.f_matmul(&gaussian(columns, rank, a, inputs.seed)?)?),
        TestMatrix::Warm => {
            let Some(warm) = inputs.warm else { return largest(rank) };
            let known = warm.size2()?.1.min(rank);
            let sample = a.f_matmul(&warm.f_narrow(1, 0, known)?)?;
            if known == rank { Ok(sample) } else { Ok(Tensor::f_cat(&[sample, largest(rank - known)?], 1)?) }
        }
    }
}

/// Independent standard normals `[rows, columns]`, of the dtype and on the device of `like`.
pub(crate) fn gaussian(rows: i64, columns: i64, like: &Tensor, seed: u64) -> Result<Tensor, Error> {
    let random = ChaCha8Rng::seed_from_u64(seed);
    let drawn: Vec<f32> = random.sample_iter(StandardNormal).take((rows * columns) as usize).collect();
    Ok(Tensor::f_from_slice(&drawn)?.f_view([rows, columns])?.f_to_device(like.device())?.f_to_kind(like.kind())?)
}
