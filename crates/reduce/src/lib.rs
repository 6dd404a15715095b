//! Gradients to their mean over all ranks: exact, or compressed by PowerSGD (Vogels, Karimireddy, Jaggi 2019, arXiv 1905.13727).
//!
//! After the backward pass each rank calls [`GradientReducer::reduce`], which replaces every parameter's `.grad` by the mean over the
//! ranks, with the same bits on each:
//!
//! ```no_run
//! # fn step(group: std::sync::Arc<dyn collective::ProcessGroup>, parameters: Vec<(String, tch::Tensor)>) -> Result<(), reduce::Error> {
//! let mut reducer = reduce::GradientReducer::new(group, &parameters, reduce::Config::default())?;
//! for step in 0..100 {
//!     // ... forward, backward ...
//!     let traffic = reducer.reduce(step)?;
//!     println!("{} bytes instead of {}", traffic.bytes, traffic.exact_bytes);
//! }
//! # Ok(()) }
//! ```
//!
//! The same bits need the same arithmetic: ranks that compress must run on the same kind of processor with the same number of threads.
//!
//! Every error that concerns one rank alone (a missing gradient, an own list of parameters) is an `Err` on all ranks, and names it.

mod agreement;
mod config;
mod error;
mod exact;
mod parameter;
mod powersgd;
mod query;

use std::sync::Arc;

use collective::ProcessGroup;
use tch::Tensor;

pub use config::{Config, Method, PowerSgdConfig};
pub use error::{Error, Result};

use exact::Exact;
use parameter::Parameter;
use powersgd::PowerSgd;

/// What one call of [`GradientReducer::reduce`] sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// The bytes of gradients, compressed or not, that this rank handed to all-reduces. The 24 bytes by which the ranks agree that all
    /// gradients are there are not counted.
    pub bytes: u64,
    /// What [`Method::Exact`] hands over: four bytes per element.
    pub exact_bytes: u64,
}

/// Replaces gradients by their mean over all ranks.
///
/// All buffers are made once, in [`GradientReducer::new`]: 4 bytes per element for [`Method::Exact`] (2 for [`Method::Bf16`]), and 4
/// more per compressed element for the error memory of [`Method::PowerSgd`].
pub struct GradientReducer {
    group: Arc<dyn ProcessGroup>,
    parameters: Vec<Parameter>,
    method: Reducer,
}

enum Reducer {
    Exact(Exact),
    PowerSgd(PowerSgd),
}

impl GradientReducer {
    /// Prepares for `parameters` (name and leaf tensor of f32 or bf16, all on one device). All ranks call it, with the same list and
    /// configuration.
    ///
    /// # Errors
    /// On every rank, if on any rank a parameter or the configuration cannot be used, or differs from the others'.
    pub fn new(group: Arc<dyn ProcessGroup>, parameters: &[(String, Tensor)], config: Config) -> Result<GradientReducer> {
        let local = config.validate().and_then(|()| Parameter::list(parameters));
        let parameters = agreement::agree_on_parameters(&*group, local, &config)?;
        let _no_grad = tch::no_grad_guard();
        let method = match config.method {
            Method::Exact => Reducer::Exact(Exact::new(&parameters, tch::Kind::Float, config.bucket_bytes)?),
            Method::Bf16 => Reducer::Exact(Exact::new(&parameters, tch::Kind::BFloat16, config.bucket_bytes)?),
            Method::PowerSgd(powersgd) => Reducer::PowerSgd(PowerSgd::new(&parameters, powersgd, config.seed)?),
        };
        Ok(GradientReducer { group, parameters, method })
    }

    /// Replaces every `.grad` by its mean over the ranks. All ranks call it, with the same `step` (counted from 0).
    ///
    /// NaN and infinities of any rank appear in the mean on all ranks. In such a step PowerSGD falls back to the exact mean, so that they
    /// appear where they are and nowhere else, and leaves its memory as it was.
    ///
    /// # Errors
    /// On every rank, if a gradient is missing, sparse, or of another shape, dtype or device than its parameter on any rank, or the
    /// steps differ; gradients are untouched then. After any other error, those of the group or of libtorch, they may hold anything.
    pub fn reduce(&mut self, step: u64) -> Result<Traffic> {
        let _no_grad = tch::no_grad_guard();
        let mut gradients = agreement::agree_on_gradients(&*self.group, &self.parameters, step)?;
        let bytes = match &mut self.method {
            Reducer::Exact(exact) => exact.reduce(&*self.group, &mut gradients)?,
            Reducer::PowerSgd(powersgd) => powersgd.reduce(&*self.group, step, &mut gradients)?,
        };
        let elements: usize = self.parameters.iter().map(Parameter::numel).sum();
        Ok(Traffic { bytes, exact_bytes: elements as u64 * 4 })
    }

    /// What must be saved to continue bit for bit: copies, each rank's own. The error memory as `error.NAME` (`[m, n]`) and PowerSGD's
    /// warm start as `query.NAME` (`[n, k]`), for each compressed parameter; empty for the other methods.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        match &self.method {
            Reducer::Exact(_) => Vec::new(),
            Reducer::PowerSgd(powersgd) => {
                powersgd.state(&self.parameters).into_iter().map(|(name, tensor)| (name, tensor.copy())).collect()
            }
        }
    }

    /// Takes up what [`GradientReducer::state`] gave on this rank, under the same configuration.
    ///
    /// # Errors
    /// A name is missing or unknown, or a tensor has another shape or dtype; nothing is loaded then. This concerns this rank alone.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let mut own = match &self.method {
            Reducer::Exact(_) => Vec::new(),
            Reducer::PowerSgd(powersgd) => powersgd.state(&self.parameters),
        };
        let refuse = |name: &str, reason: String| Err(Error::State { name: name.to_owned(), reason });
        if let Some((name, _)) = state.iter().find(|(name, _)| own.iter().all(|(known, _)| known != name)) {
            return refuse(name, "it is unknown to this configuration".into());
        }
        let mut sources = Vec::with_capacity(own.len());
        for (name, target) in &own {
            let Some((_, source)) = state.iter().find(|(known, _)| known == name) else {
                return refuse(name, "it is missing".into());
            };
            if !source.defined() || source.size() != target.size() || source.f_kind()? != tch::Kind::Float {
                return refuse(name, format!("it must be f32 of shape {:?}", target.size()));
            }
            sources.push(source);
        }
        for ((_, target), source) in own.iter_mut().zip(sources) {
            target.f_copy_(source)?;
        }
        Ok(())
    }
}
