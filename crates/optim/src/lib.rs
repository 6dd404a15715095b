//! Optimizers, learning rate schedules, parameter groups and gradient clipping for [`tch`] tensors.
//!
//! [`Optimizer`] steps parameters by AdamW, AdamW with 8-bit states, Lion, SGD or Muon, as
//! `torch.optim` and bitsandbytes define them. Each state is allocated once, in [`Optimizer::new`];
//! a step allocates nothing that grows with the model. A [`Partition`] shards the states across
//! ranks (ZeRO stage 1); [`Optimizer::exchange`] then broadcasts what each rank has stepped.
//! [`optimizer_bytes`] gives the bytes of all of it from shapes alone.
//!
//! ```
//! use loract_optim::{Optimizer, Partition, TrainedParam, clip_grad_norm, lr_multiplier};
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("config.toml");
//! # std::fs::write(&file, "[model]\npath = 'm'\n[lora]\n[data]\ntrain = 't'\n")?;
//! # let run = config::Run::load(&file, &[])?;
//! // `run` is a `config::Run`: `[optimizer]` with AdamW, `[schedule]` with a cosine.
//! let weight = Tensor::ones([2, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
//! let params = [TrainedParam { tensor: &weight, lr_scale: 1.0, is_hidden_matrix: true }];
//! let mut optimizer = Optimizer::new(&params, &run.optimizer, Partition::WHOLE)?;
//! for step in 0..10 {
//!     weight.square().sum(Kind::Float).backward();
//!     clip_grad_norm(&[&weight], 1.0)?;
//!     optimizer.step(0.1 * lr_multiplier(&run.schedule, step, 10))?;
//!     weight.shallow_clone().zero_grad();
//! }
//! assert!(weight.max().double_value(&[]) < 1.0);
//! # Ok(())
//! # }
//! ```

mod clip;
mod error;
mod optimizer;
mod parameter_groups;
mod schedule;

pub use clip::clip_grad_norm;
pub use error::{Error, Result};
pub use optimizer::{
    EXCHANGE_BYTES, Optimizer, OptimizerState, Partition, TrainedParam, TrainedShape,
    optimizer_bytes,
};
pub use parameter_groups::parameter_groups;
pub use schedule::lr_multiplier;
