//! What the configurations of all families say in the same way.

use layers::Activation;

use crate::config::fields::Fields;
use crate::config::keys::Keys;
use crate::config::model::shared_head_dim;
use crate::config::names::TensorNames;
use crate::config::rope_table::{self, RopeDefaults};
use crate::config::{EmbeddingScale, LayerConfig, LayerRope, ModelConfig};
use crate::{Error, Result};

/// A family of models.
pub(in crate::config) struct Family {
    /// Hugging Face's `model_type`.
    pub model_type: &'static str,
    /// The keys of its sizes.
    pub keys: &'static Keys,
    /// What its configuration class says where the file does not.
    pub defaults: Defaults,
    /// What its tensors are called.
    pub tensors: &'static TensorNames,
    /// Its own part: options that other families have not, and constants that no file says.
    pub describe: fn(&Fields<'_>, &mut ModelConfig) -> Result<()>,
}

/// The defaults of a configuration class.
pub(in crate::config) struct Defaults {
    pub hidden_size: i64,
    /// Four times the hidden size if absent.
    pub intermediate_size: Option<i64>,
    pub num_layers: i64,
    pub num_heads: i64,
    /// As many as query heads if absent.
    pub num_kv_heads: Option<i64>,
    pub head_dim: HeadDim,
    pub vocab_size: i64,
    pub max_positions: i64,
    pub norm_eps: f64,
    pub rope_theta: f64,
    /// The context of the pre-training that LongRoPE counts from.
    pub pretrained_positions: Option<i64>,
    /// Whether layers with a window have a rotary embedding of their own.
    pub rope_by_layer: bool,
    /// The share of a head that rotary embeddings turn, in families where that is an option.
    pub partial_rotary: Option<f64>,
    pub activation: &'static str,
    pub dropout: f64,
    pub tie_embeddings: bool,
    pub bos: Option<i64>,
    pub eos: &'static [i64],
    pub pad: Option<i64>,
}

/// The width of a head where the file does not say.
pub(in crate::config) enum HeadDim {
    /// The hidden size, shared out.
    Shared,
    /// A number.
    Fixed(i64),
    /// The sum of two other keys, with their defaults; no key says it.
    SumOf([(&'static str, i64); 2]),
}

impl Family {
    /// Reads the configuration of a model of this family.
    pub fn read(&self, fields: &Fields<'_>) -> Result<ModelConfig> {
        let mut config = self.sizes(fields)?.sized(fields, self.keys)?;
        let partial = self.partial_rotary(fields)?;
        config.attention.rotary_width = (config.head_dim as f64 * partial) as i64;
        let Defaults { rope_theta: theta, pretrained_positions, rope_by_layer: by_layer, .. } =
            self.defaults;
        let rope = RopeDefaults {
            theta,
            max_positions: config.max_positions,
            pretrained_positions,
            by_layer,
        };
        config.rope = rope_table::read(fields, &rope)?;
        (self.describe)(fields, &mut config)?;
        config.checked(fields, self.keys)
    }

    fn sizes(&self, fields: &Fields<'_>) -> Result<ModelConfig> {
        let (keys, defaults) = (self.keys, &self.defaults);
        let size =
            |key: &str, default: i64| Ok::<_, Error>(fields.integer(key)?.unwrap_or(default));
        let chance = |key: &str| {
            let chance = fields.number(key)?.unwrap_or(defaults.dropout);
            if (0.0..1.0).contains(&chance) {
                Ok(chance)
            } else {
                Err(fields.invalid(key, format!("{chance} is not in 0..1")))
            }
        };
        let hidden_size = size(keys.hidden_size, defaults.hidden_size)?;
        let num_heads = size(keys.num_heads, defaults.num_heads)?;
        let head_dim = match (&defaults.head_dim, fields.integer(keys.head_dim)?) {
            (HeadDim::SumOf([(first, one), (second, other)]), _) => {
                size(first, *one)? + size(second, *other)?
            }
            (_, Some(head_dim)) => head_dim,
            (HeadDim::Fixed(head_dim), None) if !fields.contains(keys.head_dim) => *head_dim,
            _ => shared_head_dim(fields, keys.head_dim, hidden_size, num_heads)?,
        };
        // An absent id has a default in transformers; an explicit null means that there is none.
        let token = |key: &str, default: Option<i64>| {
            if fields.contains(key) { fields.token(key) } else { Ok(default) }
        };
        let mut config = ModelConfig {
            model_type: self.model_type.into(),
            hidden_size,
            intermediate_size: size(
                keys.intermediate_size,
                defaults.intermediate_size.unwrap_or(hidden_size.saturating_mul(4)),
            )?,
            num_layers: size(keys.num_layers, defaults.num_layers)?,
            num_heads,
            num_kv_heads: size(keys.num_kv_heads, defaults.num_kv_heads.unwrap_or(num_heads))?,
            head_dim,
            vocab_size: size(keys.vocab_size, defaults.vocab_size)?,
            max_positions: size(keys.max_positions, defaults.max_positions)?,
            norm_eps: fields.number(keys.norm_eps)?.unwrap_or(defaults.norm_eps),
            activation: activation(fields, keys.activation, defaults.activation)?,
            tie_embeddings: fields
                .boolean("tie_word_embeddings")?
                .unwrap_or(defaults.tie_embeddings),
            bos_token_id: token("bos_token_id", defaults.bos)?,
            eos_token_ids: match fields.contains("eos_token_id") {
                true => fields.tokens("eos_token_id")?.unwrap_or_default(),
                false => defaults.eos.to_vec(),
            },
            pad_token_id: token("pad_token_id", defaults.pad)?,
            ..ModelConfig::template(self.tensors)
        };
        // A key written as null is as good as absent, but for the heads of keys, which are then as
        // many as those of queries.
        if fields.contains(keys.num_kv_heads) && fields.value(keys.num_kv_heads).is_none() {
            config.num_kv_heads = num_heads;
        }
        config.attention.dropout = chance(keys.attention_dropout)?;
        config.residual.dropout = chance(keys.residual_dropout)?;
        config.embedding.dropout = chance(keys.embedding_dropout)?;
        config.embedding.padding = config.pad_token_id.filter(|id| *id < config.vocab_size);
        Ok(config)
    }

    fn partial_rotary(&self, fields: &Fields<'_>) -> Result<f64> {
        let key = "partial_rotary_factor";
        let Some(default) = self.defaults.partial_rotary else {
            fields.only(key, 1.0)?;
            return Ok(1.0);
        };
        let inside = match fields.table("rope_parameters")? {
            Some(table) => table.number(key)?,
            None => None,
        };
        let partial = match inside {
            Some(partial) => partial,
            None => fields.number(key)?.unwrap_or(default),
        };
        if partial > 0.0 && partial <= 1.0 {
            Ok(partial)
        } else {
            Err(fields.invalid(key, format!("{partial} is not in 0..=1")))
        }
    }
}

/// The function that transformers' `ACT2FN` has under the name in `key`.
pub(in crate::config) fn activation(
    fields: &Fields<'_>,
    key: &str,
    default: &str,
) -> Result<Activation> {
    Ok(match fields.text(key)?.unwrap_or(default) {
        "silu" | "swish" => Activation::Silu,
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
            Activation::GeluTanh
        }
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "relu2" => Activation::ReluSquared,
        "relu6" => Activation::Relu6,
        "leaky_relu" => Activation::LeakyRelu,
        "sigmoid" => Activation::Sigmoid,
        "tanh" => Activation::Tanh,
        "mish" => Activation::Mish,
        "linear" => Activation::Identity,
        other => {
            let supported = "\"silu\", \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\", \"gelu_fast\", \"quick_gelu\", \"relu\", \"relu2\", \
                             \"relu6\", \"leaky_relu\", \"sigmoid\", \"tanh\", \"mish\", \"linear\"";
            return Err(fields.unsupported(key, format!("{other:?}"), supported));
        }
    })
}

/// A boolean option.
pub(in crate::config) fn switch(fields: &Fields<'_>, key: &str, default: bool) -> Result<bool> {
    Ok(fields.boolean(key)?.unwrap_or(default))
}

/// A size that must be at least 1.
pub(in crate::config) fn positive(fields: &Fields<'_>, key: &str, default: i64) -> Result<i64> {
    let size = fields.integer(key)?.unwrap_or(default);
    if (1..=1 << 31).contains(&size) {
        Ok(size)
    } else {
        Err(fields.invalid(key, format!("{size} is not positive")))
    }
}

/// A number that must not be 0, infinite or NaN.
pub(in crate::config) fn multiplier(fields: &Fields<'_>, key: &str, default: f64) -> Result<f64> {
    let number = fields.number(key)?.unwrap_or(default);
    if number.is_finite() && number != 0.0 {
        Ok(number)
    } else {
        Err(fields.invalid(key, format!("{number} is not a multiplier")))
    }
}

/// A limit that must be positive; an explicit null says that there is none.
pub(super) fn limit(fields: &Fields<'_>, key: &str, default: Option<f64>) -> Result<Option<f64>> {
    let limit = if fields.contains(key) { fields.number(key)? } else { default };
    match limit {
        Some(limit) if !(limit.is_finite() && limit > 0.0) => {
            Err(fields.invalid(key, format!("{limit} is not a positive number")))
        }
        limit => Ok(limit),
    }
}

/// `sliding_window`; an explicit null says that there is none.
pub(super) fn window(fields: &Fields<'_>, default: Option<i64>) -> Result<Option<i64>> {
    let key = "sliding_window";
    let window = if fields.contains(key) { fields.integer(key)? } else { default };
    match window {
        Some(window) if window < 1 => {
            Err(fields.invalid(key, format!("{window} tokens are no window")))
        }
        window => Ok(window),
    }
}

/// Gives every layer the same window.
pub(super) fn everywhere(config: &mut ModelConfig, window: Option<i64>) {
    config.layers.iter_mut().for_each(|layer| layer.window = window);
}

/// Gives `window` to the layers that `layer_types` calls sliding; where the file does not say,
/// `is_local` does, by the layer's number.
pub(super) fn local_layers(
    fields: &Fields<'_>,
    config: &mut ModelConfig,
    window: Option<i64>,
    is_local: impl Fn(i64) -> bool,
    mut change: impl FnMut(&mut LayerConfig, bool),
) -> Result<()> {
    let key = "layer_types";
    let types = fields.texts(key)?;
    if let Some(types) = types.as_ref().filter(|types| types.len() != config.layers.len()) {
        return Err(fields.invalid(
            key,
            format!("it has {} entries for {} layers", types.len(), config.layers.len()),
        ));
    }
    for (index, layer) in config.layers.iter_mut().enumerate() {
        let local = match types.as_ref().map(|types| types[index]) {
            None => is_local(index as i64),
            Some("sliding_attention") => true,
            Some("full_attention") => false,
            Some(other) => {
                return Err(fields.unsupported(
                    key,
                    format!("{other:?}"),
                    "\"sliding_attention\", \"full_attention\"",
                ));
            }
        };
        if local && window.is_none() {
            return Err(fields.invalid(
                key,
                "a layer is \"sliding_attention\" and no window is set (sliding_window)",
            ));
        }
        layer.window = window.filter(|_| local);
        change(layer, local);
    }
    Ok(())
}

/// Every how many layers one attends to everything, in families where that is a number.
pub(super) fn pattern(fields: &Fields<'_>, default: i64) -> Result<i64> {
    match fields.integer("sliding_window_pattern")? {
        Some(_) => positive(fields, "sliding_window_pattern", default),
        None => positive(fields, "_sliding_window_pattern", default),
    }
}

/// `attention_bias` for all four maps of attention.
pub(super) fn attention_bias(
    fields: &Fields<'_>,
    config: &mut ModelConfig,
    default: bool,
) -> Result<()> {
    config.attention.bias = switch(fields, "attention_bias", default)?;
    config.attention.output_bias = config.attention.bias;
    Ok(())
}

/// Gives every layer this scale of scores.
pub(super) fn scale(config: &mut ModelConfig, scale: f64) {
    config.layers.iter_mut().for_each(|layer| layer.scale = scale);
}

/// Multiplies embeddings with the square root of the hidden size.
pub(super) fn root_of_width(config: &mut ModelConfig) {
    config.embedding.scale = EmbeddingScale::RootOfWidth;
}

/// Gives the rotary embedding to some layers and not to others.
pub(super) fn rotary_where(layer: &mut LayerConfig, rotary: bool) {
    layer.rope = if rotary { LayerRope::Global } else { LayerRope::Absent };
}
