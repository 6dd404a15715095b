//! `[optimizer]`: how a gradient becomes a step.

use crate::config::{Error, choice::choice, place::Table, raw};
use serde::Serialize;

choice! {
    /// The optimiser.
    OptimizerName {
        /// Adam with decoupled weight decay (arXiv 1711.05101).
        AdamW = "adamw",
    }
}

/// `[optimizer]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Optimizer {
    /// `name`: `"adamw"`. Default: `"adamw"`.
    pub name: OptimizerName,
    /// `learning_rate`: the highest learning rate of the schedule. Default: 2e-4.
    pub learning_rate: f64,
    /// `betas`: decay of the first and second moments. Default: [0.9, 0.999].
    pub betas: [f64; 2],
    /// `eps`: added to the root of the second moment. Default: 1e-8.
    pub eps: f64,
    /// `weight_decay`: decoupled from the gradient. Default: 0.0.
    pub weight_decay: f64,
    /// `clip_grad_norm`: the largest norm of all gradients together; 0 = no clipping. Default: 1.0.
    pub clip_grad_norm: f64,
}

impl Optimizer {
    pub(super) fn resolve(raw: raw::Optimizer, at: Table<'_>) -> Result<Self, Error> {
        let positive = |key, value: f64| at.require(key, value > 0.0 && value.is_finite(), "must be > 0").map(|()| value);
        let not_negative = |key, value: f64| at.require(key, value >= 0.0 && value.is_finite(), "must be >= 0").map(|()| value);
        let betas = raw.betas.unwrap_or([0.9, 0.999]);
        at.require("betas", betas.iter().all(|beta| (0.0..1.0).contains(beta)), "must each be >= 0 and < 1")?;
        Ok(Self {
            name: at.choose("name", raw.name.as_deref(), OptimizerName::AdamW)?,
            learning_rate: positive("learning_rate", raw.learning_rate.unwrap_or(2e-4))?,
            betas,
            eps: positive("eps", raw.eps.unwrap_or(1e-8))?,
            weight_decay: not_negative("weight_decay", raw.weight_decay.unwrap_or(0.0))?,
            clip_grad_norm: not_negative("clip_grad_norm", raw.clip_grad_norm.unwrap_or(1.0))?,
        })
    }
}
