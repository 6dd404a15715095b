//! `[run]`: what a run writes, how long it is, and how its batches are divided.

use crate::{
    Error,
    choice::choice,
    declare::{Table, table},
    range::{MOST_STEPS, Range},
};
use std::path::{Path, PathBuf};

choice! {
    /// The device on which a rank computes.
    Device {
        /// A GPU if libtorch finds one, otherwise the CPU.
        Auto = "auto",
        /// The CPU.
        Cpu = "cpu",
        /// The GPU whose number is the local rank.
        Cuda = "cuda",
    }
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// This many optimizer steps.
    Steps(u64),
    /// This many passes over the training data, or a part of one.
    Epochs(f64),
}

table! {
    /// What a run writes, how long it is, and how its batches are divided.
    RunTable: "run" {
        /// The directory of everything that the run writes.
        dir: PathBuf = PathBuf::new(),
            default "runs/ and the name of the configuration file",
            example r#""runs/first""#;
        /// The seed of all random numbers.
        seed: u64 = 0, example "42";
        /// The number of optimizer steps; not together with `epochs`.
        steps: Option<u64> = None,
            default "one epoch",
            within Range::above(0.0).at_most(MOST_STEPS),
            example "1000";
        /// The number of passes over the training data; not together with `steps`.
        epochs: Option<f64> = None,
            default "1.0 without steps",
            within Range::above(0.0).at_most(1e6),
            example "3.0";
        /// Sequences of an optimizer step, over all ranks. Each rank needs at least one.
        batch_size: usize = 8, within Range::above(0.0).at_most(1e6), example "64";
        /// Sequences that a rank computes at once; gradients are accumulated over the micro-batches
        /// of a step. 0 computes all of them at once.
        micro_batch_size: usize = 0, valid "a whole number >= 0, at most batch_size", example "4";
        /// The device on which ranks compute.
        device: Device = Device::Auto, example r#""cuda""#;
        /// CPU threads of a rank; 0 divides the cores of a host by its ranks.
        threads: usize = 0, within Range::at_least(0.0).at_most(1024.0), example "4";
        /// Steps between evaluations; 0 evaluates only before the first and after the last step.
        eval_every: u64 = 0,
            within Range::at_least(0.0).at_most(MOST_STEPS),
            example "100";
        /// Steps between lines in the log of a rank. `metrics.jsonl` has a line for every step.
        log_every: u64 = 1, within Range::above(0.0).at_most(MOST_STEPS), example "10";
        /// Steps between comparisons of all ranks' parameters, bit by bit; 0 compares only at the
        /// start and before checkpoints.
        check_every: u64 = 100,
            within Range::at_least(0.0).at_most(MOST_STEPS),
            example "1000";
        /// Write the metrics for TensorBoard too, into `tensorboard/`.
        tensorboard: bool = false, example "true";
        /// Tokens whose logits are computed at a time; 0 chooses a number that suits the
        /// vocabulary.
        loss_chunk: usize = 0, within Range::at_least(0.0).at_most(1e9), example "1024";
    }
}

impl RunTable {
    /// Completes what depends on the file's name and on other keys.
    pub(crate) fn resolve(mut self, path: &Path, table: &Table<'_>) -> Result<Self, Error> {
        if !table.has("dir") {
            self.dir = Path::new("runs").join(path.file_stem().unwrap_or(path.as_os_str()));
        }
        if self.steps.is_none() {
            self.epochs.get_or_insert(1.0);
        } else {
            table.require(
                "epochs",
                self.epochs.is_none(),
                "cannot be given together with steps; keep one of the two",
            )?;
        }
        let fits = self.micro_batch_size <= self.batch_size;
        table.require(
            "micro_batch_size",
            fits,
            &format!("must be <= batch_size, which is {}", self.batch_size),
        )?;
        Ok(self)
    }

    /// How long the run is.
    pub fn length(&self) -> Length {
        match self.steps {
            Some(steps) => Length::Steps(steps),
            None => Length::Epochs(self.epochs.unwrap_or(1.0)),
        }
    }
}
