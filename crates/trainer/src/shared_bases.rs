//! Bases that all ranks share: which gradients lie in them, and how the ranks agree on them.

use crate::Result;
use crate::fingerprint::compare_tensors;
use collective::{ProcessGroup, Reduce};
use compression::{Method, Options};
use layers::{ActivationStore, SavePolicy, Site, SiteId};
use models::{Activations, AdapterConfig, Decoder, ModelConfig};
use reduce::GradientReducer;
use tch::Tensor;

/// A weight whose gradient is a multiple of the basis on which its input is projected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    /// The parameter.
    pub parameter: String,
    /// Rows and columns of its gradient.
    pub shape: [i64; 2],
    /// Columns of the basis.
    pub rank: i64,
    /// Where its input is kept.
    pub place: SiteId,
}

/// The weights and LoRA matrices A that read an input kept by [`Method::Shared`], of those that are `trained`. Inputs from which LoRA drops elements
/// are none of these, and the experts of a mixture, each of which sees a part of the tokens.
pub(crate) fn readers(
    model: &ModelConfig,
    activations: &Activations,
    adapter: Option<&AdapterConfig>,
    trained: impl Fn(&str) -> bool,
) -> Result<Vec<Reader>> {
    if adapter.is_some_and(|adapter| adapter.lora_dropout > 0.0) {
        return Ok(Vec::new());
    }
    let mut readers = Vec::new();
    for (layer, block) in Decoder::outline(model)?.into_iter().enumerate() {
        let policy = activations.layer(layer);
        let (mlp_in, mlp_out) = if model.layers[layer].mixture { (vec![], vec![]) } else { (block.into_mlp, vec![block.out_of_mlp]) };
        // Some read a latent form instead of the hidden states.
        let attn_in = block.into_attention.into_iter().filter(|linear| linear.inputs == model.hidden_size).collect();
        for (site, keep, linears) in [
            (Site::AttnIn, policy.attn_in, attn_in),
            (Site::AttnOut, policy.attn_out, vec![block.out_of_attention]),
            (Site::MlpIn, policy.mlp_in, mlp_in),
            (Site::MlpOut, policy.mlp_out, mlp_out),
        ] {
            let SavePolicy::Code(Options { method: Method::Shared, rank, .. }) = keep else { continue };
            let place = SiteId { layer: Some(layer), site: Some(site) };
            for linear in linears {
                let width = linear.inputs;
                let rank = rank.resolve(width, width).unwrap_or(width);
                // The gradient of a weight that is stored transposed has its columns in the basis, and is none of these.
                let weight = (!model.fan_in_fan_out()).then(|| (format!("{}.weight", linear.path), linear.outputs));
                let pair = adapter.filter(|adapter| adapter.targets(&linear.path));
                let pair = pair.map(|adapter| (format!("{}.lora_A.weight", linear.path), adapter.rank_of(&linear.path)));
                let found = weight.into_iter().chain(pair).filter(|(parameter, _)| trained(parameter));
                readers.extend(found.map(|(parameter, rows)| Reader { parameter, shape: [rows, width], rank, place }));
            }
        }
    }
    Ok(readers)
}

/// Steps from the first, after each of which the ranks agree: bases are new then.
const EARLY: u64 = 3;

/// Whether the ranks agree after `step` (from 0), which they do every `basis_steps`.
pub(crate) fn is_due(step: u64, basis_steps: u64) -> bool {
    step < EARLY || step.is_multiple_of(basis_steps)
}

/// Turns all bases to what all ranks have seen, and tells the reducer. All ranks call it after `step` (from 0). Returns the bytes handed over.
///
/// # Errors
/// On every rank, if bases differ between ranks.
pub(crate) fn agree(
    sites: &ActivationStore,
    group: &dyn ProcessGroup,
    reducer: &mut GradientReducer,
    readers: &[Reader],
    step: u64,
) -> Result<u64> {
    let _mode = autograd::GradMode::disabled();
    let mut seen = sites.accumulated();
    let mut bytes = 0;
    for (_, sum) in &mut seen {
        bytes += (sum.numel() * sum.kind().elt_size_in_bytes()) as u64;
        group.all_reduce(sum, Reduce::Sum)?;
    }
    sites.sync(&seen)?;
    let bases: Vec<(String, Tensor)> =
        seen.iter().filter_map(|(place, _)| Some((place.to_string(), sites.shared_basis(*place)?))).collect();
    compare_tensors(group, step + 1, "bases", bases.iter().map(|(name, basis)| (name.clone(), basis)))?;
    tell(sites, reducer, readers)?;
    Ok(bytes)
}

/// Tells the reducer which gradients lie in which bases. All ranks call it.
pub(crate) fn tell(sites: &ActivationStore, reducer: &mut GradientReducer, readers: &[Reader]) -> Result<()> {
    let of = |reader: &Reader| Some((reader.parameter.clone(), sites.shared_basis(reader.place)?));
    Ok(reducer.set_bases(&readers.iter().filter_map(of).collect::<Vec<(String, Tensor)>>())?)
}
