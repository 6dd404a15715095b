//! `[lora]`: the trained low-rank update of the frozen weights (arXiv 2106.09685).

use crate::config::{Error, place::Table, raw};
use serde::{Serialize, Serializer};
use std::path::PathBuf;

/// `[lora]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lora {
    /// `rank`: columns of the update's factors. Default: 8.
    pub rank: usize,
    /// `alpha`: the update is scaled by `alpha / rank`. Default: 16.0.
    pub alpha: f64,
    /// `dropout`: the chance that an input of the update is zeroed while training. Default: 0.0.
    pub dropout: f64,
    /// `target_modules`: `"all-linear"` (all linear layers of the blocks), or a list of module-name suffixes. Default:
    /// `"all-linear"`.
    pub target_modules: TargetModules,
    /// `adapter`: the directory of a PEFT adapter to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
}

/// Which modules get an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// `"all-linear"`: every linear layer of the blocks.
    AllLinear,
    /// The modules whose name is, or ends in a dot and, one of these.
    Suffixes(Vec<String>),
}

impl Lora {
    pub(super) fn resolve(raw: raw::Lora, at: Table<'_>) -> Result<Self, Error> {
        let rank = raw.rank.unwrap_or(8);
        at.require("rank", rank > 0, "must be > 0")?;
        let alpha = raw.alpha.unwrap_or(16.0);
        at.require("alpha", alpha > 0.0 && alpha.is_finite(), "must be > 0")?;
        let dropout = raw.dropout.unwrap_or(0.0);
        at.require("dropout", (0.0..1.0).contains(&dropout), "must be >= 0 and < 1")?;
        let target_modules = match raw.target_modules {
            None => TargetModules::AllLinear,
            Some(raw::OneOrMany::One(name)) if name == "all-linear" => TargetModules::AllLinear,
            Some(raw::OneOrMany::One(name)) => {
                let what = format!("\"{name}\" is not a list; for one suffix write [\"{name}\"]");
                return Err(at.refuse("target_modules", &what));
            }
            Some(raw::OneOrMany::Many(suffixes)) => {
                let named = !suffixes.is_empty() && suffixes.iter().all(|suffix| !suffix.is_empty());
                at.require("target_modules", named, "must name at least one module, and no empty name")?;
                TargetModules::Suffixes(suffixes)
            }
        };
        Ok(Self { rank, alpha, dropout, target_modules, adapter: at.path("adapter", raw.adapter)? })
    }
}

impl Serialize for TargetModules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AllLinear => serializer.serialize_str("all-linear"),
            Self::Suffixes(suffixes) => suffixes.serialize(serializer),
        }
    }
}
