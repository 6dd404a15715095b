//! How gradients are all-reduced.

use config::{GradientMethod, Gradients};
use reduce::{Method, PowerSgdConfig};

/// The method of the `[gradients]` table for this many ranks. A single rank sends nothing, so that
/// compression would only add an error.
pub fn reduction_method(table: &Gradients, world_size: usize) -> Method {
    match table.method {
        _ if world_size == 1 => Method::Exact,
        GradientMethod::Exact => Method::Exact,
        GradientMethod::Bf16 => Method::Bf16,
        GradientMethod::SharedBasis => Method::SharedBasis { min_ratio: table.min_ratio },
        GradientMethod::PowerSgd => Method::PowerSgd(PowerSgdConfig {
            rank: table.rank as i64,
            start_step: table.start_step,
            min_ratio: table.min_ratio,
            error_feedback: table.error_feedback,
            warm_start: table.warm_start,
        }),
    }
}
