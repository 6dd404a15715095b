//! `[lora]`: the trained low-rank update of the frozen weights (arXiv 2106.09685). The names are those of PEFT's `LoraConfig` where it has them.

use crate::{Error, choice::choice, place::Table, raw};
use fancy_regex::Regex;
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, path::PathBuf};

choice! {
    /// What the factors of a new update begin with.
    Init {
        /// A uniform, B zero.
        Default = "default",
        /// A normal with a deviation of 1 / rank, B zero.
        Gaussian = "gaussian",
        /// The principal part of the weight, which is taken out of it (arXiv 2404.02948).
        Pissa = "pissa",
    }
}

choice! {
    /// Which biases are trained.
    LoraBias {
        /// None.
        None = "none",
    }
    not yet "all", "lora_only"
}

/// `[lora]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lora {
    /// `rank`: columns of the update's factors. Default: 8.
    pub rank: usize,
    /// `alpha`: the update is scaled by `alpha / rank`. Default: 16.0.
    pub alpha: f64,
    /// `dropout`: the chance that an input of the update is zeroed while training. Default: 0.0.
    pub dropout: f64,
    /// `target_modules`: `"all-linear"` (all linear layers of the blocks), a list of module-name suffixes, or a regular expression that
    /// the whole path of a module matches. Default: `"all-linear"`.
    pub target_modules: TargetModules,
    /// `exclude_modules`: modules that get no update though they are targeted: a list of suffixes, or a regular expression. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<TargetModules>,
    /// `layers_to_transform`: the numbers of the layers that get updates. Not with a regular expression as the target. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<i64>>,
    /// `use_rslora`: the update is scaled by `alpha / sqrt(rank)` (arXiv 2312.03732). Default: false.
    pub use_rslora: bool,
    /// `use_dora`: the rows of the updated weight get a trained magnitude (arXiv 2402.09353). Default: false.
    pub use_dora: bool,
    /// `init`: `"default"`, `"gaussian"` or `"pissa"`. Default: `"default"`.
    pub init: Init,
    /// `lora_fa`: A is frozen, so that a layer keeps its input's projection to `rank` columns only (arXiv 2308.03303). Default: false.
    pub lora_fa: bool,
    /// `lora_plus_ratio`: the learning rate of B, as a multiple of that of A (arXiv 2402.12354). Default: 1.0.
    pub lora_plus_ratio: f64,
    /// `modules_to_save`: modules that are trained whole and written into the adapter: the ends of their paths. Default: none.
    pub modules_to_save: Vec<String>,
    /// `bias`: `"none"`: no bias is trained. Default: `"none"`.
    pub bias: LoraBias,
    /// `adapter`: the directory of a PEFT adapter to start from, which says all the keys above but `lora_fa` and `lora_plus_ratio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// `rank_pattern`: ranks of modules that have another, by a regular expression on the last parts of their paths. Default: none.
    pub rank_pattern: BTreeMap<String, usize>,
    /// `alpha_pattern`: alphas, likewise. Default: none.
    pub alpha_pattern: BTreeMap<String, f64>,
}

/// Which modules get an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// `"all-linear"`: every linear layer of the blocks.
    AllLinear,
    /// The modules whose whole path matches a regular expression.
    Pattern(String),
    /// The modules whose name is, or ends in a dot and, one of these.
    Suffixes(Vec<String>),
}

impl Lora {
    pub(super) fn resolve(raw: raw::Lora, at: Table<'_>) -> Result<Self, Error> {
        let rank = raw.rank.unwrap_or(8);
        at.require("rank", rank > 0, "must be > 0")?;
        let alpha = raw.alpha.unwrap_or(16.0);
        at.require("alpha", is_positive(alpha), "must be > 0")?;
        let dropout = raw.dropout.unwrap_or(0.0);
        at.require("dropout", (0.0..1.0).contains(&dropout), "must be >= 0 and < 1")?;
        let target_modules = match raw.target_modules {
            None => TargetModules::AllLinear,
            Some(raw::OneOrMany::One(name)) if name == "all-linear" => TargetModules::AllLinear,
            Some(given) => modules("target_modules", given, at)?,
        };
        let exclude_modules = raw.exclude_modules.map(|given| modules("exclude_modules", given, at)).transpose()?;
        if let Some(layers) = &raw.layers_to_transform {
            at.require("layers_to_transform", !layers.is_empty(), "must name at least one layer")?;
            let says = matches!(target_modules, TargetModules::Pattern(_));
            at.require("layers_to_transform", !says, "cannot be given where target_modules is a regular expression; say the layers there")?;
        }
        let lora_plus_ratio = raw.lora_plus_ratio.unwrap_or(1.0);
        at.require("lora_plus_ratio", is_positive(lora_plus_ratio), "must be > 0")?;
        let lora_fa = raw.lora_fa.unwrap_or(false);
        let modules_to_save = raw.modules_to_save.unwrap_or_default();
        at.require("modules_to_save", modules_to_save.iter().all(|name| !name.is_empty()), "must not hold an empty name")?;
        let mut rank_pattern = BTreeMap::new();
        for (pattern, rank) in raw.rank_pattern.unwrap_or_default() {
            check_pattern(&pattern).map_err(|why| at.refuse("rank_pattern", &why))?;
            let rank = usize::try_from(rank).ok().filter(|rank| *rank > 0);
            rank_pattern.insert(pattern, rank.ok_or_else(|| at.refuse("rank_pattern", "each rank must be > 0"))?);
        }
        let alpha_pattern = raw.alpha_pattern.unwrap_or_default();
        for (pattern, alpha) in &alpha_pattern {
            check_pattern(pattern).map_err(|why| at.refuse("alpha_pattern", &why))?;
            at.require("alpha_pattern", is_positive(*alpha), "each alpha must be > 0")?;
        }
        Ok(Self {
            rank,
            alpha,
            dropout,
            target_modules,
            exclude_modules,
            layers_to_transform: raw.layers_to_transform,
            use_rslora: raw.use_rslora.unwrap_or(false),
            use_dora: raw.use_dora.unwrap_or(false),
            init: at.choose("init", raw.init.as_deref(), Init::Default)?,
            lora_fa,
            lora_plus_ratio,
            modules_to_save,
            bias: at.choose("bias", raw.bias.as_deref(), LoraBias::None)?,
            adapter: at.path("adapter", raw.adapter)?,
            rank_pattern,
            alpha_pattern,
        })
    }
}

fn check_pattern(pattern: &str) -> Result<(), String> {
    let problem = |why: fancy_regex::Error| {
        let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{pattern:?} is not a regular expression: {why}")
    };
    Regex::new(pattern).map(|_| ()).map_err(problem)
}

fn is_positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

fn modules(key: &str, given: raw::OneOrMany, at: Table<'_>) -> Result<TargetModules, Error> {
    match given {
        raw::OneOrMany::One(pattern) => {
            check_pattern(&pattern).map_err(|why| at.refuse(key, &why))?;
            at.require(key, !pattern.is_empty(), "must not be empty")?;
            Ok(TargetModules::Pattern(pattern))
        }
        raw::OneOrMany::Many(suffixes) => {
            let named = !suffixes.is_empty() && suffixes.iter().all(|suffix| !suffix.is_empty());
            at.require(key, named, "must name at least one module, and no empty name")?;
            Ok(TargetModules::Suffixes(suffixes))
        }
    }
}

impl Serialize for TargetModules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AllLinear => serializer.serialize_str("all-linear"),
            Self::Pattern(pattern) => serializer.serialize_str(pattern),
            Self::Suffixes(suffixes) => suffixes.serialize(serializer),
        }
    }
}
