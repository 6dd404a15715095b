//! Hugging Face directories: the recorded tiny Llama, whole, in shards, and broken.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::tensor_file;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf/llama")
}

fn copy(file: &str, folder: &Path) {
    std::fs::copy(recorded().join(file), folder.join(file)).unwrap();
}

/// The recorded model in two files and an index.
fn sharded() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy("config.json", dir.path());
    let mut shards: [Vec<(String, Tensor)>; 2] = Default::default();
    let mut map = HashMap::new();
    for (at, (name, tensor)) in
        tensor_file::read(&recorded().join("model.safetensors")).unwrap().into_iter().enumerate()
    {
        map.insert(name.clone(), shard(at % 2));
        shards[at % 2].push((name, tensor));
    }
    for (at, tensors) in shards.iter().enumerate() {
        tensor_file::write(&dir.path().join(shard(at)), tensors, &[("format", "pt")]).unwrap();
    }
    write_index(dir.path(), json!(map));
    dir
}

fn shard(at: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", at + 1)
}

fn write_index(folder: &Path, map: Value) {
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

fn read_index(folder: &Path) -> Value {
    let index = std::fs::read(folder.join("model.safetensors.index.json")).unwrap();
    serde_json::from_slice::<Value>(&index).unwrap()["weight_map"].clone()
}

#[test]
fn the_recorded_llama_has_the_shapes_of_its_configuration() {
    let checkpoint = Checkpoint::open(&recorded()).unwrap();
    let config = checkpoint.config().unwrap();
    assert_eq!(
        (config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim),
        (32, 4, 2, 8)
    );
    assert_eq!((config.num_layers, config.vocab_size, config.intermediate_size), (2, 97, 56));
    assert!(!config.tie_embeddings);
    assert_eq!((config.bos_token_id, config.pad_token_id), (Some(1), Some(0)));
    checkpoint.check(&expected(config)).unwrap();
    assert_eq!(checkpoint.names().len(), expected(config).len());
    assert_eq!(checkpoint.bytes_on_disk(), 95160);
    assert_eq!(checkpoint.tokenizer(), &TokenizerSource::Folder(recorded()));
    assert_eq!(checkpoint.chat_templates(), &ChatTemplates::default());
}

#[test]
fn tensors_come_in_the_kind_asked_for_with_a_storage_of_their_own() {
    let checkpoint = Checkpoint::open(&recorded()).unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    let stored = checkpoint.tensor(name, Kind::Float, Device::Cpu).unwrap();
    let half = checkpoint.tensor(name, Kind::BFloat16, Device::Cpu).unwrap();
    assert_eq!((half.kind(), half.size()), (Kind::BFloat16, vec![32, 56]));
    assert!(
        half.equal(&stored.to_kind(Kind::BFloat16))
            && half.is_contiguous()
            && !half.requires_grad()
    );
    // The first and last values are those of the file's bytes.
    let bytes = std::fs::read(recorded().join("model.safetensors")).unwrap();
    let last = f32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap());
    let norm = checkpoint.tensor("model.norm.weight", Kind::Float, Device::Cpu).unwrap();
    assert_eq!(norm.double_value(&[31]) as f32, last);
    assert!(matches!(
        checkpoint.tensor("lm_head.bias", Kind::Float, Device::Cpu),
        Err(Error::MissingTensor { .. })
    ));
}

#[test]
fn shards_are_read_like_one_file() {
    let dir = sharded();
    let (whole, shards) =
        (Checkpoint::open(&recorded()).unwrap(), Checkpoint::open(dir.path()).unwrap());
    assert_eq!(whole.names(), shards.names());
    for name in whole.names() {
        let read =
            |checkpoint: &Checkpoint| checkpoint.tensor(name, Kind::Float, Device::Cpu).unwrap();
        assert!(read(&whole).equal(&read(&shards)), "{name}");
    }
    shards.check(&expected(shards.config().unwrap())).unwrap();
}

#[test]
fn an_index_that_does_not_fit_its_files_is_refused() {
    let dir = sharded();
    std::fs::remove_file(dir.path().join(shard(1))).unwrap();
    let refused = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(&refused, Error::MissingFile { path, .. } if path.ends_with(shard(1))),
        "{refused}"
    );

    let dir = sharded();
    let mut map = read_index(dir.path());
    map["model.layers.9.mlp.up_proj.weight"] = json!(shard(0));
    write_index(dir.path(), map.clone());
    let refused = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(&refused, Error::MissingTensor { tensor, .. } if tensor.contains("layers.9")),
        "{refused}"
    );

    for outside in
        [json!("../model.safetensors"), json!("/etc/passwd"), json!(""), json!("."), json!(3)]
    {
        map["model.norm.weight"] = outside.clone();
        write_index(dir.path(), map.clone());
        let refused = Checkpoint::open(dir.path()).unwrap_err();
        assert!(matches!(&refused, Error::Corrupt { .. }), "{outside}: {refused}");
    }
    write_index(dir.path(), json!("?"));
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::Corrupt { .. })));
}

#[test]
fn what_is_missing_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    copy("config.json", dir.path());
    let refused = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("model.safetensors") && refused.contains("fetch"), "{refused}");
    std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let refused = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("safe_serialization"), "{refused}");
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": ").unwrap();
    assert!(
        matches!(Checkpoint::open(dir.path()), Err(Error::Corrupt { file, .. }) if file.ends_with("config.json"))
    );
}

#[test]
fn check_names_the_tensor_that_does_not_fit() {
    let checkpoint = Checkpoint::open(&recorded()).unwrap();
    let fitting = expected(checkpoint.config().unwrap());

    let mut longer = fitting.clone();
    longer.push(("model.layers.2.input_layernorm.weight".into(), vec![32]));
    let refused = checkpoint.check(&longer).unwrap_err();
    assert!(matches!(refused, Error::MissingTensor { tensor, .. } if tensor.contains("layers.2")));

    let mut wider = fitting.clone();
    wider[0].1 = vec![98, 32];
    let refused = checkpoint.check(&wider).unwrap_err();
    assert!(
        matches!(refused, Error::Shape { expected, got, .. } if expected == [98, 32] && got == [97, 32])
    );

    let mut fewer = fitting;
    fewer.retain(|(name, _)| name != "lm_head.weight");
    let refused = checkpoint.check(&fewer).unwrap_err();
    assert!(
        matches!(refused, Error::UnexpectedTensor { tensor, .. } if tensor == "lm_head.weight")
    );
}

#[test]
fn rotary_tables_and_a_tied_output_are_harmless_and_integers_are_not_weights() {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(recorded().join("config.json")).unwrap();
    let tied = config.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    std::fs::write(dir.path().join("config.json"), tied).unwrap();
    let mut tensors = tensor_file::read(&recorded().join("model.safetensors")).unwrap();
    tensors
        .push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), Tensor::from_slice(&[1f32])));
    let path = dir.path().join("model.safetensors");
    tensor_file::write(&path, &tensors, &[]).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.config().unwrap().tie_embeddings);
    checkpoint.check(&expected(checkpoint.config().unwrap())).unwrap();

    let norm = tensors.iter().position(|(name, _)| name == "model.norm.weight").unwrap();
    tensors[norm].1 = tensors[norm].1.to_kind(Kind::Int64);
    tensor_file::write(&path, &tensors, &[]).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let refused = checkpoint.check(&expected(checkpoint.config().unwrap())).unwrap_err();
    assert!(matches!(refused, Error::Dtype { tensor, .. } if tensor == "model.norm.weight"));
}

#[test]
fn a_checkpoint_of_the_model_without_its_head_is_completed() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf/gpt2");
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(recorded.join("config.json"), dir.path().join("config.json")).unwrap();
    let whole = tensor_file::read(&recorded.join("model.safetensors")).unwrap();
    let mut bare: Vec<(String, Tensor)> = whole
        .iter()
        .map(|(name, tensor)| {
            (name.strip_prefix("transformer.").unwrap().to_owned(), tensor.shallow_clone())
        })
        .collect();
    // The masks of old checkpoints are known too.
    bare.push(("h.0.attn.bias".to_owned(), Tensor::ones([1, 1, 4, 4], (Kind::Float, Device::Cpu))));
    tensor_file::write(&dir.path().join("model.safetensors"), &bare, &[]).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    checkpoint.check(&crate::Decoder::tensor_shapes(checkpoint.config().unwrap())).unwrap();
    for (name, tensor) in whole {
        assert!(
            checkpoint.tensor(&name, Kind::Float, Device::Cpu).unwrap().equal(&tensor),
            "{name}"
        );
    }
}

#[test]
fn chat_templates_are_found() {
    let dir = tempfile::tempdir().unwrap();
    copy("config.json", dir.path());
    copy("model.safetensors", dir.path());
    let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
    let open = || {
        let ChatTemplates { default, tool_use } =
            Checkpoint::open(dir.path()).unwrap().chat_templates().clone();
        (default, tool_use)
    };
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#,
    );
    assert_eq!(open(), (Some("D".into()), Some("T".into())));
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!(open(), (Some("one".into()), None));
    write("tokenizer_config.json", r#"{"chat_template": {"default": "D", "tool_use": "T"}}"#);
    assert_eq!(open(), (Some("D".into()), Some("T".into())));
    write("tokenizer_config.json", r#"{"chat_template": [{"name": "tool_use", "template": "T"}]}"#);
    assert_eq!(open(), (None, Some("T".into())));
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    write("chat_template.jinja", "newest");
    assert_eq!(open(), (Some("newest".into()), None));
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "tools");
    assert_eq!(open(), (Some("newest".into()), Some("tools".into())));
    write("tokenizer_config.json", "[");
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::Corrupt { .. })));
}
