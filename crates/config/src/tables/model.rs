//! `[model]`: which model, and in which type of numbers.

use crate::{
    choice::choice,
    declare::{reads, table},
};
use std::path::PathBuf;

choice! {
    /// The type of a model's weights and activations.
    Dtype {
        /// 32-bit floating point.
        F32 = "f32",
        /// bfloat16: the range of f32 with 8 bits of precision.
        Bf16 = "bf16",
    }
}

impl Dtype {
    /// Bytes of one number.
    pub fn bytes(self) -> i64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

choice! {
    /// How the frozen weights are stored.
    Quantization {
        /// In the model's dtype.
        None = "none",
        /// In 4-bit NormalFloat (QLoRA, arXiv 2305.14314).
        Nf4 = "nf4",
        /// In the blocks of the GGUF file.
        Gguf = "gguf",
    }
}

choice! {
    /// What a model is trained to predict.
    Task {
        /// The next token of a text.
        CausalLm = "causal_lm",
        /// The class of a text.
        SequenceClassification = "sequence_classification",
        /// The class of an image.
        ImageClassification = "image_classification",
    }
}

choice! {
    /// The weights from which training starts.
    StartingWeights {
        /// Those of the model's files.
        Pretrained = "pretrained",
        /// Drawn from the seed: a classifier is trained from scratch, of which only `config.json`
        /// is needed.
        Random = "random",
    }
}

table! {
    /// The model that is trained.
    Model: "model" {
        /// The model's files.
        path: PathBuf,
            valid "a Hugging Face model directory, or a .gguf file",
            example r#""models/Llama-3.2-1B""#;
        /// What the model is trained to predict.
        task: Task = Task::CausalLm, example r#""sequence_classification""#;
        /// The weights from which training starts.
        weights: StartingWeights = StartingWeights::Pretrained, example r#""random""#;
        /// The type of weights and activations.
        dtype: Dtype = Dtype::F32, example r#""bf16""#;
        /// How the frozen weights of linear layers are stored.
        quantization: Quantization = Quantization::None,
            when reads!(Model: model.task in [Task::CausalLm]),
            example r#""nf4""#;
        /// A tokenizer to use instead of the model's own.
        tokenizer: Option<PathBuf> = None,
            default "the model's",
            valid "the path of a tokenizer.json, tokenizer.model or tekken.json, or of a directory that has one",
            when reads!(Model: model.task in [Task::CausalLm, Task::SequenceClassification]),
            example r#""tokenizers/llama""#;
        /// A chat template to use instead of the model's own.
        chat_template: Option<PathBuf> = None,
            default "the model's",
            valid "the path of a Jinja chat template",
            when reads!(Model: model.task in [Task::CausalLm]),
            example r#""chatml.jinja""#;
    }
}
