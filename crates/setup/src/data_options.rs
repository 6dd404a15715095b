//! From `[data]` to the options of the crate `data`, and from its errors to the keys that they are
//! about.

use config::{DataFormat, DataSource, Run};
use data::{Dataset, Format, Options, Source, Sources, Tokenizer};

use crate::{Error, Result};

/// Names the key of the configuration that an error is about, if it is about one.
pub(crate) fn at_key(run: &Run, error: data::Error) -> Error {
    let (table, key, what) = match &error {
        data::Error::Options { option, problem, remedy } => {
            let (table, key) = match *option {
                "batch_size" => ("run", "batch_size"),
                "tokenizer" => ("model", "tokenizer"),
                "eval_samples"
                | "sequence_length"
                | "overflow"
                | "columns"
                | "prompt_template"
                | "chat_template_kwargs" => ("data", *option),
                _ => ("data", "train"),
            };
            (table, key, format!("{problem}; {remedy}"))
        }
        data::Error::Empty { role, reason, remedy } => {
            ("data", *role, format!("gives nothing to learn from: {reason}; {remedy}"))
        }
        _ => return error.into(),
    };
    run.error_at(table, key, &what).into()
}

/// A hash of what determines the rows of a classifier.
pub(crate) fn labelled_fingerprint(
    run: &Run,
    tokenizer: &Tokenizer,
    labels: &[String],
) -> Result<String> {
    let files = Dataset::fingerprint_of(&sources(run), tokenizer, None, &options(run))?;
    Ok(format!("{files} {:?} {:?} {labels:?}", run.data.text_key, run.data.label_key))
}

/// The files of a run.
pub(crate) fn sources(run: &Run) -> Sources {
    let format = match run.data.format {
        DataFormat::Auto => Format::Auto,
        DataFormat::Conversations => Format::Conversations,
        DataFormat::Text => Format::Text,
        DataFormat::Batches => Format::Batches,
    };
    let source =
        |source: &DataSource| Source { path: source.path.clone(), format, weight: source.weight };
    Sources {
        train: run.data.train.iter().map(source).collect(),
        eval: run.data.eval.iter().flat_map(|eval| eval.iter()).map(source).collect(),
    }
}

/// How they become samples.
pub(crate) fn options(run: &Run) -> Options {
    let ready = run.data.format == DataFormat::Batches
        || run
            .data
            .train
            .paths()
            .all(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
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
        // Prepared batches are taken as they are, and with a validation file no training samples
        // are held out.
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

/// The variables of a chat template. A TOML date becomes its text.
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
