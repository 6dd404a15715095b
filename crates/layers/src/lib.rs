//! Operations of a transformer whose backward reads what was saved, exactly or compressed: linear
//! maps with LoRA, norms, rotary embeddings, attention, gated activations, mixtures of experts, the
//! loss.
//!
//! Where an operation needs an input in backward, it asks the [`SavePolicy`] of that site to save
//! it and gets a [`SavedActivation`]. Each one has a [`SiteId`]. The sites of a rank's model share
//! an [`ActivationStore`]: the count of saved bytes, the sites' states, and the check for NaN.
//! Operations that read the same tensor share one saved activation. Weight gradients are contracted
//! through the factors of a compressed tensor; it is restored only where the mathematics needs it
//! (norms, activation functions, recomputed blocks).
//!
//! A frozen weight may be a [`QuantizedWeight`] (QLoRA): an operation expands it in forward, again
//! in backward, and holds only its codes in between.
//!
//! Each operation has a plain counterpart in [`reference`](mod@reference), written with libtorch's
//! own differentiable operations, and is tested against it.
//!
//! ```
//! use std::sync::Arc;
//!
//! use compression::{Options, Rank};
//! use loract_layers::{ActivationStore, Projection, SavePolicy, Scope, project};
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> Result<(), loract_layers::Error> {
//! let float = (Kind::Float, Device::Cpu);
//! let (x, weight) = (Tensor::randn([128, 64], float), Tensor::randn([32, 64], float).set_requires_grad(true));
//! let store = Arc::new(ActivationStore::default());
//! let policy = SavePolicy::Code(Options { rank: Rank::Components(8), ..Options::default() });
//!
//! let y = project(&x, &[Projection::new(&weight)], policy, &Scope::training(0, store.clone()))?.remove(0);
//! // Two bf16 factors are saved instead of 128 · 64 floats.
//! assert_eq!(store.saved_bytes().held(), 2 * 8 * (128 + 64));
//! assert_eq!(store.saved_bytes().exact(), 4 * 128 * 64);
//!
//! y.sum(Kind::Float).backward();
//! assert_eq!(weight.grad().size(), [32, 64]);
//! # Ok(()) }
//! ```

mod activation;
mod activation_store;
mod attention;
mod clamp;
mod delta_chain;
mod dropout;
mod embedding;
mod error;
mod experts;
pub mod footprint;
mod gated;
mod layer_norm;
mod linear;
mod loss;
mod mask;
mod quantized_weight;
mod recompute;
pub mod reference;
mod rms_norm;
mod rotary;
mod routing;
mod save_policy;
mod saved_activation;
mod saved_bytes;
mod saved_input;
mod scope;
mod site;
mod split;

pub use activation::Activation;
pub use activation_store::{ActivationStore, Observer};
pub use attention::{Bias, Scores, attention, biased_attention};
pub use clamp::clamp;
pub use dropout::{drop_path, dropout};
pub use embedding::embedding;
pub use error::{Error, Result};
pub use experts::{Dispatch, expert_inputs, expert_outputs};
pub use gated::{activate, gated};
pub use layer_norm::layer_norm;
pub use linear::{Lora, Projection, project};
pub use loss::{Targets, chunk_tokens, loss_over_chunks, token_losses};
pub use mask::{Mask, causal_mask, padding_mask, segment_mask, window_mask};
pub use quantized_weight::{BlockFormat, BlockSize, Matrix, Nf4, QuantizedWeight};
pub use recompute::recompute;
pub use rms_norm::{RmsWeight, rms_norm};
pub use rotary::{Pairs, RotaryTable, rotary};
pub use routing::{Groups, Routing, Scoring, route};
pub use save_policy::SavePolicy;
pub use saved_activation::SavedActivation;
pub use saved_bytes::SavedBytes;
pub use saved_input::{SavedInput, SharedSave};
pub use scope::Scope;
pub use site::{Site, SiteId};
pub use split::split;

/// The dtype of arithmetic on tensors of `kind` that must be precise: f32, or f64 for f64.
fn wide(kind: tch::Kind) -> tch::Kind {
    if kind == tch::Kind::Double { tch::Kind::Double } else { tch::Kind::Float }
}
