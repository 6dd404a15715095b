//! Everything that can be wrong with a run before a weight is read.

mod classifier;

use config::{Run, StartingWeights, Task};
use models::Decoder;

use crate::{
    Result, adapter_source, check_activations, check_adapter, check_quantization, open_base_model,
    rank_device,
};

/// Finds everything that is wrong with a run's input but its data, tokenizer and chat template (see
/// [`crate::RunData::prepare`]), without reading a weight or writing anything.
///
/// # Errors
/// The first fault, an [`crate::Error::is_input`].
pub fn check(run: &Run, world_size: usize) -> Result<()> {
    run.check_paths()?;
    rank_device(run, collective::local_rank_hint().unwrap_or(0))?;
    let checkpoint = open_base_model(&run.model)?;
    check_full_training(run)?;
    if run.model.task != Task::CausalLm {
        return classifier::check(run, &checkpoint, world_size);
    }
    let model = checkpoint.config()?;
    checkpoint.check(&Decoder::tensor_shapes(model))?;
    let rows = run.rows_at_once(world_size)?;
    check_activations(run, model, (rows * run.data.sequence_length) as i64)?;
    let adapter = adapter_source(run.lora.as_ref(), &run.model)?;
    check_adapter(run, model, &adapter)?;
    check_quantization(run, model, Some(&checkpoint), &adapter)?;
    if run.data.sequence_length as i64 > model.max_positions {
        let what = format!(
            "is {}, the model knows positions up to {}",
            run.data.sequence_length, model.max_positions
        );
        return Err(run.error_at("data", "sequence_length", &what).into());
    }
    Ok(())
}

/// Whether a fully trained model can be written, and one with random weights is fully trained.
fn check_full_training(run: &Run) -> Result<()> {
    if run.lora.is_none() && run.model.path.is_file() {
        let what = "is one file, from which a trained model cannot be written; give a model directory, or add a [lora] table";
        return Err(run.error_at("model", "path", what).into());
    }
    if run.model.weights == StartingWeights::Random {
        if run.model.task == Task::CausalLm {
            return Err(run
                .error_at(
                    "model",
                    "weights",
                    "is for classifiers: a language model is not trained from scratch here",
                )
                .into());
        }
        if run.lora.is_some() {
            let what = "leaves all weights to be trained, and the [lora] table says that few are; remove one of them";
            return Err(run.error_at("model", "weights", what).into());
        }
    }
    Ok(())
}
