use crate::{Result, base, classify, device, policy, policy_lora, policy_quantization};
use config::{Run, StartingWeights, Task};
use models::Decoder;

/// Finds everything that is wrong with a run's input but its data, tokenizer and chat template (see [`crate::RunData::prepare`]), without reading a weight or writing anything.
///
/// # Errors
/// The first fault, an [`crate::Error::is_input`].
pub fn check(run: &Run, ranks: usize) -> Result<()> {
    run.check_paths()?;
    device::choose(run, collective::local_rank_hint().unwrap_or(0))?;
    let checkpoint = base::open(run)?;
    check_whole(run)?;
    if run.model.task != Task::CausalLm {
        return classify::check(run, &checkpoint, ranks);
    }
    let model = checkpoint.config()?;
    checkpoint.check(&Decoder::expected(model))?;
    let rows = run.rows_at_once(ranks)?;
    policy::check_activations(run, model, (rows * run.data.sequence_length) as i64)?;
    let lora = policy_lora::lora(run)?;
    policy_lora::check(run, model, &lora)?;
    policy_quantization::check(run, model, Some(&checkpoint), &lora)?;
    if run.data.sequence_length as i64 > model.max_positions {
        let what = format!("is {}, the model knows positions up to {}", run.data.sequence_length, model.max_positions);
        return Err(run.error_at("data", "sequence_length", &what).into());
    }
    Ok(())
}

/// Whether a model that is trained whole can be written, and one that begins from nothing is trained whole.
fn check_whole(run: &Run) -> Result<()> {
    if run.lora.is_none() && run.model.path.is_file() {
        let what = "is one file, from which a trained model cannot be written; give a model directory, or add a [lora] table";
        return Err(run.error_at("model", "path", what).into());
    }
    if run.model.weights == StartingWeights::Random {
        if run.model.task == Task::CausalLm {
            return Err(run.error_at("model", "weights", "is for classifiers: a language model is not begun from nothing here").into());
        }
        if run.lora.is_some() {
            let what = "leaves all weights to be trained, and the [lora] table says that few are; remove one of them";
            return Err(run.error_at("model", "weights", what).into());
        }
    }
    Ok(())
}
