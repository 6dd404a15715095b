//! `loract init`: a commented configuration to start from.

use crate::failure::Failure;
use anyhow::Context;
use clap::Args;
use models::{
    Checkpoint,
    config::{Architecture, InputConfig},
};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::Kind;

/// Make a commented configuration for a model
///
/// The model's description gives the task, the type of numbers, the longest sequence, and whether
/// it has a chat template. The path of the training data is left to be filled in.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract init models/Llama-3.2-1B > run.toml
  loract init models/Llama-3.2-1B --out run.toml
  loract init")]
pub struct Init {
    /// A Hugging Face model directory, or a .gguf file
    model: Option<PathBuf>,
    /// Write the configuration to FILE, which must not exist yet, instead of printing it
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Init {
    pub fn run(self) -> Result<(), Failure> {
        let start = match &self.model {
            Some(path) => Start::of_model(path, &open(path)?),
            None => Start::without_model(),
        };
        match &self.out {
            Some(path) => create(path, &start.text())?,
            None => print!("{}", start.text()),
        }
        Ok(())
    }
}

/// Opens a model. Of a directory the description is enough.
fn open(path: &Path) -> Result<Checkpoint, Failure> {
    let opened = match Checkpoint::open(path) {
        Err(_) if path.is_dir() => Checkpoint::open_untrained(path),
        opened => opened,
    };
    opened.map_err(|error| Failure::Input(error.to_string()))
}

fn create(path: &Path, text: &str) -> Result<(), Failure> {
    let file = std::fs::File::create_new(path);
    if file.as_ref().is_err_and(|cause| cause.kind() == std::io::ErrorKind::AlreadyExists) {
        return Err(Failure::Input(format!(
            "{} exists; give another file with --out",
            path.display()
        )));
    }
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    Ok(written.with_context(|| format!("cannot write {}", path.display()))?)
}

/// The longest sequence that a new configuration has.
const SEQUENCE_LENGTH: i64 = 2048;

/// A configuration to start from.
struct Start {
    /// What was found out about the model, a line each.
    notes: Vec<String>,
    /// `table.key` and its value in TOML.
    keys: Vec<(&'static str, String)>,
}

impl Start {
    /// One for a language model that is not known yet.
    fn without_model() -> Self {
        let mut start = Self {
            notes: vec!["Give the model's directory in [model] path.".into()],
            keys: Vec::new(),
        };
        start.add("model.path", quoted("MODEL_DIR"));
        start.add_common("train.jsonl");
        start.add("data.sequence_length", 512);
        start
    }

    fn of_model(path: &Path, model: &Checkpoint) -> Self {
        let mut start = Self { notes: Vec::new(), keys: Vec::new() };
        start.add("model.path", quoted(&path.display().to_string()));
        start.add("model.dtype", quoted(dtype(model)));
        let architecture = model.architecture();
        let model_type = architecture.model_type();
        match architecture {
            Architecture::Decoder(config) => {
                start.notes.push(format!(
                    "{model_type}: a language model of {} layers, {} positions.",
                    config.num_layers, config.max_positions
                ));
                start.add("model.task", quoted("causal_lm"));
                start.add("data.sequence_length", config.max_positions.min(SEQUENCE_LENGTH));
                start.add_chat(model);
                if path.is_file() {
                    start.add("model.quantization", quoted("gguf"));
                }
                start.add_common("train.jsonl");
            }
            Architecture::Encoder(config) => match &config.input {
                InputConfig::Text(text) => {
                    start.notes.push(format!(
                        "{model_type}: an encoder of texts, of {} layers, up to {} tokens.",
                        config.num_layers(),
                        text.max_tokens()
                    ));
                    start.add("model.task", quoted("sequence_classification"));
                    start.add("data.sequence_length", text.max_tokens().min(SEQUENCE_LENGTH));
                    start.add("data.label_key", quoted("label"));
                    start.add_common("train.jsonl");
                }
                InputConfig::Image(image) => {
                    let [height, width] = image.size;
                    start
                        .notes
                        .push(format!("{model_type}: an encoder of images, of {} layers, {height} x {width} pixels.", config.num_layers()));
                    start.add("model.task", quoted("image_classification"));
                    start.add_common("train");
                }
            },
        }
        if matches!(architecture, Architecture::Encoder(_)) && model.is_untrained() {
            start.train_from_scratch();
        }
        start.add_modules(model);
        start
    }

    /// Without weights a classifier is trained as a whole.
    fn train_from_scratch(&mut self) {
        self.notes
            .push("It has no weights here: it is trained from scratch, without an adapter.".into());
        self.keys.retain(|(key, _)| !key.starts_with("lora."));
        self.add("model.weights", quoted("random"));
    }

    fn add(&mut self, key: &'static str, value: impl ToString) {
        self.keys.push((key, value.to_string()));
    }

    /// The keys that do not depend on the model.
    fn add_common(&mut self, train: &str) {
        self.add("run.epochs", "1.0");
        self.add("run.batch_size", 8);
        self.add("lora.rank", 8);
        self.add("lora.alpha", "16.0");
        self.add("lora.target_modules", quoted("all-linear"));
        self.add("activations.sites", quoted("layer"));
        self.add("activations.method", quoted("quantized"));
        self.add("activations.bits", 8);
        self.add("gradients.method", quoted("exact"));
        self.add("data.train", quoted(train));
        self.add("data.eval_samples", 32);
        self.add("optimizer.method", quoted("adamw"));
        self.add("optimizer.learning_rate", "2e-4");
        self.add("schedule.method", quoted("cosine"));
        self.add("schedule.warmup_steps", 0);
        self.add("checkpoint.every", 100);
        self.add("cluster.ranks", 1);
    }

    /// How conversations are tokenized.
    fn add_chat(&mut self, model: &Checkpoint) {
        if model.chat_templates().default.is_some() {
            self.notes
                .push("It has a chat template, with which conversations are tokenized.".into());
            self.add("data.loss_on", quoted("assistant"));
        } else {
            self.notes.push("It has no chat template: conversations need one in [model] chat_template; texts and pairs do not.".into());
        }
    }

    /// Names the modules that `"all-linear"` means.
    fn add_modules(&mut self, model: &Checkpoint) {
        let in_a_layer = |name: &&str| name.split('.').any(|part| part.parse::<usize>().is_ok());
        let is_matrix = |name: &&str| model.shape(name).is_some_and(|shape| shape.len() == 2);
        let weights = model
            .names()
            .into_iter()
            .filter(in_a_layer)
            .filter(is_matrix)
            .filter_map(|name| name.strip_suffix(".weight"));
        let modules: BTreeSet<&str> = weights.filter_map(|path| path.rsplit('.').next()).collect();
        if !modules.is_empty() {
            let names: Vec<&str> = modules.into_iter().collect();
            self.notes.push(format!(
                "Its linear layers, for [lora] target_modules: {}.",
                names.join(", ")
            ));
        }
    }

    fn text(&self) -> String {
        let notes: String = self.notes.iter().map(|note| format!("# {note}\n")).collect();
        let keys: Vec<(&str, &str)> =
            self.keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
        format!("#:schema ./loract.schema.json\n{HEAD}{notes}\n{}", config::commented(&keys))
    }
}

const HEAD: &str = "\
# A configuration for loract; `loract config --schema > loract.schema.json` makes the schema for editors.
# Check: loract plan run.toml        (memory, before anything is loaded)
# Run:   loract train run.toml       (loract launch -n 2 run.toml: on two ranks)
# Every key: docs/reference/config.md, or loract config --explain table.key
#
";

/// The type of the model's weights: bf16 where they are in 16 bits.
fn dtype(model: &Checkpoint) -> &'static str {
    let is_half = |name: &&str| matches!(model.kind(name), Some(Kind::BFloat16 | Kind::Half));
    if model.names().iter().any(is_half) { "bf16" } else { "f32" }
}

/// A string in TOML.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
