//! `loract bench`: what the parts of a run cost and lose, on the user's own data and machine.

use crate::{failure::Failure, progress::Progress};
use autograd::GradMode;
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use compression::coded::{Basis, Rate, Rounding, bits_at_bound, bound};
use compression::{
    Code, Method, Options, Rank, SiteState, TestMatrix, decompose, per_token_error, relative_error,
    spectrum,
};
use models::TensorFile;
use serde_json::{Value, json};
use std::{path::PathBuf, str::FromStr, sync::Arc, time::Instant};
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

/// Compare the compression methods of activations on matrices of a file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract bench compression activations.safetensors
  loract bench compression activations.safetensors --rank 0.125 --rank 0.25 --json

Every floating-point matrix [tokens, width] of the file is coded by every method, in f32, on the CPU.

  bits/element   the bytes of the code, scales included, over the elements of the matrix, without the basis
  basis          the same for what does not grow with the tokens: the right factor of a pair, the basis of a code
  error          ‖A − Â‖ / ‖A‖
  per token      the same for each row, as a root mean square: a few tokens of huge norm do not speak for all
  bound          the rate-distortion bound at the same bits/element: no code of normally distributed tokens of this matrix's spectrum has
                 a smaller error per token
  above          the bits/element that the bound saves at the same error per token
  × optimum      the error over that of the truncated SVD in f32 with as many components, the least there is
  ms             the median of five runs, after one to warm up; for coded, in a basis that is there already

coded: the basis is of the matrix itself, or, for NAME.b1 where the file has NAME.b0, of that one too.

Exit codes: 0 done; 2 wrong use or input; 1 any other failure.")]
pub struct Compression {
    /// A safetensors file with matrices
    #[arg(value_name = "FILE.safetensors")]
    pub file: PathBuf,
    /// Components: a fraction of the width, with a point, or a number. May be repeated
    #[arg(long = "rank", value_name = "R", default_value = "0.25", value_parser = rank)]
    pub ranks: Vec<Rank>,
    /// Bits per element of coded activations. May be repeated
    #[arg(long = "bits", value_name = "B", default_values_t = [1.0, 2.0, 4.0], value_parser = bits)]
    pub bits: Vec<f64>,
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
    (
        "rowspace norm",
        Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: false },
        FACTORS,
    ),
    (
        "rowspace norm, unit rows",
        Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: true },
        FACTORS,
    ),
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
    /// What does not grow with the tokens.
    bits_beside: f64,
    error: f64,
    per_token: f64,
    /// The least error per token at these bits, and the bits that it would save at this error.
    bound: f64,
    bits_above: f64,
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
    pub fn run(self) -> Result<(), Failure> {
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
        let bases: usize =
            names.iter().map(|(name, _)| 1 + usize::from(before(name, &names).is_some())).sum();
        let cases = names.len() * self.cases().count() + bases * self.bits.len();
        let mut progress = Progress::start("coding", Some(cases as u64));
        let mut done = 0;
        let mut starts = |name: &str, label: &str| {
            progress.update(done, Some(cases as u64), format!("{name}: {label}"));
            done += 1;
        };
        let measure = |of: &(String, [i64; 2])| self.measure(&file, &names, of, &mut starts);
        let matrices = names.iter().map(measure).collect::<Result<Vec<_>, _>>()?;
        progress.finish();
        if self.json {
            println!(
                "{}",
                json!({"file": self.file, "runs": RUNS, "keep_norms": self.keep_norms, "matrices": matrices.iter().map(Matrix::json).collect::<Vec<_>>()})
            );
        } else {
            for matrix in &matrices {
                println!(
                    "{} [{}, {}]\n{}\n",
                    matrix.name,
                    matrix.shape[0],
                    matrix.shape[1],
                    matrix.table()
                );
            }
        }
        Ok(())
    }

    /// Every case of one matrix; `starts` is called before each.
    fn measure(
        &self,
        file: &TensorFile,
        names: &[(String, [i64; 2])],
        (name, shape): &(String, [i64; 2]),
        starts: &mut dyn FnMut(&str, &str),
    ) -> Result<Matrix, Failure> {
        let a = file.tensor_as(name, Kind::Float, Device::Cpu).map_err(input)?;
        // The optimum is wanted for every rank; svd is the first method, so each is computed once
        // more only.
        let optimum = |&rank| self.optimum(name, &a, rank);
        let optima = self.ranks.iter().map(optimum).collect::<Result<Vec<_>, _>>()?;
        let shares = spectrum(&a).map_err(|fault| of_matrix(name, fault))?;
        let options =
            |method, rank, factors| Options { method, rank, keep_norms: self.keep_norms, factors };
        let mut rows = Vec::new();
        for (label, method, kind, rank) in self.cases() {
            starts(name, label);
            let options = options(method, rank.map_or(self.ranks[0], |at| self.ranks[at]), kind);
            let optimum = rank.map(|at| optima[at]);
            rows.push(self.row(
                name,
                &a,
                &shares,
                label,
                &options,
                optimum,
                &SiteState::default,
            )?);
        }
        let mut bases = vec![("coded", self.basis(name, &a)?)];
        if let Some(before) = before(name, names) {
            let before = file.tensor_as(before, Kind::Float, Device::Cpu).map_err(input)?;
            bases.push(("coded, basis of .b0", self.basis(name, &before)?));
        }
        for (label, basis) in bases {
            let state = || SiteState::from_coded_basis(Arc::clone(&basis));
            for &bits in &self.bits {
                starts(name, label);
                let method = Method::Coded {
                    rate: Rate::Bits(bits),
                    rounding: Rounding::Trellis,
                    drift: f64::INFINITY,
                    rotate: true,
                };
                let options = options(method, self.ranks[0], Kind::Float);
                rows.push(self.row(name, &a, &shares, label, &options, None, &state)?);
            }
        }
        Ok(Matrix { name: name.clone(), shape: *shape, rows })
    }

    /// The matrices of the file.
    fn matrices(&self, file: &TensorFile) -> Result<Vec<(String, [i64; 2])>, Failure> {
        let mut matrices = Vec::new();
        for name in file.names() {
            let Some(&[rows, columns]) = file.shape(&name) else { continue };
            let floating = matches!(
                file.kind(&name),
                Ok(Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
            );
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

    /// What is measured on each matrix: label, method, dtype, and which of the ranks, if it has
    /// any.
    fn cases(&self) -> impl Iterator<Item = (&'static str, Method, Kind, Option<usize>)> {
        let ranks = 0..self.ranks.len();
        let ranked = ranks.flat_map(|rank| {
            let low_rank = METHODS.iter().filter(|(_, method, _)| !is_quantized(method));
            low_rank.flat_map(move |&(label, method, kinds)| {
                kinds.iter().map(move |&kind| (label, method, kind, Some(rank)))
            })
        });
        let quantized = METHODS.iter().filter(|(_, method, _)| is_quantized(method));
        ranked.chain(quantized.map(|&(label, method, kinds)| (label, method, kinds[0], None)))
    }

    fn optimum(&self, name: &str, a: &Tensor, rank: Rank) -> Result<f64, Failure> {
        let options =
            Options { method: Method::Svd, rank, keep_norms: false, factors: Kind::Float };
        let code = decompose(a, &options, self.seed, &mut SiteState::default())
            .map_err(|fault| of_matrix(name, fault))?;
        let restored = code.restore(Kind::Float).map_err(|fault| of_matrix(name, fault))?;
        relative_error(a, &restored).map_err(|fault| of_matrix(name, fault))
    }

    fn basis(&self, name: &str, a: &Tensor) -> Result<Arc<Basis>, Failure> {
        Basis::from_matrix(a).map(Arc::new).map_err(|fault| of_matrix(name, fault))
    }

    #[expect(clippy::too_many_arguments, reason = "all that a row of the table depends on")]
    fn row(
        &self,
        name: &str,
        a: &Tensor,
        shares: &[f64],
        method: &'static str,
        options: &Options,
        optimum: Option<f64>,
        state: &dyn Fn() -> SiteState,
    ) -> Result<Row, Failure> {
        let fault = |fault| of_matrix(name, fault);
        let code = decompose(a, options, self.seed, &mut state()).map_err(fault)?;
        let mut times = [0.0; RUNS];
        for time in &mut times {
            let start = Instant::now();
            decompose(a, options, self.seed, &mut state()).map_err(fault)?;
            *time = start.elapsed().as_secs_f64() * 1e3;
        }
        times.sort_by(f64::total_cmp);
        let restored = code.restore(Kind::Float).map_err(fault)?;
        let error = relative_error(a, &restored).map_err(fault)?;
        let per_token = per_token_error(a, &restored).map_err(fault)?;
        let columns = a.size()[1] as f64;
        let per_element = |bytes: u64| 8.0 * bytes as f64 / a.numel() as f64;
        let (own, basis) = match &code {
            Code::Factors(factors) => (factors.left_bytes(), factors.right_bytes()),
            Code::Coded(coded) => (coded.bytes(), coded.basis().map_or(0, |basis| basis.bytes())),
            Code::Quantized(quantized) => (quantized.bytes(), 0),
        };
        Ok(Row {
            method,
            dtype: match options.factors {
                _ if matches!(code, Code::Coded(_)) => "0–8 bits",
                Kind::BFloat16 => "bf16",
                Kind::Int8 => "int8",
                _ => "int4",
            },
            rank: code.rank(),
            bits_per_element: per_element(own),
            bits_beside: per_element(basis),
            error,
            per_token,
            bound: bound(shares, per_element(own) * columns),
            bits_above: per_element(own) - bits_at_bound(shares, per_token) / columns,
            of_optimum: optimum.filter(|&optimum| optimum > 0.0).map(|optimum| error / optimum),
            milliseconds: times[RUNS / 2],
        })
    }
}

impl Matrix {
    fn table(&self) -> Table {
        let mut table = Table::new();
        let header = [
            "method",
            "held in",
            "rank",
            "bits/element",
            "basis",
            "error",
            "per token",
            "bound",
            "above",
            "× optimum",
            "ms",
        ];
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
        for row in &self.rows {
            table.add_row([
                row.method.to_owned(),
                row.dtype.to_owned(),
                row.rank.map_or("–".to_owned(), |rank| rank.to_string()),
                format!("{:.2}", row.bits_per_element),
                if row.bits_beside > 0.0 {
                    format!("{:.2}", row.bits_beside)
                } else {
                    "–".to_owned()
                },
                format!("{:.4}", row.error),
                format!("{:.4}", row.per_token),
                format!("{:.4}", row.bound),
                format!("{:.2}", row.bits_above),
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
                    "bits_beside": row.bits_beside,
                    "error": row.error,
                    "per_token_error": row.per_token,
                    "bound": row.bound,
                    "bits_above_bound": row.bits_above,
                    "times_optimum": row.of_optimum,
                    "milliseconds": row.milliseconds,
                })
            })
            .collect();
        json!({"name": self.name, "shape": self.shape, "methods": rows})
    }
}

/// The batch before, for `NAME.b1` where there is a `NAME.b0` as wide.
fn before<'a>(name: &str, names: &'a [(String, [i64; 2])]) -> Option<&'a str> {
    let width = |name: &str| {
        names.iter().find(|(known, _)| known == name).map(|(_, [_, columns])| *columns)
    };
    let before = format!("{}.b0", name.strip_suffix(".b1")?);
    names
        .iter()
        .find(|(known, [_, columns])| *known == before && Some(*columns) == width(name))
        .map(|(known, _)| known.as_str())
}

fn is_quantized(method: &Method) -> bool {
    matches!(method, Method::Quantized { .. })
}

fn input(fault: models::Error) -> Failure {
    Failure::Input(fault.to_string())
}

fn of_matrix(name: &str, fault: compression::Error) -> Failure {
    match fault {
        compression::Error::Tch(fault) => Failure::other(format!("{name}: {fault}")),
        fault => Failure::Input(format!("{name}: {fault}")),
    }
}

/// `0.25` is a fraction of the width, `64` a number of components.
fn rank(text: &str) -> Result<Rank, String> {
    let fraction = f64::from_str(text)
        .ok()
        .filter(|fraction| text.contains('.') && *fraction > 0.0 && *fraction <= 1.0);
    let components = i64::from_str(text).ok().filter(|components| *components > 0);
    let rank = fraction.map(Rank::Fraction).or(components.map(Rank::Components));
    rank.ok_or_else(|| {
        "give a fraction of the width, such as 0.25, or a number of components, such as 64"
            .to_owned()
    })
}

/// Bits per element of a code.
fn bits(text: &str) -> Result<f64, String> {
    let bits = f64::from_str(text).ok().filter(|bits| *bits > 0.0 && *bits <= 32.0);
    bits.ok_or_else(|| "give bits per element, above 0 and at most 32, such as 2".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bench(file: PathBuf, ranks: &[&str]) -> Compression {
        Compression {
            file,
            ranks: ranks.iter().map(|text| rank(text).unwrap()).collect(),
            bits: vec![2.0, 4.0],
            keep_norms: false,
            seed: 0,
            json: true,
        }
    }

    #[test]
    fn the_batch_before_is_one_of_the_same_name_and_width() {
        let names = [("x.b0", 3), ("x.b1", 3), ("y.b0", 3), ("y.b1", 4), ("z.b1", 3)]
            .map(|(name, columns)| (name.to_owned(), [9, columns]));
        assert_eq!(before("x.b1", &names), Some("x.b0"));
        for none in ["x.b0", "y.b1", "z.b1"] {
            assert_eq!(before(none, &names), None);
        }
        assert!(bits("2").is_ok() && bits("0.5").is_ok());
        assert!(["0", "-1", "33", "NaN", "x"].iter().all(|wrong| bits(wrong).is_err()));
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
        let normal = |rows, seed| {
            autograd::random::draw(
                autograd::random::Distribution::Normal,
                &[rows, 24],
                Kind::Float,
                Device::Cpu,
                seed,
            )
            .unwrap()
        };
        let tensors = [
            ("a".to_owned(), normal(40, 1)),
            ("ids".to_owned(), Tensor::zeros([3, 3], (Kind::Int64, Device::Cpu))),
        ];
        models::tensor_file::write(&path, &tensors, &[]).unwrap();
        let bench = bench(path.clone(), &["0.25", "3"]);
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(bench.matrices(&file).unwrap(), [("a".to_owned(), [40, 24])]);
        let shares = spectrum(&tensors[0].1).unwrap();
        let cases: Vec<_> = bench.cases().collect();
        assert_eq!(cases.len(), 2 * 8 * 2 + 3);
        for (label, method, factors, at) in cases {
            let options =
                Options { method, rank: bench.ranks[at.unwrap_or(0)], keep_norms: false, factors };
            let optimum = at.map(|at| bench.optimum("a", &tensors[0].1, bench.ranks[at]).unwrap());
            let row = bench
                .row("a", &tensors[0].1, &shares, label, &options, optimum, &SiteState::default)
                .unwrap();
            assert_eq!(row.rank, at.map(|at| [6, 3][at]));
            assert!(row.of_optimum.is_none_or(|ratio| ratio > 0.999), "{label}");
            let bytes = options.bytes(40, 24).unwrap() as f64;
            assert!(
                (row.bits_per_element + row.bits_beside - 8.0 * bytes / (40.0 * 24.0)).abs()
                    < 1e-12
            );
            assert_eq!(row.bits_beside > 0.0, at.is_some());
        }
        let basis = bench.basis("a", &tensors[0].1).unwrap();
        for &bits in &bench.bits {
            let method = Method::Coded {
                rate: Rate::Bits(bits),
                rounding: Rounding::Trellis,
                drift: f64::INFINITY,
                rotate: true,
            };
            let options = Options { method, ..Options::default() };
            let state = || SiteState::from_coded_basis(Arc::clone(&basis));
            let row =
                bench.row("a", &tensors[0].1, &shares, "coded", &options, None, &state).unwrap();
            assert_eq!(
                (row.bits_per_element, row.bits_beside),
                (bits, 8.0 * basis.bytes() as f64 / (40.0 * 24.0))
            );
            assert!(row.per_token > row.bound && row.bits_above > 0.0 && row.bits_above < bits);
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
            (write("nan", zeros(&[3, 4]) * f64::NAN), "0.25", "the [3, 4] matrix holds NaN"),
        ] {
            let failure = bench(file, &[rank]).run().unwrap_err();
            assert!(
                matches!(&failure, Failure::Input(message) if message.contains(says)),
                "{failure:?}"
            );
        }
    }
}
