//! `[optimizer]`: how a gradient becomes a step.

use crate::{
    Error,
    choice::choice,
    declare::{Table, reads, table},
    range::Range,
};

choice! {
    /// The optimizer.
    OptimizerMethod {
        /// Adam with decoupled weight decay (arXiv 1711.05101).
        AdamW = "adamw",
        /// The same with 8-bit moments (arXiv 2110.02861).
        AdamW8bit = "adamw8bit",
        /// The sign of a running mean of the gradient (arXiv 2302.06675).
        Lion = "lion",
        /// Gradient descent with momentum.
        Sgd = "sgd",
        /// Orthogonalised momentum (kellerjordan.github.io/posts/muon) for the matrices between
        /// hidden layers, AdamW for the rest.
        Muon = "muon",
    }
}

choice! {
    /// The factor of Muon's step, for a matrix of `rows` by `columns`.
    MuonScale {
        /// `sqrt(max(1, rows / columns))`, as published. It needs a much higher learning rate than
        /// AdamW.
        Original = "original",
        /// `0.2 * sqrt(max(rows, columns))`: steps as large as those of AdamW, so that one learning
        /// rate fits both (arXiv 2502.16982).
        MatchRmsAdamW = "match_rms_adamw",
    }
}

table! {
    /// How a gradient becomes a step.
    Optimizer: "optimizer" {
        /// The optimizer.
        method: OptimizerMethod = OptimizerMethod::AdamW, example r#""muon""#;
        /// The highest learning rate of the schedule.
        learning_rate: f64 = 2e-4, within Range::above(0.0), example "1e-4";
        /// Decay of the first and second moments. With `"lion"`: of the mean that makes the step,
        /// and of the mean that is stored.
        betas: Option<[f64; 2]> = None,
            default r#"[0.9, 0.999], with "lion" [0.9, 0.99]"#,
            within Range::at_least(0.0).below(1.0),
            when reads!(Optimizer: optimizer.method in [OptimizerMethod::AdamW, OptimizerMethod::AdamW8bit, OptimizerMethod::Lion, OptimizerMethod::Muon]),
            example "[0.9, 0.95]";
        /// Added to the root of the second moment.
        eps: Option<f64> = None,
            default "1e-8",
            within Range::above(0.0),
            when reads!(Optimizer: optimizer.method in [OptimizerMethod::AdamW, OptimizerMethod::AdamW8bit, OptimizerMethod::Muon]),
            example "1e-6";
        /// Decay of the running sum of gradients.
        momentum: Option<f64> = None,
            default r#"0.9, with "muon" 0.95"#,
            within Range::at_least(0.0).below(1.0),
            when reads!(Optimizer: optimizer.method in [OptimizerMethod::Sgd, OptimizerMethod::Muon]),
            example "0.9";
        /// Nesterov's momentum.
        nesterov: Option<bool> = None,
            default r#"false, with "muon" true"#,
            when reads!(Optimizer: optimizer.method in [OptimizerMethod::Sgd, OptimizerMethod::Muon]),
            example "true";
        /// The factor of Muon's step.
        scale: Option<MuonScale> = None,
            default r#""match_rms_adamw""#,
            when reads!(Optimizer: optimizer.method in [OptimizerMethod::Muon]),
            example r#""original""#;
        /// Weight decay: decoupled from the gradient, except with `"sgd"`, where it is added to the
        /// gradient.
        weight_decay: f64 = 0.0, within Range::at_least(0.0), example "0.01";
        /// The largest norm of all gradients together; larger gradients are scaled down. 0 turns
        /// clipping off.
        clip_grad_norm: f64 = 1.0, within Range::at_least(0.0), example "0.5";
        /// Keep an f32 copy of weights that are in bf16, and apply the steps to it.
        master_weights: bool = true, example "false";
        /// 1 shards the optimizer's state and work across the ranks, as ZeRO stage 1 (arXiv
        /// 1910.02054); 0 does not.
        zero_stage: u32 = 0, valid "0 | 1", within Range::at_least(0.0).at_most(1.0), example "1";
    }
}

const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;

impl Optimizer {
    /// Completes what depends on the method: the keys that it does not read have no value.
    pub(crate) fn resolve(mut self, table: &Table<'_>) -> Result<Self, Error> {
        use OptimizerMethod::{Lion, Muon, Sgd};
        let method = self.method;
        if method != Sgd {
            self.betas.get_or_insert(if method == Lion { [0.9, 0.99] } else { BETAS });
        }
        if !matches!(method, Lion | Sgd) {
            self.eps.get_or_insert(EPS);
        }
        if matches!(method, Sgd | Muon) {
            let momentum = *self.momentum.get_or_insert(if method == Muon { 0.95 } else { 0.9 });
            let nesterov = *self.nesterov.get_or_insert(method == Muon);
            table.require("nesterov", !nesterov || momentum > 0.0, "needs a momentum > 0")?;
        }
        if method == Muon {
            self.scale.get_or_insert(MuonScale::MatchRmsAdamW);
        }
        Ok(self)
    }

    /// Whether the optimizer's state and work are sharded across the ranks.
    pub fn is_sharded(&self) -> bool {
        self.zero_stage == 1
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
