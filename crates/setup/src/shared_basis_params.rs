//! Which gradients lie in bases that all ranks share.

use compression::{Method, Options};
use layers::{SavePolicy, Site, SiteId};
use models::{Activations, AdapterConfig, Decoder, ModelConfig};

use crate::Result;

/// A parameter whose gradient lies in the span of the shared basis onto which its input is
/// projected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedBasisParam {
    /// The parameter's name.
    pub parameter: String,
    /// Rows and columns of its gradient.
    pub shape: [i64; 2],
    /// Columns of the basis.
    pub rank: i64,
    /// Where its input is saved.
    pub place: SiteId,
}

/// The `trained` weights and LoRA matrices A whose input is saved by [`Method::Shared`]. With
/// dropout before LoRA there are none; the experts of a mixture are left out, as each sees a part
/// of the tokens.
///
/// # Errors
/// A model whose linear layers are not known.
pub fn shared_basis_params(
    model: &ModelConfig,
    activations: &Activations,
    adapter: Option<&AdapterConfig>,
    trained: impl Fn(&str) -> bool,
) -> Result<Vec<SharedBasisParam>> {
    if adapter.is_some_and(|adapter| adapter.lora_dropout > 0.0) {
        return Ok(Vec::new());
    }
    let mut params = Vec::new();
    for (layer, block) in Decoder::outline(model)?.into_iter().enumerate() {
        let policy = activations.layer(layer);
        let (mlp_in, mlp_out) = if model.layers[layer].mixture {
            (vec![], vec![])
        } else {
            (block.into_mlp, vec![block.out_of_mlp])
        };
        // Some read a latent form instead of the hidden states.
        let attn_in = block
            .into_attention
            .into_iter()
            .filter(|linear| linear.inputs == model.hidden_size)
            .collect();
        for (site, keep, linears) in [
            (Site::AttnIn, policy.attn_in, attn_in),
            (Site::AttnOut, policy.attn_out, vec![block.out_of_attention]),
            (Site::MlpIn, policy.mlp_in, mlp_in),
            (Site::MlpOut, policy.mlp_out, mlp_out),
        ] {
            let SavePolicy::Code(Options { method: Method::Shared, rank, .. }) = keep else {
                continue;
            };
            let place = SiteId { layer: Some(layer), site: Some(site) };
            for linear in linears {
                let width = linear.inputs;
                let rank = rank.resolve(width, width).unwrap_or(width);
                // The gradient of a weight that is stored transposed has its columns in the basis,
                // and is left out.
                let weight = (!model.fan_in_fan_out())
                    .then(|| (format!("{}.weight", linear.path), linear.outputs));
                let pair = adapter.filter(|adapter| adapter.targets(&linear.path));
                let pair = pair.map(|adapter| {
                    (format!("{}.lora_A.weight", linear.path), adapter.rank_of(&linear.path))
                });
                let found =
                    weight.into_iter().chain(pair).filter(|(parameter, _)| trained(parameter));
                params.extend(found.map(|(parameter, rows)| SharedBasisParam {
                    parameter,
                    shape: [rows, width],
                    rank,
                    place,
                }));
            }
        }
    }
    Ok(params)
}
