//! Compressed forms of activation matrices: tensor in, code out. No autograd, no network, no global generator.
//!
//! [`decompose`] turns a matrix `[rows, columns]` into a [`Code`] by one [`Method`]: a product of two thin [`Factors`], its elements
//! [`Quantized`] in groups, or its components [`coded`] in a basis with the bits that each deserves. A code stands in for the matrix in
//! products ([`Code::contract`], [`Code::project`]) and owns exactly the bytes it states. The [`Rank`] is a number, a fraction, or whatever
//! meets a per-token error.
//!
//! - [`Method::Qb`] is the decomposition of LoRAct (arXiv 2509.23472), with a [`TestMatrix`];
//! - [`Method::RowSpace`] projects tokens onto a basis of their own, which at equal bytes and time comes nearer to every token;
//! - [`Method::Coded`] has a fraction of their error at the same bytes, half a bit per element above what any code can reach;
//! - [`Method::Shared`] projects on a basis that ranks agree on, so that they need only add up coefficients;
//! - [`orthonormalize`] and [`cholesky_qr`] give orthonormal bases;
//! - [`per_token_error`] and [`relative_error`] are the two measures by which codes are judged, [`spectrum`] what the best of them can reach.

mod auto;
mod code;
pub mod coded;
mod components;
mod decompose;
mod error;
mod factors;
mod inputs;
mod linalg;
mod measure;
mod method;
mod nystrom;
mod orthonormalize;
mod projection;
mod qb;
mod quantized;
mod rounded;
mod row_space;
mod rsvd;
mod shared_basis;
mod site_state;
mod spectrum;
mod svd;

pub use code::Code;
pub use decompose::decompose;
pub use error::Error;
pub use factors::Factors;
pub use measure::{check_finite, is_finite, per_token_error, relative_error};
pub use method::{Method, Options, Rank, TestMatrix};
pub use orthonormalize::{cholesky_qr, orthonormalize};
pub use quantized::Quantized;
pub use site_state::SiteState;
pub use spectrum::spectrum;
