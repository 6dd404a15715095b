//! A PiSSA adapter as a plain one of the unchanged base (`subtract_mutated_init` of PEFT).

use std::path::Path;

use tch::Tensor;

use super::{AdapterConfig, AdapterWeights, LoraWeights};
use crate::{Error, Result};

/// `W - s B₀ A₀ + s B A = W + s [B, -B₀] [A; A₀]`: twice the rank, and alphas that leave the scale
/// `s` as it is.
pub(super) fn plain(
    folder: &Path,
    config: &AdapterConfig,
    weights: &AdapterWeights,
) -> Result<(AdapterConfig, AdapterWeights)> {
    let factor = if config.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
    let converted = AdapterConfig {
        r: 2 * config.r,
        lora_alpha: factor * config.lora_alpha,
        rank_pattern: config
            .rank_pattern
            .iter()
            .map(|(pattern, rank)| (pattern.clone(), 2 * rank))
            .collect(),
        alpha_pattern: config
            .alpha_pattern
            .iter()
            .map(|(pattern, alpha)| (pattern.clone(), factor * alpha))
            .collect(),
        init_lora_weights: true.into(),
        ..config.clone()
    };
    let pair = |pair: &LoraWeights| {
        let Some((a, b)) = &pair.initial else {
            let why = format!(
                "what the PiSSA pair of {} began as is not known; load it onto its base first",
                pair.module
            );
            return Err(Error::Adapter { path: folder.to_owned(), why });
        };
        let both = |one: &Tensor, other: Tensor, dim: i64| {
            let one = one.f_detach()?;
            Tensor::f_cat(&[&one, &other.f_to_kind(one.kind())?.f_to_device(one.device())?], dim)
        };
        let torch = || Error::torch(&pair.module, folder);
        Ok(LoraWeights {
            module: pair.module.clone(),
            a: both(&pair.a, a.shallow_clone(), 0).map_err(torch())?,
            b: both(&pair.b, b.f_neg().map_err(torch())?, 1).map_err(torch())?,
            magnitude: pair.magnitude.as_ref().map(Tensor::shallow_clone),
            initial: None,
        })
    };
    let modules = weights.modules.iter().map(pair).collect::<Result<_>>()?;
    let saved =
        weights.saved.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    Ok((converted, AdapterWeights { modules, saved }))
}
