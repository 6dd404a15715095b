//! `loract merge`: a merged model computes without an adapter what its base computes with it,
//! whatever the family, the option of LoRA, and the format of the base; and its files are those of
//! Hugging Face.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use models::{
    AdapterConfig, Checkpoint, Decoder, Model, TargetModules, TensorFile, read_adapter,
    write_adapter,
};
use program::{Ended, Place, fixture};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

fn merge(place: &Place, arguments: &[&str]) -> Ended {
    place.run(
        place
            .loract(&["merge", "--json"])
            .args(arguments)
            .args(["--out", place.at("merged").to_str().unwrap()]),
    )
}

/// Merges, and gives what the command printed.
fn merged(place: &Place, arguments: &[&str]) -> Value {
    let ended = merge(place, arguments);
    assert!(ended.status.success(), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

fn open(model: &Path) -> Decoder {
    Decoder::load(&Checkpoint::open(model).unwrap(), Kind::Float, Device::Cpu).unwrap()
}

fn adapted(model: &Path, adapter: &Path) -> Decoder {
    let mut decoder = open(model);
    let read = read_adapter(adapter).unwrap();
    decoder.add_lora(&read.config, Some(&read.weights), 0, adapter).unwrap();
    decoder
}

/// The logits after each of a few texts.
fn logits(decoder: &Decoder) -> Tensor {
    let vocabulary = decoder.config().vocab_size;
    let texts = [
        vec![11, 45, 7, 9],
        vec![3],
        (0..9).map(|index| 5 + index * 37 % (vocabulary - 5)).collect(),
    ];
    Tensor::cat(
        &texts.map(|ids: Vec<i64>| decoder.next_logits(&ids, &mut decoder.cache()).unwrap()),
        0,
    )
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

/// The merged model computes what `base` computes with `adapter`, which is not what it computes
/// without.
#[track_caller]
fn computes_the_same(name: &str, base: &Path, adapter: &Path, merged: &Path, tolerance: f64) {
    let (expected, plain, ours) =
        (logits(&adapted(base, adapter)), logits(&open(base)), logits(&open(merged)));
    let scale = largest(&expected).max(1.0);
    let (apart, changed) =
        (largest(&(&ours - &expected)) / scale, largest(&(&plain - &expected)) / scale);
    println!("{name}: {apart:.1e} apart, the adapter changes {changed:.1e}");
    assert!(changed > 20.0 * tolerance, "{name}: the adapter changes nothing: {changed:e}");
    assert!(apart < tolerance, "{name}: {apart:e}");
}

fn folders(within: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(fixture(within)).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_family_computes_the_same_without_its_adapter() {
    let families = folders("hf");
    assert_eq!(families.len(), 21, "every decoder has a fixture");
    for base in families {
        let place = Place::new();
        let adapter = place.at("adapter");
        let all = TargetModules::Pattern("all-linear".into());
        let config = AdapterConfig {
            r: 3,
            lora_alpha: 6.0,
            target_modules: all,
            ..AdapterConfig::default()
        };
        let mut decoder = open(&base);
        decoder.add_lora(&config, None, 5, &base).unwrap();
        // As if B had been trained.
        let mut weights = decoder.lora_weights();
        weights.modules.iter_mut().for_each(|pair| {
            pair.b = (pair.a.mean_dim(1_i64, true, Kind::Float).tr() * 0.5)
                .expand_as(&pair.b)
                .contiguous()
        });
        write_adapter(&adapter, &config, &weights).unwrap();
        let said = merged(
            &place,
            &["--model", base.to_str().unwrap(), "--adapter", adapter.to_str().unwrap()],
        );
        computes_the_same(&name(&base), &base, &adapter, &place.at("merged"), 1e-5);
        assert_eq!(said["modules"], decoder.linears().len());
        // What is not changed is the base's, to the bit.
        let (ours, theirs) =
            (Checkpoint::open(&place.at("merged")).unwrap(), Checkpoint::open(&base).unwrap());
        let is_changed = |name: &str| {
            weights.modules.iter().any(|pair| name == format!("{}.weight", pair.module))
        };
        for name in ours.names().into_iter().filter(|name| !is_changed(name)) {
            assert_eq!(ours.kind(name), theirs.kind(name), "{name}");
            let read = |from: &Checkpoint| from.tensor(name, Kind::Double, Device::Cpu).unwrap();
            assert!(read(&ours).equal(&read(&theirs)), "{name}");
        }
    }
}

#[test]
fn every_option_of_peft_is_merged() {
    let options: Vec<PathBuf> = folders("lora")
        .into_iter()
        .filter(|folder| folder.join("adapter_model.safetensors").exists())
        .collect();
    assert!(options.len() >= 18, "{options:?}");
    for adapter in options {
        let place = Place::new();
        let base = fixture("hf")
            .join(read_adapter(&adapter).unwrap().config.base_model_name_or_path.unwrap());
        merged(
            &place,
            &["--model", base.to_str().unwrap(), "--adapter", adapter.to_str().unwrap()],
        );
        computes_the_same(&name(&adapter), &base, &adapter, &place.at("merged"), 1e-5);
        let is_tied =
            |folder: &Path| Checkpoint::open(folder).unwrap().config().unwrap().tie_embeddings;
        let unties = name(&adapter).starts_with("saved_tied");
        assert_eq!(is_tied(&place.at("merged")), is_tied(&base) && !unties, "{}", name(&adapter));
    }
}

#[test]
fn a_gguf_model_becomes_a_directory_of_hugging_face() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let adapter = fixture("golden/adapter_final");
    let (model, given) = (base.to_str().unwrap(), adapter.to_str().unwrap());
    let place = Place::new();
    let said = merged(&place, &["--model", model, "--adapter", given, "--shard-size", "200MB"]);
    let folder = place.at("merged");
    assert_eq!(
        (said["parameters"].as_u64(), said["bytes"].as_u64()),
        (Some(134_515_008), Some(4 * 134_515_008))
    );
    assert_eq!(said["files"].as_array().unwrap().len(), 3);
    computes_the_same("SmolLM2", &base, &adapter, &folder, 1e-5);
    // transformers reads a padding token so, that its embedding is not trained; a GGUF file says
    // nothing of that.
    let described = |model: &Path| {
        let mut config = Checkpoint::open(model).unwrap().config().unwrap().clone();
        config.embedding.padding = None;
        config
    };
    assert_eq!(described(&folder), described(&base));

    // Tokenizer and chat template are there and the same: the same words come out.
    let words = |arguments: &[&str]| {
        let ended = place.run(
            place
                .loract(&["generate", "--prompt", "How's 2024?", "--max-tokens", "12"])
                .args(arguments),
        );
        assert!(ended.status.success(), "{}", ended.stderr);
        ended.stdout
    };
    assert_eq!(words(&[folder.to_str().unwrap()]), words(&[model, "--adapter", given]));
    let json = |file: &str| -> Value {
        serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
    };
    assert_eq!(json("config.json")["torch_dtype"], "float32");
    assert_eq!(json("tokenizer_config.json")["eos_token"], "<|im_end|>");
    assert_eq!(
        json("tokenizer_config.json")["model_input_names"],
        serde_json::json!(["input_ids", "attention_mask"])
    );
    assert_eq!(
        json("generation_config.json")["eos_token_id"][0],
        json("config.json")["eos_token_id"]
    );
    let index = json("model.safetensors.index.json");
    assert_eq!(index["metadata"]["total_size"], said["bytes"]);
    assert_eq!(
        index["weight_map"]["model.embed_tokens.weight"],
        "model-00001-of-00003.safetensors"
    );
}

#[test]
fn what_a_run_has_trained_is_merged_in_the_dtype_that_was_asked_for() {
    let place = Place::new();
    let model = place.at("model");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(fixture("hf/llama").join(file), model.join(file)).unwrap();
    }
    for (file, text) in [
        ("special_tokens_map.json", "{}"),
        ("added_tokens.json", "{}"),
        ("notes.md", "of the base alone"),
    ] {
        fs::write(model.join(file), text).unwrap();
    }
    fs::write(place.at("template.jinja"), "{{ messages }}").unwrap();
    place.edit(fixture("hf/llama").to_str().unwrap(), model.to_str().unwrap());
    place.edit("[lora]", &format!("chat_template = {:?}\n[lora]", place.at("template.jinja")));
    place.edit("rank = 2", "rank = 2\nuse_rslora = true\nuse_dora = true\nrank_pattern = { q_proj = 5 }\nalpha_pattern = { up_proj = 3 }");
    place.edit("[data]", "[optimizer]\nlearning_rate = 1e-2\n[data]");
    let config = place.config();
    let config = config.to_str().unwrap();
    let ended = merge(&place, &[config]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        ended.stderr.contains("[run] dir: is ")
            && ended.stderr.contains("where no run has written an adapter yet"),
        "{}",
        ended.stderr
    );

    let ended = place.run(&mut place.train());
    assert!(ended.status.success(), "{}", ended.stderr);
    let said = merged(&place, &[config, "--dtype", "bf16", "--shard-size", "20kB"]);
    let folder = place.at("merged");
    computes_the_same("bf16", &model, &place.run_dir().join("adapter"), &folder, 1.5e-2);
    let mut there: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| name(&entry.unwrap().path())).collect();
    there.sort();
    let files: Vec<&str> =
        said["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    let mut expected = [
        &[
            "config.json",
            "generation_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "chat_template.jinja",
        ][..],
        &files,
    ]
    .concat();
    expected.push("model.safetensors.index.json");
    expected.sort_unstable();
    assert_eq!(there, expected);
    assert!(files.len() > 2);
    for file in files {
        let file = TensorFile::open(&folder.join(file)).unwrap();
        assert!(file.names().iter().all(|name| file.kind(name).unwrap() == Kind::BFloat16));
        assert!(
            file.bytes_on_disk() < 20_000 + 2_000 || file.names().len() == 1,
            "{:?}",
            file.path()
        );
        assert_eq!(file.metadata().unwrap()["format"], "pt");
    }
    let ended = merge(&place, &[config]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        ended
            .stderr
            .contains("merged is there already; give --out another directory, or remove it"),
        "{}",
        ended.stderr
    );
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_left() {
    let place = Place::new();
    let before = place.listing();
    let (llama, gpt2) = (fixture("hf/llama"), fixture("hf/gpt2"));
    let (llama, gpt2) = (llama.to_str().unwrap(), gpt2.to_str().unwrap());
    let (all, conv) = (fixture("lora/all_linear"), fixture("lora/dora_conv1d"));
    let (all, conv) = (all.to_str().unwrap(), conv.to_str().unwrap());
    let cases: [(&[&str], &str); 6] = [
        (
            &["--model", gpt2, "--adapter", all],
            "has weights for model.layers.0.mlp.down_proj, and this model has no such layer",
        ),
        (&["--model", llama, "--adapter", conv], "and this model has no such layer"),
        (
            &["--model", llama, "--adapter", llama],
            "adapter_config.json; give a directory that PEFT or loract wrote",
        ),
        (&["--model", "no/model", "--adapter", all], "missing file no/model"),
        (
            &["--model", llama, "--adapter", all, "--shard-size", "5XB"],
            "give a size with a unit, such as 500MB, 5GB or 80GiB",
        ),
        (&["--model", llama], "--adapter <DIR>"),
    ];
    for (arguments, says) in cases {
        let ended = merge(&place, arguments);
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
        assert!(
            ended.stderr.contains(says) && ended.stderr.lines().count() == 1,
            "{arguments:?}: {}",
            ended.stderr
        );
        assert_eq!(place.listing(), before, "something is left");
    }
}
