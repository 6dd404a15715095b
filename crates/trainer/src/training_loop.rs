//! All steps of a run, with evaluation, metrics and checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use checkpoint::{Checkpointer, InputFingerprints, ResumePoint, SaveFaults, TrainState, resume};
use collective::ProcessGroup;
use config::{Length, Run};
use models::{AdapterConfig, Labels, Model};
use optim::lr_multiplier;
use setup::FaultInjection;

use crate::metrics::{StepMetrics, Summary};
use crate::metrics_file::MetricsFile;
use crate::outputs::write_outputs;
use crate::signals::StopRequest;
use crate::task::Validation;
use crate::train_setup::TrainSetup;
use crate::trainer::{RankStatus, StepOutput, Trainer};
use crate::{Error, Result};

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainOutcome {
    /// With the last step.
    Finished(Summary),
    /// On a signal, after a checkpoint was written.
    Stopped {
        /// The signal's number.
        signal: i32,
        /// Steps done.
        step: u64,
        /// The checkpoint, from which the same run resumes.
        checkpoint: PathBuf,
    },
}

/// Trains all steps, from the newest intact checkpoint or from scratch, and writes what was
/// trained.
pub(crate) fn training_loop(
    run: &Run,
    group: &Arc<dyn ProcessGroup>,
    stop: &StopRequest,
    fault: Option<FaultInjection>,
    mut setup: TrainSetup,
) -> Result<TrainOutcome> {
    let (adapter, labels) = (setup.adapter.take(), setup.labels.take());
    let trainer = Trainer::new(run, setup, group.clone())?;
    let mut training = TrainingLoop::resume(run, &**group, stop, fault, trainer)?;
    for step in training.first..training.steps {
        if let Some(stopped) = training.step(step)? {
            return Ok(stopped);
        }
    }
    training.finish(adapter.as_ref(), labels.as_ref())
}

/// A run between two steps.
struct TrainingLoop<'a> {
    run: &'a Run,
    group: &'a dyn ProcessGroup,
    stop: &'a StopRequest,
    fault: Option<FaultInjection>,
    trainer: Trainer,
    checkpointer: Checkpointer<'a>,
    /// `metrics.jsonl`, on rank 0.
    metrics: Option<MetricsFile>,
    /// The first step (from 0) that is not done.
    first: u64,
    /// All steps of the run.
    steps: u64,
    /// Time of the steps so far.
    seconds: f64,
    /// Validation loss before the first step.
    eval_loss_before: Option<f64>,
    /// The validation after the last step.
    last_validation: Option<Validation>,
}

/// The fingerprint of the frozen base model, which rank 0 reads for all.
fn base_fingerprint(run: &Run, group: &dyn ProcessGroup) -> Result<Option<String>> {
    let mut told = Vec::new();
    if group.rank() == 0 {
        let record = setup::checksum_record(&run.dir);
        files::load_checksums(&record);
        told = setup::base_fingerprint(run)?.unwrap_or_default().into_bytes();
        if record.parent().is_some_and(Path::is_dir) {
            files::store_checksums(&record)?;
        }
    }
    group.broadcast_bytes(&mut told, 0)?;
    let told = String::from_utf8_lossy(&told).into_owned();
    Ok(Some(told).filter(|told| !told.is_empty()))
}

impl<'a> TrainingLoop<'a> {
    /// Restores the state of the newest intact checkpoint, or evaluates the model as it is.
    fn resume(
        run: &'a Run,
        group: &'a dyn ProcessGroup,
        stop: &'a StopRequest,
        fault: Option<FaultInjection>,
        mut trainer: Trainer,
    ) -> Result<Self> {
        let steps = total_steps(run.length(), run.batch_size, trainer.task.train_samples());
        let (trained, all) = parameter_counts(trainer.task.model());
        tracing::info!("{trained} of {all} parameters are trained, in {steps} steps");
        let data = trainer.task.fingerprint().to_owned();
        let inputs = InputFingerprints { data, base: base_fingerprint(run, group)? };
        let resumed = resume(run, &inputs, group, &mut trainer)?;
        let ResumePoint { step: first, seconds, mut eval_loss_before, best } = resumed;
        trainer.publish_shared_bases()?;
        let metrics = match group.rank() {
            0 => Some(MetricsFile::open_after(&run.dir, first, run.tensorboard)?),
            _ => None,
        };
        let faults =
            fault.clone().map(|fault| Arc::new(InjectedSaveFaults(fault)) as Arc<dyn SaveFaults>);
        let checkpointer = Checkpointer::new(run, group, inputs, best).with_faults(faults);
        trainer.compare_all(first)?;
        if first == 0 {
            eval_loss_before =
                trainer.task.evaluate(group, &mut |_, _| ())?.map(|validation| validation.loss);
        }
        let last_validation = None;
        Ok(Self {
            run,
            group,
            stop,
            fault,
            trainer,
            checkpointer,
            metrics,
            first,
            steps,
            seconds,
            eval_loss_before,
            last_validation,
        })
    }

    /// Step `step` (from 0), with its evaluation, metrics and checkpoint. The outcome is given if
    /// the run stops after it.
    fn step(&mut self, step: u64) -> Result<Option<TrainOutcome>> {
        let learning_rate =
            self.run.optimizer.learning_rate * lr_multiplier(&self.run.schedule, step, self.steps);
        collective::note_step(step + 1);
        self.inject_faults(step + 1)?;
        let started = Instant::now();
        let output = self.compute(step, learning_rate)?;
        let step_seconds = started.elapsed().as_secs_f64();
        self.seconds += step_seconds;
        let is_last = step + 1 == self.steps;
        let eval_every = self.run.eval_every;
        let is_evaluated = is_last || (eval_every > 0 && (step + 1).is_multiple_of(eval_every));
        let validation = if is_evaluated {
            self.trainer.task.evaluate(self.group, &mut |_, _| ())?
        } else {
            None
        };
        let metrics =
            self.step_metrics(step + 1, learning_rate, step_seconds, &output, validation.as_ref());
        if (step + 1).is_multiple_of(self.run.log_every) || is_last {
            tracing::info!(
                "step {} of {}: loss {:.4}, {:.1} tokens/s",
                step + 1,
                self.steps,
                metrics.loss,
                metrics.tokens_per_second
            );
        }
        if let Some(file) = &mut self.metrics {
            file.write(&metrics)?;
        }
        if output.status.is_written {
            self.checkpointer.finalize()?;
        }
        let (step, seconds) = (metrics.step, self.seconds);
        let progress = TrainState {
            step,
            eval_loss: metrics.eval_loss,
            eval_loss_before: self.eval_loss_before,
            seconds,
        };
        if is_last {
            self.last_validation = validation;
        }
        self.save(&progress, output.status.signal, is_last)
    }

    /// The faults that a test asked for in this step (from 1).
    fn inject_faults(&self, step: u64) -> Result<()> {
        let Some(fault) = &self.fault else { return Ok(()) };
        let is_stopped = || self.stop.signal() != 0;
        fault
            .at(self.group.rank(), step, &is_stopped)
            .map_err(|error| Error::from(error).with_memory_peak(self.trainer.device()))?;
        Ok(fault.corrupt(self.group.rank(), step, &self.trainer.trained()[0])?)
    }

    /// Forward, backward and optimizer step; the loss and the gradients must be finite.
    fn compute(&mut self, step: u64, learning_rate: f64) -> Result<StepOutput> {
        let device = self.trainer.device();
        let (stop, checkpointer) = (self.stop, &self.checkpointer);
        let status = || RankStatus { signal: stop.signal(), is_written: checkpointer.is_written() };
        let output = self.trainer.step(step, learning_rate, status);
        let output = output.map_err(|error| error.with_memory_peak(device).in_step(step + 1))?;
        match output.loss.is_finite() && output.grad_norm.is_finite() {
            true => Ok(output),
            false => Err(Error::NotFinite {
                step: step + 1,
                loss: output.loss,
                grad_norm: output.grad_norm,
            }),
        }
    }

    fn step_metrics(
        &self,
        step: u64,
        learning_rate: f64,
        step_seconds: f64,
        output: &StepOutput,
        validation: Option<&Validation>,
    ) -> StepMetrics {
        let sent = |bytes| if self.group.world_size() == 1 { 0 } else { bytes };
        StepMetrics {
            step,
            total_steps: self.steps,
            loss: output.loss,
            learning_rate,
            grad_norm: output.grad_norm,
            tokens: output.tokens,
            tokens_per_second: output.tokens as f64 / step_seconds,
            step_seconds,
            kept_bytes: output.kept_bytes,
            exact_bytes: output.exact_bytes,
            peak_bytes: output.peak_bytes,
            reduced_bytes: sent(output.traffic.bytes),
            exact_reduced_bytes: sent(output.traffic.exact_bytes),
            reduce_seconds: output.traffic.busy.as_secs_f64(),
            reduce_wait_seconds: output.traffic.waited.as_secs_f64(),
            eval_loss: validation.map(|validation| validation.loss),
            eval_accuracy: validation
                .and_then(|validation| Some(validation.classes.as_ref()?.accuracy)),
        }
    }

    /// Begins a checkpoint if one is due, or if `signal` asks to stop; then the run stops once it
    /// is saved.
    fn save(
        &mut self,
        progress: &TrainState,
        signal: i32,
        is_last: bool,
    ) -> Result<Option<TrainOutcome>> {
        let step = progress.step;
        let stops = signal != 0 && !is_last;
        let saves = !is_last && (stops || self.checkpointer.is_due(progress));
        if saves || (self.run.check_every > 0 && step.is_multiple_of(self.run.check_every)) {
            self.trainer.compare_trained(step)?;
        }
        if saves {
            self.metrics.as_ref().map_or(Ok(()), MetricsFile::sync)?;
            self.checkpointer.begin(&self.trainer, progress)?;
        }
        if !stops {
            return Ok(None);
        }
        match self.checkpointer.finish(step)? {
            Ok(checkpoint) => Ok(Some(TrainOutcome::Stopped { signal, step, checkpoint })),
            Err(reason) => Err(Error::NotSaved { signal, step, reason }),
        }
    }

    /// Waits for the last checkpoint, and writes the adapter or the model, and the summary.
    fn finish(
        mut self,
        adapter: Option<&AdapterConfig>,
        labels: Option<&Labels>,
    ) -> Result<TrainOutcome> {
        self.checkpointer.finalize()?;
        let dir = &self.run.dir;
        let model = self.trainer.task.model();
        let (trained_parameters, parameters) = parameter_counts(model);
        let (eval_loss_after, classes) = self
            .last_validation
            .map_or((None, None), |validation| (Some(validation.loss), validation.classes));
        let summary = Summary {
            eval_loss_before: self.eval_loss_before,
            eval_loss_after,
            classes,
            steps: self.steps,
            seconds: self.seconds,
            trained_parameters,
            parameters,
            adapter: adapter.is_some().then(|| dir.join("adapter")),
            model: adapter.is_none().then(|| dir.join("model")),
            metrics: self
                .metrics
                .as_ref()
                .map_or_else(|| dir.join("metrics.jsonl"), |metrics| metrics.path().to_owned()),
        };
        if self.group.rank() == 0 {
            write_outputs(dir, &self.run.model.path, model, adapter, labels, &summary)?;
        }
        // A rank that exits first would look like one that died.
        self.group.barrier()?;
        Ok(TrainOutcome::Finished(summary))
    }
}

/// The faults of `LORACT_INJECT_FAULT` in writing checkpoints.
struct InjectedSaveFaults(FaultInjection);

impl SaveFaults for InjectedSaveFaults {
    fn in_save(&self, rank: usize, step: u64) -> std::io::Result<()> {
        self.0.in_save(rank, step)
    }

    fn in_commit(&self, step: u64) -> std::io::Result<()> {
        self.0.in_commit(step)
    }
}

/// The parameters that are trained, and all of them, quantized ones included.
fn parameter_counts(model: &dyn Model) -> (u64, u64) {
    let count = |parameters: &[&autograd::Parameter]| {
        parameters.iter().map(|parameter| parameter.numel() as u64).sum::<u64>()
    };
    let quantized: u64 = model
        .quantized_weights()
        .iter()
        .map(|weight| weight.size().iter().product::<i64>() as u64)
        .sum();
    (count(&model.trained()), count(&model.parameters()) + quantized)
}

/// The steps of a run: as given, or those of its epochs, the last batch filled up from the next
/// epoch.
fn total_steps(length: Length, batch_size: usize, samples: usize) -> u64 {
    match length {
        Length::Steps(steps) => steps,
        Length::Epochs(epochs) => {
            (epochs * samples as f64 / batch_size as f64).ceil().max(1.0) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_round_up_to_whole_steps() {
        assert_eq!(total_steps(Length::Steps(7), 8, 100), 7);
        assert_eq!(total_steps(Length::Epochs(1.0), 8, 100), 13);
        assert_eq!(total_steps(Length::Epochs(0.5), 8, 100), 7);
        assert_eq!(total_steps(Length::Epochs(0.01), 8, 100), 1);
    }
}
