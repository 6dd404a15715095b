use crate::classify::Rows;
use crate::fault_injection::FaultInjection;
use crate::{Error, Result, base, text};
use config::{DataFormat, DataSource, Run, Task};
use data::{Dataset, Format, Options, Order, OrderConfig, Prepared, ShownToken, Source, Sources, Tokenizer};
use std::path::PathBuf;

/// The tokenised data of a run.
#[derive(Debug)]
pub struct RunData {
    /// Absent where rows have classes: those every rank makes itself.
    prepared: Option<Prepared>,
    on_disk: bool,
}

fn path(run: &Run) -> PathBuf {
    run.dir.join("data").join("train.safetensors")
}

impl RunData {
    /// Reads and tokenises, or takes what an earlier run in this directory made of the same data. Writes nothing, unless there are so many tokens that
    /// they go to parts in the run's directory ([`Dataset::prepare_for`]), from which an interrupted preparation goes on. `progress` is told (done, total)
    /// in bytes of the sources; in rows where those have classes. `say` is told, before anything is read, what the user ought to know.
    ///
    /// # Errors
    /// A line that cannot be used, no data, more ranks than samples, token ids that the model does not know.
    pub fn prepare(run: &Run, ranks: usize, progress: &dyn Fn(u64, u64), say: &dyn Fn(&str)) -> Result<Self> {
        let checkpoint = base::open(run)?;
        if run.model.task != Task::CausalLm {
            Rows::read(run, ranks, progress)?;
            return Ok(Self { prepared: None, on_disk: true });
        }
        let text = text::open(run, &checkpoint)?;
        let reads_text = run.data.format != DataFormat::Batches;
        if let Some(notice) = text.tokenizer.as_ref().filter(|_| reads_text).and_then(text::without_end) {
            say(notice);
        }
        let (sources, options) = (sources(run), options(run));
        let fingerprint = Dataset::fingerprint_of(&sources, text.tokenizer.as_ref(), text.template.as_ref(), &options)?;
        let earlier = Prepared::open(&path(run)).ok().filter(|earlier| earlier.train.fingerprint() == fingerprint);
        let on_disk = earlier.is_some();
        let prepared = match earlier {
            Some(earlier) => earlier,
            None => {
                let (tokenizer, template) = (text.tokenizer.as_ref(), text.template.as_ref());
                let fault = FaultInjection::from_environment()?;
                let progress = |done, total| {
                    progress(done, total);
                    if let Some(fault) = &fault {
                        fault.in_prepare(|part| path(run).with_extension("parts").join(format!("train-{part:05}.safetensors")).exists());
                    }
                };
                Dataset::prepare_for(&path(run), &sources, tokenizer, template, &options, &progress).map_err(|error| at_key(run, error))?
            }
        };
        let largest = prepared.eval.iter().map(Dataset::largest_token).max().unwrap_or(0).max(prepared.train.largest_token());
        let vocabulary = checkpoint.config()?.vocab_size;
        if i64::from(largest) >= vocabulary {
            let what = format!(
                "holds token id {largest}, and the model knows 0 to {}; prepare it again with this model's tokenizer",
                vocabulary - 1
            );
            return Err(run.error_at("data", "train", &what).into());
        }
        order(run, &prepared.train, ranks)?;
        Ok(Self { prepared: Some(prepared), on_disk })
    }

    /// Writes it into the run's directory, where every rank opens it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, run: &Run) -> Result<()> {
        let Some(prepared) = self.prepared.as_ref().filter(|_| !self.on_disk) else { return Ok(()) };
        let path = path(run);
        let folder = run.dir.join("data");
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "make the directory"))?;
        prepared.write(&path)?;
        if let Some(fault) = FaultInjection::from_environment()? {
            fault.after_prepare();
        }
        Ok(())
    }

    /// Opens what [`RunData::write`] wrote.
    ///
    /// # Errors
    /// If it is not there, or broken.
    pub(crate) fn open(run: &Run) -> Result<Prepared> {
        Ok(Prepared::open(&path(run))?)
    }

    /// Whether an earlier run in this directory made it.
    pub fn is_on_disk(&self) -> bool {
        self.on_disk
    }

    /// Reads what an earlier run made as a whole, and compares it with its checksums.
    ///
    /// # Errors
    /// If a byte of it has changed.
    pub fn verify(&self, run: &Run) -> Result<()> {
        match &self.prepared {
            Some(prepared) if self.on_disk => Ok(prepared.verify(&path(run))?),
            _ => Ok(()),
        }
    }

    /// The training samples `from` .. `from + count`, at most, with their texts; without texts where there is no tokenizer.
    ///
    /// # Errors
    /// If the data or the tokenizer can no longer be read.
    pub fn show(&self, run: &Run, from: usize, count: usize) -> Result<Vec<Vec<ShownToken>>> {
        let Some(Prepared { train, .. }) = &self.prepared else { return Ok(Vec::new()) };
        let tokenizer = text::open(run, &base::open(run)?)?.tokenizer;
        let shown = |index| Ok(train.sample(index)?.shown(tokenizer.as_ref())?);
        (from..train.len().min(from.saturating_add(count))).map(shown).collect()
    }

    /// The data: training samples, and held-out ones. None where rows have classes.
    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_ref()
    }
}

/// Which samples make up each step of a run.
pub(crate) fn order(run: &Run, train: &Dataset, ranks: usize) -> Result<Order> {
    let shuffle = run.data.shuffle && !train.is_ordered();
    ordered(run, train.len(), shuffle, ranks)
}

/// The same, of so many samples in no order of their own.
pub(crate) fn order_of(run: &Run, samples: usize, ranks: usize) -> Result<Order> {
    ordered(run, samples, run.data.shuffle, ranks)
}

fn ordered(run: &Run, samples: usize, shuffle: bool, ranks: usize) -> Result<Order> {
    let config = OrderConfig { samples, seed: run.seed, batch_size: run.batch_size, shuffle };
    Order::new(config, ranks).map_err(|error| at_key(run, error))
}

/// A hash of what shapes the rows of a run that have classes.
pub(crate) fn fingerprint(run: &Run, tokenizer: &Tokenizer, labels: &[String]) -> Result<String> {
    let files = Dataset::fingerprint_of(&sources(run), tokenizer, None, &options(run))?;
    Ok(format!("{files} {:?} {:?} {labels:?}", run.data.text_key, run.data.label_key))
}

/// The error at the key of the configuration that it is about, if it is about one.
fn at_key(run: &Run, error: data::Error) -> Error {
    let (table, key, what) = match &error {
        data::Error::Options { option, problem, remedy } => {
            let (table, key) = match *option {
                "batch_size" => ("run", "batch_size"),
                "tokenizer" => ("model", "tokenizer"),
                "eval_samples" | "sequence_length" | "overflow" | "columns" | "prompt_template" | "chat_template_kwargs" => {
                    ("data", *option)
                }
                _ => ("data", "train"),
            };
            (table, key, format!("{problem}; {remedy}"))
        }
        data::Error::Empty { role, reason, remedy } => ("data", *role, format!("gives nothing to learn from: {reason}; {remedy}")),
        _ => return error.into(),
    };
    run.error_at(table, key, &what).into()
}

fn sources(run: &Run) -> Sources {
    let format = match run.data.format {
        DataFormat::Auto => Format::Auto,
        DataFormat::Conversations => Format::Conversations,
        DataFormat::Text => Format::Text,
        DataFormat::Batches => Format::Batches,
    };
    let source = |source: &DataSource| Source { path: source.path.clone(), format, weight: source.weight };
    Sources {
        train: run.data.train.iter().map(source).collect(),
        eval: run.data.eval.iter().flat_map(|eval| eval.iter()).map(source).collect(),
    }
}

fn options(run: &Run) -> Options {
    let ready = run.data.format == DataFormat::Batches
        || run.data.train.paths().all(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    Options {
        sequence_length: run.data.sequence_length,
        overflow: run.data.overflow.map(|overflow| match overflow {
            config::Overflow::Split => data::Overflow::Split,
            config::Overflow::Truncate => data::Overflow::Truncate,
            config::Overflow::Drop => data::Overflow::Drop,
        }),
        loss_on: match run.data.loss_on {
            config::LossOn::Assistant => data::LossOn::Assistant,
            config::LossOn::All => data::LossOn::All,
        },
        packing: run.data.packing,
        bad_lines: match run.data.bad_lines {
            config::BadLines::Fail => data::BadLines::Error,
            config::BadLines::Skip => data::BadLines::Skip,
        },
        max_samples: run.data.max_samples,
        // Ready batches are taken as they are, and an own file of held-out data needs none of the training data.
        eval_samples: if ready || run.data.eval.is_some() { 0 } else { run.data.eval_samples },
        seed: run.seed,
        columns: run.data.columns.clone(),
        pairs: match run.data.pairs {
            config::Pairs::Auto => data::Pairs::Auto,
            config::Pairs::Text => data::Pairs::Text,
            config::Pairs::Chat => data::Pairs::Chat,
        },
        prompt_template: run.data.prompt_template.clone(),
        chat_template_kwargs: kwargs(&run.data.chat_template_kwargs),
    }
}

/// The variables of a chat template. A date of TOML is its text.
fn kwargs(table: &toml::Table) -> serde_json::Map<String, serde_json::Value> {
    fn value(found: &toml::Value) -> serde_json::Value {
        match found {
            toml::Value::String(text) => text.as_str().into(),
            toml::Value::Integer(number) => (*number).into(),
            toml::Value::Float(number) => (*number).into(),
            toml::Value::Boolean(switch) => (*switch).into(),
            toml::Value::Datetime(date) => date.to_string().into(),
            toml::Value::Array(list) => list.iter().map(value).collect(),
            toml::Value::Table(table) => kwargs(table).into(),
        }
    }
    table.iter().map(|(key, found)| (key.clone(), value(found))).collect()
}
