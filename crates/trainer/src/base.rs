use crate::Result;
use config::{Run, StartingWeights};
use models::Checkpoint;

/// The model that a run starts from.
///
/// # Errors
/// Those of [`Checkpoint::open`].
pub(crate) fn open(run: &Run) -> Result<Checkpoint> {
    Ok(match run.model.weights {
        StartingWeights::Pretrained => Checkpoint::open(&run.model.path)?,
        StartingWeights::Random => Checkpoint::open_untrained(&run.model.path)?,
    })
}
