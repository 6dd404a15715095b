//! Which frozen weights of a model are quantized, and in which format.

use layers::{BlockFormat, Nf4};

use crate::Checkpoint;

/// How frozen weights are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantization {
    /// In the model's dtype.
    #[default]
    None,
    /// The linear layers of the blocks in NF4 with double quantization, as bitsandbytes does for
    /// QLoRA (arXiv 2305.14314). What is not whole blocks of 64 numbers stays in the model's dtype,
    /// and so do embedding and head.
    Nf4,
    /// Linear layers, embedding and head in the blocks of a GGUF file, where that has them in
    /// blocks.
    Gguf,
}

/// What a weight does in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A linear layer of a block.
    Linear,
    /// The embedding of tokens, or the head.
    Vocabulary,
    /// Anything else.
    Other,
}

/// In which format a weight is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightFormat {
    Blocks(BlockFormat),
    Nf4,
}

impl Quantization {
    /// The format in which the weight `name` is quantized, if it is.
    pub(crate) fn format(
        self,
        role: Role,
        checkpoint: Option<&Checkpoint>,
        name: &str,
        shape: &[i64],
    ) -> Option<WeightFormat> {
        match (self, role) {
            (Self::Nf4, Role::Linear) => {
                Nf4::bytes(shape.iter().product()).map(|_| WeightFormat::Nf4)
            }
            (Self::Gguf, Role::Linear | Role::Vocabulary) => checkpoint?
                .block_format(name)
                .filter(|_| shape.len() == 2)
                .map(WeightFormat::Blocks),
            _ => None,
        }
    }
}
