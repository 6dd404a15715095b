//! Low-rank decompositions of activation matrices: tensor in, factors out. No autograd, no network.
//!
//! [`qb`] is the decomposition of LoRAct (arXiv 2509.23472): `A ≈ Q B` with `Q` an orthonormal basis of `A Ω` and `B = Qᵀ A`, where the
//! [`TestMatrix`] `Ω` picks columns of `A` or is Gaussian. Its [`Factors`] stand in for `A` in products, without `A` being rebuilt.

mod error;
mod factors;
mod orthonormalize;
mod qb;

pub use error::Error;
pub use factors::Factors;
pub use orthonormalize::orthonormalize;
pub use qb::{Qb, TestMatrix, qb};
