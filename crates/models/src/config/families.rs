//! One entry for each family of decoders: the keys and defaults of its configuration class, the
//! names of its tensors, and what else it is made of.
//!
//! To add a family: a constant [`Family`] in a file here, its line in [`FAMILIES`], and a recorded
//! model in `tests/fixtures/hf`, which the tests of `loract verify` and of activation compression
//! then take in. Only a part that no family has yet needs code, in `block`.

mod cohere;
mod deepseek;
mod family;
mod gemma;
mod glm;
mod gpt;
mod llama;
mod olmo;
mod phi;
mod qwen;
mod smollm;

pub(super) use family::{activation, multiplier, positive, switch};

use super::encoder;
use family::Family;

/// All families.
pub(super) const FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &llama::MISTRAL,
    &llama::MIXTRAL,
    &llama::GRANITE,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi::PHI,
    &phi::PHI3,
    &olmo::OLMO,
    &olmo::OLMO2,
    &cohere::COHERE,
    &cohere::COHERE2,
    &glm::GLM4,
    &gpt::STARCODER2,
    &gpt::GPT2,
    &deepseek::DEEPSEEK_V3,
    &smollm::SMOLLM3,
];

/// The architectures this crate implements, by Hugging Face's `model_type` (of GGUF files, `llama`
/// only): decoders, then encoders.
pub const SUPPORTED_MODEL_TYPES: &[&str] = &{
    let mut names = [""; FAMILIES.len() + encoder::FAMILIES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = match index < FAMILIES.len() {
            true => FAMILIES[index].model_type,
            false => encoder::FAMILIES[index - FAMILIES.len()].model_types[0],
        };
        index += 1;
    }
    names
};
