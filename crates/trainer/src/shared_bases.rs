//! Bases of activations that all ranks share: when and how the ranks synchronize them.

use tch::Tensor;

use collective::{ProcessGroup, Reduce};
use layers::ActivationStore;
use reduce::GradientReducer;
use setup::SharedBasisParam;

use crate::Result;
use crate::consistency::compare_tensors;

/// After each of the first steps the bases are synchronized: they are new then.
const EARLY_STEPS: u64 = 3;

/// Whether the ranks synchronize their bases after `step` (from 0): every `basis_steps`, and early
/// on.
pub(crate) fn is_due(step: u64, basis_steps: u64) -> bool {
    step < EARLY_STEPS || step.is_multiple_of(basis_steps)
}

/// Updates all bases from the activations of all ranks, and publishes them to the reducer. All
/// ranks call it after `step` (from 0). Returns the bytes sent.
///
/// # Errors
/// On every rank, if bases differ between ranks.
pub(crate) fn sync(
    sites: &ActivationStore,
    group: &dyn ProcessGroup,
    reducer: &mut GradientReducer,
    params: &[SharedBasisParam],
    step: u64,
) -> Result<u64> {
    let _mode = autograd::GradMode::disabled();
    let mut accumulated = sites.accumulated();
    let mut bytes = 0;
    for (_, sum) in &mut accumulated {
        bytes += (sum.numel() * sum.kind().elt_size_in_bytes()) as u64;
        group.all_reduce(sum, Reduce::Sum)?;
    }
    sites.sync(&accumulated)?;
    let bases: Vec<(String, Tensor)> = accumulated
        .iter()
        .filter_map(|(place, _)| Some((place.to_string(), sites.shared_basis(*place)?)))
        .collect();
    compare_tensors(
        group,
        step + 1,
        "bases",
        bases.iter().map(|(name, basis)| (name.clone(), basis)),
    )?;
    publish(sites, reducer, params)?;
    Ok(bytes)
}

/// Tells the reducer which gradients lie in which bases. All ranks call it.
pub(crate) fn publish(
    sites: &ActivationStore,
    reducer: &mut GradientReducer,
    params: &[SharedBasisParam],
) -> Result<()> {
    let basis = |param: &SharedBasisParam| {
        Some((param.parameter.clone(), sites.shared_basis(param.place)?))
    };
    Ok(reducer.set_bases(&params.iter().filter_map(basis).collect::<Vec<(String, Tensor)>>())?)
}
