//! `[activations]`: what is kept of the activations for the backward pass (arXiv 2509.23472).

use crate::config::{Error, choice::choice, place::Table, raw};
use serde::{Serialize, Serializer};

choice! {
    /// An operation whose input is compressed on its own.
    Site {
        /// The inputs of the norms.
        Norm = "norm",
        /// The input of the q, k and v projections.
        AttnIn = "attn_in",
        /// The input of attention's output projection.
        AttnOut = "attn_out",
        /// The input of the MLP's first projections.
        MlpIn = "mlp_in",
        /// The input of the MLP's last projection.
        MlpOut = "mlp_out",
        /// The inputs of the activation function and its gate.
        Act = "act",
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
    }
    not yet "coded"
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
    }
    not yet "warm"
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

/// Which activations are kept, and which of them compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sites {
    /// Everything an operation needs is kept exactly.
    None,
    /// Each block's input is kept exactly and the block recomputed.
    Checkpoint,
    /// Each block's input is kept compressed and the block recomputed from it.
    Layer,
    /// The inputs of a block's two halves (norm and attention, norm and MLP) are kept compressed, and each half recomputed from its own.
    Sublayer,
    /// The inputs of these operations are kept compressed, others exactly; sorted, each once, at least one.
    Only(Vec<Site>),
}

/// The number of columns kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// This fraction of the site's width, above 0 and at most 1.
    Fraction(f64),
    /// This many columns, at least one.
    Columns(i64),
}

impl Rank {
    /// Columns kept of a site of this width: a fraction is rounded to the nearest whole number.
    pub fn of(self, width: i64) -> i64 {
        match self {
            Self::Fraction(fraction) => (fraction * width as f64).round() as i64,
            Self::Columns(columns) => columns,
        }
    }
}

/// `[activations]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activations {
    /// `sites`: `"none"`, `"checkpoint"`, `"layer"`, `"sublayer"`, or a list of `"norm"`, `"attn_in"`, `"attn_out"`, `"mlp_in"`,
    /// `"mlp_out"`, `"act"`. Default: `"layer"`.
    pub sites: Sites,
    /// `method`: `"exact"`, `"qb"`, `"rowspace"`, `"rsvd"`, `"svd"`, `"nystrom"` or `"quantized"`. Default: `"qb"`.
    pub method: Keeping,
    /// `rank`: a fraction of the width (0.25), or a whole number of columns (64). Default: 0.25.
    pub rank: Rank,
    /// `columns`: `"norm"`, `"uniform"` or `"gaussian"`. Default: `"norm"`.
    pub columns: Columns,
    /// `keep_norms`: rescale each token's row to its exact norm. Default: true.
    pub keep_norms: bool,
    /// `factors`: `"f32"`, `"bf16"` or `"int8"`. Default: `"bf16"`.
    pub factors: Factors,
    /// `power_iterations`: passes that sharpen the basis of `rsvd`. Default: 0.
    pub power_iterations: u32,
    /// `bits`: of an element in `quantized`, 8 or 4. Default: 8.
    pub bits: u8,
}

impl Activations {
    pub(super) fn resolve(raw: raw::Activations, at: Table<'_>) -> Result<Self, Error> {
        let sites = match raw.sites {
            None => Sites::Layer,
            Some(raw::OneOrMany::One(name)) => match at.choose("sites", Some(&name), SitesName::Layer)? {
                SitesName::None => Sites::None,
                SitesName::Checkpoint => Sites::Checkpoint,
                SitesName::Layer => Sites::Layer,
                SitesName::Sublayer => Sites::Sublayer,
            },
            Some(raw::OneOrMany::Many(names)) => {
                at.require("sites", !names.is_empty(), "must not be an empty list; for no site write \"none\"")?;
                let mut sites = names.iter().map(|name| at.choose("sites", Some(name), Site::Norm)).collect::<Result<Vec<_>, _>>()?;
                sites.sort_unstable();
                sites.dedup();
                Sites::Only(sites)
            }
        };
        let rank = match raw.rank {
            None => Rank::Fraction(0.25),
            Some(raw::Rank::Columns(columns)) => {
                at.require("rank", columns > 0, "must be > 0")?;
                Rank::Columns(columns)
            }
            Some(raw::Rank::Fraction(fraction)) => {
                at.require("rank", fraction > 0.0, "must be > 0")?;
                at.require("rank", fraction <= 1.0, "must be <= 1 as a fraction; write a number of columns without a point")?;
                Rank::Fraction(fraction)
            }
        };
        let method = at.choose("method", raw.method.as_deref(), Keeping::Qb)?;
        let power_iterations = raw.power_iterations.unwrap_or(0);
        at.require("power_iterations", power_iterations == 0 || method == Keeping::Rsvd, "is for method = \"rsvd\" only")?;
        let bits = raw.bits.unwrap_or(8);
        at.require("bits", bits == 8 || bits == 4, "must be 8 or 4")?;
        Ok(Self {
            sites,
            method,
            rank,
            columns: at.choose("columns", raw.columns.as_deref(), Columns::Norm)?,
            keep_norms: raw.keep_norms.unwrap_or(true),
            factors: at.choose("factors", raw.factors.as_deref(), Factors::Bf16)?,
            power_iterations,
            bits,
        })
    }

    /// Whether anything is kept in a compressed form.
    pub fn compresses(&self) -> bool {
        self.method != Keeping::Exact && !matches!(self.sites, Sites::None | Sites::Checkpoint)
    }
}

choice! {
    /// The names of [`Sites`] that stand alone.
    SitesName {
        /// [`Sites::None`].
        None = "none",
        /// [`Sites::Checkpoint`].
        Checkpoint = "checkpoint",
        /// [`Sites::Layer`].
        Layer = "layer",
        /// [`Sites::Sublayer`].
        Sublayer = "sublayer",
    }
}

impl Serialize for Sites {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => SitesName::None.serialize(serializer),
            Self::Checkpoint => SitesName::Checkpoint.serialize(serializer),
            Self::Layer => SitesName::Layer.serialize(serializer),
            Self::Sublayer => SitesName::Sublayer.serialize(serializer),
            Self::Only(sites) => sites.serialize(serializer),
        }
    }
}

impl Serialize for Rank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fraction(fraction) => serializer.serialize_f64(*fraction),
            Self::Columns(columns) => serializer.serialize_i64(*columns),
        }
    }
}
