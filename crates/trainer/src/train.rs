//! A run of a configuration, as one of its ranks.

use std::sync::Arc;

use collective::ProcessGroup;
use config::{Run, Task};
use setup::{FaultInjection, open_base_model, rank_device};

use crate::signals::StopRequest;
use crate::train_setup::TrainSetup;
use crate::training_loop::{TrainOutcome, training_loop};
use crate::{Result, start_heartbeat};

/// Trains as one rank of `group`, on the data that [`setup::RunData::write`] put into the run's
/// directory.
///
/// It resumes from the newest intact checkpoint there, or starts from scratch. Rank 0 writes
/// `metrics.jsonl`, `summary.json` and `adapter/` or `model/`, and every rank its shard of
/// `checkpoints/`. Once `stop` asks any rank, all save and stop at the end of that step.
///
/// All ranks make the same collective calls. An error on one rank must end the job, which is the
/// caller's task ([`collective::run`]).
///
/// # Errors
/// Anything that [`setup::check`] finds, and failures during training.
pub fn train(run: &Run, group: Arc<dyn ProcessGroup>, stop: &StopRequest) -> Result<TrainOutcome> {
    let heartbeat = start_heartbeat(run, &*group)?;
    let outcome = train_watched(run, group, stop)?;
    heartbeat.leave();
    Ok(outcome)
}

/// The same for a caller that has started a heartbeat ([`start_heartbeat`]), which then also watches
/// what comes before and after.
///
/// # Errors
/// As [`train`].
pub fn train_watched(
    run: &Run,
    group: Arc<dyn ProcessGroup>,
    stop: &StopRequest,
) -> Result<TrainOutcome> {
    let fault = FaultInjection::from_environment()?;
    let device = rank_device(run, group.local_rank())?;
    let group = group.with_device(device)?;
    let checkpoint = open_base_model(&run.model)?;
    tracing::info!("loading {} onto {device:?}", run.model.path.display());
    let setup = match run.model.task {
        Task::CausalLm => TrainSetup::causal_lm(run, checkpoint, device, &*group)?,
        Task::SequenceClassification | Task::ImageClassification => {
            TrainSetup::classification(run, checkpoint, device, group.world_size())?
        }
    };
    training_loop(run, &group, stop, fault, setup)
}
