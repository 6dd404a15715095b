//! How a site keeps its tensor: the keys that `[activations]` and its overrides share.

use crate::{Error, choice::choice, place::Table, raw};
use serde::{Serialize, Serializer};

choice! {
    /// What the components of a code are.
    BasisKind {
        /// Those of a principal basis, held per site.
        Principal = "principal",
        /// The columns as they stand.
        None = "none",
    }
}

choice! {
    /// How a site keeps its tensor.
    Keeping {
        /// As it is.
        Exact = "exact",
        /// Low-rank factors from a sampled range finder and a QR decomposition (the paper's).
        Qb = "qb",
        /// Low-rank factors on a basis of the row space, in which every token has the same say.
        RowSpace = "rowspace",
        /// The randomised singular value decomposition.
        Rsvd = "rsvd",
        /// The truncated singular value decomposition: the optimum of its kind, and slow.
        Svd = "svd",
        /// The generalised Nyström approximation.
        Nystrom = "nystrom",
        /// Integers of `bits` bits, in groups.
        Quantized = "quantized",
        /// Components of a basis of the site, each with the bits it deserves, `bits` per element in all.
        Coded = "coded",
        /// Components of a basis of the site that all ranks share.
        Shared = "shared",
    }
}

impl Keeping {
    /// Whether it has a rank.
    pub fn has_rank(self) -> bool {
        !matches!(self, Self::Exact | Self::Quantized | Self::Coded)
    }
}

choice! {
    /// What the test matrix of the range finder is made of.
    Columns {
        /// The columns of largest norm.
        Norm = "norm",
        /// Columns drawn uniformly, as in the paper.
        Uniform = "uniform",
        /// Gaussian combinations of all columns.
        Gaussian = "gaussian",
        /// The basis of the same site's previous batch; columns of largest norm in the first.
        Warm = "warm",
    }
}

choice! {
    /// The type of the factors.
    Factors {
        /// 32-bit floating point.
        F32 = "f32",
        /// bfloat16.
        Bf16 = "bf16",
        /// 8-bit integers with a scale for each component or token.
        Int8 = "int8",
    }
}

choice! {
    /// How a value of a coded component becomes one of its levels.
    Rounding {
        /// Along a trellis over the tokens: the least error.
        Trellis = "trellis",
        /// To the nearest level: faster.
        Nearest = "nearest",
        /// To one of the two levels around it, so that it is right in the mean.
        Stochastic = "stochastic",
    }
}

/// The bits of an element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bits {
    /// So many.
    Number(f64),
    /// `"auto"`: the fewest that meet `error`, of `coded` only.
    Auto,
}

/// The number of columns kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// This fraction of the site's width, above 0 and at most 1.
    Fraction(f64),
    /// This many columns, at least one.
    Columns(i64),
    /// `"auto"`: the fewest that meet `error`, at most `max_rank`.
    Auto,
}

impl Rank {
    /// Columns kept of a site of this width: a fraction is rounded to the nearest whole number; `None` for `"auto"`.
    pub fn of(self, width: i64) -> Option<i64> {
        match self {
            Self::Fraction(fraction) => Some((fraction * width as f64).round() as i64),
            Self::Columns(columns) => Some(columns),
            Self::Auto => None,
        }
    }
}

/// How a site keeps its tensor, every key with its value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Form {
    /// `method`: `"exact"`, `"qb"`, `"rowspace"`, `"rsvd"`, `"svd"`, `"nystrom"`, `"quantized"`, `"coded"` or `"shared"`. Default: `"qb"` where
    /// `rank`, `max_rank` or `columns` is given, else `"quantized"`, which learned as exact keeping did in all that was measured.
    pub method: Keeping,
    /// `rank`: a fraction of the width (0.25), a whole number of columns (64), or `"auto"`. Default: 0.25.
    pub rank: Rank,
    /// `error`: of a token, root mean square, that `rank = "auto"` and `bits = "auto"` meet. Default: 0.1.
    pub error: f64,
    /// `max_rank`: the most that `rank = "auto"` takes, as a fraction or a number. Default: 0.5.
    pub max_rank: Rank,
    /// `columns`: `"norm"`, `"uniform"`, `"gaussian"` or `"warm"`, of `qb` and `rowspace`. Default: `"norm"`.
    pub columns: Columns,
    /// `keep_norms`: rescale each token's row to its exact norm. Default: true.
    pub keep_norms: bool,
    /// `factors`: `"f32"`, `"bf16"` or `"int8"`. Default: `"bf16"`.
    pub factors: Factors,
    /// `power_iterations`: passes that sharpen the basis of `rsvd`. Default: 0.
    pub power_iterations: u32,
    /// `bits`: of an element, 8 or 4 in `quantized`, any number or `"auto"` in `coded`. Default: 8, and 2 in `coded`.
    pub bits: Bits,
    /// `group`: neighbours in a row that share a scale in `quantized`. Default: 32.
    pub group: i64,
    /// `rounding`: `"trellis"`, `"nearest"` or `"stochastic"`, in `coded`. Default: `"trellis"`.
    pub rounding: Rounding,
    /// `basis`: what the components of `coded` are: `"principal"`, those of a basis held per site, or `"none"`, the columns as they stand.
    /// Default: `"principal"`.
    pub basis: BasisKind,
    /// `drift`: the basis of `coded` follows the activations when their error is so many times what it promises. Default: 1.1.
    pub drift: f64,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            method: Keeping::Quantized,
            rank: Rank::Fraction(0.25),
            error: 0.1,
            max_rank: Rank::Fraction(0.5),
            columns: Columns::Norm,
            keep_norms: true,
            factors: Factors::Bf16,
            power_iterations: 0,
            bits: Bits::Number(8.0),
            group: 32,
            rounding: Rounding::Trellis,
            basis: BasisKind::Principal,
            drift: 1.1,
        }
    }
}

impl Form {
    pub(super) fn resolve(raw: raw::Form, at: Table<'_>) -> Result<Self, Error> {
        let given = PartialForm::resolve(raw, at)?;
        let method = if given.speaks_of_rank() { Keeping::Qb } else { Keeping::Quantized };
        let form = given.over(&Self { method, ..Self::default() });
        form.check(at)?;
        Ok(form)
    }

    /// Refuses keys that do not go together.
    pub(super) fn check(&self, at: Table<'_>) -> Result<(), Error> {
        at.require("power_iterations", self.power_iterations == 0 || self.method == Keeping::Rsvd, "is for method = \"rsvd\" only")?;
        let warm = matches!(self.method, Keeping::Qb | Keeping::RowSpace) && self.rank != Rank::Auto;
        at.require("columns", self.columns != Columns::Warm || warm, "\"warm\" is for method = \"qb\" or \"rowspace\" with a given rank")?;
        let given = self.method != Keeping::Shared || self.rank != Rank::Auto;
        at.require("rank", given, "cannot be \"auto\" for method = \"shared\", whose basis all ranks share")?;
        let fits = |bits| bits == Bits::Number(8.0) || bits == Bits::Number(4.0);
        at.require("bits", self.method != Keeping::Quantized || fits(self.bits), "must be 8 or 4 for method = \"quantized\"")?;
        let whole = self.method != Keeping::Coded || self.factors != Factors::Int8;
        at.require("factors", whole, "cannot be \"int8\" for method = \"coded\", whose basis it is the type of")
    }
}

/// The keys of a [`Form`] that are given.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PartialForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Keeping>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rank: Option<Rank>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_norms: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factors: Option<Factors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_iterations: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<BasisKind>,
}

impl PartialForm {
    /// Each key checked by itself.
    pub(super) fn resolve(raw: raw::Form, at: Table<'_>) -> Result<Self, Error> {
        if let Some(error) = raw.error {
            at.require("error", error > 0.0 && error < 1.0, "must be > 0 and < 1")?;
        }
        let bits = match raw.bits {
            None => None,
            Some(raw::Bits::Number(bits)) => {
                at.require("bits", bits > 0.0 && bits <= 16.0, "must be > 0 and <= 16")?;
                Some(Bits::Number(bits))
            }
            Some(raw::Bits::Name(name)) if name == "auto" => Some(Bits::Auto),
            Some(raw::Bits::Name(name)) => return Err(at.refuse("bits", &format!("cannot be \"{name}\""))),
        };
        if let Some(drift) = raw.drift {
            at.require("drift", drift >= 0.0, "must be >= 0")?;
        }
        if let Some(group) = raw.group {
            at.require("group", group > 0, "must be > 0")?;
        }
        let max_rank = rank(raw.max_rank, "max_rank", at)?;
        at.require("max_rank", max_rank != Some(Rank::Auto), "cannot be \"auto\"")?;
        Ok(Self {
            method: at.choose_given("method", raw.method.as_deref())?,
            rank: rank(raw.rank, "rank", at)?,
            error: raw.error,
            max_rank,
            columns: at.choose_given("columns", raw.columns.as_deref())?,
            keep_norms: raw.keep_norms,
            factors: at.choose_given("factors", raw.factors.as_deref())?,
            power_iterations: raw.power_iterations,
            bits,
            group: raw.group,
            rounding: at.choose_given("rounding", raw.rounding.as_deref())?,
            drift: raw.drift,
            basis: at.choose_given("basis", raw.basis.as_deref())?,
        })
    }

    /// `below`, with what is given here in its place.
    pub(super) fn over(&self, below: &Form) -> Form {
        let coded = self.method == Some(Keeping::Coded);
        Form {
            method: self.method.unwrap_or(below.method),
            rank: self.rank.unwrap_or(below.rank),
            error: self.error.unwrap_or(below.error),
            max_rank: self.max_rank.unwrap_or(below.max_rank),
            columns: self.columns.unwrap_or(below.columns),
            keep_norms: self.keep_norms.unwrap_or(below.keep_norms),
            factors: self.factors.unwrap_or(below.factors),
            power_iterations: self.power_iterations.unwrap_or(below.power_iterations),
            // Bits of integers are no bits of a code.
            bits: self.bits.unwrap_or(if coded && below.method != Keeping::Coded { Bits::Number(2.0) } else { below.bits }),
            group: self.group.unwrap_or(below.group),
            rounding: self.rounding.unwrap_or(below.rounding),
            drift: self.drift.unwrap_or(below.drift),
            basis: self.basis.unwrap_or(below.basis),
        }
    }

    /// Whether a key is given that a low-rank method reads alone.
    pub(super) fn speaks_of_rank(&self) -> bool {
        self.rank.is_some() || self.max_rank.is_some() || self.columns.is_some()
    }

    /// Whether nothing is given.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn rank(raw: Option<raw::Rank>, key: &str, at: Table<'_>) -> Result<Option<Rank>, Error> {
    Ok(Some(match raw {
        None => return Ok(None),
        Some(raw::Rank::Columns(columns)) => {
            at.require(key, columns > 0, "must be > 0")?;
            Rank::Columns(columns)
        }
        Some(raw::Rank::Fraction(fraction)) => {
            at.require(key, fraction > 0.0, "must be > 0")?;
            at.require(key, fraction <= 1.0, "must be <= 1 as a fraction; write a number of columns without a point")?;
            Rank::Fraction(fraction)
        }
        Some(raw::Rank::Name(name)) if name == "auto" => Rank::Auto,
        Some(raw::Rank::Name(name)) => return Err(at.refuse(key, &format!("cannot be \"{name}\""))),
    }))
}

impl Serialize for Bits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(bits) => serializer.serialize_f64(*bits),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl Serialize for Rank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fraction(fraction) => serializer.serialize_f64(*fraction),
            Self::Columns(columns) => serializer.serialize_i64(*columns),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}
