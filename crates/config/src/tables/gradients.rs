//! `[gradients]`: how the ranks' gradients become their mean (PowerSGD: arXiv 1905.13727).

use super::sizes::ByteSize;
use crate::{
    choice::choice,
    declare::{reads, table},
    range::{MOST_BYTES, MOST_COLUMNS, MOST_STEPS, Range},
};

choice! {
    /// How gradients are summed.
    GradientMethod {
        /// In the type that they have.
        Exact = "exact",
        /// Rounded to bf16.
        Bf16 = "bf16",
        /// As low-rank factors (arXiv 1905.13727).
        PowerSgd = "powersgd",
        /// As coefficients in the bases in which inputs are saved.
        SharedBasis = "shared_basis",
    }
}

table! {
    /// How the ranks' gradients are all-reduced.
    Gradients: "gradients" {
        /// How gradients are compressed on their way between ranks.
        method: GradientMethod = GradientMethod::Exact, example r#""powersgd""#;
        /// Columns of a compressed gradient's factors.
        rank: usize = 4,
            within Range::above(0.0).at_most(MOST_COLUMNS),
            when reads!(Gradients: gradients.method in [GradientMethod::PowerSgd]),
            example "8";
        /// The number of first steps whose gradients are summed exactly.
        start_step: u64 = 10,
            within Range::at_least(0.0).at_most(MOST_STEPS),
            when reads!(Gradients: gradients.method in [GradientMethod::PowerSgd]),
            example "100";
        /// Compress a tensor only if that makes it at least this many times smaller.
        min_ratio: f64 = 2.0,
            within Range::at_least(1.0),
            when reads!(Gradients: gradients.method in [GradientMethod::PowerSgd, GradientMethod::SharedBasis]),
            example "1.5";
        /// Add what compression dropped to the gradient of the next step.
        error_feedback: bool = true,
            when reads!(Gradients: gradients.method in [GradientMethod::PowerSgd]),
            example "false";
        /// Start the factors of a step from those of the previous step.
        warm_start: bool = true,
            when reads!(Gradients: gradients.method in [GradientMethod::PowerSgd]),
            example "false";
        /// Send gradients while the backward pass still runs.
        overlap: bool = true, example "false";
        /// Gradients are sent in buckets of up to this size, counted before compression.
        bucket_bytes: ByteSize = ByteSize::new(25 << 20),
            within Range::above(0.0).at_most(MOST_BYTES),
            example r#""32MiB""#;
    }
}
