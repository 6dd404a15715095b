//! What is said when memory runs out: what there was, and what would have fitted.

use crate::{Error, Plan, plan};
use config::Run;
use std::error::Error as _;
use tch::Device;

/// The words of libtorch, of the CPU's allocator and of CUDA's.
const WORDS: [&str; 3] = ["out of memory", "can't allocate memory", "not enough memory"];

/// Adds to an error that says that memory has run out what tensors held at most, of what, and the largest number of rows that would have needed no
/// more. Any other error is left as it is.
pub(crate) fn explain(error: Error, run: &Run, device: Device) -> Error {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    if !texts.iter().any(|text| WORDS.iter().any(|words| text.contains(words))) {
        return error;
    }
    let held = autograd::memory::peak(device).unwrap_or(0);
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let advice = plan(run, threads, Some(held)).ok().map_or_else(String::new, |plan| advice(&plan, held));
    Error::OutOfMemory { held: gib(held), advice, cause: Box::new(error) }
}

fn advice(plan: &Plan, held: u64) -> String {
    let constant = plan.weight_bytes + plan.gradient_bytes + plan.optimizer_bytes + plan.communication_bytes;
    let (rows, tokens) = (plan.rows_at_once as u64, plan.sequence_length);
    let fits = plan.modes.first().and_then(|mode| mode.largest_batch).unwrap_or(0);
    let remedy = match fits {
        0 => "not one would have fitted; loract plan shows what other [activations] take".to_owned(),
        fits if fits < rows => format!("{fits} would have fitted: set [run] micro_batch_size = {fits}"),
        // What was asked for last is what was too much, or others hold memory of this device.
        _ => format!("set [run] micro_batch_size to less than {rows}, or see what else takes memory here"),
    };
    format!(
        "; of these, {} weights, {} gradients, {} optimiser, {} to send, {} all else, with {rows} sequences of {tokens} tokens at once; {remedy}",
        gib(plan.weight_bytes),
        gib(plan.gradient_bytes),
        gib(plan.optimizer_bytes),
        gib(plan.communication_bytes),
        gib(held.saturating_sub(constant)),
    )
}

fn gib(bytes: u64) -> String {
    match bytes as f64 / f64::from(1 << 20) {
        mib if mib < 1024.0 => format!("{mib:.1} MiB"),
        mib => format!("{:.2} GiB", mib / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn libtorchs_own_words_are_known() {
        let refused = Tensor::f_empty([1 << 50], (Kind::Uint8, Device::Cpu)).unwrap_err();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n").unwrap();
        let run = Run::load(&path, &[]).unwrap();
        let explained = explain(Error::Tch(refused), &run, Device::Cpu);
        assert!(matches!(&explained, Error::OutOfMemory { .. }), "{explained}");
        let other = explain(Error::InjectedFault, &run, Device::Cpu);
        assert!(matches!(other, Error::InjectedFault));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!((gib(3 << 19), gib(5 << 29)), ("1.5 MiB".to_owned(), "2.50 GiB".to_owned()));
    }
}
