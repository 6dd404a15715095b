use layers::{Activation, Pairs, RmsWeight};

use super::description::{
    AttentionConfig, EmbeddingConfig, EmbeddingScale, ExpertsConfig, HeadConfig, LayerConfig,
    LayerRope, NormKind, ResidualConfig,
};
use super::fields::Fields;
use super::keys::Keys;
use super::names::TensorNames;
use super::rope::{RopeConfig, RopeScaling};
use crate::Result;

/// What a decoder is: sizes, constants, and which of the known parts it is made of. Once read it is
/// consistent: sizes are positive, heads divide evenly, and there is one entry for each layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Hugging Face's name of the architecture: one of
    /// [`SUPPORTED_MODEL_TYPES`](super::SUPPORTED_MODEL_TYPES).
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Number of decoder layers.
    pub num_layers: i64,
    /// Number of query heads.
    pub num_heads: i64,
    /// Number of key and value heads; divides `num_heads`.
    pub num_kv_heads: i64,
    /// Width of one head; `num_heads * head_dim` need not equal `hidden_size`. With latent
    /// attention, of a query or key.
    pub head_dim: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Longest sequence the model was made for, in tokens.
    pub max_positions: i64,
    /// The kind of all norms.
    pub norm: NormKind,
    /// The epsilon of the norms.
    pub norm_eps: f64,
    /// The activation function of MLPs.
    pub activation: Activation,
    /// Whether the projections of the MLP have biases.
    pub mlp_bias: bool,
    /// The rotary position embedding.
    pub rope: RopeConfig,
    /// That of layers with [`LayerRope::Local`].
    pub local_rope: Option<RopeConfig>,
    /// How tokens attend to each other.
    pub attention: AttentionConfig,
    /// What differs from layer to layer.
    pub layers: Vec<LayerConfig>,
    /// The mixture of experts, in layers that have one.
    pub experts: Option<ExpertsConfig>,
    /// How a layer's sublayers are added to the residual stream.
    pub residual: ResidualConfig,
    /// How tokens become hidden states.
    pub embedding: EmbeddingConfig,
    /// How hidden states become logits.
    pub head: HeadConfig,
    /// Whether the output projection is the embedding itself.
    pub tie_embeddings: bool,
    /// The token that begins a text.
    pub bos_token_id: Option<i64>,
    /// The tokens that end a text: none, one or several.
    pub eos_token_ids: Vec<i64>,
    /// The token that fills up a batch.
    pub pad_token_id: Option<i64>,
    /// What the tensors are called.
    pub(crate) names: &'static TensorNames,
}

/// No size of a real model is larger; below it, products of two sizes fit in 64 bits.
const LARGEST_SIZE: i64 = 1 << 31;
/// No real layer has more experts.
const MOST_EXPERTS: i64 = 1 << 16;
/// No real model is larger; below it, the bytes of weights, gradients and optimizer fit in 64 bits.
const MOST_PARAMETERS: u128 = 1 << 50;
/// No real model is deeper.
pub(super) const DEEPEST: i64 = 1 << 16;

impl ModelConfig {
    /// A Llama of no size, to be filled in.
    pub(crate) fn template(names: &'static TensorNames) -> Self {
        Self {
            model_type: "llama".into(),
            hidden_size: 0,
            intermediate_size: 0,
            num_layers: 0,
            num_heads: 0,
            num_kv_heads: 0,
            head_dim: 0,
            vocab_size: 0,
            max_positions: 0,
            norm: NormKind::Rms(RmsWeight::Rounded),
            norm_eps: 0.0,
            activation: Activation::Silu,
            mlp_bias: false,
            rope: RopeConfig { theta: 10_000.0, scaling: RopeScaling::None },
            local_rope: None,
            attention: AttentionConfig {
                bias: false,
                output_bias: false,
                head_norm: None,
                clip: None,
                soft_cap: None,
                dropout: 0.0,
                rotary_width: 0,
                rotary_pairs: Pairs::Halves,
                latent: None,
            },
            layers: Vec::new(),
            experts: None,
            residual: ResidualConfig { parallel: false, multiplier: 1.0, dropout: 0.0 },
            embedding: EmbeddingConfig {
                scale: EmbeddingScale::By(1.0),
                padding: None,
                dropout: 0.0,
            },
            head: HeadConfig { bias: false, multiplier: 1.0, soft_cap: None },
            tie_embeddings: false,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            names,
        }
    }

    /// Refuses sizes that no model has, by the `keys` under which they stand in the user's file,
    /// and makes the layers, all alike.
    pub(super) fn sized(self, fields: &Fields<'_>, keys: &Keys) -> Result<Self> {
        let sizes = [
            (keys.hidden_size, self.hidden_size, LARGEST_SIZE),
            (keys.intermediate_size, self.intermediate_size, LARGEST_SIZE),
            (keys.num_layers, self.num_layers, DEEPEST),
            (keys.num_heads, self.num_heads, LARGEST_SIZE),
            (keys.num_kv_heads, self.num_kv_heads, LARGEST_SIZE),
            (keys.head_dim, self.head_dim, LARGEST_SIZE),
            (keys.vocab_size, self.vocab_size, LARGEST_SIZE),
            (keys.max_positions, self.max_positions, LARGEST_SIZE),
        ];
        for (key, size, largest) in sizes {
            if !(1..=largest).contains(&size) {
                return Err(fields.invalid(key, format!("{size} is not between 1 and {largest}")));
            }
        }
        if self.num_heads % self.num_kv_heads != 0 {
            let why =
                format!("{} does not divide the {} query heads", self.num_kv_heads, self.num_heads);
            return Err(fields.invalid(keys.num_kv_heads, why));
        }
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let layer = LayerConfig { window: None, rope: LayerRope::Global, scale, mixture: false };
        Ok(Self { layers: vec![layer; self.num_layers as usize], ..self })
    }

    /// Refuses what cannot be a model in the parts that were filled in.
    pub(super) fn checked(self, fields: &Fields<'_>, keys: &Keys) -> Result<Self> {
        let turned = self.attention.rotary_width;
        if turned % 2 != 0 || turned < 2 || turned > self.head_dim {
            let why = format!(
                "rotary embeddings turn pairs in a head of {}, and {turned} columns are not that",
                self.head_dim
            );
            return Err(fields.invalid(keys.head_dim, why));
        }
        for (key, number) in [(keys.norm_eps, self.norm_eps), (keys.rope_theta, self.rope.theta)] {
            if !(number.is_finite() && number > 0.0) {
                return Err(fields.invalid(key, format!("{number} is not a positive number")));
            }
        }
        for rope in std::iter::once(&self.rope).chain(&self.local_rope) {
            rope.scaling.validate(turned).map_err(|why| fields.invalid(keys.rope_scaling, why))?;
        }
        if let Some(experts) =
            self.experts.filter(|experts| experts.routing.per_token > experts.count)
        {
            let why = format!(
                "{} of {} experts cannot be chosen",
                experts.routing.per_token, experts.count
            );
            return Err(fields.invalid("num_experts_per_tok", why));
        }
        self.check_parameters(fields, keys)?;
        Ok(self)
    }

    /// Refuses sizes that are possible one by one, and not together.
    fn check_parameters(&self, fields: &Fields<'_>, keys: &Keys) -> Result<()> {
        if let Some(experts) = &self.experts {
            for (what, size, largest) in [
                ("experts", experts.count, MOST_EXPERTS),
                ("columns in an expert", experts.width, LARGEST_SIZE),
                ("columns in the shared expert", experts.shared_width, LARGEST_SIZE),
            ] {
                if !(0..=largest).contains(&size) {
                    let why = format!("{size} {what} are not between 0 and {largest}");
                    return Err(fields.invalid("num_experts", why));
                }
            }
        }
        let number = |size: i64| u128::from(size.unsigned_abs());
        let ranks = self.attention.latent.map_or(0, |latent| {
            number(latent.key_rank) + number(latent.query_rank.unwrap_or_default())
        });
        let heads = number(self.num_heads) * (number(self.head_dim) + number(self.value_dim()));
        let inside = number(self.intermediate_size)
            + self.experts.map_or(0, |experts| {
                number(experts.count) * number(experts.width) + number(experts.shared_width)
            });
        let hidden = number(self.hidden_size);
        let layer = (hidden + ranks) * 4 * heads + 3 * hidden * inside;
        let all = layer
            .checked_mul(number(self.num_layers))
            .and_then(|layers| layers.checked_add(2 * hidden * number(self.vocab_size)));
        if all.is_none_or(|all| all > MOST_PARAMETERS) {
            let why = format!("a model of these sizes has more than {MOST_PARAMETERS} parameters");
            return Err(fields.invalid(keys.hidden_size, why));
        }
        Ok(())
    }

    /// Whether linear weights are stored `[in, out]` (`Conv1D` of transformers), as PEFT wants it
    /// said in an adapter.
    pub fn fan_in_fan_out(&self) -> bool {
        self.names.fan_in_fan_out
    }

    /// The kind and the epsilon of the norms.
    pub(crate) fn norms(&self) -> (NormKind, f64) {
        (self.norm, self.norm_eps)
    }

    /// An MLP of this model, `width` wide inside.
    pub(crate) fn mlp(&self, width: i64) -> MlpShape {
        MlpShape {
            hidden: self.hidden_size,
            width,
            bias: self.mlp_bias,
            fan_in_fan_out: self.names.fan_in_fan_out,
            activation: self.activation,
        }
    }

    /// Width of the values of one head, and of what attention gives for it.
    pub fn value_dim(&self) -> i64 {
        self.attention.latent.map_or(self.head_dim, |latent| latent.value_dim)
    }
}

/// The shape of an MLP, and how it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MlpShape {
    pub hidden: i64,
    /// Inside.
    pub width: i64,
    pub bias: bool,
    pub fan_in_fan_out: bool,
    pub activation: Activation,
}

/// The width of a head when the file does not say: the hidden size shared out, which must come out
/// even.
pub(super) fn shared_head_dim(
    fields: &Fields<'_>,
    key: &str,
    hidden_size: i64,
    num_heads: i64,
) -> Result<i64> {
    if num_heads < 1 || hidden_size % num_heads != 0 {
        let why = format!(
            "it is absent, and {num_heads} heads do not divide the hidden size {hidden_size}"
        );
        return Err(fields.invalid(key, why));
    }
    Ok(hidden_size / num_heads)
}
