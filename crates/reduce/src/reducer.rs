use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tch::Tensor;

use collective::ProcessGroup;

use crate::bucket_reducer::{BucketMethod, BucketReducer};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hints::ParamHints;
use crate::parameter::{Parameter, device_of};
use crate::queue::{Queue, lock};
use crate::workers::{self, ReduceWorkers};
use crate::{agreement, shared_basis};

/// What one call of [`GradientReducer::reduce`] sent, and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// The bytes of gradients, compressed or not, that this rank handed to all-reduces. The 24
    /// bytes, and 8 for each parameter, by which the ranks agree on which gradients are there are
    /// not counted.
    pub bytes: u64,
    /// What [`Method::Exact`](crate::Method::Exact) hands over: four bytes per element.
    pub exact_bytes: u64,
    /// Time in which gradients were compressed and summed; on a GPU, in which that was queued.
    pub busy: Duration,
    /// The part of it that backward did not hide: time spent in [`GradientReducer::reduce`].
    pub waited: Duration,
}

/// Replaces gradients by their mean over all ranks.
///
/// All buffers are made once, in [`GradientReducer::new`], which lets the parameters' `.grad` lie
/// in them: in f32 they are the gradients. Gradients of another dtype than the buckets' (bf16 sent
/// as f32, f32 sent as bf16) are copied, which takes 4 or 2 bytes per element;
/// [`Method::PowerSgd`](crate::Method::PowerSgd) takes 4 more per compressed element for its error
/// memory. Rows of [embeddings](ParamHints::sparse_grad_embeddings) that travel alone are copied in
/// each step, as only the step knows how many they are.
///
/// A parameter has one reducer at a time, which uses its gradient hook.
pub struct GradientReducer {
    group: Arc<dyn ProcessGroup>,
    parameters: Arc<Vec<Parameter>>,
    queue: Arc<Mutex<Queue>>,
    /// Absent where this thread reduces.
    workers: Option<ReduceWorkers>,
}

impl GradientReducer {
    /// Prepares for `parameters` (name and leaf tensor of f32 or bf16, all on one device, whose
    /// tensors `group` carries). All ranks call it, with the same list and configuration.
    ///
    /// # Errors
    /// On every rank, if on any rank a parameter or the configuration cannot be used, or differs
    /// from the others'.
    pub fn new(
        group: Arc<dyn ProcessGroup>,
        parameters: &[(String, Tensor)],
        config: Config,
    ) -> Result<GradientReducer> {
        GradientReducer::with_hints(group, parameters, &ParamHints::default(), config)
    }

    /// The same, with what is known of the gradients.
    ///
    /// # Errors
    /// As [`GradientReducer::new`].
    pub fn with_hints(
        group: Arc<dyn ProcessGroup>,
        parameters: &[(String, Tensor)],
        hints: &ParamHints,
        config: Config,
    ) -> Result<GradientReducer> {
        let local = config.validate().and_then(|()| Parameter::list(parameters));
        let parameters = Arc::new(agreement::agree_on_parameters(&*group, local, hints, &config)?);
        let _no_grad = tch::no_grad_guard();
        let reducers = BucketReducer::all(&parameters, hints, &config)?;
        let (jobs, workers) = match group.world_size() > 1 && config.overlap {
            true => ReduceWorkers::start(&*group, device_of(&parameters))
                .map(|(jobs, workers)| (jobs, Some(workers)))?,
            false => (Vec::new(), None),
        };
        let queue = Arc::new(Mutex::new(Queue::new(parameters.clone(), reducers, jobs)));
        for (member, parameter) in parameters.iter().enumerate() {
            let queue = queue.clone();
            autograd::on_gradient(parameter.tensor(), move |_| {
                let _no_grad = tch::no_grad_guard();
                Ok(lock(&queue).complete(member)?)
            })?;
        }
        Ok(GradientReducer { group, parameters, queue, workers })
    }

    /// The backward pass that comes now completes the gradients of `step` (counted from 0): each
    /// bucket leaves as soon as all of it is complete. [`GradientReducer::reduce`] must follow.
    /// Without this call, everything happens there.
    pub fn begin(&mut self, step: u64) {
        lock(&self.queue).begin(step);
    }

    /// Replaces every `.grad` by its mean over the ranks. All ranks call it, with the same `step`.
    ///
    /// NaN and infinities of any rank appear in the mean on all ranks. In such a step PowerSGD
    /// falls back to the exact mean of the bucket, so that they appear where they are and nowhere
    /// else, and leaves its memory as it was.
    ///
    /// # Errors
    /// On every rank, if a gradient is sparse, or of another shape, dtype or device than its
    /// parameter on any rank, or the steps differ; without [`GradientReducer::begin`], gradients
    /// are untouched then. After it, and after any other error, those of the group or of libtorch,
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
        let mut reducers = Vec::with_capacity(sent + here.len());
        // Means go into the gradients while the next unit is on its way.
        let mut keep = |mut reducer: BucketReducer| {
            reducer.bucket.store(&self.parameters)?;
            reducers.push(reducer);
            Ok::<(), Error>(())
        };
        for mut reducer in here {
            let started = Instant::now();
            bytes += reducer.reduce(&*self.group, step)?;
            spans.push((started, Instant::now()));
            keep(reducer)?;
        }
        if let Some(workers) = &self.workers {
            for number in 0..sent {
                let result = workers.result(number)?;
                result.wait()?;
                bytes += result.bytes?;
                spans.push(result.span);
                keep(result.reducer)?;
            }
        }
        lock(&self.queue).take_back(reducers);
        for (parameter, _) in self.parameters.iter().zip(&is_used).filter(|(_, is_used)| !**is_used)
        {
            autograd::set_gradient(parameter.tensor(), None)?;
        }
        let elements: usize = self.parameters.iter().map(Parameter::numel).sum();
        Ok(Traffic {
            bytes,
            exact_bytes: elements as u64 * 4,
            busy: workers::busy_time(spans),
            waited: started.elapsed(),
        })
    }

    /// Says, for [`Method::SharedBasis`](crate::Method::SharedBasis), which parameters' gradients
    /// (`[m, n]`) are multiples of which bases (`[n, k]`, orthonormal columns, in f32), by name; of
    /// all others, that they are not. Only [those that were named](ParamHints::with_basis) can have
    /// one. The bases are not copied: they must stay as they are. All ranks call it between two
    /// steps, with bases of the same bits, which are not compared; other methods ignore it.
    ///
    /// # Errors
    /// On every rank, if a name was not given before, a basis has another shape, dtype or device,
    /// or the ranks' lists differ; nothing has changed then.
    pub fn set_bases(&mut self, bases: &[(String, Tensor)]) -> Result<()> {
        let mut queue = lock(&self.queue);
        let reducers = queue.reducers()?;
        let shares =
            |reducer: &BucketReducer| matches!(reducer.method, BucketMethod::SharedBasis(_));
        if !reducers.iter().any(shares) {
            return Ok(());
        }
        let _no_grad = tch::no_grad_guard();
        let members = reducers
            .iter()
            .filter(|reducer| shares(reducer))
            .flat_map(|reducer| reducer.bucket.members());
        let announced: Vec<&Parameter> = members.map(|member| &self.parameters[member]).collect();
        agreement::agree_on_bases(&*self.group, shared_basis::check(&announced, bases), bases)?;
        let number =
            |name: &str| self.parameters.iter().position(|parameter| parameter.name() == name);
        let numbered: Vec<(usize, &Tensor)> =
            bases.iter().filter_map(|(name, basis)| Some((number(name)?, basis))).collect();
        for reducer in reducers {
            if let BucketMethod::SharedBasis(shared) = &mut reducer.method {
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
        lock(&self.queue)
            .reducers()?
            .iter_mut()
            .try_for_each(|reducer| reducer.bucket.zero(&self.parameters))
    }

    /// What must be saved to continue bit for bit: copies, each rank's own. The error memory as
    /// `error.NAME` (`[m, n]`) and PowerSGD's warm start as `query.NAME` (`[n, k]`), for each
    /// compressed parameter; empty for the other methods, and while gradients are on their way.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.views().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect()
    }

    /// Loads what [`GradientReducer::state`] gave on this rank, under the same configuration.
    ///
    /// # Errors
    /// A name is missing or unknown, or a tensor has another shape or dtype; nothing is loaded
    /// then. This concerns this rank alone.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let mut own = self.views();
        let refuse =
            |name: &str, reason: String| Err(Error::State { name: name.to_owned(), reason });
        if let Some((name, _)) =
            state.iter().find(|(name, _)| own.iter().all(|(other, _)| other != name))
        {
            return refuse(name, "it is unknown to this configuration".into());
        }
        let mut sources = Vec::with_capacity(own.len());
        for (name, target) in &own {
            let Some((_, source)) = state.iter().find(|(other, _)| other == name) else {
                return refuse(name, "it is missing".into());
            };
            if !source.defined()
                || source.size() != target.size()
                || source.f_kind()? != tch::Kind::Float
            {
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
        let Ok(reducers) = queue.reducers() else { return Vec::new() };
        let of = |reducer: &BucketReducer| match &reducer.method {
            BucketMethod::PowerSgd(powersgd) => powersgd.state(&self.parameters),
            BucketMethod::Whole | BucketMethod::SharedBasis(_) | BucketMethod::SparseRows(_) => {
                Vec::new()
            }
        };
        reducers.iter().flat_map(of).collect()
    }
}

impl Drop for GradientReducer {
    fn drop(&mut self) {
        for parameter in &*self.parameters {
            // It owns the queue, which knows the parameter: a circle.
            let _ = autograd::clear_gradient_hook(parameter.tensor());
        }
        lock(&self.queue).close();
        if let Some(workers) = self.workers.take() {
            workers.join();
        }
    }
}
