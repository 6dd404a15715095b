//! What is wrong with the configuration of a classifier.

use super::images;
use crate::{Error, Result, policy, policy_lora, text};
use config::{Run, Task};
use models::{Checkpoint, Classifier, Encoder, EncoderConfig, InputConfig};

/// As [`crate::check`]: the head, which the checkpoint need not hold, and the data that it reads.
pub(crate) fn check(run: &Run, checkpoint: &Checkpoint, ranks: usize) -> Result<()> {
    let model = checkpoint.encoder_config()?;
    if !checkpoint.is_untrained() && !Classifier::is_whole(checkpoint) {
        checkpoint.check(&Encoder::expected(model))?;
    }
    let tokens = match (&model.input, run.model.task) {
        (InputConfig::Text(input), Task::SequenceClassification) => {
            if run.data.sequence_length as i64 > input.max_tokens() {
                let what = format!("is {}, the model knows positions up to {}", run.data.sequence_length, input.max_tokens());
                return Err(run.error_at("data", "sequence_length", &what).into());
            }
            text::open(run, checkpoint)?;
            run.data.sequence_length as i64
        }
        (InputConfig::Image(input), Task::ImageClassification) => {
            images::processor(run, input)?;
            images::tokens(input)
        }
        _ => return Err(other_input(run, model)),
    };
    if run.activations.budget.is_some() {
        return Err(run.error_at("activations", "budget", "is divided for language models only; give bits or a rank").into());
    }
    policy::check_activations(run, model, run.rows_at_once(ranks)? as i64 * tokens)?;
    policy_lora::check(run, model, &policy_lora::lora(run)?)
}

/// The task is not for what the model reads.
pub(super) fn other_input(run: &Run, model: &EncoderConfig) -> Error {
    let (reads, task) = match model.input {
        InputConfig::Text(_) => ("texts", Task::SequenceClassification),
        InputConfig::Image(_) => ("images", Task::ImageClassification),
    };
    run.error_at(
        "model",
        "task",
        &format!("is {:?}, and {} reads {reads}; give {task:?}", run.model.task.as_str(), model.model_type, task = task.as_str()),
    )
    .into()
}
