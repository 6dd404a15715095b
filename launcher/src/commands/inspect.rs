//! `loract inspect`: what compression does to a model on its data.

use super::{shard::prepare, train::threads};
use crate::{config_args::ConfigArgs, failure::Failure, page, progress::Progress};
use analysis::{BitAllocation, GradientReport, InspectOptions, Inspection};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use config::Run;
use config::units;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// Show what compression does to this model on this data, site by site
///
/// Runs a few batches and changes nothing: the error of every method at equal bytes at every site,
/// and what becomes of the gradients.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract inspect configs/demo.toml
  loract inspect configs/demo.toml --html demo.html
  loract inspect configs/demo.toml --bits 2 --bits 4 --batches 1 --json
  loract inspect configs/demo.toml --method coded --age 10 --shared 5 --shared 30 --layers 0

  error of a token  ‖a − â‖ / ‖a‖ of each row, norms restored, as a root mean square
  optimum           the least of any rank that takes as many bits in bf16
  gradients         of all trained parameters, against the exact ones: relative error and cosine.
                    The B of a new adapter is drawn at random, as from B = 0 A has no gradient.

Exit codes: 0 done; 2 wrong use, configuration or input; 1 any other failure.")]
pub struct Inspect {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Batches to look at
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub batches: u64,
    /// Bits per element, all of a code counted, at which methods are compared. May be repeated
    #[arg(long, value_name = "B", default_values_t = [2.0, 4.0, 8.0], value_parser = bits)]
    pub bits: Vec<f64>,
    /// Layers whose sites are shown, spread from the first to the last; 0: only gradients are
    /// looked at
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub layers: u16,
    /// Compare this method only, by its first word. May be repeated
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(analysis::inspected_methods()))]
    pub method: Vec<String>,
    /// Also show coded in the basis of the batch N batches earlier
    #[arg(long, value_name = "BATCHES", default_value_t = 0)]
    pub age: u64,
    /// Also show that older basis shared by N neighbouring layers. May be repeated
    #[arg(long, value_name = "LAYERS", requires = "age", value_parser = clap::value_parser!(u16).range(2..))]
    pub shared: Vec<u16>,
    /// Write a page with plots as well; it needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

impl Inspect {
    pub fn run(self) -> Result<(), Failure> {
        self.html.as_deref().map_or(Ok(()), page::check_place)?;
        let run = Run::load(&self.config.config, &self.config.set)?;
        tch::set_num_threads(i32::try_from(threads(run.threads, 1)).unwrap_or(i32::MAX));
        setup::check(&run, 1)?;
        let data = prepare(&run, 1)?;
        let options = InspectOptions {
            batches: self.batches,
            bits: self.bits.clone(),
            layers: usize::from(self.layers),
            methods: self.method.clone(),
            age: self.age,
            shared: self.shared.iter().copied().map(usize::from).collect(),
        };
        let mut progress = Progress::start("looking", None);
        let found = analysis::inspect(&run, &data, &options, &mut |done, total, what| {
            progress.update(done, Some(total), what.to_owned())
        });
        progress.finish();
        let found = found?;
        if self.json {
            println!(
                "{}",
                serde_json::to_string(&found).map_err(|fault| Failure::Other(fault.into()))?
            );
        } else {
            print(&found);
        }
        // After the numbers, so that no failure to write takes them away.
        if let Some(path) = &self.html {
            let model =
                run.model.path.file_name().unwrap_or(run.model.path.as_os_str()).to_string_lossy();
            page::write(path, &page::inspection::page(&found, &model, &run.to_toml())?)?;
            if !self.json {
                println!("\n{}", path.display());
            }
        }
        Ok(())
    }
}

/// A number of bits per element.
fn bits(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|bits| *bits > 0.0 && *bits <= 32.0)
        .ok_or_else(|| "give a number above 0 and at most 32".into())
}

fn print(found: &Inspection) {
    let batches = if found.batches == 1 {
        "1 batch".to_owned()
    } else {
        format!("{} batches", found.batches)
    };
    println!("{batches}, {} tokens", found.tokens);
    if let Some(budget) = &found.budget {
        println!("\n{budget}\n{}", shares(budget));
    }
    if !found.sites.is_empty() {
        println!("\nerror of a token, mean over the layers shown\n{}", sites(found));
    }
    println!("\ngradients against exact ones\n{}", gradients(&found.gradients));
}

/// The bits of each site, layer by layer.
fn shares(budget: &BitAllocation) -> Table {
    let sites: BTreeSet<&str> = budget.sites.iter().map(|share| share.site.as_str()).collect();
    let layers: BTreeSet<usize> = budget.sites.iter().map(|share| share.layer).collect();
    let mut table =
        table(std::iter::once("layer").chain(sites.iter().flat_map(|site| [*site, "sensitivity"])));
    for layer in layers {
        let of = |site: &str| {
            budget.sites.iter().find(|share| share.layer == layer && share.site == site)
        };
        let cells = sites.iter().flat_map(|site| match of(site) {
            Some(share) => {
                [format!("{:.2} bits", share.bits), format!("{:.2e}", share.sensitivity)]
            }
            None => ["–".to_owned(), "–".to_owned()],
        });
        table.add_row(std::iter::once(layer.to_string()).chain(cells));
    }
    right(table, 0)
}

/// Methods with the bits they take down, sites across.
fn sites(found: &Inspection) -> Table {
    let mut names: Vec<&str> = Vec::new();
    for report in &found.sites {
        if !names.contains(&report.site.as_str()) {
            names.push(&report.site);
        }
    }
    /// Sum and count of the errors at each site.
    type Errors = BTreeMap<usize, (f64, f64)>;
    let mut rows: Vec<(String, f64, Errors)> = Vec::new();
    for report in &found.sites {
        let column = names.iter().position(|name| *name == report.site).unwrap_or_default();
        for method in &report.methods {
            let at = rows.iter().position(|(name, bits, _)| {
                *name == method.candidate.method && *bits == method.candidate.bits
            });
            let at = at.unwrap_or_else(|| {
                rows.push((
                    method.candidate.method.to_owned(),
                    method.candidate.bits,
                    BTreeMap::new(),
                ));
                rows.len() - 1
            });
            let sum = rows[at].2.entry(column).or_default();
            *sum = (sum.0 + method.per_token_error, sum.1 + 1.0);
        }
    }
    rows.sort_by(|a, b| a.1.total_cmp(&b.1));
    let header = ["method", "bits"].into_iter().chain(names.iter().copied());
    let mut table = table(header);
    for (method, bits, columns) in rows {
        let cell = |column| {
            columns
                .get(&column)
                .map_or("–".to_owned(), |(sum, count)| format!("{:.3}", sum / count))
        };
        table.add_row([method, format!("{bits:.2}")].into_iter().chain((0..names.len()).map(cell)));
    }
    right(table, 1)
}

fn gradients(reports: &[GradientReport]) -> Table {
    let mut table =
        table(["sites", "method", "bits", "saved for backward", "relative error", "cosine"]);
    for report in reports {
        table.add_row([
            if report.kind == "configured" {
                format!("{} (as configured)", report.sites)
            } else {
                report.sites.clone()
            },
            report.method.clone(),
            report.bits.map_or("–".to_owned(), |bits| format!("{bits:.2}")),
            format!(
                "{} of {}",
                units::bytes(report.kept_bytes as f64),
                units::bytes(report.exact_bytes as f64)
            ),
            format!("{:.3}", report.relative_error),
            format!("{:.4}", report.cosine),
        ]);
    }
    right(table, 2)
}

fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// With the columns from `first` on aligned at the right.
fn right(mut table: Table, first: usize) -> Table {
    table
        .column_iter_mut()
        .skip(first)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}
