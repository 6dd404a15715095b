//! Fused operations, each in three forms: a CUDA text for GPUs, loops for the CPU, and libtorch
//! operations as the reference. One door per operation chooses among them by where its tensors are.
//!
//! - [`components`] quantizes and packs the components of an activation matrix, and restores them:
//!   what `loract-compression` codes with.
//!
//! CUDA texts are compiled by NVRTC when a GPU first needs them (`cuda::Module`); a machine without
//! a GPU, its driver or NVRTC needs none. The three forms give the same bits: tests compile the
//! CUDA text for the CPU (`loract-kernels-host`) and compare it with the loops, and the loops with
//! the reference.
//!
//! ```
//! use loract_kernels::components::{Components, Plan, Rounding, decode};
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> Result<(), loract_kernels::Error> {
//! // Two components of 16 rows, the first in 4 bits, the second dropped.
//! let y = Tensor::linspace(-0.5, 0.5, 32, (Kind::Float, Device::Cpu)).view([2, 16]);
//! let components = Components::new(y.shallow_clone(), None)?;
//! let spreads = components.spreads(0)?;
//! let scale = spreads[0].plan(Rounding::Trellis, 16).1[4];
//! let plan = Plan { widths: vec![4, 0], scales: vec![scale, 0] };
//! let code = components.encode(&plan, Rounding::Trellis, 0)?;
//! assert_eq!(code.codes.numel(), 16 * 4 / 8);
//! // Every row with a gain of 1, in its 16 bits.
//! let gains = Tensor::full([16], (1.0_f32.to_bits() >> 15) as i64, (Kind::Int16, Device::Cpu));
//! let restored = decode(&code.codes, &plan, &gains, true, Kind::Float, None)?;
//! assert!((restored - y.narrow(0, 0, 1)).abs().max().double_value(&[]) < 0.1);
//! # Ok(()) }
//! ```

pub mod components;
mod error;

pub use error::Error;
