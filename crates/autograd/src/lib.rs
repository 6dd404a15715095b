//! What PyTorch's `torch.autograd.Function`, `torch.utils.checkpoint` and gradient hooks are, for
//! [`tch`]: operations whose backward is written in Rust, recomputation of blocks, and calls when a
//! parameter's gradient is complete.
//!
//! * [`Function`] and [`apply`]: an operation whose backward is written in Rust.
//! * [`checkpoint`]: save a block's inputs only, and compute the block again in backward.
//! * [`backward`] and [`grad`]: with gradients of the outputs given.
//! * [`on_gradient`]: a call when a parameter's gradient is complete; [`set_gradient`] says where
//!   it is accumulated.
//! * [`memory`]: the bytes that tensors hold now and held at most, to the byte on the CPU.
//! * [`random`]: draws from a seed, without touching the global generator.
//! * [`SideStream`]: a second stream of a GPU, ordered by events.
//!
//! Errors and panics in a backward come out of [`backward`] and [`grad`] as [`Err`]; the engine
//! stays usable.
//!
//! ```
//! use loract_autograd::{Backward, BoxError, Forward, Function, apply, grad};
//! use tch::{Device, Kind, Tensor};
//!
//! /// `x²`, which saves `x` for backward.
//! struct Square;
//!
//! impl Function for Square {
//!     fn name(&self) -> String {
//!         "square".into()
//!     }
//!
//!     fn forward(&mut self, context: &mut Forward<'_>, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
//!         context.save(inputs[0]);
//!         Ok(vec![inputs[0].f_square()?])
//!     }
//!
//!     fn backward(&self, context: &Backward<'_>, gradients: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
//!         let x = &context.saved()?[0];
//!         let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
//!         Ok(vec![Some(dy.f_mul(x)?.f_mul_scalar(2.0)?)])
//!     }
//! }
//!
//! # fn main() -> Result<(), loract_autograd::Error> {
//! let x = Tensor::from_slice(&[1.0_f32, -3.0]).set_requires_grad(true);
//! let y = apply(Square, &[&x])?.remove(0);
//! let dx = grad(&[&y], &[&x], &[Some(&Tensor::ones([2], (Kind::Float, Device::Cpu)))], false, false)?.remove(0);
//! assert_eq!(dx, Some(Tensor::from_slice(&[2.0_f32, -6.0])));
//! # Ok(()) }
//! ```
//!
//! What this crate does not do: second derivatives of Rust functions (asking for one is an error),
//! forward-mode derivatives.

mod checkpoint;
mod error;
#[allow(unsafe_code)]
mod ffi;
#[allow(unsafe_code)]
mod function;
#[allow(unsafe_code)]
mod gradient;
#[allow(unsafe_code)]
pub mod memory;
#[allow(unsafe_code)]
mod mode;
#[allow(unsafe_code)]
mod parameter;
#[allow(unsafe_code)]
pub mod random;
#[allow(unsafe_code)]
mod stream;

pub use checkpoint::{checkpoint, replay};
pub use error::{BoxError, Error};
pub use function::{Backward, Forward, Function, apply};
pub use gradient::{backward, clear_gradient_hook, grad, on_gradient, set_gradient};
pub use mode::{GradMode, grad_enabled};
pub use parameter::Parameter;
pub use stream::{Ready, SideStream};
