//! `[lora]`: the adapter that is trained (arXiv 2106.09685). The names are those of PEFT's
//! `LoraConfig` where it has them.

use crate::{
    Error,
    choice::choice,
    declare::{Table, When, table},
    range::{MOST_COLUMNS, Range},
    source_map::KeyPlace,
    value::Value,
};
use fancy_regex::Regex;
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, path::PathBuf};

choice! {
    /// The initial values of a new adapter's factors.
    Init {
        /// A drawn from a uniform distribution, B zero.
        Default = "default",
        /// A drawn from a normal distribution with a deviation of 1 / rank, B zero.
        Gaussian = "gaussian",
        /// The principal singular values of the weight, which are subtracted from it (arXiv
        /// 2404.02948).
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

/// The key says how a new adapter is made; an old one says it itself.
fn of_a_new_adapter() -> When {
    When::new(&["lora.adapter"], "[lora] adapter is left out", |lora: &Lora| lora.adapter.is_none())
}

table! {
    /// The LoRA adapter that is trained. Without the table all weights of the model are trained.
    Lora: "lora" {
        /// Columns of the adapter's factors.
        rank: usize = 8,
            within Range::above(0.0).at_most(MOST_COLUMNS),
            when of_a_new_adapter(),
            example "16";
        /// The update is scaled by `alpha / rank`.
        alpha: f64 = 16.0, within Range::above(0.0), when of_a_new_adapter(), example "32.0";
        /// The probability that an input of the adapter is zeroed in training.
        dropout: f64 = 0.0,
            within Range::at_least(0.0).below(1.0),
            when of_a_new_adapter(),
            example "0.05";
        /// The modules that get an adapter: all linear layers of the blocks, those whose names are
        /// listed, or those whose whole path a regular expression matches.
        target_modules: TargetModules = TargetModules::AllLinear,
            valid r#""all-linear" | a list of module-name suffixes such as ["q_proj", "v_proj"] | a regular expression on whole paths"#,
            when of_a_new_adapter(),
            example r#"["q_proj", "v_proj"]"#;
        /// Modules that get no adapter although `target_modules` has them.
        exclude_modules: Option<TargetModules> = None,
            valid "a list of module-name suffixes | a regular expression on whole paths",
            when of_a_new_adapter(),
            example r#"["lm_head"]"#;
        /// The numbers of the layers, from 0, that get an adapter.
        layers_to_transform: Option<Vec<i64>> = None,
            default "all layers",
            valid "a list of layers from 0, such as [0, 1, 5]",
            when of_a_new_adapter(),
            example "[0, 1]";
        /// Other ranks for some modules, by regular expressions on the last parts of their paths.
        rank_pattern: BTreeMap<String, usize> = BTreeMap::new(),
            valid r#"a table of ranks by module, such as { q_proj = 16, "mlp.down_proj" = 4 }"#,
            within Range::above(0.0).at_most(MOST_COLUMNS),
            when of_a_new_adapter(),
            example "{ q_proj = 16 }";
        /// Other alphas for some modules, likewise.
        alpha_pattern: BTreeMap<String, f64> = BTreeMap::new(),
            valid "a table of alphas by module, such as { q_proj = 32.0 }",
            within Range::above(0.0),
            when of_a_new_adapter(),
            example "{ q_proj = 32.0 }";
        /// Scale the update by `alpha / sqrt(rank)` (rsLoRA, arXiv 2312.03732).
        use_rslora: bool = false, when of_a_new_adapter(), example "true";
        /// Train a magnitude for each row of the updated weight (DoRA, arXiv 2402.09353).
        use_dora: bool = false, when of_a_new_adapter(), example "true";
        /// The initial values of the adapter's factors.
        init: Init = Init::Default, when of_a_new_adapter(), example r#""pissa""#;
        /// Freeze A, so that a layer saves only its input's projection to `rank` columns (LoRA-FA,
        /// arXiv 2308.03303).
        lora_fa: bool = false, example "true";
        /// The learning rate of B as a multiple of that of A (LoRA+, arXiv 2402.12354).
        lora_plus_ratio: f64 = 1.0, within Range::above(0.0), example "16.0";
        /// Modules that are trained in full and saved with the adapter.
        modules_to_save: Vec<String> = Vec::new(),
            valid r#"a list of module-name suffixes such as ["lm_head", "embed_tokens"]"#,
            when of_a_new_adapter(),
            example r#"["lm_head"]"#;
        /// Which biases are trained.
        bias: LoraBias = LoraBias::None, when of_a_new_adapter(), example r#""none""#;
        /// A PEFT adapter to continue training from. It determines how the adapter is made.
        adapter: Option<PathBuf> = None,
            default "a new adapter",
            valid "the directory of a PEFT adapter",
            example r#""runs/first/adapter""#;
    }
}

/// Which modules get an adapter.
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
    pub(crate) fn check(&self, table: &Table<'_>) -> Result<(), Error> {
        if let Some(layers) = &self.layers_to_transform {
            table.require(
                "layers_to_transform",
                !layers.is_empty(),
                "must name at least one layer",
            )?;
            let is_pattern = matches!(self.target_modules, TargetModules::Pattern(_));
            let what = "cannot be given where target_modules is a regular expression; name the layers in it";
            table.require("layers_to_transform", !is_pattern, what)?;
        }
        let all = self.exclude_modules != Some(TargetModules::AllLinear);
        table.require("exclude_modules", all, "cannot be \"all-linear\"")?;
        table.require(
            "modules_to_save",
            self.modules_to_save.iter().all(|name| !name.is_empty()),
            "must not have an empty name",
        )?;
        let patterns = self.rank_pattern.keys().map(|pattern| ("rank_pattern", pattern));
        for (key, pattern) in
            patterns.chain(self.alpha_pattern.keys().map(|pattern| ("alpha_pattern", pattern)))
        {
            check_pattern(pattern).map_err(|what| table.error(key, &what))?;
        }
        Ok(())
    }
}

fn check_pattern(pattern: &str) -> Result<(), String> {
    let problem = |why: fancy_regex::Error| {
        let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{pattern:?} is not a regular expression: {why}")
    };
    Regex::new(pattern).map(|_| ()).map_err(problem)
}

impl Value for TargetModules {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        match value {
            toml::Value::String(name) if name == "all-linear" => Ok(Self::AllLinear),
            toml::Value::String(pattern) if pattern.is_empty() => {
                Err(at.error("must not be empty"))
            }
            toml::Value::String(pattern) => {
                check_pattern(pattern).map_err(|what| at.error(&what))?;
                Ok(Self::Pattern(pattern.clone()))
            }
            _ => match Vec::<String>::read(value, at)? {
                names if names.is_empty() || names.iter().any(String::is_empty) => {
                    Err(at.error("must name at least one module, and no empty name"))
                }
                names => Ok(Self::Suffixes(names)),
            },
        }
    }

    fn write(&self) -> Option<toml::Value> {
        match self {
            Self::AllLinear => Some("all-linear".into()),
            Self::Pattern(pattern) => pattern.write(),
            Self::Suffixes(suffixes) => suffixes.write(),
        }
    }

    fn valid(_: Range) -> String {
        "a list of module-name suffixes | a regular expression on whole paths".into()
    }

    fn schema(_: Range) -> Json {
        json!({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}]})
    }
}
