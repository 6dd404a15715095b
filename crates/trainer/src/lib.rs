//! One rank of a fine-tuning run.

pub mod config;
mod error;
mod verify;

pub use error::{Error, Result};
pub use verify::{Compared, verify};
