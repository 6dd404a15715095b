//! `loract shard`: a run's data, prepared ahead.

mod samples;
mod summary;

use crate::{
    config_args::ConfigArgs, failure::Failure, progress::Progress, run_dir::RunDir,
    run_lock::RunLock,
};
use clap::Args;
use config::{DataSources, Run, Task};
use data::{Dataset, ShownToken};
use samples::Marks;
use serde_json::json;
use setup::RunData;
use std::{cell::RefCell, fmt::Write as _, io::Write as _, path::Path, time::Instant};

/// Prepare a run's data ahead, in RUN_DIR/data, and show what will be trained
///
/// It is read, tokenized and split; train and launch do the same where it is not prepared yet. Of
/// what does not fit into memory, parts are written to RUN_DIR/data/train.parts; started again
/// after an interruption, it resumes after the last of them. Data that are there already are
/// compared with their checksums. The last line of the output is the folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract shard configs/demo.toml --set data.max_samples=1000
  loract shard configs/demo.toml --show 2                what is trained in two samples
  loract shard configs/demo.toml --show 2 --from 100     in samples 100 and 101
  loract shard configs/demo.toml --show 2 --json

  trained tokens are bold and green on a terminal (unless NO_COLOR is set), and stand between ⟦ and ⟧
  elsewhere; the first token of a document is never trained, because nothing comes before it

Exit codes: 0 done; 2 wrong use, configuration or data; 1 any other failure.")]
pub struct Shard {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also print this many training samples, with the trained tokens marked
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub show: usize,
    /// The first of them, counted from 0
    #[arg(long, value_name = "SAMPLE", default_value_t = 0, requires = "show")]
    pub from: usize,
    /// Print what was made as JSON
    #[arg(long)]
    pub json: bool,
}

impl Shard {
    pub fn run(self) -> Result<(), Failure> {
        let run = Run::load(&self.config.config, &self.config.set)?;
        setup::check(&run, run.cluster.ranks)?;
        let start = Instant::now();
        let _lock = RunLock::acquire(&run.dir, "loract shard")?;
        let data = prepare(&run, run.cluster.ranks)?;
        data.verify(&run)?;
        data.write(&run)?;
        let folder = RunDir::new(&run).path().join("data");
        let samples = data.show(&run, self.from, self.show)?;
        let out = if self.json {
            format!("{:#}\n", described(&folder, &data, &samples, start.elapsed().as_secs_f64()))
        } else {
            self.page(&run, &folder, &data, samples)
        };
        match std::io::stdout().lock().write_all(out.as_bytes()) {
            // Whoever reads has seen enough.
            Err(fault) if fault.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome.map_err(|fault| Failure::Other(fault.into())),
        }
    }

    /// What a person reads: samples, a table, the lengths of documents, and the folder in the last
    /// line.
    fn page(
        &self,
        run: &Run,
        folder: &Path,
        data: &RunData,
        mut shown: Vec<Vec<ShownToken>>,
    ) -> String {
        let Some(prepared) = data.prepared() else {
            return "nothing is prepared for classification: each rank reads the rows when it trains\n".into();
        };
        let mut out = String::new();
        if self.show > 0 {
            if shown.iter().flatten().all(|token| token.text.is_empty()) {
                samples::with_ids(&mut shown);
            }
            out += &samples::text(&shown, self.from, Marks::of_stdout());
        }
        let _ = writeln!(out, "{}", summary::table(&prepared.train, prepared.eval.as_ref()));
        let sets = [("training", Some(&prepared.train)), ("validation", prepared.eval.as_ref())];
        for (name, set) in sets.into_iter().filter_map(|(name, set)| Some((name, set?))) {
            // Ready batches have a length of their own.
            let sequence_length =
                set.ready_batch_size().is_none().then_some(run.data.sequence_length as u64);
            let _ = writeln!(
                out,
                "\ntokens of {name} documents\n{}",
                summary::histogram(&set.lengths(), sequence_length).trim_end()
            );
        }
        let _ = writeln!(out, "\n{}", folder.display());
        out
    }
}

/// What was made. Where rows have classes, nothing is.
fn described(
    folder: &Path,
    data: &RunData,
    samples: &[Vec<ShownToken>],
    seconds: f64,
) -> serde_json::Value {
    let set = |set: &Dataset| {
        json!({
            "samples": set.len(), "documents": set.documents(), "tokens": set.tokens(), "targets": set.targets(),
            "untrained": set.tokens() - set.targets(), "longest": set.longest(), "lengths": set.lengths(), "report": set.report(),
        })
    };
    let prepared = data.prepared();
    json!({
        "folder": folder,
        "was_there": data.is_on_disk(),
        "train": prepared.map(|prepared| set(&prepared.train)),
        "eval": prepared.and_then(|prepared| prepared.eval.as_ref()).map(set),
        "report": prepared.map(|prepared| prepared.train.report()),
        "samples": samples,
        "seconds": seconds,
    })
}

/// Prepares the data, with a progress bar, and prints what was skipped. Only parts are written.
pub fn prepare(run: &Run, world_size: usize) -> Result<RunData, Failure> {
    let what = format!("preparing {}", name(&run.data.train));
    let progress = match run.model.task {
        Task::CausalLm => Progress::of_bytes(&what, None),
        // Rows.
        Task::SequenceClassification | Task::ImageClassification => Progress::start(&what, None),
    };
    let progress = RefCell::new(progress);
    let outcome = RunData::prepare(
        run,
        world_size,
        &|done, total| progress.borrow_mut().update(done, Some(total), what.clone()),
        &|notice| eprintln!("{notice}"),
    );
    progress.into_inner().finish();
    if let Some(prepared) =
        outcome.as_ref().ok().filter(|data| !data.is_on_disk()).and_then(RunData::prepared)
    {
        say_what_is_left_out(&prepared.train);
        // Validation samples that are split off the training data are counted with it.
        prepared
            .eval
            .iter()
            .filter(|_| prepared.train.report().held_out == 0)
            .for_each(say_what_is_left_out);
    }
    Ok(outcome?)
}

fn say_what_is_left_out(set: &Dataset) {
    let report = set.report();
    for file in &report.bad {
        eprintln!("skipped {} bad lines of {}", file.count, file.path.display());
        for line in &file.first {
            eprintln!("  {}:{}: {}", file.path.display(), line.line, line.problem);
        }
        if file.count > file.first.len() {
            eprintln!("  and {} more", file.count - file.first.len());
        }
    }
    for (key, count) in &report.unread {
        eprintln!("`{key}` is not read ({count} records)");
    }
    for (key, count) in &report.unwritten {
        eprintln!(
            "`{key}` is given to the chat template, which does not write it ({count} records)"
        );
    }
    if report.dropped > 0 {
        eprintln!("left out {} samples without a trained token", report.dropped);
    }
    if report.too_long > 0 {
        eprintln!("left out {} samples longer than [data] sequence_length", report.too_long);
    }
    if report.truncated > 0 {
        eprintln!("truncated {} samples to [data] sequence_length", report.truncated);
    }
}

fn name(sources: &DataSources) -> String {
    match sources.only() {
        Some(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        None => format!("{} sources", sources.paths().count()),
    }
}
