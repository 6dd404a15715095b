use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Facts};
use crate::dataset_file::VERSION;
use crate::encode::{Encoder, Failure};
use crate::error::{Error, Place, Result};
use crate::fingerprint::Fingerprint;
use crate::hold_out::hold_out;
use crate::load::{self, Cut};
use crate::options::{BadLines, Options};
use crate::packing::pack;
use crate::read::Slice;
use crate::ready;
use crate::record::Fault;
use crate::sample::Sample;
use crate::source::Sources;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// What happened to the records of a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records read.
    pub records: usize,
    /// Records left out because they could not be used ([`BadLines::Skip`]).
    pub skipped: usize,
    /// Samples that lost their end to the sequence length.
    pub truncated: usize,
    /// Samples left out because no trained token was left in them.
    pub dropped: usize,
    /// Samples held out for evaluation.
    pub held_out: usize,
}

/// The data of a run, ready to train on or to be written.
#[derive(Debug)]
pub struct Prepared {
    /// What is trained on.
    pub train: Dataset,
    /// What is evaluated on.
    pub eval: Option<Dataset>,
}

impl Prepared {
    /// Writes the training set to `path` and the evaluation set, where there is one, beside it
    /// (`train.safetensors`, `train.eval.safetensors`). The training set comes last: where it is, both are.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(eval) = &self.eval {
            eval.write(&eval_path(path))?;
        }
        self.train.write(path)
    }

    /// Opens what [`Prepared::write`] wrote.
    ///
    /// # Errors
    /// If a file is missing or broken, or the two were not made together.
    pub fn open(path: &Path) -> Result<Self> {
        let train = Dataset::open(path)?;
        if !train.facts.has_eval {
            return Ok(Self { train, eval: None });
        }
        let path = eval_path(path);
        let eval = Dataset::open(&path)?;
        if eval.fingerprint() != train.fingerprint() {
            let problem = "it was not prepared together with its training set";
            return Err(Error::file(&path, problem, "delete both and prepare the data again"));
        }
        Ok(Self { train, eval: Some(eval) })
    }
}

fn eval_path(path: &Path) -> PathBuf {
    path.with_extension("eval.safetensors")
}

impl Dataset {
    /// Reads, tokenises, masks, truncates, holds out and packs, on all cores. Nothing is written.
    ///
    /// Conversations need a template, ready batches neither that nor a tokenizer. `progress` is told (done, total) in
    /// records now and then, on the calling thread.
    ///
    /// # Errors
    /// If an option or a file cannot be used, at the first bad record (unless those are skipped), and if nothing is
    /// left to train or evaluate on.
    pub fn prepare<'a>(
        sources: &Sources,
        tokenizer: impl Into<Option<&'a Tokenizer>>,
        template: Option<&ChatTemplate>,
        options: &Options,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Prepared> {
        let tokenizer = tokenizer.into();
        check(sources, options)?;
        let (train_files, eval_files) = (load::read(&sources.train)?, load::read(&sources.eval)?);
        let (mut train_files, eval_files) = (load::cut(&train_files)?, load::cut(&eval_files)?);
        let mut left = options.max_samples.unwrap_or(usize::MAX);
        for file in &mut train_files {
            file.slices.truncate(left);
            left -= file.slices.len();
        }
        let total = train_files.iter().chain(&eval_files).map(|file| file.slices.len()).sum();
        let maker = Maker { tokenizer, template, options, progress, total };
        let fingerprint = Self::fingerprint_of(sources, tokenizer, template, options)?;

        let mut train = maker.make(&train_files, 0)?;
        let mut eval = maker.make(&eval_files, train.report.records)?;
        if options.eval_samples > 0 {
            if train.batch_size.is_some() {
                return Err(Error::Options {
                    option: "eval_samples",
                    problem: "ready batches are taken as they are, none of their samples can be held out".into(),
                    remedy: "set it to 0, and give an evaluation source of its own".into(),
                });
            }
            if options.eval_samples >= train.samples.len() && !train.samples.is_empty() {
                return Err(Error::Options {
                    option: "eval_samples",
                    problem: format!("{} samples shall be held out, but there are only {}", options.eval_samples, train.samples.len()),
                    remedy: "hold out fewer, or give more data".into(),
                });
            }
            (train.samples, eval.samples) = hold_out(train.samples, options.eval_samples, options.seed);
            train.report.held_out = eval.samples.len();
            eval.report.records = eval.samples.len();
        }

        let wants_eval = !sources.eval.is_empty() || options.eval_samples > 0;
        train.refuse_empty("train")?;
        if wants_eval {
            eval.refuse_empty("eval")?;
        }
        if options.packing && train.batch_size.is_none() {
            train.samples = pack(train.samples, options.sequence_length);
        }
        let facts = |made: &Made, has_eval| Facts {
            version: VERSION,
            fingerprint: fingerprint.clone(),
            batch_size: made.batch_size,
            has_eval,
            report: made.report,
            ..Facts::default()
        };
        let (train_facts, eval_facts) = (facts(&train, wants_eval), facts(&eval, false));
        Ok(Prepared {
            train: Dataset::from_samples(train.samples, train_facts),
            eval: wants_eval.then(|| Dataset::from_samples(eval.samples, eval_facts)),
        })
    }

    /// The fingerprint that [`Dataset::prepare`] would give: a hash of each file's path, length and time of change, of
    /// tokenizer, template and options. Reads no data.
    ///
    /// # Errors
    /// If a file is not there.
    pub fn fingerprint_of<'a>(
        sources: &Sources,
        tokenizer: impl Into<Option<&'a Tokenizer>>,
        template: Option<&ChatTemplate>,
        options: &Options,
    ) -> Result<String> {
        let mut fingerprint = Fingerprint::new("data set");
        fingerprint.add(VERSION.to_le_bytes());
        for (role, sources) in [("train", &sources.train), ("eval", &sources.eval)] {
            for source in sources {
                let io = || Error::io("open", &source.path);
                let path = std::fs::canonicalize(&source.path).map_err(io())?;
                let metadata = std::fs::metadata(&path).map_err(io())?;
                let changed = metadata.modified().map_err(io())?;
                fingerprint.add(role);
                fingerprint.add(path.as_os_str().as_encoded_bytes());
                fingerprint.add(format!("{:?} {} {changed:?}", source.format, metadata.len()));
            }
        }
        fingerprint.add(tokenizer.into().map_or("", Tokenizer::fingerprint));
        fingerprint.add(template.map_or("", ChatTemplate::fingerprint));
        fingerprint.add(format!("{options:?}"));
        Ok(fingerprint.finish())
    }
}

fn check(sources: &Sources, options: &Options) -> Result<()> {
    let refuse = |option, problem: &str, remedy: &str| Err(Error::Options { option, problem: problem.into(), remedy: remedy.into() });
    if sources.train.is_empty() {
        return refuse("train", "there is no training source", "name at least one file");
    }
    if options.sequence_length < 2 {
        return refuse("sequence_length", "a sample needs two tokens, one to predict the other", "set it to 2 or more");
    }
    if !sources.eval.is_empty() && options.eval_samples > 0 {
        return refuse(
            "eval_samples",
            "evaluation samples shall be held out, but there is an evaluation source too",
            "set it to 0, or remove the evaluation source",
        );
    }
    Ok(())
}

struct Maker<'a> {
    tokenizer: Option<&'a Tokenizer>,
    template: Option<&'a ChatTemplate>,
    options: &'a Options,
    progress: &'a dyn Fn(usize, usize),
    total: usize,
}

#[derive(Default)]
struct Made {
    samples: Vec<Sample>,
    batch_size: Option<usize>,
    report: Report,
}

impl Made {
    fn refuse_empty(&self, role: &'static str) -> Result<()> {
        if !self.samples.is_empty() {
            return Ok(());
        }
        let Report { records, skipped, dropped, .. } = self.report;
        let (reason, remedy) = match records {
            0 => ("it has no records".into(), "give a file with at least one"),
            _ => (
                format!("records: {records}, of them bad: {skipped}, without a trained token: {dropped}"),
                "correct them, or raise sequence_length past the prompts",
            ),
        };
        Err(Error::Empty { role, reason, remedy: remedy.into() })
    }
}

/// Records that are worked on between two reports of progress.
const CHUNK: usize = 512;

/// Bad records that are named before they are only counted.
const NAMED: usize = 5;

impl Maker<'_> {
    fn make(&self, files: &[Cut<'_>], already: usize) -> Result<Made> {
        let ready = files.iter().filter(|file| file.is_ready()).count();
        if ready > 0 {
            if ready < files.len() {
                return Err(Error::Options {
                    option: "sources",
                    problem: "ready batches stand beside sources of another kind".into(),
                    remedy: "train on the one or the other".into(),
                });
            }
            return self.take_ready(files);
        }
        let mut made = Made::default();
        for file in files {
            self.make_file(file, already, &mut made)?;
        }
        if made.report.skipped > 0 {
            tracing::warn!("{} of {} records were skipped", made.report.skipped, made.report.records);
        }
        if made.report.dropped > 0 {
            tracing::warn!("{} samples were left out: no trained token in them", made.report.dropped);
        }
        Ok(made)
    }

    fn make_file(&self, file: &Cut<'_>, already: usize, made: &mut Made) -> Result<()> {
        let tokenizer = self.tokenizer.ok_or_else(|| Error::Options {
            option: "tokenizer",
            problem: format!("{} holds text, but there is no tokenizer", file.path.display()),
            remedy: "give the model's tokenizer, or ready batches".into(),
        })?;
        let encoder =
            Encoder { tokenizer, template: self.template, loss_on: self.options.loss_on, sequence_length: self.options.sequence_length };
        let encode = |slice: &Slice<'_>| {
            let record = file.record(slice, self.options)?;
            encoder.encode(&record)
        };
        for chunk in file.slices.chunks(CHUNK) {
            // Collected in order, so that the first bad record is the same one in every run.
            let results: Vec<Result<Sample, Failure>> = chunk.par_iter().map(encode).collect();
            for (slice, result) in chunk.iter().zip(results) {
                made.report.records += 1;
                match result {
                    Ok(sample) => self.keep(sample, made),
                    Err(Failure::Record(fault)) => self.skip(slice.place(file.path), fault, made)?,
                    Err(Failure::SetUp(error)) => return Err(met_at(error, &slice.place(file.path))),
                }
            }
            (self.progress)(already + made.report.records, self.total);
        }
        Ok(())
    }

    fn keep(&self, mut sample: Sample, made: &mut Made) {
        made.report.truncated += usize::from(sample.truncate(self.options.sequence_length));
        if sample.target_count() > 0 {
            made.samples.push(sample);
        } else {
            made.report.dropped += 1;
        }
    }

    fn skip(&self, place: Place, Fault { problem, remedy }: Fault, made: &mut Made) -> Result<()> {
        if self.options.bad_lines == BadLines::Error {
            return Err(Error::Record { place, problem, remedy });
        }
        if made.report.skipped < NAMED {
            tracing::warn!("skipped: {problem}, at {place}; {remedy}");
        }
        made.report.skipped += 1;
        Ok(())
    }

    fn take_ready(&self, files: &[Cut<'_>]) -> Result<Made> {
        let mut made = Made::default();
        for file in files {
            let ready = ready::read(file.path)?;
            if made.batch_size.is_some_and(|size| size != ready.batch_size) {
                return Err(Error::file(
                    file.path,
                    format!("its batches have {} samples, those before it another number", ready.batch_size),
                    "give files with the same batch size",
                ));
            }
            made.batch_size = Some(ready.batch_size);
            made.report.records += ready.samples.len();
            made.samples.extend(ready.samples);
        }
        Ok(made)
    }
}

/// Adds the record at which a fault of the template showed.
fn met_at(error: Error, place: &Place) -> Error {
    match error {
        Error::Template { problem, remedy } => Error::Template { problem: format!("{problem} (met at {place})"), remedy },
        other => other,
    }
}

#[cfg(test)]
mod tests;
