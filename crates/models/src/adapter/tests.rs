#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden/adapter_init")
}

fn values(shape: [i64; 2], start: f64) -> Tensor {
    let count = shape[0] * shape[1];
    (Tensor::arange(count, (Kind::Float, Device::Cpu)) + start).view(shape)
}

/// Two modules of ranks 2 and 3.
fn sample() -> (AdapterConfig, AdapterWeights) {
    let config = AdapterConfig {
        task_type: Some("CAUSAL_LM".into()),
        base_model_name_or_path: Some("a-model".into()),
        r: 2,
        lora_alpha: 4.0,
        lora_dropout: 0.05,
        target_modules: TargetModules::Names(vec!["q_proj".into(), "down_proj".into()]),
        rank_pattern: BTreeMap::from([("down_proj".into(), 3)]),
        ..AdapterConfig::default()
    };
    let pair = |module: &str, a: Tensor, b: Tensor| LoraWeights {
        module: module.into(),
        a,
        b,
        magnitude: None,
        initial: None,
    };
    let modules = vec![
        pair("model.layers.0.self_attn.q_proj", values([2, 4], 0.5), values([6, 2], 9.0)),
        pair("model.layers.0.mlp.down_proj", values([3, 5], -2.0), values([4, 3], 1.0)),
    ];
    (config, AdapterWeights { modules, saved: Vec::new() })
}

#[test]
fn an_adapter_survives_the_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run/adapter");
    let (config, weights) = sample();
    write_adapter(&folder, &config, &weights).unwrap();
    // Writing again replaces, and leaves nothing else behind.
    write_adapter(&folder, &config, &weights).unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    let adapter = read_adapter(&folder).unwrap();
    assert_eq!(adapter.config, config);
    assert_eq!(adapter.weights.modules.len(), 2);
    for pair in &weights.modules {
        let got = adapter.weights.modules.iter().find(|lora| lora.module == pair.module).unwrap();
        assert!(got.a.equal(&pair.a) && got.b.equal(&pair.b), "{}", pair.module);
    }
}

#[test]
fn files_are_as_peft_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut weights) = sample();
    // Trained in bfloat16 and with a gradient: still plain float32 in the file.
    let a = &mut weights.modules[0].a;
    *a = a.to_kind(Kind::BFloat16).set_requires_grad(true);
    write_adapter(dir.path(), &config, &weights).unwrap();
    let file = TensorFile::open(&dir.path().join(WEIGHTS)).unwrap();
    let mut names = file.names();
    names.sort();
    let expected = [
        "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
    ];
    assert_eq!(names, expected);
    assert!(names.iter().all(|name| file.kind(name).unwrap() == Kind::Float));
    assert_eq!(file.metadata().unwrap()["format"], "pt");
    let written: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join(CONFIG)).unwrap()).unwrap();
    assert_eq!((&written["peft_type"], &written["lora_alpha"]), (&json!("LORA"), &json!(4)));
    assert_eq!(written["target_modules"], json!(["q_proj", "down_proj"]));
    assert_eq!(written["rank_pattern"], json!({"down_proj": 3}));
}

#[test]
fn an_adapter_of_peft_is_read_and_written_with_the_same_names_and_fields() {
    let adapter = read_adapter(&recorded()).unwrap();
    assert_eq!((adapter.config.r, adapter.config.lora_alpha), (2, 4.0));
    assert_eq!(adapter.weights.modules.len(), 30 * 7);
    let q = adapter
        .weights
        .modules
        .iter()
        .find(|lora| lora.module == "model.layers.7.self_attn.q_proj")
        .unwrap();
    assert_eq!((q.a.size(), q.b.size()), (vec![2, 576], vec![576, 2]));
    assert_eq!(adapter.config.scale_of(&q.module), 2.0);

    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &adapter.config, &adapter.weights).unwrap();
    let open = |folder: &Path| TensorFile::open(&folder.join(WEIGHTS)).unwrap();
    let (ours, theirs) = (open(dir.path()), open(&recorded()));
    assert_eq!(ours.names().len(), theirs.names().len());
    for name in theirs.names() {
        assert!(ours.tensor(&name).unwrap().equal(&theirs.tensor(&name).unwrap()), "{name}");
    }
    // PEFT reads absent fields as their defaults; those that we write, it must write alike.
    let json = |folder: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(CONFIG)).unwrap()).unwrap()
    };
    let theirs = json(&recorded());
    for (key, value) in json(dir.path()).as_object().unwrap() {
        assert_eq!(value, &theirs[key], "{key}");
    }
}

/// The sample adapter with `changes` in its configuration, read back.
fn read_with(changes: Value) -> Result<Adapter> {
    let dir = tempfile::tempdir().unwrap();
    let (config, weights) = sample();
    write_adapter(dir.path(), &config, &weights).unwrap();
    let path = dir.path().join(CONFIG);
    let mut table: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, change) in changes.as_object().unwrap() {
        table[key] = change.clone();
    }
    std::fs::write(&path, table.to_string()).unwrap();
    read_adapter(dir.path())
}

#[test]
fn options_that_change_the_mathematics_are_refused_by_name() {
    let cases = [
        (json!({"peft_type": "IA3"}), "peft_type"),
        (json!({"bias": "lora_only"}), "bias"),
        (json!({"lora_bias": true}), "lora_bias"),
        (json!({"layer_replication": [[0, 4], [2, 5]]}), "layer_replication"),
        (json!({"trainable_token_indices": [1]}), "trainable_token_indices"),
        (json!({"alora_invocation_tokens": [5]}), "alora_invocation_tokens"),
        (json!({"init_lora_weights": "olora"}), "init_lora_weights"),
        (json!({"init_lora_weights": "pissa_niter_16"}), "init_lora_weights"),
    ];
    for (changes, key) in cases {
        let refused = read_with(changes.clone()).unwrap_err();
        assert!(
            matches!(&refused, Error::UnsupportedOption { option, .. } if option == key),
            "{changes}: {refused}"
        );
    }
    let neutral = json!({"modules_to_save": [], "lora_bias": false, "layer_replication": null, "corda_config": null,
                         "init_lora_weights": "gaussian", "target_modules": "all-linear", "layers_to_transform": [0],
                         "use_bdlora": null, "some_future_field": 3});
    let config = read_with(neutral).unwrap().config;
    assert_eq!(config.target_modules, TargetModules::Pattern("all-linear".into()));
}

#[test]
fn weights_and_configuration_must_agree() {
    let refused = read_with(json!({"rank_pattern": {}})).unwrap_err();
    assert!(
        matches!(&refused, Error::Adapter { .. }) && refused.to_string().contains("rank 3"),
        "{refused}"
    );
    let two = json!({"alpha_pattern": {"q_proj": 1, "self_attn.q_proj": 2}});
    let refused = read_with(two).unwrap_err().to_string();
    assert!(refused.contains("alpha_pattern") && refused.contains("q_proj"), "{refused}");
    read_with(json!({"alpha_pattern": {"q_proj": 2, "self_attn.q_proj": 2}})).unwrap();
    assert!(
        matches!(read_with(json!({"r": 0})), Err(Error::InvalidConfig { key, .. }) if key == "r")
    );
    assert!(matches!(read_with(json!({"lora_dropout": 1.0})), Err(Error::InvalidConfig { .. })));
    assert!(matches!(read_with(json!({"r": "two"})), Err(Error::Corrupt { .. })));
    assert!(
        matches!(read_with(json!({"rank_pattern": {"(q_proj": 3}})), Err(Error::InvalidConfig { key, .. }) if key == "rank_pattern")
    );
    assert!(
        matches!(read_with(json!({"target_modules": "[a-"})), Err(Error::InvalidConfig { key, .. }) if key == "target_modules")
    );
    let twice = json!({"target_modules": ".*q_proj", "layers_to_transform": 1});
    assert!(
        matches!(read_with(twice), Err(Error::InvalidConfig { key, .. }) if key == "layers_to_transform")
    );

    let (config, weights) = sample();
    let dir = tempfile::tempdir().unwrap();
    let refused = |config: &AdapterConfig, weights: &AdapterWeights, says: &str| {
        let refused = write_adapter(dir.path(), config, weights).unwrap_err();
        assert!(
            matches!(&refused, Error::Adapter { .. }) && refused.to_string().contains(says),
            "{refused}"
        );
    };
    refused(&config, &AdapterWeights::default(), "no modules");
    refused(
        &AdapterConfig { use_dora: true, ..config.clone() },
        &weights,
        "lora_magnitude_vector, which use_dora promises",
    );
    refused(
        &AdapterConfig { init_lora_weights: "pissa".into(), ..config.clone() },
        &weights,
        "began as is not known",
    );
    let (_, mut other) = sample();
    other.modules[0].magnitude = Some(values([1, 6], 0.0).view([-1]));
    refused(&config, &other, "set use_dora");
    refused(
        &AdapterConfig { use_dora: true, ..config.clone() },
        &other,
        "down_proj has no lora_magnitude_vector",
    );
    other.modules[0].magnitude = Some(values([1, 5], 0.0).view([-1]));
    refused(
        &AdapterConfig { use_dora: true, ..config.clone() },
        &other,
        "a magnitude [5], expected [6]",
    );
    let (_, mut transposed) = sample();
    transposed.modules.iter_mut().for_each(|pair| pair.a = pair.a.tr());
    refused(&config, &transposed, "expected [rank, in] and [out, rank]");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "a refused adapter leaves nothing on disk"
    );
}

#[test]
fn missing_halves_and_foreign_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (config, weights) = sample();
    write_adapter(dir.path(), &config, &weights).unwrap();
    let path = dir.path().join(WEIGHTS);
    let all = tensor_file::read(&path).unwrap();
    let without_b: Vec<_> =
        all.into_iter().filter(|(name, _)| !name.ends_with("q_proj.lora_B.weight")).collect();
    tensor_file::write(&path, &without_b, &[]).unwrap();
    let refused = read_adapter(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("q_proj has no lora_B"), "{refused}");
    let foreign = "base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight";
    tensor_file::write(&path, &[(foreign.into(), values([2, 2], 0.0))], &[]).unwrap();
    assert!(
        matches!(read_adapter(dir.path()), Err(Error::UnexpectedTensor { tensor, .. }) if tensor == foreign)
    );
    std::fs::remove_file(&path).unwrap();
    assert!(
        matches!(read_adapter(dir.path()), Err(Error::MissingFile { path: missing, .. }) if missing == path)
    );
}

#[test]
fn patterns_choose_rank_and_scale_as_in_peft() {
    let config = AdapterConfig {
        r: 4,
        lora_alpha: 8.0,
        rank_pattern: BTreeMap::from([
            ("^model.layers.0.q_proj".into(), 16),
            ("mlp.up_proj".into(), 2),
        ]),
        alpha_pattern: BTreeMap::from([("up_proj".into(), 1.0)]),
        ..AdapterConfig::default()
    };
    assert_eq!(config.rank_of("model.layers.0.q_proj"), 16);
    assert_eq!(config.rank_of("x.model.layers.0.q_proj"), 4);
    assert_eq!(config.rank_of("model.layers.3.mlp.up_proj"), 2);
    assert_eq!(config.rank_of("model.layers.3.other_mlp.up_proj"), 4);
    assert_eq!(config.scale_of("model.layers.3.mlp.up_proj"), 0.5);
    assert_eq!(config.scale_of("model.layers.3.o_proj"), 2.0);
    assert_eq!(AdapterConfig { use_rslora: true, ..config }.scale_of("model.layers.3.o_proj"), 4.0);
}

/// What `check_target_module_exists` of PEFT 0.21 says of these.
#[test]
fn modules_are_targeted_as_in_peft() {
    let names = |names: &[&str]| {
        TargetModules::Names(names.iter().map(|name| (*name).to_owned()).collect())
    };
    let (q, expert) = ("model.layers.3.self_attn.q_proj", "model.layers.1.mlp.experts.3.down_proj");
    let config = |target_modules| AdapterConfig { target_modules, ..AdapterConfig::default() };
    let pattern = |pattern: &str| TargetModules::Pattern(pattern.into());
    let cases = [
        (config(names(&["q_proj"])), q, true),
        (config(names(&["self_attn.q_proj"])), q, true),
        (config(names(&[q])), q, true),
        (config(names(&["proj"])), q, false),
        (config(pattern("all-linear")), q, true),
        (config(pattern(r".*\.q_proj")), q, true),
        (config(pattern("q_proj")), q, false),
        (config(pattern(r".*layers\.(?!3).*q_proj")), q, false),
        (config(pattern(r"model.*self_attn")), q, false),
        (
            AdapterConfig {
                exclude_modules: Some(names(&["self_attn.q_proj"])),
                ..config(names(&["q_proj"]))
            },
            q,
            false,
        ),
        (
            AdapterConfig {
                exclude_modules: Some(pattern(r".*\.3\..*")),
                ..config(names(&["q_proj"]))
            },
            q,
            false,
        ),
        (
            AdapterConfig { exclude_modules: Some(names(&["proj"])), ..config(names(&["q_proj"])) },
            q,
            true,
        ),
        (
            AdapterConfig {
                modules_to_save: Some(vec!["self_attn".into()]),
                ..config(names(&["q_proj"]))
            },
            q,
            false,
        ),
        (
            AdapterConfig {
                layers_to_transform: Some(LayerNumbers::One(3)),
                ..config(names(&["q_proj"]))
            },
            q,
            true,
        ),
        (
            AdapterConfig {
                layers_to_transform: Some(LayerNumbers::One(2)),
                ..config(names(&["q_proj"]))
            },
            q,
            false,
        ),
        (
            AdapterConfig {
                layers_to_transform: Some(LayerNumbers::Several(vec![])),
                ..config(names(&["q_proj"]))
            },
            q,
            true,
        ),
        (
            AdapterConfig {
                layers_to_transform: Some(LayerNumbers::One(1)),
                ..config(names(&["down_proj"]))
            },
            expert,
            true,
        ),
        (
            AdapterConfig {
                layers_to_transform: Some(LayerNumbers::One(3)),
                ..config(names(&["down_proj"]))
            },
            expert,
            false,
        ),
        (
            AdapterConfig {
                layers_to_transform: Some(LayerNumbers::One(3)),
                layers_pattern: Some(pattern("experts")),
                ..config(names(&["down_proj"]))
            },
            expert,
            true,
        ),
    ];
    for (config, module, expected) in cases {
        assert_eq!(config.targets(module), expected, "{config:?}: {module}");
    }
    let saving = AdapterConfig {
        modules_to_save: Some(vec!["norm".into(), "1.mlp".into()]),
        ..AdapterConfig::default()
    };
    for (parameter, expected) in [
        ("model.norm.weight", true),
        ("model.layers.0.input_layernorm.weight", true),
        ("model.layers.1.mlp.up_proj.weight", true),
        ("model.layers.0.mlp.up_proj.weight", false),
        ("lm_head.weight", false),
    ] {
        assert_eq!(saving.saves(parameter), expected, "{parameter}");
    }
}
