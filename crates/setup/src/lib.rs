//! From a [`config::Run`] to what it names: device, base model, adapter, save policies of
//! activations, tokenizer and data. Training, memory estimates and analyses of a run all start
//! here, so that each key has one meaning.
//!
//! [`check`] finds everything that is wrong with a configuration without reading a weight.
//! [`RunData`] is the tokenized data of a language model, [`LabelledData`] the rows of a
//! classifier.
//!
//! ```
//! use loract_setup::{RunData, check};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/cases/model");
//! # let data = folder.path().join("train.jsonl");
//! # std::fs::write(&data, "{\"text\": \"one line\"}\n".repeat(64))?;
//! let file = folder.path().join("config.toml");
//! std::fs::write(&file, format!("[model]\npath = {model:?}\n[lora]\nrank = 4\n[data]\ntrain = {data:?}\nsequence_length = 16\n"))?;
//! let run = config::Run::load(&file, &[])?;
//! check(&run, 1)?;
//! let data = RunData::prepare(&run, 1, &|_, _| (), &|warning| eprintln!("{warning}"))?;
//! assert!(data.prepared().is_some_and(|prepared| !prepared.train.is_empty()));
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod activations;
mod base_fingerprint;
mod base_model;
mod check;
mod data_options;
mod device;
mod error;
mod fault_injection;
mod labelled;
mod lora;
mod quantization;
mod reduction;
mod run_data;
mod sample_order;
mod shared_basis_params;
mod task_mismatch;
mod text;
mod token_batches;

pub use activations::{
    SiteWidths, activation_policies, block_policies, check_activations, compression_options,
    delta_coded, site_width,
};
pub use base_fingerprint::base_fingerprint;
pub use base_model::open_base_model;
pub use check::check;
pub use device::{is_gpu, rank_device, single_device, tensor_kind};
pub use error::{Error, Result};
pub use fault_injection::{FaultInjection, VARIABLE as INJECT_FAULT_VARIABLE};
pub use labelled::{LabelledData, LabelledSplit};
pub use lora::{AdapterSource, adapter_source, add_lora, check_adapter};
pub use quantization::{check_quantization, model_quantization};
pub use reduction::reduction_method;
pub use run_data::{RunData, checksum_record};
pub use sample_order::{dataset_order, sample_order};
pub use shared_basis_params::{SharedBasisParam, shared_basis_params};
pub use text::TextProcessor;
pub use token_batches::{micro_batches, to_device};
