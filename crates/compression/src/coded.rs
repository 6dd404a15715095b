//! Coded activations: rotate, water-fill, quantize, pack.
//!
//! 1. Each row (token) is divided by its norm, so that all tokens weigh the same.
//! 2. It is projected on an orthonormal [`Basis`] of the site, in which a few components carry most
//!    of the energy.
//! 3. Each component gets 0 to 8 bits by its variance, or 16 where 8 are too few: each next bit
//!    goes where it reduces the error most (reverse water-filling; [`bound`] is the theory).
//! 4. A component is quantized with its own scale along a trellis over its tokens, with a quarter
//!    less error than by itself.
//! 5. Codes are packed without gaps. Decoding is integer arithmetic, a table of constants, and two
//!    multiplications, the same on every machine; products ([`Coded::contract`],
//!    [`Coded::project`]) use the decoded components and the basis, never the rebuilt matrix.
//!
//! A row's 16-bit gain makes up for its norm: with `keep_norms`, the decoded row has the norm that
//! it had, to 2⁻⁹; without, the error is least. Rows that the code serves badly are stored in bf16,
//! from the same bytes.
//!
//! On a GPU, kernels do all this where the matrix is, to the same bits; the host gives out the bits
//! from what they count. Where the driver or NVRTC is missing, matrices are coded by the CPU and
//! decoded by libtorch.

mod adaptive_basis;
mod basis;
mod code;
#[cfg(test)]
mod kernel_tests;
mod outliers;
mod unit_rows;
mod water_filling;

pub(crate) use adaptive_basis::AdaptiveBasis;
pub use basis::Basis;
pub use code::Coded;
pub use kernels::components::Rounding;
pub use water_filling::{bits_at_bound, bound};

/// How many bits a code has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Bits per element of the matrix, above 0: codes, scales, gains and rows stored exactly, all
    /// but the basis.
    Bits(f64),
    /// The fewest bits that meet this [per-token error](crate::per_token_error), above 0.
    Error(f64),
}

/// The options of [`Coded::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coding {
    /// How many bits.
    pub rate: Rate,
    /// How values are rounded.
    pub rounding: Rounding,
    /// Decoded rows have the norms that they had, rather than the least error.
    pub keep_norms: bool,
}

impl Default for Coding {
    fn default() -> Self {
        Self { rate: Rate::Bits(2.0), rounding: Rounding::default(), keep_norms: true }
    }
}
