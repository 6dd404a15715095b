//! Operations of a transformer whose backward reads what was kept, exactly or compressed.
//!
//! Where an operation needs an input in backward it does not save the tensor: it asks a [`SavePolicy`] (the policy of that site) to keep it and
//! gets a [`SavedActivation`]. Every kept tensor has a [`SiteId`], and a rank's places share their [`ActivationStore`]: the ledger of bytes, the memories, the watch
//! for what is not finite. Operations that need the same tensor share one `SavedActivation`. Weight gradients are contracted through the factors of a compressed
//! tensor; it is rebuilt only where the mathematics needs it (norms, activation functions, recomputed blocks).
//!
//! A weight that is frozen may be [`QuantizedWeight`] in few bits: an operation expands it in forward, and again in backward, and holds it in between as it is.
//!
//! Each operation has a plain counterpart in [`reference`](mod@reference), written with libtorch's own differentiable operations, and is tested against it.

mod activation;
mod activation_store;
mod attention;
mod clamp;
mod delta_chain;
mod dropout;
mod embedding;
mod error;
mod experts;
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
