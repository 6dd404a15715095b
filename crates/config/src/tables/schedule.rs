//! `[schedule]`: the learning rate of each step.

use super::Length;
use crate::{
    Error,
    choice::choice,
    declare::{Table, reads, table},
    range::{MOST_STEPS, Range},
    source_map::KeyPlace,
    value::Value,
};
use serde_json::{Value as Json, json};

choice! {
    /// How the learning rate changes after the warm-up.
    ScheduleMethod {
        /// It stays at its highest value.
        Constant = "constant",
        /// It falls linearly.
        Linear = "linear",
        /// It falls along half a cosine.
        Cosine = "cosine",
        /// It stays, and falls linearly at the end: warm-up, stable, decay (arXiv 2404.06395).
        Wsd = "wsd",
    }
}

table! {
    /// The learning rate of each step, as a part of `[optimizer] learning_rate`.
    Schedule: "schedule" {
        /// How the learning rate changes after the warm-up.
        method: ScheduleMethod = ScheduleMethod::Cosine, example r#""wsd""#;
        /// Steps in which the learning rate rises linearly from 0 to its highest value.
        warmup_steps: u64 = 0,
            valid "a whole number >= 0, less than [run] steps",
            within Range::at_least(0.0).at_most(MOST_STEPS),
            example "100";
        /// The last part of the run, in which the learning rate falls.
        decay: Option<Decay> = None,
            default "0.1",
            when reads!(Schedule: schedule.method in [ScheduleMethod::Wsd]),
            example "0.2";
        /// The last learning rate as a fraction of the highest.
        min_ratio: f64 = 0.0,
            within Range::at_least(0.0).at_most(1.0),
            when reads!(Schedule: schedule.method in [ScheduleMethod::Linear, ScheduleMethod::Cosine, ScheduleMethod::Wsd]),
            example "0.1";
    }
}

/// How long the end of a `"wsd"` schedule is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decay {
    /// This number of steps.
    Steps(u64),
    /// A fraction of all steps.
    Fraction(f64),
}

impl Decay {
    /// Its steps, of `steps` in total: at least one.
    pub fn steps(self, steps: u64) -> u64 {
        match self {
            Self::Steps(own) => own.clamp(1, steps.max(1)),
            Self::Fraction(fraction) => ((fraction * steps as f64).round() as u64).max(1),
        }
    }
}

impl Value for Decay {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        let (decay, is_valid) = match *value {
            toml::Value::Integer(steps) => (Self::Steps(steps.unsigned_abs()), steps > 0),
            toml::Value::Float(fraction) => {
                (Self::Fraction(fraction), fraction > 0.0 && fraction <= 1.0)
            }
            _ => return Err(at.cannot_be(value)),
        };
        if is_valid { Ok(decay) } else { Err(at.error("must be > 0, and <= 1 as a fraction")) }
    }

    fn write(&self) -> Option<toml::Value> {
        match self {
            Self::Steps(steps) => steps.write(),
            Self::Fraction(fraction) => fraction.write(),
        }
    }

    fn valid(_: Range) -> String {
        "a fraction > 0 and <= 1 of the steps, or a whole number of steps >= 1".into()
    }

    fn schema(_: Range) -> Json {
        json!({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}]})
    }
}

impl Schedule {
    /// Completes what depends on the method, and checks it against the length of the run.
    pub(crate) fn resolve(mut self, length: Length, table: &Table<'_>) -> Result<Self, Error> {
        if self.method == ScheduleMethod::Wsd {
            self.decay.get_or_insert(Decay::Fraction(0.1));
        }
        let Length::Steps(steps) = length else { return Ok(self) };
        table.require(
            "warmup_steps",
            self.warmup_steps < steps,
            &format!("must be < {steps}, the run's steps"),
        )?;
        let left = steps - self.warmup_steps;
        let fits = self.method != ScheduleMethod::Wsd
            || self.decay.is_none_or(|decay| decay.steps(steps) <= left);
        table.require(
            "decay",
            fits,
            &format!("must be at most the {left} steps that the warm-up leaves"),
        )?;
        Ok(self)
    }
}
