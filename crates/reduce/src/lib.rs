//! Gradients to their mean over all ranks: exact, compressed by PowerSGD (Vogels, Karimireddy, Jaggi 2019, arXiv 1905.13727), or as coefficients in
//! bases that the ranks share.
//!
//! Each rank tells the reducer before its last backward pass of a step ([`GradientReducer::begin`]) and calls
//! [`GradientReducer::reduce`] after it, which leaves the mean over the ranks in every parameter's `.grad`, with the same bits on each:
//!
//! ```no_run
//! # fn step(group: std::sync::Arc<dyn collective::ProcessGroup>, parameters: Vec<(String, tch::Tensor)>) -> Result<(), reduce::Error> {
//! let mut reducer = reduce::GradientReducer::new(group, &parameters, reduce::Config::default())?;
//! for step in 0..100 {
//!     // ... forward and backward of all micro-batches but the last ...
//!     reducer.begin(step);
//!     // ... forward and backward of the last: gradients leave as they become complete ...
//!     let traffic = reducer.reduce(step)?;
//!     println!("{} bytes instead of {}", traffic.bytes, traffic.exact_bytes);
//!     // ... a step of the optimiser ...
//!     reducer.zero_gradients()?;
//! }
//! # Ok(()) }
//! ```
//!
//! A gradient travels in a bucket ([`Config::bucket_bytes`]) with its neighbours. Gradient hooks fill the buckets, from the last parameter to
//! the first, and threads with [groups of their own](collective::ProcessGroup::duplicate) compress and sum them while backward goes on: two
//! on the CPU, one on a GPU.
//! Where gradients have the dtype of the buckets they live in them: nothing is copied, and exact sums need no memory beyond the gradients.
//!
//! A parameter that backward does not reach on some ranks counts as zero there; one that no rank reaches keeps no gradient, as in a single
//! process.
//!
//! The same bits need the same arithmetic: ranks that compress must run on the same kind of processor with the same number of threads.
//!
//! Every error that concerns one rank alone (a gradient of another shape, an own list of parameters) is an `Err` on all ranks, and names it.

mod agreement;
mod bucket;
mod carrier;
mod config;
mod error;
mod parameter;
mod powersgd;
mod query;
mod queue;
mod rows;
mod shared_basis;
mod unit;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use collective::ProcessGroup;
use tch::{Device, Tensor};

pub use config::{Config, Method, PowerSgdConfig};
pub use error::{Error, Result};

use carrier::Carrier;
use parameter::Parameter;
use queue::{Queue, lock};
use unit::{Unit, Way};

/// What one call of [`GradientReducer::reduce`] sent, and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// The bytes of gradients, compressed or not, that this rank handed to all-reduces. The 24 bytes, and 8 for each parameter, by which
    /// the ranks agree on which gradients are there are not counted.
    pub bytes: u64,
    /// What [`Method::Exact`] hands over: four bytes per element.
    pub exact_bytes: u64,
    /// Time in which gradients were compressed and summed; on a GPU, in which that was queued.
    pub busy: Duration,
    /// The part of it that backward did not hide: time spent in [`GradientReducer::reduce`].
    pub waited: Duration,
}

/// What is known of gradients before the first of them is there: parameters by name, the same on all ranks. Names of others are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// Those that will have a [basis](GradientReducer::set_bases), for [`Method::SharedBasis`]: they share buckets, apart from those that
    /// travel as they are.
    pub in_bases: Vec<String>,
    /// Tables `[rows, columns]` of which a step reads few rows, embeddings: unless the method compresses them, only rows that differ from zero on
    /// some rank travel where these are at most half, and two bytes for each row. Tables of less than 1 MiB in f32 travel whole.
    pub tables: Vec<String>,
}

/// Replaces gradients by their mean over all ranks.
///
/// All buffers are made once, in [`GradientReducer::new`], which lets the parameters' `.grad` lie in them: in f32 they are the gradients.
/// Gradients of another dtype than the buckets' (bf16 sent as f32, f32 sent as bf16) are copied, which takes 4 or 2 bytes per element;
/// [`Method::PowerSgd`] takes 4 more per compressed element for its error memory. Rows of [tables](Known::tables) that travel alone are copied in each
/// step, as only the step knows how many they are.
///
/// A parameter has one reducer at a time, which uses its gradient hook.
pub struct GradientReducer {
    group: Arc<dyn ProcessGroup>,
    parameters: Arc<Vec<Parameter>>,
    queue: Arc<Mutex<Queue>>,
    /// Absent where this thread reduces.
    carrier: Option<Carrier>,
}

impl GradientReducer {
    /// Prepares for `parameters` (name and leaf tensor of f32 or bf16, all on one device, whose tensors `group` carries). All ranks call it, with the same list and
    /// configuration.
    ///
    /// # Errors
    /// On every rank, if on any rank a parameter or the configuration cannot be used, or differs from the others'.
    pub fn new(group: Arc<dyn ProcessGroup>, parameters: &[(String, Tensor)], config: Config) -> Result<GradientReducer> {
        GradientReducer::knowing(group, parameters, &Known::default(), config)
    }

    /// The same, with what is known of the gradients.
    ///
    /// # Errors
    /// As [`GradientReducer::new`].
    pub fn knowing(
        group: Arc<dyn ProcessGroup>,
        parameters: &[(String, Tensor)],
        known: &Known,
        config: Config,
    ) -> Result<GradientReducer> {
        let local = config.validate().and_then(|()| Parameter::list(parameters));
        let parameters = Arc::new(agreement::agree_on_parameters(&*group, local, known, &config)?);
        let _no_grad = tch::no_grad_guard();
        let units = Unit::all(&parameters, known, &config)?;
        let (orders, carrier) = match group.world_size() > 1 && config.overlap {
            true => Carrier::start(&*group, device_of(&parameters)).map(|(orders, carrier)| (orders, Some(carrier)))?,
            false => (Vec::new(), None),
        };
        let queue = Arc::new(Mutex::new(Queue::new(parameters.clone(), units, orders)));
        for (member, parameter) in parameters.iter().enumerate() {
            let queue = queue.clone();
            autograd::on_gradient(parameter.tensor(), move |_| {
                let _no_grad = tch::no_grad_guard();
                Ok(lock(&queue).complete(member)?)
            })?;
        }
        Ok(GradientReducer { group, parameters, queue, carrier })
    }

    /// The backward pass that comes now completes the gradients of `step` (counted from 0): each bucket leaves as soon as all of it is complete.
    /// [`GradientReducer::reduce`] must follow. Without this call, everything happens there.
    pub fn begin(&mut self, step: u64) {
        lock(&self.queue).begin(step);
    }

    /// Replaces every `.grad` by its mean over the ranks. All ranks call it, with the same `step`.
    ///
    /// NaN and infinities of any rank appear in the mean on all ranks. In such a step PowerSGD falls back to the exact mean of the bucket, so
    /// that they appear where they are and nowhere else, and leaves its memory as it was.
    ///
    /// # Errors
    /// On every rank, if a gradient is sparse, or of another shape, dtype or device than its parameter on any rank, or the steps differ;
    /// without [`GradientReducer::begin`], gradients are untouched then. After it, and after any other error, those of the group or of libtorch,
    /// they may hold anything, and the job must end.
    pub fn reduce(&mut self, step: u64) -> Result<Traffic> {
        let _no_grad = tch::no_grad_guard();
        let started = Instant::now();
        let (began, used) = {
            let queue = lock(&self.queue);
            (queue.began(), queue.used())
        };
        if let Some(began) = began.filter(|&began| began != step) {
            return Err(Error::Begun { step, began });
        }
        let is_used = agreement::agree_on_gradients(&*self.group, &self.parameters, &used, step)?;
        let (sent, here) = lock(&self.queue).complete_all(step)?;
        let (mut bytes, mut spans) = (0, Vec::with_capacity(sent + here.len()));
        let mut units = Vec::with_capacity(sent + here.len());
        // Means go into the gradients while the next unit is on its way.
        let mut keep = |mut unit: Unit| {
            unit.bucket.store(&self.parameters)?;
            units.push(unit);
            Ok::<(), Error>(())
        };
        for mut unit in here {
            let started = Instant::now();
            bytes += unit.reduce(&*self.group, step)?;
            spans.push((started, Instant::now()));
            keep(unit)?;
        }
        if let Some(carrier) = &self.carrier {
            for number in 0..sent {
                let answer = carrier.answer(number)?;
                answer.wait()?;
                bytes += answer.bytes?;
                spans.push(answer.span);
                keep(answer.unit)?;
            }
        }
        lock(&self.queue).take_back(units);
        for (parameter, _) in self.parameters.iter().zip(&is_used).filter(|(_, is_used)| !**is_used) {
            autograd::set_gradient(parameter.tensor(), None)?;
        }
        let elements: usize = self.parameters.iter().map(Parameter::numel).sum();
        Ok(Traffic { bytes, exact_bytes: elements as u64 * 4, busy: carrier::union(spans), waited: started.elapsed() })
    }

    /// Says, for [`Method::SharedBasis`], which parameters' gradients (`[m, n]`) are multiples of which bases (`[n, k]`, orthonormal columns, in f32), by
    /// name; of all others, that they are not. Only [those that were named](Known::in_bases) can have one. The bases are not copied: they
    /// must stay as they are. All ranks call it between two steps, with bases of the same bits, which are not compared; other methods ignore it.
    ///
    /// # Errors
    /// On every rank, if a name was not given before, a basis has another shape, dtype or device, or the ranks' lists differ; nothing has changed then.
    pub fn set_bases(&mut self, bases: &[(String, Tensor)]) -> Result<()> {
        let mut queue = lock(&self.queue);
        let units = queue.units()?;
        let shares = |unit: &Unit| matches!(unit.way, Way::SharedBasis(_));
        if !units.iter().any(shares) {
            return Ok(());
        }
        let _no_grad = tch::no_grad_guard();
        let members = units.iter().filter(|unit| shares(unit)).flat_map(|unit| unit.bucket.members());
        let known: Vec<&Parameter> = members.map(|member| &self.parameters[member]).collect();
        agreement::agree_on_bases(&*self.group, shared_basis::check(&known, bases), bases)?;
        let number = |name: &str| self.parameters.iter().position(|parameter| parameter.name() == name);
        let numbered: Vec<(usize, &Tensor)> = bases.iter().filter_map(|(name, basis)| Some((number(name)?, basis))).collect();
        for unit in units {
            if let Way::SharedBasis(shared) = &mut unit.way {
                shared.set(&numbered)?;
            }
        }
        Ok(())
    }

    /// Zeros in all gradients, which is where backward of the next step begins.
    ///
    /// # Errors
    /// Those of libtorch; [`Error::Broken`] after a failure of [`GradientReducer::reduce`].
    pub fn zero_gradients(&mut self) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        lock(&self.queue).units()?.iter_mut().try_for_each(|unit| unit.bucket.zero(&self.parameters))
    }

    /// What must be saved to continue bit for bit: copies, each rank's own. The error memory as `error.NAME` (`[m, n]`) and PowerSGD's
    /// warm start as `query.NAME` (`[n, k]`), for each compressed parameter; empty for the other methods, and while gradients are on their way.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.views().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect()
    }

    /// Takes up what [`GradientReducer::state`] gave on this rank, under the same configuration.
    ///
    /// # Errors
    /// A name is missing or unknown, or a tensor has another shape or dtype; nothing is loaded then. This concerns this rank alone.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let mut own = self.views();
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

    /// What later steps depend on, itself.
    fn views(&self) -> Vec<(String, Tensor)> {
        let mut queue = lock(&self.queue);
        let Ok(units) = queue.units() else { return Vec::new() };
        let of = |unit: &Unit| match &unit.way {
            Way::PowerSgd(powersgd) => powersgd.state(&self.parameters),
            Way::Whole | Way::SharedBasis(_) | Way::Rows(_) => Vec::new(),
        };
        units.iter().flat_map(of).collect()
    }
}

/// Where all parameters are.
fn device_of(parameters: &[Parameter]) -> Device {
    parameters.first().map_or(Device::Cpu, |parameter| parameter.device)
}

impl Drop for GradientReducer {
    fn drop(&mut self) {
        for parameter in &*self.parameters {
            // It owns the queue, which knows the parameter: a circle.
            let _ = autograd::clear_gradient_hook(parameter.tensor());
        }
        lock(&self.queue).close();
        if let Some(carrier) = self.carrier.take() {
            carrier.join();
        }
    }
}
