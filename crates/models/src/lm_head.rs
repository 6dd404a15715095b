use tch::{Kind, Tensor};

use autograd::Parameter;
use layers::{Projection, SavePolicy, Scope, project};

use crate::config::{HeadConfig, ModelConfig};
use crate::norm::Norm;
use crate::quantization::Role;
use crate::tensors::Tensors;
use crate::{Result, Weight};

/// What turns the last hidden states into logits: the final norm, and the head (the embedding
/// itself if tied).
#[derive(Debug)]
pub(crate) struct LmHead {
    config: HeadConfig,
    norm: Norm,
    head: Weight,
    bias: Option<Parameter>,
    tied: bool,
}

impl LmHead {
    pub fn new(tensors: &Tensors<'_>, config: &ModelConfig, embedding: &Weight) -> Result<Self> {
        let names = config.names;
        let norm = Norm::new(tensors, config.norms(), names.final_norm, &[config.hidden_size])?;
        let head = match config.tie_embeddings {
            true => embedding.shallow_clone(),
            false => tensors.weight(
                format!("{}.weight", names.head),
                &[config.vocab_size, config.hidden_size],
                Role::Vocabulary,
            )?,
        };
        Ok(Self {
            config: config.head,
            norm,
            head,
            bias: match config.head.bias {
                true => {
                    Some(tensors.parameter(format!("{}.bias", names.head), &[config.vocab_size])?)
                }
                false => None,
            },
            tied: config.tie_embeddings,
        })
    }

    /// Gives the head a weight of its own, called `name`, that begins as the embedding is.
    pub fn untie(&mut self, name: String) -> std::result::Result<(), tch::TchError> {
        let _mode = autograd::GradMode::disabled();
        let weight = self.head.dense()?.f_detach()?;
        let mut own = weight.f_empty_like()?;
        own.f_copy_(&weight)?;
        self.head = Weight::Dense(Parameter::new(name, own));
        self.tied = false;
        Ok(())
    }

    /// Those of its own: not an embedding that serves as the head.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.norm.parameters().chain(self.head().and_then(Weight::parameter)).chain(&self.bias)
    }

    /// The head, if it is not the embedding.
    pub fn head(&self) -> Option<&Weight> {
        (!self.tied).then_some(&self.head)
    }

    /// All parameters that logits depend on.
    pub fn tensors(&self) -> Vec<&Tensor> {
        self.norm
            .parameters()
            .chain(self.head.parameter())
            .chain(&self.bias)
            .map(Parameter::tensor)
            .collect()
    }

    /// `[tokens, hidden]` to `[tokens, vocabulary]`, in f32 or better.
    pub fn logits(&self, hidden: &Tensor) -> layers::Result<Tensor> {
        // Runs on a chunk of tokens at a time, inside the loss, and saves nothing beyond it:
        // nothing is counted.
        let scope = Scope::evaluation();
        let normed = self.norm.forward(hidden, &SavePolicy::Exact, &scope)?;
        let bias = self.bias.as_ref().map(Parameter::tensor);
        let head = Projection { bias, ..Projection::new(self.head.matrix()) };
        let logits = project(&normed, &[head], SavePolicy::Exact, &scope)?.remove(0);
        let logits =
            if logits.kind() == Kind::Double { logits } else { logits.f_to_kind(Kind::Float)? };
        let HeadConfig { multiplier, soft_cap, .. } = self.config;
        let logits = if multiplier == 1.0 { logits } else { logits.f_mul_scalar(multiplier)? };
        // The loss writes over the logits; a product with a number does not miss them in its
        // backward.
        match soft_cap {
            Some(cap) => Ok(logits.f_mul_scalar(1.0 / cap)?.f_tanh()?.f_mul_scalar(cap)?),
            None => Ok(logits),
        }
    }
}
