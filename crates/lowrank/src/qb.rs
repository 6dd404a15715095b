use crate::{Error, Factors, orthonormalize};
use rand::seq::index;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What the test matrix `Ω` of [`qb`] is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestMatrix {
    /// The columns of `A` with the largest norms. Deterministic; the nearest to the optimum on every activation tried.
    #[default]
    Norm,
    /// Columns of `A` drawn uniformly without replacement, as in the paper.
    Uniform,
    /// Independent standard normals (Halko, Martinsson and Tropp 2011, algorithm 4.1).
    Gaussian,
}

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
/// The same seed gives the same factors; no global generator is used. Costs about `2 rows rank² · 2 + 2 rows columns rank` operations.
/// Source: LoRAct (arXiv 2509.23472), algorithm 1.
///
/// # Errors
/// [`Error::Shape`], [`Error::Kind`], [`Error::Rank`] for what it does not take; those of libtorch.
pub fn qb(matrix: &Tensor, options: &Qb, seed: u64) -> Result<Factors, Error> {
    let size = matrix.size();
    let [rows, columns] = size[..] else {
        return Err(Error::Shape { operation: "qb", expected: "[rows, columns]".into(), got: size });
    };
    let rank = options.rank;
    if rank < 1 || rank > rows.min(columns) {
        return Err(Error::Rank { operation: "qb", rank, rows, columns });
    }
    let kind = match matrix.kind() {
        Kind::Double => Kind::Double,
        Kind::Float | Kind::Half | Kind::BFloat16 => Kind::Float,
        got => return Err(Error::Kind { operation: "qb", got }),
    };
    let a = matrix.f_to_kind(kind)?;
    let sample = match options.test_matrix {
        TestMatrix::Norm => {
            let (_, largest) = a.f_square()?.f_sum_dim_intlist(0, false, kind)?.f_topk(rank, 0, true, false)?;
            a.f_index_select(1, &largest)?
        }
        TestMatrix::Uniform => {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let drawn: Vec<i64> =
                index::sample(&mut random, columns as usize, rank as usize).into_iter().map(|column| column as i64).collect();
            a.f_index_select(1, &Tensor::f_from_slice(&drawn)?.f_to_device(a.device())?)?
        }
        TestMatrix::Gaussian => {
            let random = ChaCha8Rng::seed_from_u64(seed);
            let drawn: Vec<f32> = random.sample_iter(StandardNormal).take((columns * rank) as usize).collect();
            let omega = Tensor::f_from_slice(&drawn)?.f_view([columns, rank])?.f_to_device(a.device())?.f_to_kind(kind)?;
            a.f_matmul(&omega)?
        }
    };
    let q = orthonormalize(&sample)?;
    drop(sample);
    let b = q.f_tr()?.f_matmul(&a)?;
    if !options.keep_norms {
        return Factors::new(&q, &b, options.factors);
    }
    Factors::new(&q.f_mul(&row_scales(&a, &q, &b)?)?, &b, options.factors)
}

/// `‖a_i‖ / ‖(Q B)_i‖` for each row, `[rows, 1]`; 1 where the approximation is zero.
///
/// `‖(Q B)_i‖² = q_iᵀ (B Bᵀ) q_i`, so the product is never formed.
fn row_scales(a: &Tensor, q: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
    let exact = a.f_square()?.f_sum_dim_intlist(1, true, a.kind())?;
    let gram = b.f_matmul(&b.f_tr()?)?;
    let approximate = q.f_matmul(&gram)?.f_mul(q)?.f_sum_dim_intlist(1, true, a.kind())?;
    // A row that the basis hardly sees is not blown up from rounding noise: its direction means nothing.
    let visible = approximate.f_gt_tensor(&exact.f_mul_scalar(1e-8)?)?;
    let scale = exact.f_div(&approximate)?.f_sqrt()?;
    Ok(scale.f_where_self(&visible, &scale.f_ones_like()?)?)
}
