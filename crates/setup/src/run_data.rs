use std::path::{Path, PathBuf};

use config::{DataFormat, Run, Task};
use data::{Dataset, Prepared, ShownToken};
use models::Checkpoint;

use crate::data_options::{at_key, options, sources};
use crate::{
    Error, FaultInjection, LabelledData, Result, TextProcessor, dataset_order, open_base_model,
};

/// The tokenized data of a run.
#[derive(Debug)]
pub struct RunData {
    /// Absent for classifiers, whose data every rank reads itself.
    prepared: Option<Prepared>,
    on_disk: bool,
}

fn data_file(run_dir: &Path) -> PathBuf {
    run_dir.join("data").join("train.safetensors")
}

/// Where a run records the checksums of its data and its model, so that files that have not changed
/// are not read again when it resumes.
pub fn checksum_record(run_dir: &Path) -> PathBuf {
    run_dir.join("data").join("checksums")
}

impl RunData {
    /// Reads and tokenizes the data, or opens what an earlier run in this directory made of the
    /// same data.
    ///
    /// Writes nothing, unless the tokens exceed a part: they then go to parts in the run's
    /// directory ([`Dataset::prepare_for`]), from which an interrupted preparation resumes.
    /// `progress` receives (done, total) in bytes of the sources; for classifiers, in rows. `warn`
    /// receives what the user ought to know before anything is read.
    ///
    /// # Errors
    /// A line that cannot be used, no data, more ranks than samples, token ids that the model does
    /// not know.
    pub fn prepare(
        run: &Run,
        world_size: usize,
        progress: &dyn Fn(u64, u64),
        warn: &dyn Fn(&str),
    ) -> Result<Self> {
        files::load_checksums(&checksum_record(&run.dir));
        let checkpoint = open_base_model(&run.model)?;
        if run.model.task != Task::CausalLm {
            LabelledData::read(run, world_size, progress)?;
            return Ok(Self { prepared: None, on_disk: true });
        }
        let text = TextProcessor::open(&run.model, &checkpoint)?;
        let reads_text = run.data.format != DataFormat::Batches;
        if let Some(warning) = text.eos_warning().filter(|_| reads_text) {
            warn(warning);
        }
        let fingerprint = Dataset::fingerprint_of(
            &sources(run),
            text.tokenizer.as_ref(),
            text.template.as_ref(),
            &options(run),
        )?;
        let earlier = Prepared::open(&data_file(&run.dir))
            .ok()
            .filter(|earlier| earlier.train.fingerprint() == fingerprint);
        let on_disk = earlier.is_some();
        let prepared = earlier.map_or_else(|| tokenize(run, &text, progress), Ok)?;
        check_vocabulary(run, &prepared, &checkpoint)?;
        dataset_order(run, &prepared.train, world_size)?;
        Ok(Self { prepared: Some(prepared), on_disk })
    }

    /// Writes it into the run's directory, where every rank opens it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, run: &Run) -> Result<()> {
        let Some(prepared) = self.prepared.as_ref().filter(|_| !self.on_disk) else {
            return Ok(());
        };
        let path = data_file(&run.dir);
        let folder = run.dir.join("data");
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "make the directory"))?;
        prepared.write(&path)?;
        let record = checksum_record(&run.dir);
        files::store_checksums(&record)
            .map_err(|cause| Error::io(&record, "write")(cause.source))?;
        if let Some(fault) = FaultInjection::from_environment()? {
            fault.after_prepare();
        }
        Ok(())
    }

    /// Opens what [`RunData::write`] wrote.
    ///
    /// # Errors
    /// If it is not there, or broken.
    pub fn open(run_dir: &Path) -> Result<Prepared> {
        Ok(Prepared::open(&data_file(run_dir))?)
    }

    /// Whether an earlier run in this directory made it.
    pub fn is_on_disk(&self) -> bool {
        self.on_disk
    }

    /// Compares all that an earlier run wrote with its checksums.
    ///
    /// # Errors
    /// If a byte of it has changed.
    pub fn verify(&self, run: &Run) -> Result<()> {
        match &self.prepared {
            Some(prepared) if self.on_disk => Ok(prepared.verify(&data_file(&run.dir))?),
            _ => Ok(()),
        }
    }

    /// The training samples `from` .. `from + count`, at most, with their texts; without texts
    /// where there is no tokenizer.
    ///
    /// # Errors
    /// If the data or the tokenizer can no longer be read.
    pub fn show(&self, run: &Run, from: usize, count: usize) -> Result<Vec<Vec<ShownToken>>> {
        let Some(Prepared { train, .. }) = &self.prepared else { return Ok(Vec::new()) };
        let tokenizer = TextProcessor::open(&run.model, &open_base_model(&run.model)?)?.tokenizer;
        let shown = |index| Ok(train.sample(index)?.shown(tokenizer.as_ref())?);
        (from..train.len().min(from.saturating_add(count))).map(shown).collect()
    }

    /// The training and the validation samples; `None` for classifiers.
    pub fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_ref()
    }
}

fn tokenize(run: &Run, text: &TextProcessor, progress: &dyn Fn(u64, u64)) -> Result<Prepared> {
    let path = data_file(&run.dir);
    let fault = FaultInjection::from_environment()?;
    let progress = |done, total| {
        progress(done, total);
        if let Some(fault) = &fault {
            fault.in_prepare(|part| {
                path.with_extension("parts").join(format!("train-{part:05}.safetensors")).exists()
            });
        }
    };
    let (tokenizer, template) = (text.tokenizer.as_ref(), text.template.as_ref());
    Dataset::prepare_for(&path, &sources(run), tokenizer, template, &options(run), &progress)
        .map_err(|error| at_key(run, error))
}

fn check_vocabulary(run: &Run, prepared: &Prepared, checkpoint: &Checkpoint) -> Result<()> {
    let largest = prepared
        .eval
        .iter()
        .map(Dataset::largest_token)
        .max()
        .unwrap_or(0)
        .max(prepared.train.largest_token());
    let vocabulary = checkpoint.config()?.vocab_size;
    if i64::from(largest) < vocabulary {
        return Ok(());
    }
    let what = format!(
        "holds token id {largest}, and the model knows 0 to {}; prepare it again with this model's tokenizer",
        vocabulary - 1
    );
    Err(run.error_at("data", "train", &what).into())
}
