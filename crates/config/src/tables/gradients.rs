//! `[gradients]`: how the ranks' gradients become their mean (PowerSGD: arXiv 1905.13727).

use crate::{Error, choice::choice, place::Table, raw};
use serde::Serialize;

choice! {
    /// How gradients are summed.
    GradientMethod {
        /// As they are.
        Exact = "exact",
        /// Rounded to bf16.
        Bf16 = "bf16",
        /// As low-rank factors.
        PowerSgd = "powersgd",
        /// As coefficients in the bases on which inputs are kept.
        SharedBasis = "shared_basis",
    }
}

/// `[gradients]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gradients {
    /// `method`: `"exact"`, `"bf16"`, `"powersgd"` or `"shared_basis"`. Default: `"exact"`.
    pub method: GradientMethod,
    /// `rank`: columns of a compressed gradient's factors. Default: 4.
    pub rank: usize,
    /// `start_step`: steps that are summed exactly before compression begins. Default: 10.
    pub start_step: u64,
    /// `min_ratio`: a tensor is compressed only if that makes it this many times smaller. Default: 2.0.
    pub min_ratio: f64,
    /// `error_feedback`: add what compression dropped to the next step's gradient. Default: true.
    pub error_feedback: bool,
    /// `warm_start`: start each step's factors from those of the step before. Default: true.
    pub warm_start: bool,
    /// `overlap`: send gradients while the backward pass runs. Default: true.
    pub overlap: bool,
    /// `bucket_bytes`: gradients travel together up to so many bytes, counted before compression. Default: 26214400.
    pub bucket_bytes: usize,
}

impl Gradients {
    pub(super) fn resolve(raw: raw::Gradients, at: Table<'_>) -> Result<Self, Error> {
        let rank = raw.rank.unwrap_or(4);
        at.require("rank", rank > 0, "must be > 0")?;
        let min_ratio = raw.min_ratio.unwrap_or(2.0);
        at.require("min_ratio", min_ratio >= 1.0 && min_ratio.is_finite(), "must be >= 1")?;
        let bucket_bytes = raw.bucket_bytes.unwrap_or(25 << 20);
        at.require("bucket_bytes", bucket_bytes > 0, "must be > 0")?;
        Ok(Self {
            method: at.choose("method", raw.method.as_deref(), GradientMethod::Exact)?,
            rank,
            start_step: raw.start_step.unwrap_or(10),
            min_ratio,
            error_feedback: raw.error_feedback.unwrap_or(true),
            warm_start: raw.warm_start.unwrap_or(true),
            overlap: raw.overlap.unwrap_or(true),
            bucket_bytes,
        })
    }
}
