//! `[run]`, and the whole configuration around it.

use super::{Activations, Checkpoint, Cluster, Data, GradientMethod, Gradients, Lora, Model, Optimizer, Schedule, Task};
use crate::{Error, choice::choice, place::Places, source::Source};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

choice! {
    /// Where a rank computes.
    Device {
        /// A GPU if libtorch sees one, the processor otherwise.
        Auto = "auto",
        /// The processor.
        Cpu = "cpu",
        /// The GPU whose number is the rank's number on its host.
        Cuda = "cuda",
    }
}

/// How long a run is: `steps` or `epochs`, not both.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// `steps`: this many optimiser steps.
    Steps(u64),
    /// `epochs`: this many passes over the training data, or a part of one. The default is one pass.
    Epochs(f64),
}

/// A validated configuration: the keys of `[run]`, and every other table.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// `dir`: the directory of everything the run writes. Default: `runs/` and the name of the configuration file.
    pub dir: PathBuf,
    /// `seed`: what every random choice is derived from. Default: 0.
    pub seed: u64,
    /// `steps` or `epochs`. Default: one epoch.
    pub length: Length,
    /// `batch_size`: sequences per optimiser step over all ranks, at least one for each. Default: 8.
    pub batch_size: usize,
    /// `micro_batch_size`: sequences a rank computes at once; 0 = its whole share of the batch. Default: 0.
    pub micro_batch_size: usize,
    /// `device`: `"auto"`, `"cpu"` or `"cuda"`. Default: `"auto"`.
    pub device: Device,
    /// `threads`: processor threads of a rank; 0 = cores / ranks on this host. Default: 0.
    pub threads: usize,
    /// `eval_every`: steps between evaluations; 0 = only before the first and after the last step. Default: 0.
    pub eval_every: u64,
    /// `log_every`: steps between lines in the rank's log (`metrics.jsonl` has every step). Default: 1.
    pub log_every: u64,
    /// `check_every`: steps between comparisons of all ranks' parameters, bit by bit; 0 = only at the start. They are compared before each
    /// checkpoint, too. Default: 100.
    pub check_every: u64,
    /// `tensorboard`: whether the metrics are written for TensorBoard too, into `tensorboard/`. Default: false.
    pub tensorboard: bool,
    /// `loss_chunk`: tokens whose logits exist at a time; 0 = automatic. Default: 0.
    pub loss_chunk: usize,
    /// `[model]`.
    pub model: Model,
    /// `[lora]`. Without the table all weights are trained.
    pub lora: Option<Lora>,
    /// `[activations]`.
    pub activations: Activations,
    /// `[gradients]`.
    pub gradients: Gradients,
    /// `[data]`.
    pub data: Data,
    /// `[optimizer]`.
    pub optimizer: Optimizer,
    /// `[schedule]`.
    pub schedule: Schedule,
    /// `[checkpoint]`.
    pub checkpoint: Checkpoint,
    /// `[cluster]`.
    pub cluster: Cluster,
    /// Where each key was written, for errors found later.
    places: Places,
}

impl Run {
    /// Reads and checks the configuration at `path`, with `overrides` of the form `table.key=value` on top.
    ///
    /// An override's value is TOML where it parses as TOML, a string otherwise. `run.steps` and `run.epochs` each replace the
    /// other.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and the valid values.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, Error> {
        Self::resolve(&Source::read(path, overrides)?, path)
    }

    /// The checked configuration of a source that was read from `path`.
    pub(crate) fn resolve(source: &Source, path: &Path) -> Result<Self, Error> {
        let (raw, places) = source.parse()?;
        let at = places.table("run");
        let keys = raw.run;

        let length = match (keys.steps, keys.epochs) {
            (Some(_), Some(_)) => return Err(at.refuse("epochs", "cannot be given together with steps; keep one of the two")),
            (Some(steps), None) => {
                at.require("steps", steps > 0, "must be > 0")?;
                Length::Steps(steps)
            }
            (None, epochs) => {
                let epochs = epochs.unwrap_or(1.0);
                at.require("epochs", epochs > 0.0 && epochs.is_finite(), "must be > 0")?;
                Length::Epochs(epochs)
            }
        };
        let dir = keys.dir.unwrap_or_else(|| Path::new("runs").join(path.file_stem().unwrap_or(path.as_os_str())));
        at.require("dir", !dir.as_os_str().is_empty(), "must not be empty")?;
        let batch_size = keys.batch_size.unwrap_or(8);
        at.require("batch_size", batch_size > 0, "must be > 0")?;
        let micro_batch_size = keys.micro_batch_size.unwrap_or(0);
        at.require("micro_batch_size", micro_batch_size <= batch_size, &format!("must be <= batch_size, which is {batch_size}"))?;
        let log_every = keys.log_every.unwrap_or(1);
        at.require("log_every", log_every > 0, "must be > 0")?;

        let run = Self {
            dir,
            seed: keys.seed.unwrap_or(0),
            length,
            batch_size,
            micro_batch_size,
            device: at.choose("device", keys.device.as_deref(), Device::Auto)?,
            threads: keys.threads.unwrap_or(0),
            eval_every: keys.eval_every.unwrap_or(0),
            log_every,
            check_every: keys.check_every.unwrap_or(100),
            tensorboard: keys.tensorboard.unwrap_or(false),
            loss_chunk: keys.loss_chunk.unwrap_or(0),
            model: Model::resolve(raw.model, places.table("model"))?,
            lora: raw.lora.map(|lora| Lora::resolve(lora, places.table("lora"))).transpose()?,
            activations: Activations::resolve(raw.activations, places.table("activations"))?,
            gradients: Gradients::resolve(raw.gradients, places.table("gradients"))?,
            data: Data::resolve(raw.data, places.table("data"))?,
            optimizer: Optimizer::resolve(raw.optimizer, places.table("optimizer"))?,
            schedule: Schedule::resolve(raw.schedule, length, places.table("schedule"))?,
            checkpoint: Checkpoint::resolve(raw.checkpoint, places.table("checkpoint"))?,
            cluster: Cluster::resolve(raw.cluster, places.table("cluster"))?,
            places,
        };
        for (key, sources) in [("train", Some(&run.data.train)), ("eval", run.data.eval.as_ref())] {
            if run.model.task != Task::CausalLm && sources.is_some_and(|sources| sources.only().is_none()) {
                return Err(run.refuse("data", key, "is a list, and a classifier reads one file or folder; put all rows into one"));
            }
        }
        run.check_shared_basis()?;
        Ok(run)
    }

    /// Refuses gradients in bases that nothing is kept in.
    fn check_shared_basis(&self) -> Result<(), Error> {
        if self.gradients.method != GradientMethod::SharedBasis {
            return Ok(());
        }
        if self.model.task != Task::CausalLm {
            return Err(self.refuse("gradients", "method", "\"shared_basis\" is for language models; take \"powersgd\""));
        }
        if self.activations.shares_inputs() {
            return Ok(());
        }
        let what = "\"shared_basis\" needs inputs of linear layers in bases that the ranks share; in [activations], set method = \"shared\" and \
                    sites = [\"attn_in\", \"attn_out\", \"mlp_in\", \"mlp_out\"], or some of them";
        Err(self.refuse("gradients", "method", what))
    }

    /// The configuration in full, every key with its value. Loading it again gives the same run.
    pub fn to_toml(&self) -> String {
        let (steps, epochs) = match self.length {
            Length::Steps(steps) => (Some(steps), None),
            Length::Epochs(epochs) => (None, Some(epochs)),
        };
        let written = Written {
            run: RunKeys {
                dir: &self.dir,
                seed: self.seed,
                steps,
                epochs,
                batch_size: self.batch_size,
                micro_batch_size: self.micro_batch_size,
                device: self.device,
                threads: self.threads,
                eval_every: self.eval_every,
                log_every: self.log_every,
                check_every: self.check_every,
                tensorboard: self.tensorboard,
                loss_chunk: self.loss_chunk,
            },
            model: &self.model,
            lora: self.lora.as_ref(),
            activations: &self.activations,
            gradients: &self.gradients,
            data: &self.data,
            optimizer: &self.optimizer,
            schedule: &self.schedule,
            checkpoint: &self.checkpoint,
            cluster: &self.cluster,
        };
        // Strings, numbers and lists of strings always have a TOML form; a path that is no UTF-8 was never read from TOML.
        toml::to_string(&written).unwrap_or_else(|cause| format!("# this configuration has no TOML form: {cause}\n"))
    }

    /// Every key that has a value, as `table.key`, with that value in TOML.
    pub fn keys(&self) -> BTreeMap<String, String> {
        // What was resolved has a form in TOML.
        keys(&self.to_toml()).unwrap_or_default()
    }

    /// An error at a key whose value does not fit the model, the data or the machine: it names the file and line, or the
    /// override, that gave the key. `what` says what to do.
    pub fn refuse(&self, table: &str, key: &str, what: &str) -> Error {
        self.places.misfit(table, key, what)
    }

    /// The same, at a key of the form in which activations are kept: in the override `given`, or in the table itself.
    pub fn refuse_form(&self, given: Option<usize>, key: &str, what: &str) -> Error {
        match given {
            Some(index) => self.places.misfit_item("activations.overrides", index, key, what),
            None => self.refuse("activations", key, what),
        }
    }

    /// Sequences of a step that fall to the rank with the most of them, of `ranks`.
    ///
    /// # Errors
    /// When a rank would go empty.
    pub fn share(&self, ranks: usize) -> Result<usize, Error> {
        if ranks == 0 || self.batch_size < ranks {
            let what = format!("is {}, fewer than the {ranks} ranks; give at least {ranks}, or start fewer ranks", self.batch_size);
            return Err(self.refuse("run", "batch_size", &what));
        }
        Ok(self.batch_size.div_ceil(ranks))
    }

    /// Sequences that a rank computes at once, of `ranks`.
    ///
    /// # Errors
    /// As [`Run::share`].
    pub fn rows_at_once(&self, ranks: usize) -> Result<usize, Error> {
        let share = self.share(ranks)?;
        Ok(if self.micro_batch_size > 0 { self.micro_batch_size.min(share) } else { share })
    }

    /// Refuses paths that lead nowhere.
    ///
    /// # Errors
    /// The first path of the configuration that does not exist.
    pub fn check_paths(&self) -> Result<(), Error> {
        let paths = [
            ("model", "path", Some(&self.model.path)),
            ("model", "tokenizer", self.model.tokenizer.as_ref()),
            ("model", "chat_template", self.model.chat_template.as_ref()),
            ("lora", "adapter", self.lora.as_ref().and_then(|lora| lora.adapter.as_ref())),
        ];
        let paths = paths.into_iter().filter_map(|(table, key, path)| Some((table, key, path?.as_path())));
        let train = self.data.train.paths().map(|path| ("data", "train", path));
        let eval = self.data.eval.iter().flat_map(|eval| eval.paths()).map(|path| ("data", "eval", path));
        for (table, key, path) in paths.chain(train).chain(eval) {
            if !path.exists() {
                let what = format!("there is no {}; give another path, relative to the current directory", path.display());
                return Err(self.refuse(table, key, &what));
            }
        }
        Ok(())
    }
}

/// The keys of a configuration that [`Run::to_toml`] has written, as [`Run::keys`] gives them, unless `text` is none.
pub fn keys(text: &str) -> Option<BTreeMap<String, String>> {
    let tables: toml::Table = text.parse().ok()?;
    let mut keys = BTreeMap::new();
    for (table, value) in &tables {
        keys.extend(value.as_table()?.iter().map(|(key, value)| (format!("{table}.{key}"), value.to_string())));
    }
    Some(keys)
}

/// What [`Run::to_toml`] writes.
#[derive(Serialize)]
struct Written<'a> {
    run: RunKeys<'a>,
    model: &'a Model,
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<&'a Lora>,
    activations: &'a Activations,
    gradients: &'a Gradients,
    data: &'a Data,
    optimizer: &'a Optimizer,
    schedule: &'a Schedule,
    checkpoint: &'a Checkpoint,
    cluster: &'a Cluster,
}

/// The keys of `[run]` as they are written.
#[derive(Serialize)]
struct RunKeys<'a> {
    dir: &'a Path,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epochs: Option<f64>,
    batch_size: usize,
    micro_batch_size: usize,
    device: Device,
    threads: usize,
    eval_every: u64,
    log_every: u64,
    check_every: u64,
    tensorboard: bool,
    loss_chunk: usize,
}
