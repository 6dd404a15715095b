//! Operations of a transformer whose backward reads what was kept, exactly or compressed.
//!
//! Where an operation needs an input in backward it does not save the tensor: it asks a [`Keep`] (the policy of that site) to keep it and
//! gets a [`Kept`]. Every kept tensor has a [`Place`], and a rank's places share their [`Sites`]: the ledger of bytes, the memories, the watch
//! for what is not finite. Operations that need the same tensor share one `Kept`. Weight gradients are contracted through the factors of a compressed
//! tensor; it is rebuilt only where the mathematics needs it (norms, activation functions, recomputed blocks).
//!
//! Each operation has a plain counterpart in [`reference`](mod@reference), written with libtorch's own differentiable operations, and is tested against it.

mod attention;
mod embedding;
mod error;
mod gated;
mod keep;
mod ledger;
mod linear;
mod loss;
mod norm;
mod recompute;
pub mod reference;
mod rotary;
mod scope;
mod site;
mod sites;

pub use attention::{Mask, attention, segment_mask};
pub use embedding::embedding;
pub use error::Error;
pub use gated::silu_mul;
pub use keep::{Keep, Kept};
pub use ledger::Ledger;
pub use linear::{Lora, Projection, Source, project};
pub use loss::{Targets, chunk_tokens, loss_over_chunks, token_losses};
pub use norm::rms_norm;
pub use recompute::recompute;
pub use rotary::{RotaryTable, rotary};
pub use scope::Scope;
pub use site::{Place, Site};
pub use sites::{Observer, Sites};
