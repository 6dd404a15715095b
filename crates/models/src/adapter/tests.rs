#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::{Value, json};
use std::path::PathBuf;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden/adapter_init")
}

fn values(shape: [i64; 2], start: f64) -> Tensor {
    let count = shape[0] * shape[1];
    (Tensor::arange(count, (Kind::Float, Device::Cpu)) + start).view(shape)
}

/// Two modules of ranks 2 and 3.
fn sample() -> (AdapterConfig, Vec<(String, Tensor, Tensor)>) {
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
    let modules = vec![
        ("model.layers.0.self_attn.q_proj".to_owned(), values([2, 4], 0.5), values([6, 2], 9.0)),
        ("model.layers.0.mlp.down_proj".to_owned(), values([3, 5], -2.0), values([4, 3], 1.0)),
    ];
    (config, modules)
}

#[test]
fn an_adapter_survives_the_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run/adapter");
    let (config, modules) = sample();
    write_adapter(&folder, &config, &modules).unwrap();
    // Writing again replaces, and leaves nothing else behind.
    write_adapter(&folder, &config, &modules).unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    let adapter = read_adapter(&folder).unwrap();
    assert_eq!(adapter.config, config);
    assert_eq!(adapter.modules.len(), 2);
    for (name, a, b) in &modules {
        let got = adapter.modules.iter().find(|lora| lora.module == *name).unwrap();
        assert!(got.a.equal(a) && got.b.equal(b), "{name}");
    }
}

#[test]
fn files_are_as_peft_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut modules) = sample();
    // Trained in bfloat16 and with a gradient: still plain float32 in the file.
    modules[0].1 = modules[0].1.to_kind(Kind::BFloat16).set_requires_grad(true);
    write_adapter(dir.path(), &config, &modules).unwrap();
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
    let written: Value = serde_json::from_slice(&std::fs::read(dir.path().join(CONFIG)).unwrap()).unwrap();
    assert_eq!((&written["peft_type"], &written["lora_alpha"]), (&json!("LORA"), &json!(4)));
    assert_eq!(written["target_modules"], json!(["q_proj", "down_proj"]));
    assert_eq!(written["rank_pattern"], json!({"down_proj": 3}));
}

#[test]
fn an_adapter_of_peft_is_read_and_written_with_the_same_names_and_fields() {
    let adapter = read_adapter(&recorded()).unwrap();
    assert_eq!((adapter.config.r, adapter.config.lora_alpha), (2, 4.0));
    assert_eq!(adapter.modules.len(), 30 * 7);
    let q = adapter.modules.iter().find(|lora| lora.module == "model.layers.7.self_attn.q_proj").unwrap();
    assert_eq!((q.a.size(), q.b.size()), (vec![2, 576], vec![576, 2]));
    assert_eq!(adapter.config.scale_of(&q.module), 2.0);

    let dir = tempfile::tempdir().unwrap();
    let modules: Vec<_> = adapter.modules.into_iter().map(|lora| (lora.module, lora.a, lora.b)).collect();
    write_adapter(dir.path(), &adapter.config, &modules).unwrap();
    let open = |folder: &Path| TensorFile::open(&folder.join(WEIGHTS)).unwrap();
    let (ours, theirs) = (open(dir.path()), open(&recorded()));
    assert_eq!(ours.names().len(), theirs.names().len());
    for name in theirs.names() {
        assert!(ours.tensor(&name).unwrap().equal(&theirs.tensor(&name).unwrap()), "{name}");
    }
    // PEFT reads absent fields as their defaults; those that we write, it must write alike.
    let json = |folder: &Path| -> Value { serde_json::from_slice(&std::fs::read(folder.join(CONFIG)).unwrap()).unwrap() };
    let theirs = json(&recorded());
    for (key, value) in json(dir.path()).as_object().unwrap() {
        assert_eq!(value, &theirs[key], "{key}");
    }
}

/// The sample adapter with `changes` in its configuration, read back.
fn read_with(changes: Value) -> Result<Adapter> {
    let dir = tempfile::tempdir().unwrap();
    let (config, modules) = sample();
    write_adapter(dir.path(), &config, &modules).unwrap();
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
        (json!({"use_dora": true}), "use_dora"),
        (json!({"bias": "lora_only"}), "bias"),
        (json!({"lora_bias": true}), "lora_bias"),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
        (json!({"layer_replication": [[0, 4], [2, 5]]}), "layer_replication"),
        (json!({"trainable_token_indices": [1]}), "trainable_token_indices"),
        (json!({"alora_invocation_tokens": [5]}), "alora_invocation_tokens"),
        (json!({"init_lora_weights": "pissa"}), "init_lora_weights"),
        (json!({"rank_pattern": {"layers\\.[0-9]": 3}}), "rank_pattern"),
    ];
    for (changes, key) in cases {
        let refused = read_with(changes.clone()).unwrap_err();
        assert!(matches!(&refused, Error::UnsupportedOption { option, .. } if option == key), "{changes}: {refused}");
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
    assert!(matches!(&refused, Error::Adapter { .. }) && refused.to_string().contains("rank 3"), "{refused}");
    let two = json!({"alpha_pattern": {"q_proj": 1, "self_attn.q_proj": 2}});
    let refused = read_with(two).unwrap_err().to_string();
    assert!(refused.contains("alpha_pattern") && refused.contains("q_proj"), "{refused}");
    read_with(json!({"alpha_pattern": {"q_proj": 2, "self_attn.q_proj": 2}})).unwrap();
    assert!(matches!(read_with(json!({"r": 0})), Err(Error::InvalidConfig { key, .. }) if key == "r"));
    assert!(matches!(read_with(json!({"lora_dropout": 1.0})), Err(Error::InvalidConfig { .. })));
    assert!(matches!(read_with(json!({"r": "two"})), Err(Error::Corrupt { .. })));

    let (config, modules) = sample();
    let dir = tempfile::tempdir().unwrap();
    let transposed: Vec<_> = modules.iter().map(|(name, a, b)| (name.clone(), a.tr(), b.tr())).collect();
    assert!(matches!(write_adapter(dir.path(), &config, &transposed), Err(Error::Adapter { .. })));
    assert!(matches!(write_adapter(dir.path(), &config, &[]), Err(Error::Adapter { .. })));
    let dora = AdapterConfig { use_dora: true, ..config };
    assert!(matches!(write_adapter(dir.path(), &dora, &modules), Err(Error::UnsupportedOption { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a refused adapter leaves nothing behind");
}

#[test]
fn missing_halves_and_foreign_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (config, modules) = sample();
    write_adapter(dir.path(), &config, &modules).unwrap();
    let path = dir.path().join(WEIGHTS);
    let all = tensor_file::read(&path).unwrap();
    let without_b: Vec<_> = all.into_iter().filter(|(name, _)| !name.ends_with("q_proj.lora_B.weight")).collect();
    tensor_file::write(&path, &without_b, &[]).unwrap();
    let refused = read_adapter(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("q_proj has no lora_B"), "{refused}");
    let magnitude = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector";
    tensor_file::write(&path, &[(magnitude.into(), values([2, 2], 0.0))], &[]).unwrap();
    assert!(matches!(read_adapter(dir.path()), Err(Error::UnexpectedTensor { tensor, .. }) if tensor == magnitude));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(read_adapter(dir.path()), Err(Error::MissingFile { path: missing, .. }) if missing == path));
}

#[test]
fn patterns_choose_rank_and_scale_as_in_peft() {
    let config = AdapterConfig {
        r: 4,
        lora_alpha: 8.0,
        rank_pattern: BTreeMap::from([("^model.layers.0.q_proj".into(), 16), ("mlp.up_proj".into(), 2)]),
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
