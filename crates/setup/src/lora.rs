//! From `[lora]` to the adapter of a run, and what does not fit the model.

use std::collections::BTreeSet;

use config::{Init, Run, Task};
use models::{
    Adapter, AdapterConfig, Classifier, Decoder, EncoderConfig, LayerNumbers, Model, ModelConfig,
    TargetModules, read_adapter,
};

use crate::Result;

/// The target that stands for every linear layer of the blocks.
const ALL_LINEAR: &str = "all-linear";

/// The heads of classifiers, which PEFT trains whole in addition to the LoRA pairs.
const HEADS: [&str; 2] = ["classifier", "score"];

/// Where the adapter of a run comes from.
#[derive(Debug)]
pub enum AdapterSource {
    /// A new adapter with this configuration.
    New(Box<AdapterConfig>),
    /// An adapter that is trained further.
    Pretrained(Box<Adapter>),
}

/// The adapter that `[lora]` describes; `None` without the table, where all weights are trained.
///
/// # Errors
/// An adapter to start from that cannot be read.
pub fn adapter_source(
    lora: Option<&config::Lora>,
    model: &config::Model,
) -> Result<Option<AdapterSource>> {
    let Some(table) = lora else { return Ok(None) };
    if let Some(path) = &table.adapter {
        return Ok(Some(AdapterSource::Pretrained(Box::new(read_adapter(path)?))));
    }
    let (task_type, heads): (_, &[&str]) = match model.task {
        Task::CausalLm => (Some("CAUSAL_LM"), &[]),
        Task::SequenceClassification => (Some("SEQ_CLS"), &HEADS),
        // PEFT has no name for it.
        Task::ImageClassification => (None, &HEADS[..1]),
    };
    let saved: Vec<String> = table
        .modules_to_save
        .iter()
        .map(String::as_str)
        .chain(heads.iter().copied())
        .map(str::to_owned)
        .collect();
    Ok(Some(AdapterSource::New(Box::new(AdapterConfig {
        task_type: task_type.map(str::to_owned),
        base_model_name_or_path: Some(model.path.display().to_string()),
        inference_mode: true,
        r: table.rank as i64,
        lora_alpha: table.alpha,
        lora_dropout: table.dropout,
        target_modules: modules(&table.target_modules),
        exclude_modules: table.exclude_modules.as_ref().map(modules),
        layers_to_transform: table.layers_to_transform.clone().map(LayerNumbers::Several),
        rank_pattern: table
            .rank_pattern
            .iter()
            .map(|(pattern, rank)| (pattern.clone(), *rank as i64))
            .collect(),
        alpha_pattern: table.alpha_pattern.clone(),
        use_rslora: table.use_rslora,
        use_dora: table.use_dora,
        modules_to_save: (!saved.is_empty()).then_some(saved),
        init_lora_weights: match table.init {
            Init::Default => true.into(),
            Init::Gaussian | Init::Pissa => table.init.as_str().into(),
        },
        ..AdapterConfig::default()
    }))))
}

fn modules(table: &config::TargetModules) -> TargetModules {
    match table {
        config::TargetModules::AllLinear => TargetModules::Pattern(ALL_LINEAR.into()),
        config::TargetModules::Pattern(pattern) => TargetModules::Pattern(pattern.clone()),
        config::TargetModules::Suffixes(names) => TargetModules::Names(names.clone()),
    }
}

/// Adds the adapter of a run to `model`, and returns its configuration as PEFT writes it: with the
/// target modules by name, also for `all-linear`. Without `[lora]` all weights are trained, and
/// there is none.
///
/// # Errors
/// An adapter that cannot be read, or does not fit the model.
pub fn add_lora(
    lora: Option<&config::Lora>,
    base: &config::Model,
    seed: u64,
    model: &mut impl Model,
) -> Result<Option<AdapterConfig>> {
    let (config, weights) = match adapter_source(lora, base)? {
        Some(AdapterSource::New(config)) => (*config, None),
        Some(AdapterSource::Pretrained(adapter)) => {
            (AdapterConfig { inference_mode: true, ..adapter.config }, Some(adapter.weights))
        }
        None => {
            model.train_weights(true);
            return Ok(None);
        }
    };
    let path = lora.and_then(|lora| lora.adapter.as_ref()).unwrap_or(&base.path);
    model.add_lora(&config, weights.as_ref(), seed, path)?;
    if lora.is_some_and(|lora| lora.lora_fa) {
        model.freeze_lora_a();
    }
    if config.target_modules != TargetModules::Pattern(ALL_LINEAR.into()) {
        return Ok(Some(config));
    }
    let names: BTreeSet<String> = model
        .linears()
        .into_iter()
        .filter(|linear| linear.lora().is_some())
        .filter_map(|linear| Some(linear.path().rsplit('.').next()?.to_owned()))
        .collect();
    Ok(Some(AdapterConfig {
        target_modules: TargetModules::Names(names.into_iter().collect()),
        ..config
    }))
}

/// The names of a model that an adapter may refer to.
#[derive(Debug)]
pub struct ModuleNames {
    /// The paths of linear layers.
    paths: Vec<String>,
    /// The names of parameters.
    names: Vec<String>,
    layers: i64,
}

impl From<&ModelConfig> for ModuleNames {
    fn from(model: &ModelConfig) -> Self {
        Self {
            paths: Decoder::linear_paths(model),
            names: Decoder::parameter_names(model),
            layers: model.num_layers,
        }
    }
}

impl From<&EncoderConfig> for ModuleNames {
    fn from(model: &EncoderConfig) -> Self {
        let names = Classifier::tensor_shapes(model).into_iter().map(|(name, _)| name).collect();
        Self { paths: Classifier::linear_paths(model), names, layers: model.num_layers() as i64 }
    }
}

/// Refuses what does not fit the model: names and patterns that match no layer, layers that do not
/// exist, and what leaves nothing to train.
///
/// # Errors
/// The first key that does not fit.
pub fn check_adapter(
    run: &Run,
    modules: impl Into<ModuleNames>,
    adapter: &Option<AdapterSource>,
) -> Result<()> {
    let Some(AdapterSource::New(config)) = adapter else { return Ok(()) };
    let refuse = |key, what: String| Err(run.error_at("lora", key, &what).into());
    let ModuleNames { paths, names, layers } = modules.into();
    for (key, modules) in [
        ("target_modules", Some(&config.target_modules)),
        ("exclude_modules", config.exclude_modules.as_ref()),
    ] {
        if let Some(unknown) = modules.and_then(|modules| unknown(modules, &paths)) {
            return refuse(
                key,
                format!(
                    "{unknown}; it has {}, and \"all-linear\" means all of them",
                    last_parts(&paths)
                ),
            );
        }
    }
    if let Some(LayerNumbers::Several(numbers)) = &config.layers_to_transform
        && let Some(number) = numbers.iter().find(|number| !(0..layers).contains(number))
    {
        return refuse(
            "layers_to_transform",
            format!("names layer {number}, and the model has 0 to {}", layers - 1),
        );
    }
    let targeted: Vec<&String> = paths.iter().filter(|path| config.targets(path)).collect();
    if targeted.is_empty() {
        let what = "is left with no layer by exclude_modules, layers_to_transform and modules_to_save; leave one of them out";
        return refuse("target_modules", what.into());
    }
    let patterns = config.rank_pattern.keys().map(|pattern| ("rank_pattern", pattern));
    for (key, pattern) in
        patterns.chain(config.alpha_pattern.keys().map(|pattern| ("alpha_pattern", pattern)))
    {
        if !targeted.iter().any(|path| AdapterConfig::fits(pattern, path)) {
            return refuse(
                key,
                format!(
                    "{pattern:?} fits no layer that is targeted; it fits the last parts of a path, such as \"q_proj\""
                ),
            );
        }
    }
    for path in &targeted {
        if let Some(key) = config.ambiguity(path) {
            return refuse(key, format!("two patterns fit {path} and differ; keep one of them"));
        }
    }
    // Not the heads that were added: PEFT names them all for any model, whichever of them it has.
    for module in run.lora.iter().flat_map(|lora| &lora.modules_to_save) {
        let alone = AdapterConfig {
            modules_to_save: Some(vec![module.clone()]),
            ..AdapterConfig::default()
        };
        if !names.iter().any(|name| alone.saves(name)) {
            let what = format!(
                "names {module:?}, which this model has not; give the end of a module's path, such as \"lm_head\" or \"embed_tokens\""
            );
            return refuse("modules_to_save", what);
        }
    }
    if let Some(path) = targeted.iter().find(|path| config.saves(&format!("{path}.weight"))) {
        return refuse(
            "modules_to_save",
            format!("trains {path} whole, as target_modules does in part; name it in one of them"),
        );
    }
    Ok(())
}

/// What is said of names that fit none of `paths`.
fn unknown(modules: &TargetModules, paths: &[String]) -> Option<String> {
    match modules {
        TargetModules::Pattern(pattern) if pattern == ALL_LINEAR => None,
        TargetModules::Pattern(pattern) => {
            let fits = paths.iter().any(|path| modules.names(path));
            (!fits).then(|| {
                format!("the expression {pattern:?} is the whole of no path of this model; for the end of a path write [{pattern:?}]")
            })
        }
        TargetModules::Names(names) => {
            let fits = |name: &&String| {
                paths.iter().any(|path| TargetModules::Names(vec![(*name).clone()]).names(path))
            };
            names
                .iter()
                .find(|name| !fits(name))
                .map(|name| format!("names {name:?}, which this model has not"))
        }
    }
}

/// The last parts of paths, each once.
fn last_parts(paths: &[String]) -> String {
    let mut parts: Vec<&str> = paths.iter().filter_map(|path| path.rsplit('.').next()).collect();
    parts.sort_unstable();
    parts.dedup();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The keys of `[lora]` stand from line 4 on; the model has two layers.
    fn load(keys: &str) -> (tempfile::TempDir, Run, ModelConfig) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(
            &path,
            format!("[model]\npath = \"m\"\n[lora]\n{keys}\n[data]\ntrain = \"t\"\n"),
        )
        .unwrap();
        let file = folder.path().join("config.json");
        let text = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}"#;
        std::fs::write(&file, text).unwrap();
        (folder, Run::load(&path, &[]).unwrap(), ModelConfig::read(&file).unwrap())
    }

    #[test]
    fn what_the_model_has_no_place_for_is_refused_at_its_line() {
        let cases = [
            (
                "target_modules = [\"q_proj\", \"query\"]",
                4,
                "target_modules: names \"query\", which this model has not; it has down_proj, gate_proj",
            ),
            (
                "target_modules = \"q_proj\"",
                4,
                "target_modules: the expression \"q_proj\" is the whole of no path of this model; for the end of a path write [\"q_proj\"]",
            ),
            (
                "exclude_modules = [\"lm_head\"]",
                4,
                "exclude_modules: names \"lm_head\", which this model has not",
            ),
            (
                "\nlayers_to_transform = [0, 2]",
                5,
                "layers_to_transform: names layer 2, and the model has 0 to 1",
            ),
            (
                "exclude_modules = \".*\"",
                3,
                "target_modules: is left with no layer by exclude_modules",
            ),
            (
                "rank_pattern = { queue = 3 }",
                4,
                "rank_pattern: \"queue\" fits no layer that is targeted",
            ),
            (
                "rank_pattern = { q_proj = 3, \"self_attn.q_proj\" = 4 }",
                4,
                "rank_pattern: two patterns fit model.layers.0.self_attn.q_proj and differ",
            ),
            (
                "target_modules = [\"q_proj\"]\nalpha_pattern = { v_proj = 3 }",
                5,
                "alpha_pattern: \"v_proj\" fits no layer that is targeted",
            ),
            (
                "modules_to_save = [\"head\", \"tail\"]",
                4,
                "modules_to_save: names \"tail\", which this model has not; give the end of a module's path",
            ),
            (
                "modules_to_save = [\"proj\"]",
                4,
                "modules_to_save: trains model.layers.0.self_attn.q_proj whole, as target_modules does in part",
            ),
        ];
        for (keys, line, says) in cases {
            let (_folder, run, model) = load(keys);
            let message = check_adapter(
                &run,
                &model,
                &adapter_source(run.lora.as_ref(), &run.model).unwrap(),
            )
            .unwrap_err()
            .to_string();
            assert!(
                message.contains(&format!("c.toml:{line}: [lora] {says}"))
                    && !message.contains('\n'),
                "{keys}: {message}"
            );
        }
    }

    #[test]
    fn every_key_is_in_the_configuration_of_the_adapter() {
        let (_folder, run, model) = load(
            "rank = 4\nalpha = 3.0\ndropout = 0.25\ntarget_modules = [\"q_proj\", \"v_proj\"]\nexclude_modules = \".*[.]0[.].*q_proj\"\n\
             layers_to_transform = [0]\nrank_pattern = { v_proj = 6 }\nalpha_pattern = { v_proj = 2 }\nuse_rslora = true\nuse_dora = true\n\
             init = \"gaussian\"\nmodules_to_save = [\"lm_head\"]",
        );
        let Some(AdapterSource::New(config)) =
            adapter_source(run.lora.as_ref(), &run.model).unwrap()
        else {
            panic!("no adapter was given")
        };
        check_adapter(&run, &model, &Some(AdapterSource::New(config.clone()))).unwrap();
        let targeted: Vec<String> =
            Decoder::linear_paths(&model).into_iter().filter(|path| config.targets(path)).collect();
        assert_eq!(targeted, ["model.layers.0.self_attn.v_proj"]);
        assert_eq!(
            (config.rank_of(&targeted[0]), config.scale_of(&targeted[0])),
            (6, 2.0 / 6.0_f64.sqrt())
        );
        assert_eq!(
            (config.r, config.lora_alpha, config.lora_dropout, config.use_dora),
            (4, 3.0, 0.25, true)
        );
        assert_eq!(
            (config.init_lora_weights, config.modules_to_save),
            ("gaussian".into(), Some(vec!["lm_head".into()]))
        );
    }
}
