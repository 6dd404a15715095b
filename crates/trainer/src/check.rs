use crate::config::{BadLines, DataFormat, Run, Task};
use crate::{Result, device, policy, policy_lora, text};
use models::{Checkpoint, Decoder, Encoder, InputConfig};

/// Finds everything that is wrong with a run's input but its data (see [`crate::RunData::prepare`]), without reading a weight or writing anything.
///
/// # Errors
/// The first fault, an [`crate::Error::is_input`].
pub fn check(run: &Run, ranks: usize) -> Result<()> {
    run.check_paths()?;
    device::choose(run, ranks)?;
    let checkpoint = Checkpoint::open(&run.model.path)?;
    if run.model.task == Task::SequenceClassification {
        return check_classifier(run, &checkpoint, ranks);
    }
    let model = checkpoint.config()?;
    checkpoint.check(&Decoder::expected(model))?;
    let rows = run.rows_at_once(ranks)?;
    policy::check_activations(run, model, (rows * run.data.sequence_length) as i64)?;
    policy_lora::check(run, model, &policy_lora::lora(run)?)?;
    check_whole(run)?;
    if run.data.sequence_length as i64 > model.max_positions {
        let what = format!("is {}, the model knows positions up to {}", run.data.sequence_length, model.max_positions);
        return Err(run.refuse("data", "sequence_length", &what).into());
    }
    text::open(run, &checkpoint).map(|_| ())
}

/// Whether a model that is trained whole can be written.
fn check_whole(run: &Run) -> Result<()> {
    if run.lora.is_none() && run.model.path.is_file() {
        let what = "is one file, from which a trained model cannot be written; give a model directory, or add a [lora] table";
        return Err(run.refuse("model", "path", what).into());
    }
    Ok(())
}

/// The same for a classifier, whose head the checkpoint need not hold.
fn check_classifier(run: &Run, checkpoint: &Checkpoint, ranks: usize) -> Result<()> {
    let model = checkpoint.encoder_config()?;
    if !models::Classifier::is_whole(checkpoint) {
        checkpoint.check(&Encoder::expected(model))?;
    }
    let longest = match &model.input {
        InputConfig::Text(input) => input.max_tokens(),
        InputConfig::Image(_) => {
            let what = format!("classifies texts, and {} reads images", model.model_type);
            return Err(run.refuse("model", "task", &what).into());
        }
    };
    let skips = run.data.bad_lines != BadLines::Fail;
    for (key, given) in [("packing", run.data.packing), ("format", run.data.format != DataFormat::Auto), ("bad_lines", skips)] {
        if given {
            return Err(run.refuse("data", key, "is for language models; leave it out where rows have classes").into());
        }
    }
    if run.activations.budget.is_some() {
        return Err(run.refuse("activations", "budget", "is divided for language models only; give bits or a rank").into());
    }
    let rows = run.rows_at_once(ranks)?;
    policy::check_activations(run, model, (rows * run.data.sequence_length) as i64)?;
    policy_lora::check(run, model, &policy_lora::lora(run)?)?;
    if run.data.sequence_length as i64 > longest {
        let what = format!("is {}, the model knows positions up to {longest}", run.data.sequence_length);
        return Err(run.refuse("data", "sequence_length", &what).into());
    }
    text::open(run, checkpoint).map(|_| ())
}
