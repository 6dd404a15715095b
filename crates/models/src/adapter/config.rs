//! `adapter_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::target::{check_pattern, matches};
use crate::config::fields::Fields;
use crate::{Error, Result};

/// No real adapter has more; below it, the bytes of its factors fit in 64 bits.
const MOST_COLUMNS: i64 = 1 << 16;
/// The name of PiSSA among the initialisations.
const PISSA: &str = "pissa";

/// The configuration of a LoRA adapter: the fields of PEFT's `LoraConfig` that this crate honours.
/// PEFT's other fields are ignored if they are neutral and refused by name if they change what the
/// adapter computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterConfig {
    /// Always `LORA`.
    pub peft_type: String,
    /// What the base model is for: `CAUSAL_LM`, …
    pub task_type: Option<String>,
    /// The base model, as a path or a name.
    pub base_model_name_or_path: Option<String>,
    /// Whether PEFT is to load the adapter frozen.
    pub inference_mode: bool,
    /// The rank of modules that `rank_pattern` does not name.
    pub r: i64,
    /// The scale of modules that `alpha_pattern` does not name, before division by the rank.
    #[serde(serialize_with = "whole_if_possible")]
    pub lora_alpha: f64,
    /// The dropout before A, while training.
    pub lora_dropout: f64,
    /// The layers that are adapted.
    pub target_modules: TargetModules,
    /// Those of them that are not.
    pub exclude_modules: Option<TargetModules>,
    /// The numbers of the decoder layers that are adapted; all if absent.
    pub layers_to_transform: Option<LayerNumbers>,
    /// What stands before the number of a layer in a path; if absent, whatever stands before the
    /// first number.
    pub layers_pattern: Option<TargetModules>,
    /// Ranks by module: a regular expression on the last part or parts of its path; with `^` on the
    /// whole.
    pub rank_pattern: BTreeMap<String, i64>,
    /// Alphas by module, like `rank_pattern`.
    #[serde(serialize_with = "each_whole_if_possible")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Whether alpha is divided by the square root of the rank instead of the rank (arXiv
    /// 2312.03732).
    pub use_rslora: bool,
    /// Whether the rows of the updated weight have a trained magnitude (DoRA, arXiv 2402.09353).
    pub use_dora: bool,
    /// Which biases were trained; must be `none`.
    pub bias: String,
    /// Whether the base weights are stored `[in, out]`. PEFT corrects this by the class of the
    /// layer, and so does this crate: it says nothing that the model does not.
    pub fan_in_fan_out: bool,
    /// Modules that were trained whole: the ends of their paths.
    pub modules_to_save: Option<Vec<String>>,
    /// How the factors began: true (A uniform, B zero), or PEFT's name of another way.
    pub init_lora_weights: Value,
}

/// The layers that an adapter is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// A regular expression on whole paths, or `all-linear`.
    Pattern(String),
    /// The last parts of their paths: `q_proj`, `v_proj`, …
    Names(Vec<String>),
}

/// One layer number or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LayerNumbers {
    /// One.
    One(i64),
    /// Several.
    Several(Vec<i64>),
}

impl Default for AdapterConfig {
    /// The defaults of PEFT's `LoraConfig`.
    fn default() -> Self {
        AdapterConfig {
            peft_type: "LORA".into(),
            task_type: None,
            base_model_name_or_path: None,
            inference_mode: false,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::Names(Vec::new()),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
            bias: "none".into(),
            fan_in_fan_out: false,
            modules_to_save: None,
            init_lora_weights: Value::Bool(true),
        }
    }
}

impl AdapterConfig {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Io`], [`Error::Corrupt`], [`Error::InvalidConfig`] or
    /// [`Error::UnsupportedOption`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = crate::file::read_to_string(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::MissingFile {
                path: path.to_owned(),
                remedy: "give a directory that PEFT or loract wrote".into(),
            },
            _ => Error::Io { path: path.to_owned(), action: "read", source },
        })?;
        check_supported(path, &text)
    }

    /// The rank of `module` (a path in the base model).
    pub fn rank_of(&self, module: &str) -> i64 {
        matching(&self.rank_pattern, module).copied().unwrap_or(self.r)
    }

    /// The number by which B A x is multiplied in `module`.
    pub fn scale_of(&self, module: &str) -> f64 {
        let alpha = matching(&self.alpha_pattern, module).copied().unwrap_or(self.lora_alpha);
        let rank = self.rank_of(module) as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Whether a key of a pattern table is for `module`: PEFT matches `(.*\.)?(PATTERN)$`
    /// (`get_pattern_key`).
    pub fn fits(pattern: &str, module: &str) -> bool {
        matches(&format!("(.*\\.)?({pattern})$"), module)
    }

    /// Names the table in which two patterns fit `module` and differ. PEFT takes the one written
    /// first, an order that JSON does not promise to keep.
    pub fn ambiguity(&self, module: &str) -> Option<&'static str> {
        if differ(&self.rank_pattern, module) {
            Some("rank_pattern")
        } else if differ(&self.alpha_pattern, module) {
            Some("alpha_pattern")
        } else {
            None
        }
    }

    /// Whether a part of the base weights was moved into the pairs when they began (PiSSA, arXiv
    /// 2404.02948).
    pub fn is_pissa(&self) -> bool {
        self.init_lora_weights == PISSA
    }

    /// Whether all linear layers are targeted.
    pub(super) fn is_all_linear(&self) -> bool {
        matches!(&self.target_modules, TargetModules::Pattern(pattern) if pattern.eq_ignore_ascii_case("all-linear"))
    }

    pub(super) fn to_json(&self, path: &Path) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        text.map_err(|why| Error::Io { path: path.to_owned(), action: "write", source: why.into() })
    }
}

/// Parses the text of the `adapter_config.json` at `path` and refuses what would be computed
/// differently.
pub(super) fn check_supported(path: &Path, text: &str) -> Result<AdapterConfig> {
    let table: Map<String, Value> = serde_json::from_str(text)
        .map_err(|why| Error::corrupt(path, format!("it is not a JSON table: {why}")))?;
    let fields = Fields::new(path, &table);
    fields.only("peft_type", "LORA")?;
    for switch in ["lora_bias", "use_qalora", "use_bdlora"] {
        fields.only(switch, false)?;
    }
    fields.only("bias", "none")?;
    let changing = [
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
    ];
    changing.iter().try_for_each(|key| fields.none(key))?;
    check_initialisation(&fields)?;
    // Null and absent mean the same in PEFT: the default.
    let known: Map<String, Value> =
        table.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let config: AdapterConfig = serde_json::from_value(Value::Object(known)).map_err(|why| {
        Error::corrupt(path, format!("it is not an adapter configuration: {why}"))
    })?;
    check_values(&fields, &config)?;
    Ok(config)
}

/// Some initialisations move a part of the base weights into the adapter, which then fits the
/// changed base only. That of PiSSA can be found again.
fn check_initialisation(fields: &Fields<'_>) -> Result<()> {
    let harmless = ["gaussian", "eva", "orthogonal", PISSA];
    match fields.value("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if harmless.contains(&name.as_str()) => Ok(()),
        Some(other) => {
            let supported = "true, false, \"gaussian\", \"pissa\", \"eva\", \"orthogonal\"; with PEFT, save it for the unchanged base \
                             (path_initial_model_for_weight_conversion)";
            Err(fields.unsupported("init_lora_weights", other, supported))
        }
    }
}

fn check_values(fields: &Fields<'_>, config: &AdapterConfig) -> Result<()> {
    let ranks = config.rank_pattern.values().map(|&rank| ("rank_pattern", rank));
    for (key, rank) in ranks.chain([("r", config.r)]) {
        if !(1..=MOST_COLUMNS).contains(&rank) {
            let why = format!("{rank} is no rank between 1 and {MOST_COLUMNS}");
            return Err(fields.invalid(key, why));
        }
    }
    if !(0.0..1.0).contains(&config.lora_dropout) {
        return Err(
            fields.invalid("lora_dropout", format!("{} is not in 0..1", config.lora_dropout))
        );
    }
    let rank_patterns = config.rank_pattern.keys().map(|pattern| ("rank_pattern", pattern));
    let alpha_patterns = config.alpha_pattern.keys().map(|pattern| ("alpha_pattern", pattern));
    for (key, pattern) in rank_patterns.chain(alpha_patterns) {
        check_pattern(pattern).map_err(|why| fields.invalid(key, why))?;
    }
    for (key, modules) in [
        ("target_modules", Some(&config.target_modules)),
        ("exclude_modules", config.exclude_modules.as_ref()),
    ] {
        if let Some(TargetModules::Pattern(pattern)) = modules {
            check_pattern(pattern).map_err(|why| fields.invalid(key, why))?;
        }
    }
    if matches!(config.target_modules, TargetModules::Pattern(_))
        && config.layers_to_transform.is_some()
        && !config.is_all_linear()
    {
        return Err(fields.invalid(
            "layers_to_transform",
            "target_modules is a regular expression, which says the layers itself",
        ));
    }
    Ok(())
}

/// What a pattern that fits `module` says.
fn matching<'a, T>(patterns: &'a BTreeMap<String, T>, module: &str) -> Option<&'a T> {
    patterns
        .iter()
        .find(|(pattern, _)| AdapterConfig::fits(pattern, module))
        .map(|(_, value)| value)
}

fn differ<T: PartialEq>(patterns: &BTreeMap<String, T>, module: &str) -> bool {
    let first = matching(patterns, module);
    patterns
        .iter()
        .any(|(pattern, value)| AdapterConfig::fits(pattern, module) && Some(value) != first)
}

/// PEFT declares alpha an integer.
fn whole_if_possible<S: Serializer>(
    value: &f64,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match value.fract() == 0.0 && value.abs() < 9e15 {
        true => serializer.serialize_i64(*value as i64),
        false => serializer.serialize_f64(*value),
    }
}

fn each_whole_if_possible<S: Serializer>(
    values: &BTreeMap<String, f64>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Number(#[serde(serialize_with = "whole_if_possible")] f64);
    serializer.collect_map(values.iter().map(|(pattern, value)| (pattern, Number(*value))))
}
