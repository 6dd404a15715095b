//! `loract merge`: a model with what was trained inside.

use crate::{failure::Failure, progress::Progress, run_dir::RunDir};
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use config::units;
use config::{ByteSize, Run};
use inference::MergeRequest;
use serde_json::json;
use std::path::PathBuf;
use tch::Kind;

/// Merge an adapter into its model's weights, and write them as Hugging Face has them
///
/// The directory holds everything that transformers opens: weights, config.json, and the
/// tokenizer's files. Of a GGUF model they are made from what is in the file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract merge configs/demo.toml --out merged
  loract merge configs/demo.toml --out merged --dtype bf16 --shard-size 2GB
  loract merge --model models/llama --adapter runs/demo/adapter --out merged

A configuration means its model with the adapter in its run directory. Each weight is computed in
f32 and rounded once. The directory appears whole or not at all.

Exit codes: 0 done; 2 wrong use, configuration or input; 1 any other failure.")]
pub struct Merge {
    /// The run's configuration, in TOML
    #[arg(required_unless_present = "model")]
    pub config: Option<PathBuf>,
    /// Replace a key of the configuration. May be repeated
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// A Hugging Face model directory, or a .gguf file, without a configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config", requires = "adapter")]
    pub model: Option<PathBuf>,
    /// The PEFT adapter; with a configuration that of its run if not said otherwise
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The most bytes of weights in a file
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    pub shard_size: ByteSize,
    /// The dtype of all weights; if absent, as the model is stored, and f32 where that is quantised
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// Print what was written as JSON
    #[arg(long)]
    pub json: bool,
}

/// What weights are rounded to.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Dtype {
    /// 32-bit floating point
    F32,
    /// bfloat16
    Bf16,
    /// IEEE half precision
    F16,
}

/// What the progress is of.
const WHAT: &str = "merging, in MB";

impl Merge {
    pub fn run(self) -> Result<(), Failure> {
        let request = self.request()?;
        let mut progress = Progress::start(WHAT, None);
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        let merged = inference::merge(&request, &mut |done, total| {
            progress.update(megabytes(done), Some(megabytes(total)), WHAT.into());
        });
        progress.finish();
        let merged = merged?;
        if self.json {
            println!(
                "{}",
                json!({
                    "model": request.model, "adapter": request.adapter, "out": request.out, "modules": merged.modules,
                    "parameters": merged.parameters, "bytes": merged.bytes, "files": merged.files,
                })
            );
            return Ok(());
        }
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.add_row(["model".to_owned(), request.model.display().to_string()]);
        table.add_row(["adapter".to_owned(), request.adapter.display().to_string()]);
        table.add_row(["modules merged".to_owned(), merged.modules.to_string()]);
        table.add_row(["parameters".to_owned(), units::rate(merged.parameters as f64)]);
        let files = if merged.files.len() == 1 {
            "1 file".to_owned()
        } else {
            format!("{} files", merged.files.len())
        };
        table.add_row([
            "weights".to_owned(),
            format!("{} in {files}", units::bytes(merged.bytes as f64)),
        ]);
        table.add_row(["written to".to_owned(), request.out.display().to_string()]);
        println!("{table}");
        Ok(())
    }

    /// What is meant.
    fn request(&self) -> Result<MergeRequest, Failure> {
        let kind = self.dtype.map(|dtype| match dtype {
            Dtype::F32 => Kind::Float,
            Dtype::Bf16 => Kind::BFloat16,
            Dtype::F16 => Kind::Half,
        });
        let (out, shard_bytes) = (self.out.clone(), self.shard_size.bytes());
        if let (Some(model), Some(adapter)) = (&self.model, &self.adapter) {
            let (model, adapter) = (model.clone(), adapter.clone());
            return Ok(MergeRequest {
                model,
                adapter,
                tokenizer: None,
                chat_template: None,
                out,
                kind,
                shard_bytes,
            });
        }
        // clap asks for one or the other.
        let config = self.config.as_deref().ok_or_else(|| {
            Failure::Input("give a configuration, or --model and --adapter".into())
        })?;
        let run = Run::load(config, &self.set)?;
        run.check_paths()?;
        let adapter = self.adapter.clone().unwrap_or_else(|| RunDir::new(&run).adapter());
        if self.adapter.is_none() && !adapter.exists() {
            let what = format!(
                "is {}, where no run has written an adapter yet; train first, or give --adapter DIR",
                run.dir.display()
            );
            return Err(run.error_at("run", "dir", &what).into());
        }
        let config::Model { path: model, tokenizer, chat_template, .. } = run.model;
        Ok(MergeRequest { model, adapter, tokenizer, chat_template, out, kind, shard_bytes })
    }
}
