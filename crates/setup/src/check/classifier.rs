//! What is wrong with the configuration of a classifier.

use config::{Run, Task};
use models::{Checkpoint, Classifier, Encoder, InputConfig};

use crate::labelled::{image_processor, image_tokens};
use crate::task_mismatch::task_mismatch;
use crate::{Result, TextProcessor, adapter_source, check_activations, check_adapter};

/// As [`crate::check`], for a classifier: its head may be missing in the checkpoint.
pub(crate) fn check(run: &Run, checkpoint: &Checkpoint, world_size: usize) -> Result<()> {
    let model = checkpoint.encoder_config()?;
    if !checkpoint.is_untrained() && !Classifier::is_whole(checkpoint) {
        checkpoint.check(&Encoder::tensor_shapes(model))?;
    }
    let tokens = match (&model.input, run.model.task) {
        (InputConfig::Text(input), Task::SequenceClassification) => {
            if run.data.sequence_length as i64 > input.max_tokens() {
                let what = format!(
                    "is {}, the model knows positions up to {}",
                    run.data.sequence_length,
                    input.max_tokens()
                );
                return Err(run.error_at("data", "sequence_length", &what).into());
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
    if run.activations.budget.is_some() {
        return Err(run
            .error_at(
                "activations",
                "budget",
                "is divided for language models only; give bits or a rank",
            )
            .into());
    }
    check_activations(run, model, run.rows_at_once(world_size)? as i64 * tokens)?;
    check_adapter(run, model, &adapter_source(run.lora.as_ref(), &run.model)?)
}
