//! `[schedule]`: the learning rate from step to step.

use super::Length;
use crate::{Error, choice::choice, place::Table, raw};
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
        /// It stays, and falls along a line at the end: warm-up, stable, decay (arXiv 2404.06395).
        Wsd = "wsd",
    }
}

/// `[schedule]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// `kind`: `"constant"`, `"linear"`, `"cosine"` or `"wsd"`. Default: `"cosine"`.
    pub kind: ScheduleKind,
    /// `warmup_steps`: steps in which the learning rate rises from 0 to its highest value. Default: 0.
    pub warmup_steps: u64,
    /// `decay`: the last part of the steps, in which the rate of `"wsd"` falls: a fraction of them, or a whole number. Default: 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<Decay>,
    /// `min_ratio`: the last learning rate, as a fraction of the highest. Default: 0.0.
    pub min_ratio: f64,
}

/// How long the end of a `"wsd"` schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Decay {
    /// So many steps.
    Steps(u64),
    /// A fraction of all steps.
    Fraction(f64),
}

impl Decay {
    /// Steps of it, of `steps` in all: at least one.
    pub fn steps(self, steps: u64) -> u64 {
        match self {
            Self::Steps(own) => own.clamp(1, steps.max(1)),
            Self::Fraction(fraction) => ((fraction * steps as f64).round() as u64).max(1),
        }
    }
}

impl Schedule {
    pub(super) fn resolve(raw: raw::Schedule, length: Length, at: Table<'_>) -> Result<Self, Error> {
        let warmup_steps = raw.warmup_steps.unwrap_or(0);
        if let Length::Steps(steps) = length {
            at.require("warmup_steps", warmup_steps < steps, &format!("must be < {steps}, the run's steps"))?;
        }
        let min_ratio = raw.min_ratio.unwrap_or(0.0);
        at.require("min_ratio", (0.0..=1.0).contains(&min_ratio), "must be >= 0 and <= 1")?;
        let kind = at.choose("kind", raw.kind.as_deref(), ScheduleKind::Cosine)?;
        at.require("decay", kind == ScheduleKind::Wsd || raw.decay.is_none(), &format!("is not read by \"{kind}\"; leave it out"))?;
        let decay = match raw.decay {
            None => Decay::Fraction(0.1),
            Some(raw::Amount::Whole(steps)) => Decay::Steps(u64::try_from(steps).unwrap_or(0)),
            Some(raw::Amount::Fraction(fraction)) => Decay::Fraction(fraction),
        };
        let is_valid = match decay {
            Decay::Steps(steps) => steps > 0,
            Decay::Fraction(fraction) => fraction > 0.0 && fraction <= 1.0,
        };
        at.require("decay", is_valid, "must be > 0, and <= 1 as a fraction")?;
        if let (ScheduleKind::Wsd, Length::Steps(steps)) = (kind, length) {
            let left = steps - warmup_steps;
            at.require("decay", decay.steps(steps) <= left, &format!("must be at most the {left} steps that the warm-up leaves"))?;
        }
        Ok(Self { kind, warmup_steps, decay: (kind == ScheduleKind::Wsd).then_some(decay), min_ratio })
    }
}
