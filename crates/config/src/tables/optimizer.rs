//! `[optimizer]`: how a gradient becomes a step.

use crate::{Error, choice::choice, place::Table, raw};
use serde::Serialize;

choice! {
    /// The optimiser.
    OptimizerName {
        /// Adam with decoupled weight decay (arXiv 1711.05101).
        AdamW = "adamw",
        /// The same, with moments in eight bits (arXiv 2110.02861).
        AdamW8bit = "adamw8bit",
        /// The sign of a mean of the gradient (arXiv 2302.06675).
        Lion = "lion",
        /// Gradient descent with momentum.
        Sgd = "sgd",
        /// Orthogonalised momentum (kellerjordan.github.io/posts/muon) for the matrices between hidden layers, AdamW for the rest.
        Muon = "muon",
    }
}

choice! {
    /// What Muon multiplies its step with, for a matrix of `rows` by `columns`.
    MuonScale {
        /// `sqrt(max(1, rows / columns))`, as published. Its learning rate is much higher than that of AdamW.
        Original = "original",
        /// `0.2 * sqrt(max(rows, columns))`: steps as large as those of AdamW, so that one learning rate serves both (arXiv 2502.16982).
        MatchRmsAdamW = "match_rms_adamw",
    }
}

/// `[optimizer]`. A key that the optimiser does not read is refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Optimizer {
    /// `name`: `"adamw"`, `"adamw8bit"`, `"lion"`, `"sgd"` or `"muon"`. Default: `"adamw"`.
    pub name: OptimizerName,
    /// `learning_rate`: the highest learning rate of the schedule. Default: 2e-4.
    pub learning_rate: f64,
    /// `betas`: decay of the first and second moments; with `"lion"` of the mean that makes the step and of the one that is kept. Not for
    /// `"sgd"`. Default: [0.9, 0.999], with `"lion"` [0.9, 0.99].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// `eps`: added to the root of the second moment. Not for `"lion"` and `"sgd"`. Default: 1e-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// `momentum`: decay of the sum of gradients, for `"sgd"` and `"muon"`. Default: 0.9, with `"muon"` 0.95.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// `nesterov`: looks one step ahead along the momentum, for `"sgd"` and `"muon"`. Default: false, with `"muon"` true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// `scale`: `"match_rms_adamw"` or `"original"`, for `"muon"`. Default: `"match_rms_adamw"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<MuonScale>,
    /// `weight_decay`: decoupled from the gradient, but with `"sgd"`, where it is part of it. Default: 0.0.
    pub weight_decay: f64,
    /// `master_weights`: step weights that are in bf16 as copies in f32. Default: true.
    pub master_weights: bool,
    /// `split`: share the optimiser's states and work out over the ranks. Default: false.
    pub split: bool,
    /// `clip_grad_norm`: the largest norm of all gradients together; 0 = no clipping. Default: 1.0.
    pub clip_grad_norm: f64,
}

const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;

impl Optimizer {
    pub(super) fn resolve(raw: raw::Optimizer, at: Table<'_>) -> Result<Self, Error> {
        use OptimizerName::{Lion, Muon, Sgd};
        let positive = |key, value: f64| at.require(key, value > 0.0 && value.is_finite(), "must be > 0").map(|()| value);
        let not_negative = |key, value: f64| at.require(key, value >= 0.0 && value.is_finite(), "must be >= 0").map(|()| value);
        let name = at.choose("name", raw.name.as_deref(), OptimizerName::AdamW)?;
        let read_by = |key, given: bool, reads: bool| at.require(key, reads || !given, &format!("is not read by \"{name}\"; leave it out"));
        let (has_betas, has_eps, has_momentum) = (name != Sgd, !matches!(name, Lion | Sgd), matches!(name, Sgd | Muon));
        read_by("betas", raw.betas.is_some(), has_betas)?;
        read_by("eps", raw.eps.is_some(), has_eps)?;
        read_by("momentum", raw.momentum.is_some(), has_momentum)?;
        read_by("nesterov", raw.nesterov.is_some(), has_momentum)?;
        read_by("scale", raw.scale.is_some(), name == Muon)?;

        let betas = raw.betas.unwrap_or(if name == Lion { [0.9, 0.99] } else { BETAS });
        at.require("betas", betas.iter().all(|beta| (0.0..1.0).contains(beta)), "must each be >= 0 and < 1")?;
        let momentum = raw.momentum.unwrap_or(if name == Muon { 0.95 } else { 0.9 });
        at.require("momentum", (0.0..1.0).contains(&momentum), "must be >= 0 and < 1")?;
        let nesterov = raw.nesterov.unwrap_or(name == Muon);
        at.require("nesterov", !nesterov || momentum > 0.0, "needs a momentum > 0")?;
        let scale = at.choose("scale", raw.scale.as_deref(), MuonScale::MatchRmsAdamW)?;
        Ok(Self {
            name,
            learning_rate: positive("learning_rate", raw.learning_rate.unwrap_or(2e-4))?,
            betas: has_betas.then_some(betas),
            eps: if has_eps { Some(positive("eps", raw.eps.unwrap_or(EPS))?) } else { None },
            momentum: has_momentum.then_some(momentum),
            nesterov: has_momentum.then_some(nesterov),
            scale: (name == Muon).then_some(scale),
            weight_decay: not_negative("weight_decay", raw.weight_decay.unwrap_or(0.0))?,
            master_weights: raw.master_weights.unwrap_or(true),
            split: raw.split.unwrap_or(false),
            clip_grad_norm: not_negative("clip_grad_norm", raw.clip_grad_norm.unwrap_or(1.0))?,
        })
    }

    /// `betas`, or their default where the method has none.
    pub fn betas(&self) -> [f64; 2] {
        self.betas.unwrap_or(BETAS)
    }

    /// `eps`, or its default.
    pub fn eps(&self) -> f64 {
        self.eps.unwrap_or(EPS)
    }

    /// `momentum`; 0 where the method has none.
    pub fn momentum(&self) -> f64 {
        self.momentum.unwrap_or(0.0)
    }

    /// `nesterov`; false where the method has none.
    pub fn nesterov(&self) -> bool {
        self.nesterov.unwrap_or(false)
    }

    /// `scale`, or its default.
    pub fn scale(&self) -> MuonScale {
        self.scale.unwrap_or(MuonScale::MatchRmsAdamW)
    }
}
