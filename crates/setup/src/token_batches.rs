use tch::{Device, Tensor};

use data::{Batch, Dataset, Padding, Sample};
use models::Inputs;

use crate::Result;

/// Collates the samples `indices` into micro-batches of `rows` samples each (0: one of all), padded
/// to their longest. Also gives their tokens, padding not counted.
///
/// # Errors
/// A sample that cannot be read.
pub fn micro_batches(
    dataset: &Dataset,
    indices: &[usize],
    rows: usize,
    pad: u32,
) -> Result<(Vec<Batch>, usize)> {
    let rows = if rows > 0 { rows } else { indices.len().max(1) };
    let mut tokens = 0;
    let mut batches = Vec::with_capacity(indices.len().div_ceil(rows));
    for chunk in indices.chunks(rows) {
        let samples =
            chunk.iter().map(|index| dataset.sample(*index)).collect::<data::Result<Vec<_>>>()?;
        tokens += samples.iter().map(Sample::len).sum::<usize>();
        batches.push(Batch::collate(&samples, pad, Padding::Longest)?);
    }
    Ok((batches, tokens))
}

/// Moves a batch to `device`: the model's inputs, and the targets `[rows, columns]`.
///
/// # Errors
/// Those of libtorch.
pub fn to_device(batch: &Batch, device: Device) -> Result<(Inputs, Tensor)> {
    let shape = [batch.rows as i64, batch.columns as i64];
    let tensor = |values: &[i64]| {
        Ok::<_, crate::Error>(Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(device)?)
    };
    let packed = batch.segments.is_some();
    let inputs = Inputs {
        ids: tensor(&batch.input_ids)?,
        // In rows of one segment positions are 0, 1, 2, …, which the model makes itself.
        positions: if packed { Some(tensor(&batch.positions)?) } else { None },
        segments: batch.segments.as_deref().map(tensor).transpose()?,
    };
    Ok((inputs, tensor(&batch.targets)?))
}
