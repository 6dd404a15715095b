//! What to change after memory has run out.

use config::{Run, units};

use crate::{Plan, plan};

/// What the `held` bytes were used for when memory ran out, and the micro-batch size that would
/// have fitted: the end of an error message. Empty if the run cannot be estimated.
pub fn memory_advice(run: &Run, threads: usize, held: u64) -> String {
    plan(run, threads, Some(held)).map_or_else(|_| String::new(), |plan| advice(&plan, held))
}

fn advice(plan: &Plan, held: u64) -> String {
    let size = |bytes: u64| units::bytes(bytes as f64);
    let constant =
        plan.weight_bytes + plan.gradient_bytes + plan.optimizer_bytes + plan.communication_bytes;
    let (rows, tokens) = (plan.rows_at_once as u64, plan.sequence_length);
    let fits = plan.modes.first().and_then(|mode| mode.largest_batch).unwrap_or(0);
    let remedy = match fits {
        0 => {
            "not one would have fitted; loract plan shows what other [activations] take".to_owned()
        }
        fits if fits < rows => {
            format!("{fits} would have fitted: set [run] micro_batch_size = {fits}")
        }
        // What was asked for last is what was too much, or others hold memory of this device.
        _ => format!(
            "set [run] micro_batch_size to less than {rows}, or see what else takes memory here"
        ),
    };
    format!(
        "; of these, {} weights, {} gradients, {} optimizer, {} communication, {} all else, with {rows} sequences of {tokens} \
         tokens at once; {remedy}",
        size(plan.weight_bytes),
        size(plan.gradient_bytes),
        size(plan.optimizer_bytes),
        size(plan.communication_bytes),
        size(held.saturating_sub(constant)),
    )
}
