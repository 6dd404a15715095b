use config::{Model, StartingWeights};
use models::Checkpoint;

use crate::Result;

/// Opens the model that a run starts from, without reading its weights.
///
/// # Errors
/// Those of [`Checkpoint::open`].
pub fn open_base_model(model: &Model) -> Result<Checkpoint> {
    Ok(match model.weights {
        StartingWeights::Pretrained => Checkpoint::open(&model.path)?,
        StartingWeights::Random => Checkpoint::open_untrained(&model.path)?,
    })
}
