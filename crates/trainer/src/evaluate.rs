use crate::Result;
use crate::step::tensors;
use collective::{ProcessGroup, Reduce};
use data::{Batch, Dataset, Padding};
use layers::{Scope, Targets};
use models::{Activations, Decoder};
use tch::Tensor;

/// The mean loss over all targets of `dataset`, which the ranks share; `rows` samples at a time.
pub(crate) fn held_out_loss(
    decoder: &Decoder,
    dataset: &Dataset,
    rows: usize,
    pad: u32,
    chunk: i64,
    group: &dyn ProcessGroup,
) -> Result<f64> {
    let _mode = autograd::GradMode::disabled();
    let own: Vec<usize> = (group.rank()..dataset.len()).step_by(group.world_size()).collect();
    let (mut sum, mut count) = (0.0, 0);
    for indices in own.chunks(rows.max(1)) {
        let samples = indices.iter().map(|index| dataset.sample(*index)).collect::<data::Result<Vec<_>>>()?;
        let batch = Batch::collate(&samples, pad, Padding::Longest)?;
        let (inputs, targets) = tensors(&batch, decoder.device())?;
        let targets = Targets::new(&targets)?;
        let hidden = decoder.hidden(&inputs, &Activations::default(), &Scope::evaluation())?;
        sum += decoder.loss(&hidden, &targets, 1.0, chunk, &Scope::evaluation())?.f_double_value(&[])?;
        count += targets.count();
    }
    let mut totals = Tensor::f_from_slice(&[sum, count as f64])?;
    group.all_reduce(&mut totals, Reduce::Sum)?;
    Ok(totals.f_double_value(&[0])? / totals.f_double_value(&[1])?.max(1.0))
}
