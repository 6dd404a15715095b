use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use crate::dataset::{Dataset, Facts, Index};
use crate::dataset_file::VERSION;
use crate::encode::{Encoder, Failure};
use crate::error::{Error, Place, Result};
use crate::fingerprint::Fingerprint;
use crate::hold_out::hold_out;
use crate::options::{BadLines, Options};
use crate::packing::pack;
use crate::parts::{self, Aside, Documents, Parts};
use crate::ready;
use crate::record::{Fault, Reader};
use crate::records::{Block, Raw, Records};
use crate::report::Report;
use crate::sample::Sample;
use crate::source::{self, Kind, Source, SourceFile, Sources};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::weight;

/// The data of a run, ready to train on or to be written.
#[derive(Debug)]
pub struct Prepared {
    /// What is trained on.
    pub train: Dataset,
    /// What is evaluated on.
    pub eval: Option<Dataset>,
    /// Where the tokens are until it is written, unless they are in memory.
    parts: Option<PathBuf>,
}

impl Prepared {
    /// Writes the training set to `path` and the evaluation set, where there is one, beside it
    /// (`train.safetensors`, `train.eval.safetensors`). The training set comes last: where it is, both are. The parts of
    /// [`Dataset::prepare_for`] are removed then: open what was written.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(eval) = &self.eval {
            eval.write(&eval_path(path))?;
        }
        self.train.write(path)?;
        self.parts.as_deref().map_or(Ok(()), parts::remove)
    }

    /// Opens what [`Prepared::write`] wrote.
    ///
    /// # Errors
    /// If a file is missing or broken, or the two were not made together.
    pub fn open(path: &Path) -> Result<Self> {
        let train = Dataset::open(path)?;
        if !train.facts.has_eval {
            return Ok(Self { train, eval: None, parts: None });
        }
        let path = eval_path(path);
        let eval = Dataset::open(&path)?;
        if eval.fingerprint() != train.fingerprint() {
            let problem = "it was not prepared together with its training set";
            return Err(Error::file(&path, problem, "delete both and prepare the data again"));
        }
        Ok(Self { train, eval: Some(eval), parts: None })
    }

    /// Reads what [`Prepared::write`] wrote as a whole, and compares it with its checksums.
    ///
    /// # Errors
    /// If a file cannot be read, or a byte of it has changed.
    pub fn verify(&self, path: &Path) -> Result<()> {
        if self.eval.is_some() {
            Dataset::verify(&eval_path(path))?;
        }
        Dataset::verify(path)
    }
}

fn eval_path(path: &Path) -> PathBuf {
    path.with_extension("eval.safetensors")
}

impl Dataset {
    /// Reads, tokenises, masks, truncates, holds out, weighs and packs, on all cores. Files are read in blocks; the tokens are kept in memory, and
    /// nothing is written.
    ///
    /// Conversations need a template, ready batches neither that nor a tokenizer. `progress` is told (done, total) in
    /// bytes of the sources now and then, on the calling thread.
    ///
    /// # Errors
    /// If an option or a file cannot be used, at the first bad record (unless those are skipped), and if nothing is
    /// left to train or evaluate on.
    pub fn prepare<'a>(
        sources: &Sources,
        tokenizer: impl Into<Option<&'a Tokenizer>>,
        template: Option<&ChatTemplate>,
        options: &Options,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Prepared> {
        prepare(None, sources, tokenizer.into(), template, options, progress)
    }

    /// The same in bounded memory, for data that will be written to `path`: every eight million tokens are written to a part, in a folder
    /// beside it (`train.parts/`). Less stays in memory until [`Prepared::write`] puts all into one file; only the index, some 60 bytes for each document,
    /// is always there.
    ///
    /// Where the process is ended, the parts remain. Called again for the same data it goes on behind the last one that is whole, as its checksum
    /// says, and comes to the same bytes. Parts of other data are removed, and so are those of data that are refused.
    ///
    /// # Errors
    /// Those of [`Dataset::prepare`], and if a part cannot be written.
    pub fn prepare_for<'a>(
        path: &Path,
        sources: &Sources,
        tokenizer: impl Into<Option<&'a Tokenizer>>,
        template: Option<&ChatTemplate>,
        options: &Options,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Prepared> {
        let parts = path.with_extension("parts");
        let prepared = prepare(Some(Aside::new(&parts)), sources, tokenizer.into(), template, options, progress);
        match &prepared {
            // There may be room, or another disk, the next time.
            Ok(_) | Err(Error::Io { .. }) => {}
            Err(_) => parts::remove(&parts)?,
        }
        prepared
    }

    /// The fingerprint that [`Dataset::prepare`] would give: a hash of each file's path, length and time of change, of
    /// weights, tokenizer, template and options. Reads no data.
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
                for path in source.paths()? {
                    let io = || Error::io("open", &path);
                    let metadata = std::fs::metadata(&path).map_err(io())?;
                    let changed = metadata.modified().map_err(io())?;
                    fingerprint.add(role);
                    fingerprint.add(std::fs::canonicalize(&path).map_err(io())?.as_os_str().as_encoded_bytes());
                    fingerprint.add(format!("{:?} {} {changed:?}", source.format, metadata.len()));
                }
            }
            // Only where there are such weights, so that data of a time without them stay valid.
            if sources.iter().any(|source| source.weight != 1.0) {
                let weights = sources.iter().map(|source| format!("{:?} {}", source.path, source.weight));
                fingerprint.add_all(weights.collect::<Vec<_>>().iter());
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
    if let Some(source) = sources.train.iter().find(|source| !(source.weight > 0.0 && source.weight <= 1000.0)) {
        let problem = format!("the weight of {} is {}", source.path.display(), source.weight);
        return refuse("train", &problem, "give a number above 0 and at most 1000");
    }
    if let Some(source) = sources.eval.iter().find(|source| source.weight != 1.0) {
        return refuse("eval", &format!("{} has a weight", source.path.display()), "weigh training data only");
    }
    Ok(())
}

fn prepare(
    aside: Option<Aside<'_>>,
    sources: &Sources,
    tokenizer: Option<&Tokenizer>,
    template: Option<&ChatTemplate>,
    options: &Options,
    progress: &dyn Fn(u64, u64),
) -> Result<Prepared> {
    check(sources, options)?;
    let fingerprint = Dataset::fingerprint_of(sources, tokenizer, template, options)?;
    if let Some(Aside { folder, .. }) = aside.filter(|aside| !parts::belong(aside.folder, &fingerprint)) {
        parts::remove(folder)?;
    }
    let (train_files, eval_files) = (source::files(&sources.train)?, source::files(&sources.eval)?);
    let total = total(&train_files)? + total(&eval_files)?;
    let reader = Reader::new(options, template.is_some())?;
    let maker = Maker { tokenizer, template, reader, options, progress, total };
    let most = options.max_samples.unwrap_or(usize::MAX);
    let (train, batch_size) = maker.make(&train_files, &Parts::new(aside, "train", &fingerprint), most, 0)?;
    let (eval, eval_batch_size) = maker.make(&eval_files, &Parts::new(aside, "eval", &fingerprint), usize::MAX, total)?;
    progress(total, total);

    let (kept, drawn) = split(&train, batch_size, options)?;
    let wants_eval = !sources.eval.is_empty() || options.eval_samples > 0;
    refuse_empty(&train, "train")?;
    if !sources.eval.is_empty() {
        refuse_empty(&eval, "eval")?;
    }
    let held_out = drawn.len();
    let kept = weigh(kept, &train, &sources.train, options.seed)?;
    let rows = (options.packing && batch_size.is_none()).then(|| {
        let lengths: Vec<usize> = kept.iter().map(|&document| train.lengths[document] as usize).collect();
        let named = |row: Vec<usize>| row.into_iter().map(|place| kept[place]).collect();
        pack(&lengths, options.sequence_length).into_iter().map(named).collect::<Vec<Vec<usize>>>()
    });

    let facts = |documents: &Documents, batch_size, has_eval| Facts {
        version: VERSION,
        fingerprint: fingerprint.clone(),
        batch_size,
        has_eval,
        report: documents.report.clone(),
        ..Facts::default()
    };
    let (mut train_facts, mut eval_facts) = (facts(&train, batch_size, wants_eval), facts(&eval, eval_batch_size, false));
    train_facts.report.held_out = held_out;
    let (train, eval) = (Chosen::new(train), Chosen::new(eval));
    let eval = if held_out > 0 {
        eval_facts.report.records = held_out;
        Some(train.dataset(drawn.chunks(1), eval_facts))
    } else {
        let all: Vec<usize> = (0..eval.documents.len()).collect();
        wants_eval.then(|| eval.dataset(all.chunks(1), eval_facts))
    };
    let train = match rows {
        Some(rows) => train.dataset(rows.iter().map(Vec::as_slice), train_facts),
        None => train.dataset(kept.chunks(1), train_facts),
    };
    Ok(Prepared { train, eval, parts: aside.map(|aside| aside.folder.to_owned()) })
}

fn total(files: &[SourceFile]) -> Result<u64> {
    Ok(Records::new(files, Default::default())?.bytes())
}

/// What is trained on, and what is held out.
fn split(train: &Documents, batch_size: Option<usize>, options: &Options) -> Result<(Vec<usize>, Vec<usize>)> {
    let refuse = |problem: String, remedy: &str| Err(Error::Options { option: "eval_samples", problem, remedy: remedy.into() });
    let all: Vec<usize> = (0..train.len()).collect();
    if options.eval_samples == 0 {
        return Ok((all, Vec::new()));
    }
    if batch_size.is_some() {
        return refuse(
            "ready batches are taken as they are, none of their samples can be held out".into(),
            "set it to 0, and give an evaluation source of its own",
        );
    }
    if options.eval_samples >= train.len() && train.len() > 0 {
        return refuse(
            format!("{} samples shall be held out, but there are only {}", options.eval_samples, train.len()),
            "hold out fewer, or give more data",
        );
    }
    Ok(hold_out(all, options.eval_samples, options.seed))
}

/// Repeats the documents of each source as its weight says.
fn weigh(kept: Vec<usize>, train: &Documents, sources: &[Source], seed: u64) -> Result<Vec<usize>> {
    if sources.iter().all(|source| source.weight == 1.0) {
        return Ok(kept);
    }
    let mut weighed = Vec::new();
    let mut rest = &kept[..];
    for (index, source) in sources.iter().enumerate() {
        let end = train.source_ends.get(index).copied().unwrap_or(train.len());
        let (mine, others) = rest.split_at(rest.partition_point(|&document| document < end));
        weighed.extend(weight::repeat(mine, source.weight, seed, index));
        rest = others;
    }
    if weighed.is_empty() {
        let remedy = "raise the weights".into();
        return Err(Error::Empty { role: "train", reason: "the weights leave no sample".into(), remedy });
    }
    Ok(weighed)
}

/// Documents out of which data sets are made.
struct Chosen {
    documents: Documents,
    store: Arc<crate::store::Store>,
}

impl Chosen {
    fn new(mut documents: Documents) -> Self {
        let store = Arc::new(std::mem::take(&mut documents.store));
        Self { documents, store }
    }

    /// A data set whose samples are `rows` of documents.
    fn dataset<'r>(&self, rows: impl Iterator<Item = &'r [usize]>, mut facts: Facts) -> Dataset {
        let Documents { starts, lengths, targets, largest, .. } = &self.documents;
        let mut index = Index { sample_starts: vec![0], segment_lengths: Vec::new(), segment_starts: vec![0] };
        let mut documents = Vec::new();
        for row in rows {
            let before = facts.tokens;
            for &document in row {
                documents.push(starts[document]);
                index.segment_lengths.push(lengths[document]);
                facts.tokens += u64::from(lengths[document]);
                facts.targets += u64::from(targets[document]);
                facts.largest_token = facts.largest_token.max(largest[document]);
            }
            facts.longest = facts.longest.max((facts.tokens - before) as usize);
            index.sample_starts.push(facts.tokens);
            index.segment_starts.push(documents.len() as u64);
        }
        facts.samples = index.sample_starts.len() - 1;
        facts.documents = documents.len();
        Dataset { store: Arc::clone(&self.store), documents: Some(documents), index, facts }
    }
}

fn refuse_empty(documents: &Documents, role: &'static str) -> Result<()> {
    if documents.len() > 0 {
        return Ok(());
    }
    let Report { records, skipped, dropped, .. } = documents.report;
    let (reason, remedy) = match records {
        0 => ("it has no records".into(), "give a file with at least one"),
        _ => (
            format!("records: {records}, of them bad: {skipped}, without a trained token: {dropped}"),
            "correct them, or raise sequence_length past the prompts",
        ),
    };
    Err(Error::Empty { role, reason, remedy: remedy.into() })
}

struct Maker<'a> {
    tokenizer: Option<&'a Tokenizer>,
    template: Option<&'a ChatTemplate>,
    reader: Reader,
    options: &'a Options,
    progress: &'a dyn Fn(u64, u64),
    total: u64,
}

impl Maker<'_> {
    /// The documents of files, at most of their first `most` records; of ready batches, also how many samples make one.
    fn make(&self, files: &[SourceFile], parts: &Parts<'_>, most: usize, before: u64) -> Result<(Documents, Option<usize>)> {
        let ready = files.iter().filter(|file| file.kind == Kind::Ready).count();
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
        let (mut documents, cursor) = parts.resume();
        let mut records = Records::new(files, cursor)?;
        while let Some(block) = records.block(most.saturating_sub(documents.report.records))? {
            self.take(&block, &mut documents)?;
            parts.flush(&mut documents, records.cursor())?;
            (self.progress)((before + records.bytes_before()).min(self.total), self.total);
        }
        let Report { records, skipped, dropped, .. } = documents.report;
        if skipped > 0 {
            tracing::warn!("{skipped} of {records} records were skipped");
        }
        if dropped > 0 {
            tracing::warn!("{dropped} samples were left out: no trained token in them");
        }
        Ok((documents, None))
    }

    fn take(&self, block: &Block<'_>, documents: &mut Documents) -> Result<()> {
        let path = &block.file.path;
        let tokenizer = self.tokenizer.ok_or_else(|| Error::Options {
            option: "tokenizer",
            problem: format!("{} holds text, but there is no tokenizer", path.display()),
            remedy: "give the model's tokenizer, or ready batches".into(),
        })?;
        let Options { loss_on, sequence_length, .. } = *self.options;
        let encoder = Encoder { tokenizer, template: self.template, loss_on, sequence_length };
        let reader = &self.reader;
        let encode = |raw: &Raw| {
            let (record, unread) = raw.record(block.file, reader)?;
            let (sample, unwritten) = encoder.encode(record)?;
            Ok((sample, unread, unwritten))
        };
        // Collected in order, so that the first bad record is the same one in every run.
        let results: Vec<Result<_, Failure>> = block.records.par_iter().map(encode).collect();
        for (raw, result) in block.records.iter().zip(results) {
            documents.report.records += 1;
            match result {
                Ok((sample, unread, unwritten)) => {
                    documents.report.unread(unread, &unwritten);
                    self.keep(sample, block.file.source, documents);
                }
                Err(Failure::Record(fault)) => self.skip(raw.place(path), fault, &mut documents.report)?,
                Err(Failure::SetUp(error)) => return Err(met_at(error, &raw.place(path))),
            }
        }
        Ok(())
    }

    fn keep(&self, mut sample: Sample, source: usize, documents: &mut Documents) {
        documents.report.truncated += usize::from(sample.truncate(self.options.sequence_length));
        if sample.target_count() > 0 {
            documents.push(&sample, source);
        } else {
            documents.report.dropped += 1;
        }
    }

    fn skip(&self, place: Place, Fault { problem, remedy }: Fault, report: &mut Report) -> Result<()> {
        if self.options.bad_lines == BadLines::Error {
            return Err(Error::Record { place, problem, remedy });
        }
        report.skip(&place.path, place.line, problem);
        Ok(())
    }

    fn take_ready(&self, files: &[SourceFile]) -> Result<(Documents, Option<usize>)> {
        let mut documents = Documents::default();
        let mut batch_size = None;
        for file in files {
            let ready = ready::read(&file.path)?;
            if batch_size.is_some_and(|size| size != ready.batch_size) {
                return Err(Error::file(
                    &file.path,
                    format!("its batches have {} samples, those before it another number", ready.batch_size),
                    "give files with the same batch size",
                ));
            }
            batch_size = Some(ready.batch_size);
            documents.report.records += ready.samples.len();
            ready.samples.iter().for_each(|sample| documents.push(sample, file.source));
        }
        Ok((documents, batch_size))
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
