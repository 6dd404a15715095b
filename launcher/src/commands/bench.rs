//! `loract bench`: what the parts of a run cost and lose, on the user's own data and machine.

use crate::{failure::Failure, progress::Progress};
use autograd::GradMode;
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use lowrank::{Memory, Method, Options, Rank, TestMatrix, decompose, per_token_error, relative_error};
use models::TensorFile;
use serde_json::{Value, json};
use std::{path::PathBuf, str::FromStr, time::Instant};
use tch::{Device, Kind, Tensor};

/// Measure a part of a run by itself
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Example:
  loract bench compression activations.safetensors --rank 0.25"
)]
pub struct Bench {
    /// Which part
    #[command(subcommand)]
    pub part: Part,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Part {
    Compression(Compression),
}

/// Compare the forms in which activations can be kept, on matrices of a file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract bench compression activations.safetensors
  loract bench compression activations.safetensors --rank 0.125 --rank 0.25 --json

Every floating-point matrix [tokens, width] of the file is coded by every method, in f32, on the CPU.

  bits/element   all bytes of the code, scales included, over the elements of the matrix
  error          ‖A − Â‖ / ‖A‖
  per token      the same for each row, as a root mean square: a few tokens of huge norm do not speak for all
  × optimum      the error over that of the truncated SVD in f32 with as many components, the least there is
  ms             the median of five runs, after one to warm up

Exit codes: 0 done; 2 wrong use or input; 1 any other failure.")]
pub struct Compression {
    /// A safetensors file with matrices
    #[arg(value_name = "FILE.safetensors")]
    pub file: PathBuf,
    /// Components: a fraction of the width, with a point, or a number. May be repeated
    #[arg(long = "rank", value_name = "R", default_value = "0.25", value_parser = rank)]
    pub ranks: Vec<Rank>,
    /// Rescale each token's row to its exact norm
    #[arg(long)]
    pub keep_norms: bool,
    /// The seed of the random draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print the tables as JSON
    #[arg(long)]
    pub json: bool,
}

/// Timed runs of each method, after one that is not.
const RUNS: usize = 5;

/// A method as the table calls it, and the dtypes in which its factors are held.
const METHODS: [(&str, Method, &[Kind]); 11] = [
    ("svd", Method::Svd, FACTORS),
    ("qb norm", Method::Qb { test_matrix: TestMatrix::Norm }, FACTORS),
    ("qb uniform", Method::Qb { test_matrix: TestMatrix::Uniform }, FACTORS),
    ("qb gaussian", Method::Qb { test_matrix: TestMatrix::Gaussian }, FACTORS),
    ("rowspace norm", Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: false }, FACTORS),
    ("rowspace norm, unit rows", Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: true }, FACTORS),
    ("rsvd, 1 power iteration", Method::Rsvd { oversampling: 8, power_iterations: 1 }, FACTORS),
    ("nystrom", Method::Nystrom, FACTORS),
    ("quantized, groups of 64", Method::Quantized { bits: 8, group: 64 }, &[Kind::Int8]),
    ("quantized, groups of 64", Method::Quantized { bits: 4, group: 64 }, &[Kind::Uint8]),
    ("quantized, groups of 32", Method::Quantized { bits: 4, group: 32 }, &[Kind::Uint8]),
];
const FACTORS: &[Kind] = &[Kind::BFloat16, Kind::Int8];

/// One method on one matrix.
struct Row {
    method: &'static str,
    dtype: &'static str,
    rank: Option<i64>,
    bits_per_element: f64,
    error: f64,
    per_token: f64,
    /// Of the SVD's error with as many components.
    of_optimum: Option<f64>,
    milliseconds: f64,
}

/// All methods on one matrix.
struct Matrix {
    name: String,
    shape: [i64; 2],
    rows: Vec<Row>,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.part {
            Part::Compression(compression) => compression.run(),
        }
    }
}

impl Compression {
    fn run(self) -> Result<(), Failure> {
        let _no_graph = GradMode::disabled();
        let file = TensorFile::open(&self.file).map_err(input)?;
        let names = self.matrices(&file)?;
        let cases = names.len() * self.cases().count();
        let mut progress = Progress::start("coding", Some(cases as u64));
        let mut done = 0;
        let mut matrices = Vec::new();
        for (name, shape) in names {
            let a = file.tensor_as(&name, Kind::Float, Device::Cpu).map_err(input)?;
            let mut rows = Vec::new();
            // The optimum is wanted for every rank; svd is the first method, so each is computed once more only.
            let optima = self.ranks.iter().map(|&rank| self.optimum(&name, &a, rank)).collect::<Result<Vec<_>, _>>()?;
            for (label, method, kind, rank) in self.cases() {
                progress.update(done, Some(cases as u64), format!("{name}: {label}"));
                let options =
                    Options { method, rank: rank.map_or(self.ranks[0], |at| self.ranks[at]), keep_norms: self.keep_norms, factors: kind };
                rows.push(self.row(&name, &a, label, &options, rank.map(|at| optima[at]))?);
                done += 1;
            }
            matrices.push(Matrix { name, shape, rows });
        }
        progress.finish();
        if self.json {
            println!(
                "{}",
                json!({"file": self.file, "runs": RUNS, "keep_norms": self.keep_norms, "matrices": matrices.iter().map(Matrix::json).collect::<Vec<_>>()})
            );
        } else {
            for matrix in &matrices {
                println!("{} [{}, {}]\n{}\n", matrix.name, matrix.shape[0], matrix.shape[1], matrix.table());
            }
        }
        Ok(())
    }

    /// The matrices of the file.
    fn matrices(&self, file: &TensorFile) -> Result<Vec<(String, [i64; 2])>, Failure> {
        let mut matrices = Vec::new();
        for name in file.names() {
            let Some(&[rows, columns]) = file.shape(&name) else { continue };
            let floating = matches!(file.kind(&name), Ok(Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16));
            if floating && rows > 0 && columns > 0 {
                matrices.push((name, [rows, columns]));
            }
        }
        if matrices.is_empty() {
            return Err(Failure::Input(format!(
                "{} holds no matrix of floating-point numbers; give a file with tensors of shape [tokens, width]",
                self.file.display()
            )));
        }
        Ok(matrices)
    }

    /// What is measured on each matrix: label, method, dtype, and which of the ranks, if it has any.
    fn cases(&self) -> impl Iterator<Item = (&'static str, Method, Kind, Option<usize>)> {
        let ranks = 0..self.ranks.len();
        let ranked = ranks.flat_map(|rank| {
            let low_rank = METHODS.iter().filter(|(_, method, _)| !is_quantized(method));
            low_rank.flat_map(move |&(label, method, kinds)| kinds.iter().map(move |&kind| (label, method, kind, Some(rank))))
        });
        let quantized = METHODS.iter().filter(|(_, method, _)| is_quantized(method));
        ranked.chain(quantized.map(|&(label, method, kinds)| (label, method, kinds[0], None)))
    }

    fn optimum(&self, name: &str, a: &Tensor, rank: Rank) -> Result<f64, Failure> {
        let options = Options { method: Method::Svd, rank, keep_norms: false, factors: Kind::Float };
        let code = decompose(a, &options, self.seed, &mut Memory::default()).map_err(|fault| of_matrix(name, fault))?;
        let restored = code.restore(Kind::Float).map_err(|fault| of_matrix(name, fault))?;
        relative_error(a, &restored).map_err(|fault| of_matrix(name, fault))
    }

    fn row(&self, name: &str, a: &Tensor, method: &'static str, options: &Options, optimum: Option<f64>) -> Result<Row, Failure> {
        let fault = |fault| of_matrix(name, fault);
        let code = decompose(a, options, self.seed, &mut Memory::default()).map_err(fault)?;
        let mut times = [0.0; RUNS];
        for time in &mut times {
            let start = Instant::now();
            decompose(a, options, self.seed, &mut Memory::default()).map_err(fault)?;
            *time = start.elapsed().as_secs_f64() * 1e3;
        }
        times.sort_by(f64::total_cmp);
        let restored = code.restore(Kind::Float).map_err(fault)?;
        let error = relative_error(a, &restored).map_err(fault)?;
        Ok(Row {
            method,
            dtype: match options.factors {
                Kind::BFloat16 => "bf16",
                Kind::Int8 => "int8",
                _ => "int4",
            },
            rank: code.rank(),
            bits_per_element: 8.0 * code.bytes() as f64 / a.numel() as f64,
            error,
            per_token: per_token_error(a, &restored).map_err(fault)?,
            of_optimum: optimum.filter(|&optimum| optimum > 0.0).map(|optimum| error / optimum),
            milliseconds: times[RUNS / 2],
        })
    }
}

impl Matrix {
    fn table(&self) -> Table {
        let mut table = Table::new();
        let header = ["method", "held in", "rank", "bits/element", "error", "per token", "× optimum", "ms"];
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
        for row in &self.rows {
            table.add_row([
                row.method.to_owned(),
                row.dtype.to_owned(),
                row.rank.map_or("–".to_owned(), |rank| rank.to_string()),
                format!("{:.2}", row.bits_per_element),
                format!("{:.4}", row.error),
                format!("{:.4}", row.per_token),
                row.of_optimum.map_or("–".to_owned(), |ratio| format!("{ratio:.3}")),
                format!("{:.1}", row.milliseconds),
            ]);
        }
        for column in 2..header.len() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn json(&self) -> Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "method": row.method,
                    "dtype": row.dtype,
                    "rank": row.rank,
                    "bits_per_element": row.bits_per_element,
                    "error": row.error,
                    "per_token_error": row.per_token,
                    "times_optimum": row.of_optimum,
                    "milliseconds": row.milliseconds,
                })
            })
            .collect();
        json!({"name": self.name, "shape": self.shape, "methods": rows})
    }
}

fn is_quantized(method: &Method) -> bool {
    matches!(method, Method::Quantized { .. })
}

fn input(fault: models::Error) -> Failure {
    Failure::Input(fault.to_string())
}

fn of_matrix(name: &str, fault: lowrank::Error) -> Failure {
    match fault {
        lowrank::Error::Tch(fault) => Failure::other(format!("{name}: {fault}")),
        fault => Failure::Input(format!("{name}: {fault}")),
    }
}

/// `0.25` is a fraction of the width, `64` a number of components.
fn rank(text: &str) -> Result<Rank, String> {
    let fraction = f64::from_str(text).ok().filter(|fraction| text.contains('.') && *fraction > 0.0 && *fraction <= 1.0);
    let components = i64::from_str(text).ok().filter(|components| *components > 0);
    let rank = fraction.map(Rank::Fraction).or(components.map(Rank::Components));
    rank.ok_or_else(|| "give a fraction of the width, such as 0.25, or a number of components, such as 64".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bench(file: PathBuf, ranks: &[&str]) -> Compression {
        Compression { file, ranks: ranks.iter().map(|text| rank(text).unwrap()).collect(), keep_norms: false, seed: 0, json: true }
    }

    #[test]
    fn a_rank_is_a_fraction_or_a_number() {
        assert_eq!(rank("0.25").unwrap(), Rank::Fraction(0.25));
        assert_eq!(rank("1.0").unwrap(), Rank::Fraction(1.0));
        assert_eq!(rank("1").unwrap(), Rank::Components(1));
        for wrong in ["0", "-3", "1.5", "0.0", "NaN", "x", ""] {
            assert!(rank(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_method_is_measured_at_every_rank_and_none_beats_the_optimum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let normal =
            |rows, seed| autograd::random::draw(autograd::random::Law::Normal, &[rows, 24], Kind::Float, Device::Cpu, seed).unwrap();
        let tensors = [("a".to_owned(), normal(40, 1)), ("ids".to_owned(), Tensor::zeros([3, 3], (Kind::Int64, Device::Cpu)))];
        models::tensor_file::write(&path, &tensors, &[]).unwrap();
        let bench = bench(path.clone(), &["0.25", "3"]);
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(bench.matrices(&file).unwrap(), [("a".to_owned(), [40, 24])]);
        let cases: Vec<_> = bench.cases().collect();
        assert_eq!(cases.len(), 2 * 8 * 2 + 3);
        for (label, method, factors, at) in cases {
            let options = Options { method, rank: bench.ranks[at.unwrap_or(0)], keep_norms: false, factors };
            let optimum = at.map(|at| bench.optimum("a", &tensors[0].1, bench.ranks[at]).unwrap());
            let row = bench.row("a", &tensors[0].1, label, &options, optimum).unwrap();
            assert_eq!(row.rank, at.map(|at| [6, 3][at]));
            assert!(row.of_optimum.is_none_or(|ratio| ratio > 0.999), "{label}");
            let bytes = options.bytes(40, 24).unwrap() as f64;
            assert_eq!(row.bits_per_element, 8.0 * bytes / (40.0 * 24.0));
        }
    }

    #[test]
    fn wrong_files_and_ranks_are_wrong_use() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, tensor: Tensor| {
            let path = dir.path().join(name);
            models::tensor_file::write(&path, &[("a".to_owned(), tensor)], &[]).unwrap();
            path
        };
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        for (file, rank, says) in [
            (dir.path().join("missing"), "0.25", "missing"),
            (write("vector", zeros(&[3])), "0.25", "no matrix"),
            (write("small", zeros(&[3, 4])), "4", "a: decompose: rank 4 of a [3, 4] matrix"),
            (write("nan", zeros(&[3, 4]) * f64::NAN), "0.25", "a: decompose: the [3, 4] matrix holds NaN"),
        ] {
            let failure = bench(file, &[rank]).run().unwrap_err();
            assert!(matches!(&failure, Failure::Input(message) if message.contains(says)), "{failure:?}");
        }
    }
}
