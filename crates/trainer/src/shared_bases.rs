//! Bases that all ranks share: which gradients lie in them, and how the ranks agree on them.

use crate::Result;
use collective::{ProcessGroup, Reduce};
use layers::{Keep, Place, Site, Sites};
use lowrank::{Method, Options};
use models::{Activations, AdapterConfig, Decoder, ModelConfig};
use reduce::GradientReducer;
use tch::{Kind, Tensor};

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
    pub place: Place,
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
            let Keep::Code(Options { method: Method::Shared, rank, .. }) = keep else { continue };
            let place = Place { layer: Some(layer), site: Some(site) };
            for linear in linears {
                let width = linear.inputs;
                let rank = rank.of(width, width).unwrap_or(width);
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

/// When the ranks agree: often while bases are new, then every `steps`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub steps: u64,
}

impl Schedule {
    /// Steps from the first, after each of which the ranks agree.
    const EARLY: u64 = 3;

    /// Whether the ranks agree after `step` (from 0).
    pub fn is_due(self, step: u64) -> bool {
        step < Self::EARLY || step.is_multiple_of(self.steps)
    }
}

/// Turns all bases to what all ranks have seen, and tells the reducer. All ranks call it, between two steps. Returns the bytes handed over.
pub(crate) fn agree(sites: &Sites, group: &dyn ProcessGroup, reducer: &mut GradientReducer, readers: &[Reader]) -> Result<u64> {
    let _mode = autograd::GradMode::disabled();
    let mut seen = sites.seen();
    let mut bytes = 0;
    for (_, sum) in &mut seen {
        bytes += (sum.numel() * sum.kind().elt_size_in_bytes()) as u64;
        group.all_reduce(sum, Reduce::Sum)?;
    }
    sites.agree(&seen)?;
    tell(sites, reducer, readers)?;
    Ok(bytes)
}

/// Tells the reducer which gradients lie in which bases.
pub(crate) fn tell(sites: &Sites, reducer: &mut GradientReducer, readers: &[Reader]) -> Result<()> {
    let of = |reader: &Reader| Some((reader.parameter.clone(), sites.shared_basis(reader.place).filter(is_f32)?));
    Ok(reducer.set_bases(&readers.iter().filter_map(of).collect::<Vec<(String, Tensor)>>())?)
}

fn is_f32(basis: &Tensor) -> bool {
    basis.kind() == Kind::Float
}
