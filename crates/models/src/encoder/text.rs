use tch::{Kind, TchError, Tensor};

use autograd::Parameter;
use layers::{Error, SavePolicy, Scope, Site, dropout, embedding};

use crate::Result;
use crate::config::{EncoderConfig, LAYER_NORM, Positions, TextConfig};
use crate::norm::Norm;
use crate::tensors::Tensors;

/// The sum of the embeddings of tokens, their types and their positions, normed (`BertEmbeddings`
/// of transformers).
#[derive(Debug)]
pub(super) struct TextEmbedding {
    config: TextConfig,
    dropout: f64,
    tokens: Parameter,
    types: Parameter,
    positions: Parameter,
    norm: Option<Norm>,
}

impl TextEmbedding {
    pub fn new(tensors: &Tensors<'_>, config: &EncoderConfig, text: &TextConfig) -> Result<Self> {
        let (names, width) = (config.names, config.stages[0].width);
        Ok(Self {
            config: text.clone(),
            dropout: config.dropout.embedding,
            tokens: tensors.parameter(names.known(), &[text.vocab_size, width])?,
            types: tensors
                .parameter(format!("{}.weight", names.token_types), &[text.token_types, width])?,
            // Where attention sees distances it is there all the same, and not used.
            positions: tensors
                .parameter(names.positions.to_owned(), &[text.max_positions, width])?,
            norm: match names.embedding_norm {
                Some(name) => {
                    Some(Norm::new(tensors, (LAYER_NORM, config.norm_eps), name, &[width])?)
                }
                None => None,
            },
        })
    }

    pub fn parameters(&self) -> Vec<&Parameter> {
        self.sparse_grad_embeddings()
            .into_iter()
            .chain(self.norm.iter().flat_map(Norm::parameters))
            .collect()
    }

    pub fn sparse_grad_embeddings(&self) -> [&Parameter; 3] {
        [&self.tokens, &self.types, &self.positions]
    }

    /// `ids` and `types` `[batch, tokens]` to `[batch, tokens, width]`.
    pub fn forward(
        &self,
        ids: &Tensor,
        types: Option<&Tensor>,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let longest = self.config.max_tokens();
        if ids.dim() != 2 || ids.size()[1] > longest {
            return Err(Error::Shape {
                operation: "embeddings",
                expected: format!("[batch, up to {longest} tokens]"),
                got: ids.size(),
            });
        }
        let types = match types {
            Some(types) => types.shallow_clone(),
            None => ids.f_zeros_like()?,
        };
        let mut x = embedding(self.tokens.tensor(), ids, self.config.padding)?
            .f_add(&embedding(self.types.tensor(), &types, None)?)?;
        if let Some((positions, padding)) = self.positions(ids)? {
            x = x.f_add(&embedding(self.positions.tensor(), &positions, padding)?)?;
        }
        let scope = scope.site(Site::EmbeddingNorm);
        if let Some(norm) = &self.norm {
            x = norm.forward(&x, &SavePolicy::Exact, &scope)?;
        }
        dropout(&x, self.dropout, &scope)
    }

    /// The position of each token `[batch or 1, tokens]`, and the one whose embedding gets no
    /// gradient.
    fn positions(
        &self,
        ids: &Tensor,
    ) -> std::result::Result<Option<(Tensor, Option<i64>)>, TchError> {
        match self.config.positions {
            Positions::Relative => Ok(None),
            Positions::Counted => {
                let tokens = ids.size()[1];
                Ok(Some((
                    Tensor::f_arange(tokens, (Kind::Int64, ids.device()))?.f_view([1, tokens])?,
                    None,
                )))
            }
            Positions::BehindPadding => {
                let padding = self.config.padding.unwrap_or(0);
                let present = ids.f_ne(padding)?.f_to_kind(Kind::Int64)?;
                Ok(Some((
                    present.f_cumsum(1, Kind::Int64)?.f_mul(&present)?.f_add_scalar(padding)?,
                    Some(padding),
                )))
            }
        }
    }
}
