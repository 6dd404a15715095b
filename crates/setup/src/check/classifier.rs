//! What is wrong with the configuration of a classifier.

use config::{BadLines, DataFormat, Quantization, Run, Task};
use models::{Checkpoint, Classifier, Encoder, InputConfig};

use crate::labelled::{image_processor, image_tokens};
use crate::task_mismatch::task_mismatch;
use crate::{Result, TextProcessor, adapter_source, check_activations, check_adapter};

/// As [`crate::check`], for a classifier: its head may be missing in the checkpoint, and keys of language models are refused.
pub(crate) fn check(run: &Run, checkpoint: &Checkpoint, world_size: usize) -> Result<()> {
    let model = checkpoint.encoder_config()?;
    if !checkpoint.is_untrained() && !Classifier::is_whole(checkpoint) {
        checkpoint.check(&Encoder::expected(model))?;
    }
    let tokens = match (&model.input, run.model.task) {
        (InputConfig::Text(input), Task::SequenceClassification) => {
            if run.data.sequence_length as i64 > input.max_tokens() {
                let what = format!("is {}, the model knows positions up to {}", run.data.sequence_length, input.max_tokens());
                return Err(run.refuse("data", "sequence_length", &what).into());
            }
            TextProcessor::open(&run.model, checkpoint)?;
            run.data.sequence_length as i64
        }
        (InputConfig::Image(input), Task::ImageClassification) => {
            image_processor(&run.model.path, input)?;
            image_tokens(input)
        }
        _ => return Err(task_mismatch(run, model)),
    };
    let skips = run.data.bad_lines != BadLines::Fail;
    let other_format = run.data.format != DataFormat::Auto;
    let overflow = run.data.overflow.is_some();
    for (key, given) in [("packing", run.data.packing), ("format", other_format), ("bad_lines", skips), ("overflow", overflow)] {
        if given {
            return Err(run.refuse("data", key, "is for language models; leave it out where samples have classes").into());
        }
    }
    if run.model.task != Task::ImageClassification {
        for (key, given) in [("flip", run.data.flip), ("crop", run.data.crop.is_some())] {
            if given {
                return Err(run.refuse("data", key, "is for images; leave it out").into());
            }
        }
    }
    if run.model.quantization != Quantization::None {
        return Err(run.refuse("model", "quantization", "is for language models; leave it out where samples have classes").into());
    }
    if run.activations.budget.is_some() {
        return Err(run.refuse("activations", "budget", "is divided for language models only; give bits or a rank").into());
    }
    check_activations(run, model, run.rows_at_once(world_size)? as i64 * tokens)?;
    check_adapter(run, model, &adapter_source(run.lora.as_ref(), &run.model)?)
}
