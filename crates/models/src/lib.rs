//! Transformer models for fine-tuning: Hugging Face and GGUF weights in, PEFT adapters out.
//!
//! - [`Decoder`] is a language model: hidden states, logits, loss, one token after another;
//! - [`Activations`] say in what form each of its sites keeps what backward needs;
//! - [`Checkpoint`] opens a model directory or a GGUF file and reads its tensors one at a time;
//! - [`ModelConfig`] is the architecture that the checkpoint describes;
//! - [`adapter`] reads and writes LoRA adapters as PEFT does;
//! - [`tensor_file`] reads and writes safetensors.
//!
//! All faults are [`Error`]s that name the file, the tensor or the key, and what to do.

mod activations;
pub mod adapter;
mod block;
pub mod checkpoint;
pub mod config;
mod decoder;
mod durable;
mod error;
mod linear;
mod norm;
mod saved;
mod stretch;
mod tail;
pub mod tensor_file;
mod tensors;

pub use activations::{Activations, BlockActivations, Recompute};
pub use adapter::{
    Adapter, AdapterConfig, AdapterWeights, LayerNumbers, LoraWeights, TargetModules, check_pattern, read_adapter, write_adapter,
};
pub use checkpoint::{Checkpoint, GgufTokenizer, SpecialTokens, TokenizerSource};
pub use config::{ModelConfig, RopeConfig, RopeScaling, SUPPORTED_MODEL_TYPES};
pub use decoder::{Cache, Decoder, Inputs};
pub use error::{Error, Result};
pub use linear::Linear;
pub use saved::write_model;
pub use tensor_file::TensorFile;
