mod image;
mod merge;
mod text;

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use autograd::Parameter;
use layers::{Error, Mask, Scope, Site, padding_mask};

use crate::block::{AttentionContext, Block};
use crate::config::{EncoderConfig, InputConfig, LAYER_NORM, Pooling};
use crate::norm::Norm;
use crate::tensors::Tensors;
use crate::{Activations, Checkpoint, Linear, Model, Quantization, Result};
use image::ImageEmbedding;
use merge::Merge;
use text::TextEmbedding;

/// An encoder (`BertModel`, `ViTModel`, `SwinModel` and their like in transformers), made of what
/// its configuration describes: every token sees all others.
#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    embedding: Embedding,
    stages: Vec<Stage>,
    /// After the last layer, in models that have it.
    norm: Option<Norm>,
}

/// What makes hidden states of a batch.
#[derive(Debug)]
enum Embedding {
    Text(TextEmbedding),
    Image(ImageEmbedding),
}

/// Layers of one width, and what merges patches after them.
#[derive(Debug)]
struct Stage {
    blocks: Vec<Arc<Block>>,
    merge: Option<Arc<Merge>>,
}

/// A batch as an encoder reads it.
#[derive(Debug)]
pub enum EncoderInputs {
    /// Rows of tokens.
    Text {
        /// Token ids `[batch, tokens]`.
        ids: Tensor,
        /// 0 where there is padding `[batch, tokens]` (integers; `attention_mask` of transformers);
        /// absent: nowhere.
        present: Option<Tensor>,
        /// Each token's type `[batch, tokens]`, as the sentence of a pair; absent: 0.
        types: Option<Tensor>,
    },
    /// Pixels, as the model's preprocessing leaves them `[batch, channels, height, width]`.
    Images(Tensor),
}

impl EncoderInputs {
    /// Rows of the batch.
    pub fn rows(&self) -> i64 {
        match self {
            Self::Text { ids: x, .. } | Self::Images(x) => x.size()[0],
        }
    }

    /// Where there is no padding, if anywhere there is.
    fn present(&self) -> Option<&Tensor> {
        match self {
            Self::Text { present, .. } => present.as_ref(),
            Self::Images(_) => None,
        }
    }
}

impl Encoder {
    /// The names and shapes of the tensors a checkpoint of this configuration must hold.
    pub fn tensor_shapes(config: &EncoderConfig) -> Vec<(String, Vec<i64>)> {
        let tensors = Tensors::list();
        let _ = Self::new(&tensors, config);
        tensors.into_list()
    }

    /// Reads the weights as `kind` onto `device`, all of them frozen. A head that the checkpoint
    /// may hold is left out.
    ///
    /// # Errors
    /// Those of [`Checkpoint::encoder_config`], [`Checkpoint::check`] and [`Checkpoint::tensor`].
    pub fn load(checkpoint: &Checkpoint, kind: Kind, device: Device) -> Result<Self> {
        let config = checkpoint.encoder_config()?;
        checkpoint.check(&Self::tensor_shapes(config))?;
        Self::new(
            &Tensors::Read {
                drawn: None,
                checkpoint,
                kind,
                device,
                quantization: Quantization::None,
            },
            config,
        )
    }

    pub(crate) fn new(tensors: &Tensors<'_>, config: &EncoderConfig) -> Result<Self> {
        let embedding = match &config.input {
            InputConfig::Text(text) => Embedding::Text(TextEmbedding::new(tensors, config, text)?),
            InputConfig::Image(image) => {
                Embedding::Image(ImageEmbedding::new(tensors, config, image)?)
            }
        };
        let stage = |(stage, layers): (usize, usize)| {
            let blocks = (0..layers)
                .map(|index| Block::new_encoder(tensors, config, stage, index).map(Arc::new))
                .collect::<Result<_>>()?;
            let is_last = stage + 1 == config.stages.len();
            let merge = match config.names.merge.as_ref().filter(|_| !is_last) {
                Some(names) => Some(Arc::new(Merge::new(
                    tensors,
                    &config.names.stage(stage),
                    names,
                    config.stages[stage].width,
                )?)),
                None => None,
            };
            Ok(Stage { blocks, merge })
        };
        let depths = config.stages.iter().map(|stage| stage.layers.len()).enumerate();
        Ok(Self {
            embedding,
            stages: depths.map(stage).collect::<Result<_>>()?,
            norm: match config.names.final_norm {
                Some(name) => Some(Norm::new(
                    tensors,
                    (LAYER_NORM, config.norm_eps),
                    name,
                    &[config.width()],
                )?),
                None => None,
            },
            config: config.clone(),
        })
    }

    /// The architecture.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The hidden states after the last layer `[batch, tokens, width]`, before the final norm.
    ///
    /// # Errors
    /// [`Error::Shape`] if the batch does not fit the model; those of the operations, as an id
    /// outside the vocabulary.
    pub fn forward(
        &self,
        inputs: &EncoderInputs,
        activations: &Activations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let (mut x, mut grid) = match (&self.embedding, inputs) {
            (Embedding::Text(embedding), EncoderInputs::Text { ids, types, .. }) => {
                (embedding.forward(ids, types.as_ref(), scope)?, None)
            }
            (Embedding::Image(embedding), EncoderInputs::Images(pixels)) => {
                let (x, grid) = embedding.forward(pixels, scope)?;
                (x, Some(grid))
            }
            (Embedding::Text(_), EncoderInputs::Images(x)) => {
                return Err(Error::Shape {
                    operation: "an encoder of text",
                    expected: "token ids".into(),
                    got: x.size(),
                });
            }
            (Embedding::Image(_), EncoderInputs::Text { ids, .. }) => {
                return Err(Error::Shape {
                    operation: "an encoder of images",
                    expected: "pixels".into(),
                    got: ids.size(),
                });
            }
        };
        let mask = match inputs.present() {
            Some(present) => padding_mask(present, x.kind())?,
            None => Mask::Full,
        };
        let mut layer = 0;
        for stage in &self.stages {
            let (scope, context) =
                (scope.stage(), AttentionContext::masked(mask.shallow_clone(), grid));
            for block in &stage.blocks {
                x = block.forward(&x, &context, activations.layer(layer), &scope.layer(layer))?;
                layer += 1;
            }
            if let (Some(merge), Some(map)) = (&stage.merge, grid) {
                x = merge.forward(
                    &x,
                    map,
                    activations.layer(layer - 1),
                    &scope.layer(layer - 1),
                )?;
                grid = Some(map.map(|side| (side + 1) / 2));
            }
            scope.end_of_blocks();
        }
        Ok(x)
    }

    /// The hidden states through the norm after the last layer, in models that have one.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn normed(
        &self,
        hidden: &Tensor,
        activations: &Activations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        match &self.norm {
            Some(norm) => {
                let last = self.config.num_layers() - 1;
                norm.forward(
                    hidden,
                    &activations.layer(last).norm,
                    &scope.at(last as u64 + 1).site(Site::FinalNorm),
                )
            }
            None => Ok(hidden.shallow_clone()),
        }
    }

    /// One vector for each row, `[batch, width]`: that of the first token, or the mean over those
    /// that are no padding.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn pooled(
        &self,
        pooling: Pooling,
        inputs: &EncoderInputs,
        hidden: &Tensor,
        activations: &Activations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        match pooling {
            Pooling::First => {
                // A copy: a view would hold all tokens as long as the norm holds this one.
                let first = Tensor::f_zeros([1], (Kind::Int64, hidden.device()))?;
                self.normed(
                    &hidden.f_index_select(1, &first)?.f_squeeze_dim(1)?,
                    activations,
                    scope,
                )
            }
            Pooling::Mean => {
                let normed = self.normed(hidden, activations, scope)?;
                let Some(present) = inputs.present() else {
                    return Ok(normed.f_mean_dim(1, false, normed.kind())?);
                };
                let weights = present.f_ne(0)?.f_to_kind(normed.kind())?;
                let count = weights.f_sum_dim_intlist(1, true, weights.kind())?.f_clamp_min(1.0)?;
                Ok(weights.f_div(&count)?.f_unsqueeze(1)?.f_matmul(&normed)?.f_squeeze_dim(1)?)
            }
        }
    }

    /// The mean of the tokens of each row, of length 1, `[batch, width]`: the embedding of a
    /// sentence, as sentence-transformers computes it for MiniLM and its like. Without gradients.
    ///
    /// # Errors
    /// Those of [`Encoder::forward`].
    pub fn sentence_embeddings(&self, inputs: &EncoderInputs) -> layers::Result<Tensor> {
        let _mode = autograd::GradMode::disabled();
        let (activations, scope) = (Activations::default(), Scope::evaluation());
        let hidden = self.forward(inputs, &activations, &scope)?;
        let mean = self.pooled(Pooling::Mean, inputs, &hidden, &activations, &scope)?;
        let length =
            mean.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?.f_clamp_min(1e-12)?;
        Ok(mean.f_div(&length)?)
    }
}

impl Model for Encoder {
    fn parameters(&self) -> Vec<&Parameter> {
        let mut parameters = match &self.embedding {
            Embedding::Text(embedding) => embedding.parameters(),
            Embedding::Image(embedding) => embedding.parameters(),
        };
        for stage in &self.stages {
            parameters.extend(stage.blocks.iter().flat_map(|block| block.parameters()));
            parameters.extend(stage.merge.iter().flat_map(|merge| merge.parameters()));
        }
        parameters.extend(self.norm.iter().flat_map(Norm::parameters));
        parameters
    }

    fn sparse_grad_embeddings(&self) -> Vec<&Parameter> {
        match &self.embedding {
            Embedding::Text(embedding) => embedding.sparse_grad_embeddings().to_vec(),
            Embedding::Image(_) => Vec::new(),
        }
    }

    fn linears(&self) -> Vec<&Linear> {
        let mut linears = Vec::new();
        for Stage { blocks, merge } in &self.stages {
            linears.extend(blocks.iter().flat_map(|block| block.linears()));
            linears.extend(merge.iter().map(|merge| merge.linear()));
        }
        linears
    }

    fn linears_mut(&mut self) -> Option<Vec<&mut Linear>> {
        let mut linears = Vec::new();
        for Stage { blocks, merge } in &mut self.stages {
            for block in blocks {
                linears.extend(Arc::get_mut(block)?.linears_mut());
            }
            if let Some(merge) = merge {
                linears.push(Arc::get_mut(merge)?.linear_mut());
            }
        }
        Some(linears)
    }
}
