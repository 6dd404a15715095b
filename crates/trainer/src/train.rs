use crate::budget::{self, Samples};
use crate::checkpoint::{Moment, Saver, Start, resume};
use crate::classify::{Classes, Rows};
use crate::fault_injection::FaultInjection;
use crate::fingerprint::compare_parameters;
use crate::learner::{Language, Learner};
use crate::metrics::{MetricsFile, StepMetrics, Summary, write_summary};
use crate::optimizer::{Optimizer, Part};
use crate::parameter_groups::parameter_groups;
use crate::policy;
use crate::policy_lora::{self, Lora};
use crate::probe::Probe;
use crate::run_data::{self, RunData};
use crate::shared_bases::{self, Reader};
use crate::signals::StopRequest;
use crate::step::{RankStatus, Stepper};
use crate::{Error, Result, base, device, learning_rate, out_of_memory, policy_quantization, text, watch};
use collective::ProcessGroup;
use config::{GradientMethod, Length, Run, Stream, Task};
use layers::Sites;
use models::{AdapterConfig, Classifier, Decoder, Labels, Model, TargetModules, write_adapter, write_labels, write_model};
use reduce::{GradientReducer, Known};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tch::Tensor;

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// With the last step.
    Finished(Summary),
    /// On a signal, after a checkpoint was written.
    Stopped {
        /// The signal's number.
        signal: i32,
        /// Steps done.
        step: u64,
        /// The checkpoint, from which the same run goes on.
        checkpoint: PathBuf,
    },
}

/// Trains as one rank of `group`, from the data that [`RunData::write`] put into the run's directory: from the newest sound checkpoint there,
/// or from the beginning. Rank 0 writes `metrics.jsonl`, `summary.json` and `adapter/` or `model/`, and every rank its share of `checkpoints/`. Once any
/// rank is asked by `stop`, all save and stop at the end of that step.
///
/// All ranks make the same collective calls; an error on one alone must end the job, which is the caller's part ([`collective::run`]).
///
/// # Errors
/// Anything that [`crate::check`] finds, and whatever fails on the way.
pub fn train(run: &Run, group: Arc<dyn ProcessGroup>, stop: &StopRequest) -> Result<Ending> {
    let heartbeat = watch::start(run, &*group)?;
    let ending = train_watched(run, group, stop)?;
    heartbeat.leave();
    Ok(ending)
}

fn train_watched(run: &Run, group: Arc<dyn ProcessGroup>, stop: &StopRequest) -> Result<Ending> {
    let fault = FaultInjection::from_environment()?;
    let device = device::choose(run, group.local_rank())?;
    let group = group.with_device(device)?;
    let checkpoint = base::open(run)?;
    tracing::info!("loading {} onto {device:?}", run.model.path.display());
    match run.model.task {
        Task::CausalLm => {
            let pad = text::open(run, &checkpoint)?.tokenizer.map_or(0, |tokenizer| tokenizer.pad_token_id());
            let mut decoder = Decoder::load_quantized(
                &checkpoint,
                policy_quantization::model_quantization(run.model.quantization),
                device::tensor_kind(run.model.dtype),
                device,
            )?;
            drop(checkpoint);
            let fan_in_fan_out = decoder.config().fan_in_fan_out();
            let adapter = add_lora(run, &mut decoder)?.map(|adapter| AdapterConfig { fan_in_fan_out, ..adapter });
            let data = RunData::open(run)?;
            let order = run_data::order(run, &data.train, group.world_size())?;
            let probe = Probe { decoder: &decoder, seed: run.seed, loss_chunk: run.loss_chunk as i64 };
            let share = order.rank_share(0, group.rank(), group.world_size());
            let table = budget::divided(run, &probe, &Samples { dataset: &data.train, indices: &share, pad }, &*group)?;
            let activations = policy::activations(&table, decoder.config());
            let trained: BTreeSet<&str> = decoder.trained().into_iter().map(autograd::Parameter::name).collect();
            let readers = shared_bases::readers(decoder.config(), &activations, adapter.as_ref(), |name| trained.contains(name))?;
            let learner = Language { decoder: &decoder, data: &data, pad, loss_chunk: run.loss_chunk as i64 };
            let way = Way { learner: &learner, adapter, activations, readers, basis_layers: table.basis_layers, labels: None };
            follow(run, &group, stop, fault, way)
        }
        Task::SequenceClassification | Task::ImageClassification => {
            let rows = Rows::read(run, group.world_size(), &|_, _| ())?;
            let mut classifier =
                Classifier::load(&checkpoint, Some(rows.labels.clone()), run.seed, device::tensor_kind(run.model.dtype), device)?;
            if checkpoint.is_untrained() {
                tracing::info!("the weights are drawn from the seed");
            } else if !classifier.drawn().is_empty() {
                tracing::info!("drawn from the seed, as the model has none: {}", classifier.drawn().join(", "));
            }
            drop(checkpoint);
            let adapter = add_lora(run, &mut classifier)?;
            let learner = Classes::new(run, &classifier, &rows)?;
            let activations = policy::activations(&run.activations, classifier.config());
            let basis_layers = run.activations.basis_layers;
            let way = Way { learner: &learner, adapter, activations, readers: Vec::new(), basis_layers, labels: Some(&rows.labels) };
            follow(run, &group, stop, fault, way)
        }
    }
}

/// What a run is to do, step by step.
struct Way<'a> {
    learner: &'a dyn Learner,
    /// As it will be written; none where all weights are trained.
    adapter: Option<AdapterConfig>,
    activations: models::Activations,
    readers: Vec<Reader>,
    basis_layers: Option<usize>,
    /// The classes, where rows have some.
    labels: Option<&'a Labels>,
}

/// All steps, from the newest sound checkpoint or the beginning.
fn follow(run: &Run, group: &Arc<dyn ProcessGroup>, stop: &StopRequest, fault: Option<FaultInjection>, way: Way<'_>) -> Result<Ending> {
    let Way { learner, adapter, activations, readers, basis_layers, labels } = way;
    let model = learner.model();
    let order = learner.order(run, group.world_size())?;
    let steps = steps(run, learner.samples());

    let trained = model.trained();
    let named: Vec<(String, Tensor)> = trained.iter().map(|parameter| (parameter.name().to_owned(), parameter.shallow_clone())).collect();
    let count = |parameters: &[&autograd::Parameter]| parameters.iter().map(|parameter| parameter.numel() as u64).sum::<u64>();
    let packed: u64 = model.packed().iter().map(|weight| weight.size().iter().product::<i64>() as u64).sum();
    let (trained_parameters, parameters) = (count(&trained), count(&model.parameters()) + packed);
    let trained: Vec<&Tensor> = trained.into_iter().map(|parameter| parameter.tensor()).collect();
    let sites = match run.activations.stream {
        Stream::Main => Sites::default(),
        Stream::Side => Sites::beside(model.device())?,
    };
    let lora_plus_ratio = run.lora.as_ref().map_or(1.0, |lora| lora.lora_plus_ratio);
    let known = Known {
        in_bases: readers.iter().map(|reader| reader.parameter.clone()).collect(),
        tables: model.tables().into_iter().map(|table| table.name().to_owned()).collect(),
    };
    let mut stepper = Stepper {
        learner,
        group: &**group,
        order: &order,
        activations,
        reducer: GradientReducer::knowing(group.clone(), &named, &known, reduce_config(run, group.world_size()))?,
        optimizer: Optimizer::new(&parameter_groups(model, lora_plus_ratio), &run.optimizer, optimizer_part(run, &**group))?,
        trained,
        sites: Arc::new(sites.sharing(basis_layers.unwrap_or(1))),
        readers,
        basis_steps: run.activations.basis_steps,
        seed: run.seed,
        micro_batch_size: run.micro_batch_size,
        clip_grad_norm: run.optimizer.clip_grad_norm,
    };
    drop(named);
    tracing::info!("{trained_parameters} of {parameters} parameters are trained, in {steps} steps");
    let Start { step: first, mut seconds, mut eval_loss_before, best } = resume(run, learner.fingerprint(), &mut stepper)?;
    shared_bases::tell(&stepper.sites, &mut stepper.reducer, &stepper.readers)?;
    let mut metrics = if group.rank() == 0 { Some(MetricsFile::after(&run.dir, first, run.tensorboard)?) } else { None };
    let mut saver = Saver::new(run, &**group, learner.fingerprint().to_owned(), best, fault.clone());

    // The frozen ones too, this once: a rank may have read another file.
    let packed = model.packed().into_iter().flat_map(|weight| weight.tensors());
    compare_parameters(&**group, first, &model.parameters().into_iter().chain(packed).collect::<Vec<_>>())?;
    if first == 0 {
        eval_loss_before = learner.evaluate(run, &**group, &mut |_, _| ())?.map(|evaluation| evaluation.loss);
    }
    let (mut eval_loss_after, mut classes) = (None, None);
    let on_the_wire = |bytes| if group.world_size() == 1 { 0 } else { bytes };
    for step in first..steps {
        let rate = run.optimizer.learning_rate * learning_rate(&run.schedule, step, steps);
        collective::note_step(step + 1);
        if let Some(fault) = &fault {
            fault.at(group.rank(), step + 1, stop).map_err(|error| out_of_memory::explain(error, run, model.device()))?;
            fault.corrupt(group.rank(), step + 1, stepper.trained[0])?;
        }
        let started = Instant::now();
        let outcome = stepper
            .run(step, rate, || RankStatus { signal: stop.signal(), is_written: saver.is_written() })
            .map_err(|error| out_of_memory::explain(error, run, model.device()).in_step(step + 1))?;
        let step_seconds = started.elapsed().as_secs_f64();
        seconds += step_seconds;
        if !outcome.loss.is_finite() || !outcome.grad_norm.is_finite() {
            return Err(Error::NotFinite { step: step + 1, loss: outcome.loss, grad_norm: outcome.grad_norm });
        }
        let last = step + 1 == steps;
        let evaluated = last || (run.eval_every > 0 && (step + 1) % run.eval_every == 0);
        let evaluation = if evaluated { learner.evaluate(run, &**group, &mut |_, _| ())? } else { None };
        let eval_loss = evaluation.as_ref().map(|evaluation| evaluation.loss);
        let report = evaluation.and_then(|evaluation| evaluation.classes);
        let eval_accuracy = report.as_ref().map(|report| report.accuracy);
        if last {
            (eval_loss_after, classes) = (eval_loss, report);
        }
        let line = StepMetrics {
            step: step + 1,
            total_steps: steps,
            loss: outcome.loss,
            learning_rate: rate,
            grad_norm: outcome.grad_norm,
            tokens: outcome.tokens,
            tokens_per_second: outcome.tokens as f64 / step_seconds,
            step_seconds,
            kept_bytes: outcome.kept_bytes,
            exact_bytes: outcome.exact_bytes,
            peak_bytes: outcome.peak_bytes,
            reduced_bytes: on_the_wire(outcome.traffic.bytes),
            exact_reduced_bytes: on_the_wire(outcome.traffic.exact_bytes),
            reduce_seconds: outcome.traffic.busy.as_secs_f64(),
            reduce_wait_seconds: outcome.traffic.waited.as_secs_f64(),
            eval_loss,
            eval_accuracy,
        };
        if (step + 1) % run.log_every == 0 || last {
            tracing::info!("step {} of {steps}: loss {:.4}, {:.1} tokens/s", line.step, line.loss, line.tokens_per_second);
        }
        if let Some(metrics) = &mut metrics {
            metrics.write(&line)?;
        }
        let RankStatus { signal, is_written } = outcome.status;
        if is_written {
            saver.settle()?;
        }
        let moment = Moment { step: line.step, eval_loss, eval_loss_before, seconds };
        let stops = signal != 0 && !last;
        let saves = !last && (stops || saver.is_due(&moment));
        if saves || (run.check_every > 0 && line.step.is_multiple_of(run.check_every)) {
            compare_parameters(&**group, line.step, &model.trained())?;
        }
        if saves {
            if let Some(metrics) = &metrics {
                metrics.sync()?;
            }
            saver.begin(&stepper, &moment)?;
        }
        if stops {
            let step = line.step;
            return match saver.finish(step)? {
                Ok(checkpoint) => Ok(Ending::Stopped { signal, step, checkpoint }),
                Err(reason) => Err(Error::NotSaved { signal, step, reason }),
            };
        }
    }
    saver.settle()?;
    let summary = Summary {
        eval_loss_before,
        eval_loss_after,
        classes,
        steps,
        seconds,
        trained_parameters,
        parameters,
        adapter: adapter.is_some().then(|| run.dir.join("adapter")),
        model: adapter.is_none().then(|| run.dir.join("model")),
        metrics: metrics.as_ref().map_or_else(|| run.dir.join("metrics.jsonl"), |metrics| metrics.path().to_owned()),
    };
    if group.rank() == 0 {
        if let (Some(folder), Some(config)) = (&summary.adapter, &adapter) {
            write_adapter(folder, config, &model.lora_weights())?;
            labels.map(|labels| write_labels(folder, labels)).transpose()?;
        }
        if let Some(folder) = &summary.model {
            write_model(folder, &run.model.path, model, labels)?;
        }
        if let Some(report) = &summary.classes {
            report.to_string().lines().for_each(|line| tracing::info!("{line}"));
        }
        write_summary(&run.dir, &summary)?;
    }
    // A rank that ended first would look like one that died.
    group.barrier()?;
    Ok(Ending::Finished(summary))
}

/// Steps of the run: as given, or those that so many epochs take, the last one filled up from the next.
fn steps(run: &Run, samples: usize) -> u64 {
    match run.length() {
        Length::Steps(steps) => steps,
        Length::Epochs(epochs) => (epochs * samples as f64 / run.batch_size as f64).ceil().max(1.0) as u64,
    }
}

/// Puts the adapter in, and gives its configuration as it will be written: targets by name, as PEFT writes `all-linear` too.
///
/// Without a `[lora]` table there is none, and all weights are trained.
pub(crate) fn add_lora(run: &Run, model: &mut impl Model) -> Result<Option<AdapterConfig>> {
    let (config, weights) = match policy_lora::lora(run)? {
        Some(Lora::New(config)) => (*config, None),
        Some(Lora::From(adapter)) => (AdapterConfig { inference_mode: true, ..adapter.config }, Some(adapter.weights)),
        None => {
            model.train_weights(true);
            return Ok(None);
        }
    };
    let place = run.lora.as_ref().and_then(|lora| lora.adapter.as_ref()).unwrap_or(&run.dir);
    model.add_lora(&config, weights.as_ref(), run.seed, place)?;
    if run.lora.as_ref().is_some_and(|lora| lora.lora_fa) {
        model.freeze_lora_a();
    }
    if config.target_modules != TargetModules::Pattern(policy_lora::ALL_LINEAR.into()) {
        return Ok(Some(config));
    }
    let names: BTreeSet<String> = model
        .linears()
        .into_iter()
        .filter(|linear| linear.lora().is_some())
        .filter_map(|linear| Some(linear.path().rsplit('.').next()?.to_owned()))
        .collect();
    Ok(Some(AdapterConfig { target_modules: TargetModules::Names(names.into_iter().collect()), ..config }))
}

/// What of the optimiser's work this rank does.
fn optimizer_part(run: &Run, group: &dyn ProcessGroup) -> Part {
    if run.optimizer.is_sharded() { Part { rank: group.rank(), ranks: group.world_size() } } else { Part::WHOLE }
}

/// The `[gradients]` table as the reducer reads it. One rank sends nothing, so there is nothing to compress, and no error to make.
fn reduce_config(run: &Run, ranks: usize) -> reduce::Config {
    let table = &run.gradients;
    let method = match table.method {
        _ if ranks == 1 => reduce::Method::Exact,
        GradientMethod::Exact => reduce::Method::Exact,
        GradientMethod::Bf16 => reduce::Method::Bf16,
        GradientMethod::SharedBasis => reduce::Method::SharedBasis { min_ratio: table.min_ratio },
        GradientMethod::PowerSgd => reduce::Method::PowerSgd(reduce::PowerSgdConfig {
            rank: table.rank as i64,
            start_step: table.start_step,
            min_ratio: table.min_ratio,
            error_feedback: table.error_feedback,
            warm_start: table.warm_start,
        }),
    };
    reduce::Config { method, seed: run.seed, bucket_bytes: table.bucket_bytes.bytes() as usize, overlap: table.overlap }
}
