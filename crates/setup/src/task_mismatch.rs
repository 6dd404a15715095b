use config::{Run, Task};
use models::{EncoderConfig, InputConfig};

use crate::Error;

/// The error for a task whose inputs the model does not read.
pub(crate) fn task_mismatch(run: &Run, model: &EncoderConfig) -> Error {
    let (reads, task) = match model.input {
        InputConfig::Text(_) => ("texts", Task::SequenceClassification),
        InputConfig::Image(_) => ("images", Task::ImageClassification),
    };
    run.error_at(
        "model",
        "task",
        &format!(
            "is {:?}, and {} reads {reads}; give {task:?}",
            run.model.task.as_str(),
            model.model_type,
            task = task.as_str()
        ),
    )
    .into()
}
