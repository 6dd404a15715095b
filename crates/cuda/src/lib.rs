//! A GPU as libtorch uses it, and kernels compiled for it while the program runs.
//!
//! - [`Gpu`] is libtorch's GPU of some number: its primary context, its current stream, its
//!   identity;
//! - [`Module`] holds the kernels of a CUDA text, which NVRTC compiles when they are first needed,
//!   and queues them on libtorch's stream;
//! - [`compile`] only compiles, which needs no GPU;
//! - `host.h` of this crate lets a C++ compiler build the same text for a host, where a grid is
//!   walked one thread after another: results are the same, bit for bit. Tests of kernels include
//!   it.
//!
//! Nothing of CUDA is linked: the driver and NVRTC are looked for when the program runs, and a
//! machine without them needs none. Errors are texts that say what is missing and fit into a
//! sentence of the caller's.
//!
//! ```
//! match launch() {
//!     Ok(architecture) => println!("a kernel runs on GPU 0, {architecture}"),
//!     Err(missing) => println!("no kernels: {missing}"),
//! }
//!
//! fn launch() -> Result<String, String> {
//!     let gpu = cuda::Gpu::open(0)?;
//!     let source = "extern \"C\" __global__ void nothing() {}";
//!     let module = cuda::Module::compile(gpu, c"nothing.cu", source, &[c"nothing"])?;
//!     // SAFETY: the kernel takes no arguments.
//!     unsafe { module.launch(0, [1, 1], 32, &mut []) }?;
//!     gpu.architecture()
//! }
//! ```

// The driver's functions take raw handles and pointers; each block says why those are valid.
#![allow(unsafe_code)]

mod gpu;
mod module;

pub use gpu::{Entered, Gpu};
pub use module::{Module, compile};
