//! Transformer models for fine-tuning: Hugging Face and GGUF weights in, PEFT adapters out.
//!
//! - [`Decoder`] is a language model: hidden states, logits, loss, one token after another;
//! - [`Encoder`] reads text or images as a whole: hidden states, and one vector for each;
//!   [`Classifier`] is one with a head on top;
//! - [`Model`] is what training needs of either: parameters, linear layers, adapters;
//! - [`Activations`] say in what form each site saves what backward needs;
//! - [`Quantization`] says which frozen weights are quantized, and [`Weight`] is one of either
//!   kind;
//! - [`Checkpoint`] opens a model directory or a GGUF file and reads its tensors one at a time;
//! - [`Architecture`] is what the checkpoint describes: [`ModelConfig`] or [`EncoderConfig`];
//! - [`adapter`] reads and writes LoRA adapters as PEFT does;
//! - [`merge`](fn@merge) writes a model with an adapter in its weights, as transformers reads it;
//! - [`tensor_file`] reads and writes safetensors.
//!
//! All faults are [`Error`]s that name the file, the tensor or the key, and what to do.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use layers::{ActivationStore, Scope, Targets};
//! use loract_models::{Activations, Checkpoint, Decoder, Inputs};
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let checkpoint = Checkpoint::open(Path::new("SmolLM2-135M"))?;
//! let decoder = Decoder::load(&checkpoint, Kind::BFloat16, Device::Cpu)?;
//! let ids = Tensor::from_slice(&[1_i64, 5, 9, 2]).view([1, 4]);
//! let scope = Scope::training(0, Arc::new(ActivationStore::default()));
//!
//! let hidden = decoder.forward(&Inputs::rows(ids.shallow_clone()), &Activations::default(), &scope)?;
//! assert_eq!(hidden.size(), [1, 4, decoder.config().hidden_size]);
//! let targets = Targets::new(&Tensor::from_slice(&[5_i64, 9, 2, -100]))?;
//! let loss = decoder.loss(&hidden, &targets, 1.0 / targets.count() as f64, 0, &scope)?;
//! loss.backward();
//! # Ok(()) }
//! ```

mod activations;
pub mod adapter;
mod block;
pub mod checkpoint;
mod classifier;
pub mod config;
mod decoder;
mod encoder;
mod error;
mod file;
mod file_range;
mod linear;
mod lm_head;
mod merge;
mod model;
mod norm;
mod quantization;
mod saved;
pub mod tensor_file;
mod tensors;
mod weight;

pub use activations::{Activations, BlockActivations, Recompute};
pub use adapter::{
    Adapter, AdapterConfig, AdapterWeights, LayerNumbers, LoraWeights, TargetModules,
    check_pattern, read_adapter, read_labels, write_adapter, write_labels,
};
pub use checkpoint::{ChatTemplates, Checkpoint, GgufTokenizer, TokenizerSource};
pub use classifier::{Classifier, Losses};
pub use config::{
    Architecture, EncoderConfig, ImageConfig, InputConfig, Labels, ModelConfig, Problem,
    RopeConfig, RopeScaling, SUPPORTED_MODEL_TYPES,
};
pub use decoder::footprint::{DecoderShape, TrainingSetup};
pub use decoder::{BlockOutline, Cache, Decoder, Inputs, LinearOutline};
pub use encoder::{Encoder, EncoderInputs};
pub use error::{Error, Result};
pub use linear::Linear;
pub use merge::{MergeOptions, Merged, merge};
pub use model::Model;
pub use quantization::Quantization;
pub use saved::write_model;
pub use tensor_file::TensorFile;
pub use weight::Weight;
