//! Analyses of a model on its data, without training it.
//!
//! * [`inspect()`]: the spectrum of every site's activations, the error of every compression method
//!   at equal bytes, and the error of the gradients.
//! * [`BitAllocation`]: a budget of bytes per token, allocated to the sites by the sensitivity of
//!   the gradients.
//! * [`verify()`]: logits, loss and gradients compared with those that another program recorded.
//!
//! ```
//! use std::path::Path;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf/llama");
//! let rows = loract_analysis::verify(&model, &model.join("expected.safetensors"), 1e-4, tch::Device::Cpu)?;
//! assert!(rows.iter().all(|row| row.holds));
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod budget;
mod error;
mod inspect;
mod probe;
mod verify;

pub use budget::{BitAllocation, CalibrationSamples, SiteBits, resolve_budget};
pub use error::{Error, Result};
pub use inspect::{
    CandidateMethod, CurvePoint, GradientReport, InspectOptions, Inspection, LayerGradient,
    MethodError, SiteReport, inspect, inspected_methods,
};
pub use probe::GradientProbe;
pub use verify::{TensorComparison, verify};
