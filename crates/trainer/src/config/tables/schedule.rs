//! `[schedule]`: the learning rate from step to step.

use super::Length;
use crate::config::{Error, choice::choice, place::Table, raw};
use serde::Serialize;

choice! {
    /// The learning rate's course after the warm-up.
    ScheduleKind {
        /// It stays.
        Constant = "constant",
        /// It falls along a line.
        Linear = "linear",
        /// It falls along half a cosine.
        Cosine = "cosine",
    }
}

/// `[schedule]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// `kind`: `"constant"`, `"linear"` or `"cosine"`. Default: `"cosine"`.
    pub kind: ScheduleKind,
    /// `warmup_steps`: steps in which the learning rate rises from 0 to its highest value. Default: 0.
    pub warmup_steps: u64,
    /// `min_ratio`: the last learning rate, as a fraction of the highest. Default: 0.0.
    pub min_ratio: f64,
}

impl Schedule {
    pub(super) fn resolve(raw: raw::Schedule, length: Length, at: Table<'_>) -> Result<Self, Error> {
        let warmup_steps = raw.warmup_steps.unwrap_or(0);
        if let Length::Steps(steps) = length {
            at.require("warmup_steps", warmup_steps < steps, &format!("must be < {steps}, the run's steps"))?;
        }
        let min_ratio = raw.min_ratio.unwrap_or(0.0);
        at.require("min_ratio", (0.0..=1.0).contains(&min_ratio), "must be >= 0 and <= 1")?;
        Ok(Self { kind: at.choose("kind", raw.kind.as_deref(), ScheduleKind::Cosine)?, warmup_steps, min_ratio })
    }
}
