//! Compressed forms of activation matrices: tensor in, code out. A training program saves the code
//! for backward instead of the matrix, and computes weight gradients from it. No autograd, no
//! network, no global generator.
//!
//! [`decompose`] turns a matrix `[rows, columns]` into a [`Code`] by one [`Method`]: a product of
//! two thin [`Factors`], its elements [`Quantized`] in groups, or its components [`coded`] in a
//! basis, each with its own number of bits. A code stands in for the matrix in products
//! ([`Code::contract`], [`Code::project`]) and owns exactly the bytes it states. The [`Rank`] is a
//! number, a fraction, or whatever meets a per-token error.
//!
//! - [`Method::Qb`] is the decomposition of LoRAct (arXiv 2509.23472), with a [`TestMatrix`];
//! - [`Method::RowSpace`] projects tokens onto a basis of their own, which at equal bytes and time
//!   comes nearer to every token;
//! - [`Method::Coded`] has a fraction of their error at the same bytes, half a bit per element
//!   above what any code can reach;
//! - [`Method::Shared`] projects on a basis that all ranks share, so that they only all-reduce
//!   coefficients;
//! - [`orthonormalize`] and [`cholesky_qr`] give orthonormal bases;
//! - [`per_token_error`] and [`relative_error`] are the two measures by which codes are judged,
//!   [`spectrum`] what the best of them can reach.
//!
//! ```
//! use loract_compression::{Method, Options, Rank, SiteState, decompose, relative_error};
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> Result<(), loract_compression::Error> {
//! // 64 tokens of width 32 in a space of 4 directions.
//! let x = Tensor::randn([64, 4], (Kind::Float, Device::Cpu)).matmul(&Tensor::randn([4, 32], (Kind::Float, Device::Cpu)));
//! let options = Options { method: Method::Svd, rank: Rank::Components(4), ..Options::default() };
//! let code = decompose(&x, &options, 0, &mut SiteState::default())?;
//! assert_eq!(code.bytes(), 2 * 4 * (64 + 32));
//! assert!(relative_error(&x, &code.restore(Kind::Float)?)? < 0.01);
//!
//! // The gradient of a weight, `dyᵀ x`, through the factors.
//! let dy = Tensor::randn([64, 8], (Kind::Float, Device::Cpu));
//! assert_eq!(code.contract(&dy)?.size(), [8, 32]);
//! # Ok(()) }
//! ```

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
