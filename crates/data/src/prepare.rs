use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::chosen::Chosen;
use crate::dataset::{Dataset, Facts, RULES};
use crate::dataset_file::VERSION;
use crate::encode::{Encoder, Failure};
use crate::error::{Error, Place, Result};
use crate::fingerprint::Fingerprint;
use crate::options::{BadLines, Options, Overflow};
use crate::parts::{self, Aside, Documents, Parts, flag};
use crate::ready;
use crate::record::{Fault, Reader, Record, is_worth_naming};
use crate::records::{self, Block, Raw, Records};
use crate::report::Report;
use crate::sample::Sample;
use crate::source::{self, Kind, SourceFile, Sources};
use crate::split::pieces;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

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
    /// Writes the training set to `path` and the evaluation set, where there is one, next to it
    /// (`train.safetensors`, `train.eval.safetensors`). The training set comes last: where it is,
    /// both are. The parts of [`Dataset::prepare_for`] are removed then: open what was written.
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
        if eval.facts.fingerprint != train.facts.fingerprint {
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
    /// Reads, tokenises, masks, truncates or splits, holds out, weighs and packs, on all cores.
    /// Files are read in blocks; the tokens are kept in memory, and nothing is written.
    ///
    /// Conversations need a template, ready batches neither that nor a tokenizer. `progress` is
    /// told (done, total) in bytes of the sources now and then, on the calling thread.
    ///
    /// # Errors
    /// If an option or a file cannot be used, at the first bad record (unless those are skipped),
    /// and if nothing is left to train or evaluate on.
    pub fn prepare<'a>(
        sources: &Sources,
        tokenizer: impl Into<Option<&'a Tokenizer>>,
        template: Option<&ChatTemplate>,
        options: &Options,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Prepared> {
        prepare(None, sources, tokenizer.into(), template, options, progress)
    }

    /// The same in bounded memory, for data that will be written to `path`: every eight million
    /// tokens are written to a part, in a folder next to it (`train.parts/`). Less stays in memory
    /// until [`Prepared::write`] puts all into one file; only the index, some 60 bytes for each
    /// document, is always there.
    ///
    /// Where the process is ended, the parts remain. Called again for the same data it resumes
    /// after the last one that is whole, as its checksum says, and comes to the same bytes. Parts
    /// of other data are removed, and so are those of data that are refused.
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
        let prepared = prepare(
            Some(Aside::new(&parts)),
            sources,
            tokenizer.into(),
            template,
            options,
            progress,
        );
        match &prepared {
            // There may be room, or another disk, the next time.
            Ok(_) | Err(Error::Io { .. }) => {}
            Err(_) => parts::remove(&parts)?,
        }
        prepared
    }

    /// The fingerprint that [`Dataset::prepare`] would give: a hash of each file's length and
    /// content ([`files::checksum`]), of weights, tokenizer, template and options. A file that was
    /// touched, moved or copied back is the same.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn fingerprint_of<'a>(
        sources: &Sources,
        tokenizer: impl Into<Option<&'a Tokenizer>>,
        template: Option<&ChatTemplate>,
        options: &Options,
    ) -> Result<String> {
        let mut fingerprint = Fingerprint::new("data set");
        fingerprint.add(VERSION.to_le_bytes());
        fingerprint.add(RULES.to_le_bytes());
        for (role, sources) in [("train", &sources.train), ("eval", &sources.eval)] {
            for source in sources {
                for path in source.paths()? {
                    let io = || Error::io("open", &path);
                    let file = files::open(&path).map_err(crate::file::error(&path))?;
                    let length = file.metadata().map_err(io())?.len();
                    let checksum = files::checksum(&path).map_err(io())?;
                    fingerprint.add(role);
                    fingerprint.add(format!("{:?} {length} {checksum:08x}", source.format));
                }
            }
            // Only where there are such weights, so that data of a time without them stay valid.
            if sources.iter().any(|source| source.weight != 1.0) {
                let weights =
                    sources.iter().map(|source| format!("{:?} {}", source.path, source.weight));
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
    let refuse = |option, problem: &str, remedy: &str| {
        Err(Error::Options { option, problem: problem.into(), remedy: remedy.into() })
    };
    if sources.train.is_empty() {
        return refuse("train", "there is no training source", "name at least one file");
    }
    if options.sequence_length < 2 {
        return refuse(
            "sequence_length",
            "a sample needs two tokens, one to predict the other",
            "set it to 2 or more",
        );
    }
    if !sources.eval.is_empty() && options.eval_samples > 0 {
        return refuse(
            "eval_samples",
            "evaluation samples would be taken from the training data, but there is an evaluation source too",
            "set it to 0, or remove the evaluation source",
        );
    }
    if let Some(source) =
        sources.train.iter().find(|source| !(source.weight > 0.0 && source.weight <= 1000.0))
    {
        let problem = format!("the weight of {} is {}", source.path.display(), source.weight);
        return refuse("train", &problem, "give a number above 0 and at most 1000");
    }
    if let Some(source) = sources.eval.iter().find(|source| source.weight != 1.0) {
        return refuse(
            "eval",
            &format!("{} has a weight", source.path.display()),
            "weigh training data only",
        );
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
    if let Some(Aside { folder, .. }) =
        aside.filter(|aside| !parts::belong(aside.folder, &fingerprint))
    {
        parts::remove(folder)?;
    }
    let (train_files, eval_files) = (source::files(&sources.train)?, source::files(&sources.eval)?);
    let total = records::bytes(&train_files)? + records::bytes(&eval_files)?;
    let reader = Reader::new(options, template.is_some())?;
    let maker = Maker { tokenizer, template, reader, options, progress, total };
    let most = options.max_samples.unwrap_or(usize::MAX);
    let (train, batch_size) =
        maker.make(&train_files, &Parts::new(aside, "train", &fingerprint), most, 0)?;
    let (eval, eval_batch_size) =
        maker.make(&eval_files, &Parts::new(aside, "eval", &fingerprint), usize::MAX, total)?;
    progress(total, total);

    let (train, eval) =
        (Chosen::new(train, batch_size, options), Chosen::new(eval, eval_batch_size, options));
    let (kept, drawn) = train.hold_out()?;
    refuse_empty(&train.documents, "train")?;
    if !sources.eval.is_empty() {
        refuse_empty(&eval.documents, "eval")?;
    }
    let has_eval = !sources.eval.is_empty() || options.eval_samples > 0;
    let facts = Facts { version: VERSION, fingerprint, ..Facts::default() };
    let held_out =
        Report { records: drawn.len(), truncated: train.truncated(&drawn), ..Report::default() };
    let eval = match (has_eval, drawn.len()) {
        (false, _) => None,
        (true, 0) => Some(eval.dataset(
            &eval.all(),
            false,
            Facts { report: eval.documents.report.clone(), ..facts.clone() },
        )),
        (true, _) => {
            Some(train.dataset(&drawn, false, Facts { report: held_out, ..facts.clone() }))
        }
    };
    let kept = train.weigh(kept, &sources.train)?;
    let report = Report { held_out: drawn.len(), ..train.documents.report.clone() };
    let train = train.dataset(&kept, options.packing, Facts { has_eval, report, ..facts });
    Ok(Prepared { train, eval, parts: aside.map(|aside| aside.folder.to_owned()) })
}

fn refuse_empty(documents: &Documents, role: &'static str) -> Result<()> {
    if documents.len() > 0 {
        return Ok(());
    }
    let Report { records, skipped, dropped, too_long, .. } = documents.report;
    let left_out =
        format!("records: {records}, of them bad: {skipped}, without a trained token: {dropped}");
    let (reason, remedy) = match (records, too_long) {
        (0, _) => ("it has no records".into(), "give a file with at least one"),
        (_, 0) => (left_out, "correct them, or raise sequence_length past the prompts"),
        _ => (
            format!("{left_out}, too long: {too_long}"),
            "raise sequence_length, or set overflow to \"split\" or \"truncate\"",
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
    /// The documents of files, at most of their first `most` records; of ready batches, also how
    /// many samples make one.
    fn make(
        &self,
        files: &[SourceFile],
        parts: &Parts<'_>,
        most: usize,
        before: u64,
    ) -> Result<(Documents, Option<usize>)> {
        let ready = files.iter().filter(|file| file.kind == Kind::Ready).count();
        if ready > 0 {
            if ready < files.len() {
                return Err(Error::Options {
                    option: "sources",
                    problem: "ready batches are mixed with sources of another kind".into(),
                    remedy: "train on the one or the other".into(),
                });
            }
            if self.options.overflow.is_some() {
                return Err(Error::Options {
                    option: "overflow",
                    problem: "ready batches keep their own length".into(),
                    remedy: "leave it out".into(),
                });
            }
            return self.take_ready(files);
        }
        let (mut documents, cursor) = parts.resume();
        let mut records = Records::new(files, &self.reader, cursor)?;
        while let Some(block) = records.block(most.saturating_sub(documents.report.records))? {
            self.take(block, &mut documents)?;
            parts.flush(&mut documents, records.cursor())?;
            (self.progress)((before + records.bytes_before()).min(self.total), self.total);
        }
        let Report { records, skipped, dropped, too_long, .. } = documents.report;
        if skipped > 0 {
            tracing::warn!("{skipped} of {records} records were skipped");
        }
        if dropped > 0 {
            tracing::warn!("{dropped} samples were left out: no trained token in them");
        }
        if too_long > 0 {
            tracing::warn!(
                "{too_long} of {records} records were left out: longer than {} tokens",
                self.options.sequence_length
            );
        }
        Ok((documents, None))
    }

    fn take(&self, block: Block<'_>, documents: &mut Documents) -> Result<()> {
        let path = &block.file.path;
        let tokenizer = self.tokenizer.ok_or_else(|| Error::Options {
            option: "tokenizer",
            problem: format!("{} holds text, but there is no tokenizer", path.display()),
            remedy: "give the model's tokenizer, or ready batches".into(),
        })?;
        let count = block.records.len();
        for column in block.unread.iter().filter(|column| is_worth_naming(column)) {
            *documents.report.unread.entry(column.clone()).or_default() += count;
        }
        let encoder = self.encoder(tokenizer);
        let reader = &self.reader;
        let encode = |raw: Raw| (raw.line, encode(&encoder, reader, raw, block.file));
        // Collected in order, so that the first bad record is the same one in every run.
        let results: Vec<(usize, Result<Encoded, Failure>)> =
            block.records.into_par_iter().map(encode).collect();
        for (line, result) in results {
            documents.report.records += 1;
            let place = || Place { path: path.to_owned(), line };
            match result {
                Ok(encoded) => {
                    documents.report.count_unread(&encoded.unread, &encoded.unwritten);
                    self.keep(encoded, block.file.source, documents);
                }
                Err(Failure::Record(fault)) => self.skip(place(), fault, &mut documents.report)?,
                Err(Failure::SetUp(error)) => return Err(met_at(error, &place())),
            }
        }
        Ok(())
    }

    /// Of what will be truncated or left out, only the beginning need be tokenised.
    fn encoder<'t>(&'t self, tokenizer: &'t Tokenizer) -> Encoder<'t> {
        let Options { loss_on, sequence_length, .. } = *self.options;
        let limit =
            |overflow| if overflow == Overflow::Split { usize::MAX } else { sequence_length };
        let (text_length, sequence_length) =
            (limit(self.options.text_overflow()), limit(self.options.turns_overflow()));
        Encoder { tokenizer, template: self.template, loss_on, sequence_length, text_length }
    }

    fn keep(
        &self,
        Encoded { mut sample, is_text, .. }: Encoded,
        source: usize,
        documents: &mut Documents,
    ) {
        let (limit, options) = (self.options.sequence_length, self.options);
        let overflow = if is_text { options.text_overflow() } else { options.turns_overflow() };
        let mut flags = 0;
        match overflow {
            Overflow::Drop if sample.len() > limit => {
                documents.report.too_long += 1;
                return;
            }
            Overflow::Truncate if sample.truncate(limit) => {
                documents.report.truncated += 1;
                flags = flag::TRUNCATED;
            }
            Overflow::Split if is_text && sample.trained.iter().skip(1).all(|&trained| trained) => {
                flags = flag::TEXT
            }
            Overflow::Split if sample.len() > limit => {
                return self.keep_pieces(&sample, source, documents);
            }
            Overflow::Split | Overflow::Truncate | Overflow::Drop => {}
        }
        if sample.target_count() > 0 {
            documents.push(sample, flags, source);
        } else {
            documents.report.dropped += 1;
        }
    }

    fn keep_pieces(&self, sample: &Sample, source: usize, documents: &mut Documents) {
        let mut flags = flag::PIECE;
        for range in pieces(sample.len(), self.options.sequence_length) {
            let piece = Sample::single(
                sample.tokens[range.clone()].to_vec(),
                sample.trained[range].to_vec(),
            );
            if piece.target_count() > 0 {
                documents.push(piece, flags, source);
                flags |= flag::CONTINUES;
            } else {
                documents.report.dropped += 1;
            }
        }
    }

    fn skip(
        &self,
        place: Place,
        Fault { problem, remedy }: Fault,
        report: &mut Report,
    ) -> Result<()> {
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
                    format!(
                        "its batches have {} samples, those before it another number",
                        ready.batch_size
                    ),
                    "give files with the same batch size",
                ));
            }
            batch_size = Some(ready.batch_size);
            documents.report.records += ready.samples.len();
            ready.samples.into_iter().for_each(|sample| documents.push(sample, 0, file.source));
        }
        Ok((documents, batch_size))
    }
}

/// A record's tokens.
struct Encoded {
    sample: Sample,
    is_text: bool,
    /// Keys of the record that nothing reads.
    unread: Vec<String>,
    /// Keys that the chat template does not write.
    unwritten: Vec<String>,
}

/// The record goes as soon as its tokens are there: one may fill much of the memory.
fn encode(
    encoder: &Encoder<'_>,
    reader: &Reader,
    raw: Raw,
    file: &SourceFile,
) -> Result<Encoded, Failure> {
    let (record, unread) = raw.record(file, reader)?;
    let is_text = matches!(record, Record::Text(_));
    let (sample, unwritten) = encoder.encode(record)?;
    Ok(Encoded { sample, is_text, unread, unwritten })
}

/// Adds the record at which a fault of the template showed.
fn met_at(error: Error, place: &Place) -> Error {
    match error {
        Error::Template { problem, remedy } => {
            Error::Template { problem: format!("{problem} (met at {place})"), remedy }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
