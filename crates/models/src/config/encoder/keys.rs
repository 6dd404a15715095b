//! The keys that several families of encoders say in the same way.

use layers::Activation;

use super::description::StageConfig;
use crate::Result;
use crate::config::families::{activation, positive};
use crate::config::fields::Fields;
use crate::config::model::DEEPEST;

/// The sizes that all families but Swin say in the same way.
pub(super) fn one_stage(
    fields: &Fields<'_>,
    hidden: i64,
    depth: i64,
    heads: i64,
    inner: i64,
) -> Result<StageConfig> {
    let width = positive(fields, "hidden_size", hidden)?;
    let heads = positive(fields, "num_attention_heads", heads)?;
    if width % heads != 0 {
        return Err(fields.invalid(
            "num_attention_heads",
            format!("{heads} heads do not divide the hidden size {width}"),
        ));
    }
    let depth = positive(fields, "num_hidden_layers", depth)?;
    if depth > DEEPEST {
        return Err(fields
            .invalid("num_hidden_layers", format!("{depth} is not between 1 and {}", DEEPEST)));
    }
    Ok(StageConfig::alike(width, heads, positive(fields, "intermediate_size", inner)?, depth))
}

/// A probability in `0..1`.
pub(super) fn chance(fields: &Fields<'_>, key: &str, default: f64) -> Result<f64> {
    let chance = fields.number(key)?.unwrap_or(default);
    if (0.0..1.0).contains(&chance) {
        Ok(chance)
    } else {
        Err(fields.invalid(key, format!("{chance} is not in 0..1")))
    }
}

/// The epsilon of the norms.
pub(super) fn epsilon(fields: &Fields<'_>, default: f64) -> Result<f64> {
    let eps = fields.number("layer_norm_eps")?.unwrap_or(default);
    if eps.is_finite() && eps >= 0.0 {
        Ok(eps)
    } else {
        Err(fields.invalid("layer_norm_eps", format!("{eps} is not an epsilon")))
    }
}

/// The deviation of new weights.
pub(super) fn initializer_range(fields: &Fields<'_>) -> Result<f64> {
    let key = "initializer_range";
    let range = fields.number(key)?.unwrap_or(0.02);
    if range.is_finite() && range >= 0.0 {
        Ok(range)
    } else {
        Err(fields.invalid(key, format!("{range} is not a deviation")))
    }
}

/// The activation function of MLPs.
pub(super) fn hidden_act(fields: &Fields<'_>, default: &str) -> Result<Activation> {
    activation(fields, "hidden_act", default)
}
