//! Uses a trained adapter: [`generate()`] continues a prompt with it, [`merge()`] writes it into
//! the weights of its model.
//!
//! ```
//! use loract_inference::{Prompt, generate};
//! use std::path::Path;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cases/model");
//! let prompt = Prompt { text: "Why is the sky blue?", max_tokens: 8, temperature: 0.0, top_p: 1.0, seed: 0 };
//! generate(&model, None, &prompt, tch::Device::Cpu, &mut |text| print!("{text}"))?;
//! # Ok(())
//! # }
//! ```

mod error;
mod generate;
mod merge;

pub use error::{Error, Result};
pub use generate::{Prompt, generate};
pub use merge::{MergeRequest, merge};
