//! Custom autograd functions, checkpointing, gradient hooks, random streams and exact memory counters for [`tch`].
//!
//! * [`Function`] and [`apply`]: an operation whose backward is written in Rust.
//! * [`checkpoint`]: keep a block's inputs only, and compute the block again in backward.
//! * [`backward`] and [`grad`]: with gradients of the outputs given.
//! * [`on_gradient`]: a call when a parameter's gradient is complete; [`set_gradient`] says where it is gathered.
//! * [`memory`]: the bytes that tensors hold now and held at most, to the byte on the CPU.
//! * [`random`]: draws from a seed, without touching the global generator.
//! * [`SideStream`]: a second queue of work on a GPU, ordered by events.
//!
//! Errors and panics in a backward come out of [`backward`] and [`grad`] as [`Err`]; the engine stays usable.
//!
//! What this crate does not do: second derivatives of Rust functions (asking for one is an error), forward-mode derivatives.

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
