//! `loract plan` against what training measures: what is kept to the byte, and the peak within one
//! in a hundred, in every mode at several batch sizes; and it needs nothing of a model but its
//! description.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use models::{Decoder, ModelConfig, tensor_file};
use program::{Place, fixture};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// A mid-size Llama with grouped heads, and batches of up to four sequences of 192 tokens. Its
/// logits are few, so that backward holds most.
fn place() -> Place {
    let place = Place::new();
    let model = place.at("model");
    fs::create_dir(&model).unwrap();
    let description = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 1024, "tie_word_embeddings": false,
    });
    fs::write(model.join("config.json"), description.to_string()).unwrap();
    let config = ModelConfig::read(&model.join("config.json")).unwrap();
    let random = |shape: &[i64]| match shape.len() {
        1 => Tensor::ones(shape, (Kind::Float, Device::Cpu)),
        _ => Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.02,
    };
    let tensors: Vec<(String, Tensor)> = Decoder::tensor_shapes(&config)
        .into_iter()
        .map(|(name, shape)| (name, random(&shape)))
        .collect();
    tensor_file::write(&model.join("model.safetensors"), &tensors, &[("format", "pt")]).unwrap();
    for batch in [1, 2, 4] {
        let ids: Vec<i64> = (0..2 * batch * 192).map(|index| 3 + index * 31 % 497).collect();
        place.write_batches(&format!("{batch}.safetensors"), [2, batch as usize, 192], &ids);
    }
    place.edit(fixture("hf/llama").to_str().unwrap(), model.to_str().unwrap());
    place.edit("sequence_length = 16", "sequence_length = 192\nloss_on = \"all\"");
    place.edit("steps = 8", "steps = 2");
    place
}

fn arguments(set: &[String]) -> Vec<&str> {
    set.iter().flat_map(|set| ["--set", set.as_str()]).collect()
}

fn planned(place: &Place, set: &[String], more: &[&str]) -> Value {
    let ended = place
        .run(place.loract(&["plan", "--json"]).arg(place.config()).args(arguments(set)).args(more));
    assert!(ended.status.success(), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// What a training keeps in its first step, and the peak of all its steps.
fn measured(place: &Place, set: &[String]) -> [u64; 2] {
    let ended = place.run(place.train().arg("--overwrite").args(arguments(set)));
    assert!(ended.status.success(), "{}", ended.stderr);
    let steps = fs::read_to_string(place.metrics()).unwrap();
    let steps: Vec<Value> = steps.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |step: &Value, key: &str| step[key].as_u64().unwrap();
    [of(&steps[0], "kept_bytes"), steps.iter().map(|step| of(step, "peak_bytes")).max().unwrap()]
}

/// Plans and trains, and compares.
#[track_caller]
fn agree(place: &Place, set: &[&str]) {
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    let (plan, [measured_kept, measured_peak]) = (planned(place, &set, &[]), measured(place, &set));
    let number = |of: &Value, key: &str| of[key].as_u64().unwrap();
    // A site holds its basis twice when it follows what it sees: a shared one from the first step
    // on, others later.
    let times = if set.iter().any(|key| key == "activations.method=shared") { 2 } else { 1 };
    let (kept, peak) = (
        number(&plan, "kept_bytes") + times * number(&plan, "basis_bytes") / 2,
        number(&plan, "peak_bytes"),
    );
    let off = peak as f64 / measured_peak as f64 - 1.0;
    println!("{set:?}: peak {:+.2} %, in the {}", 100.0 * off, plan["peak_at"]);
    assert_eq!(kept, measured_kept, "{set:?}: {plan}");
    assert!(off.abs() < 0.01, "{set:?}: {peak} planned, {measured_peak} measured: {plan}");
    let sites: u64 =
        plan["sites"].as_array().unwrap().iter().map(|site| number(site, "bytes")).sum();
    assert_eq!(sites, number(&plan, "kept_bytes"));
}

#[test]
fn kept_bytes_and_peak_are_those_that_training_measures() {
    let place = place();
    let batch = |batch: u64| {
        [
            format!("run.batch_size={batch}"),
            format!("data.train={}", place.at(&format!("{batch}.safetensors")).display()),
        ]
    };
    for size in [1, 2, 4] {
        let [size, data] = batch(size);
        let agree = |set: &[&str]| agree(&place, &[&[size.as_str(), data.as_str()], set].concat());
        agree(&["activations.sites=none"]);
        agree(&["activations.sites=checkpoint"]);
        for sites in ["activations.sites=layer", "activations.sites=sublayer"] {
            agree(&[sites, "activations.method=quantized"]);
            agree(&[sites, "activations.method=qb", "activations.rank=0.25"]);
            agree(&[sites, "activations.method=coded", "activations.bits=4", "run.steps=8"]);
        }
        agree(&[
            "activations.sites=layer",
            "activations.method=coded",
            "activations.delta=true",
            "activations.basis=none",
        ]);
    }
    // What else changes sizes.
    let [size, data] = batch(2);
    let agree = |set: &[&str]| agree(&place, &[&[size.as_str(), data.as_str()], set].concat());
    let linear_inputs = "activations.sites=[\"attn_in\", \"attn_out\", \"mlp_in\", \"mlp_out\"]";
    agree(&[linear_inputs, "activations.method=shared", "activations.rank=0.25"]);
    for sites in ["activations.sites=none", "activations.sites=checkpoint"] {
        agree(&[sites, "model.dtype=bf16"]);
        agree(&[sites, "model.quantization=nf4"]);
        agree(&[sites, "model.quantization=nf4", "model.dtype=bf16"]);
        agree(&[sites, "model.quantization=nf4", "lora.use_dora=true"]);
        agree(&[sites, "lora.use_dora=true", "lora.rank=16"]);
        agree(&[sites, "lora.dropout=0.1", "optimizer.method=lion"]);
    }
    agree(&[
        "activations.sites=none",
        "lora.target_modules=[\"q_proj\", \"down_proj\"]",
        "lora.layers_to_transform=[1, 2]",
    ]);
    agree(&[
        "activations.sites=layer",
        "run.micro_batch_size=1",
        "lora.modules_to_save=[\"lm_head\"]",
        "run.loss_chunk=64",
    ]);
    agree(&[
        "activations.sites=[\"norm\", \"attn_in\", \"mlp_in\", \"act\"]",
        "activations.method=quantized",
        "activations.bits=4",
    ]);
}

#[test]
fn what_fits_is_what_a_plan_of_it_says() {
    let place = place();
    let memory = 60_000_000;
    let set = ["activations.sites=sublayer".to_owned(), "run.batch_size=3".to_owned()];
    let plan = planned(&place, &set, &["--memory", &format!("{memory}B")]);
    let first = &plan["modes"][0];
    assert_eq!(
        (&first["mode"], &first["peak_bytes"]),
        (&json!("as configured"), &plan["peak_bytes"])
    );
    let peak = |key: &str, value: u64| {
        let set = [
            set[0].clone(),
            if key.starts_with("run") { set[0].clone() } else { set[1].clone() },
            format!("{key}={value}"),
        ];
        planned(&place, &set, &[])["peak_bytes"].as_u64().unwrap()
    };
    let batch = first["largest_batch"].as_u64().unwrap();
    assert!(
        batch > 1
            && peak("run.batch_size", batch) <= memory
            && peak("run.batch_size", batch + 1) > memory,
        "{batch}"
    );
    let context = first["longest_context"].as_u64().unwrap();
    assert!(
        context > 1
            && peak("data.sequence_length", context) <= memory
            && peak("data.sequence_length", context + 1) > memory,
        "{context}"
    );
    // Side by side, each holds less than the one before.
    let peak_of = |mode: &str| {
        let found = plan["modes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|of| of["mode"].as_str().unwrap().starts_with(mode));
        found.unwrap()["kept_bytes"].as_u64().unwrap()
    };
    assert!(
        peak_of("none") > peak_of("checkpoint")
            && peak_of("checkpoint") > peak_of("layer, quantized (8 bits)")
    );
    assert!(
        peak_of("layer, quantized (8") > peak_of("layer, quantized (4")
            && peak_of("layer, quantized (4") > peak_of("layer, coded (2")
    );
}

#[test]
fn the_blocks_of_a_file_are_planned_from_its_header() {
    let place = Place::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(model.exists(), "missing {}; run ci/setup", model.display());
    place.edit(fixture("hf/llama").to_str().unwrap(), model.to_str().unwrap());
    let weights = |quantization: &str| {
        let plan = planned(&place, &[format!("model.quantization={quantization}")], &[]);
        (
            plan["weight_bytes"].as_u64().unwrap(),
            plan["parameters"].as_u64().unwrap() - plan["trained_parameters"].as_u64().unwrap(),
            plan,
        )
    };
    let (dense, parameters, plan) = weights("none");
    let pairs = 4 * plan["trained_parameters"].as_u64().unwrap();
    assert_eq!(dense - pairs, 4 * parameters);
    // Linear layers in Q4_1, the embedding, which is the head, in Q8_0; norms in f32.
    let layer: [u64; 7] =
        [576 * 576, 192 * 576, 192 * 576, 576 * 576, 1536 * 576, 1536 * 576, 576 * 1536];
    let (linear, embedding) = (30 * layer.iter().sum::<u64>(), 49152 * 576);
    let norms = 4 * (parameters - linear - embedding);
    let (packed, ..) = weights("gguf");
    assert_eq!(packed - pairs, linear * 20 / 32 + embedding * 34 / 32 + norms);
    // Codes, largest magnitudes, those of groups of them, and the mean.
    let nf4: u64 = layer
        .iter()
        .map(|numbers| numbers / 2 + numbers / 64 + 4 * (numbers / 64).div_ceil(256) + 4)
        .sum();
    assert_eq!(weights("nf4").0 - pairs, 30 * nf4 + 4 * embedding + norms);
}

#[test]
fn seventy_billion_parameters_are_planned_from_their_description() {
    let place = Place::new();
    let model = place.at("llama-70b");
    fs::create_dir(&model).unwrap();
    let description = json!({
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": false,
    });
    fs::write(model.join("config.json"), description.to_string()).unwrap();
    place.edit(fixture("hf/llama").to_str().unwrap(), model.to_str().unwrap());
    place.edit("rank = 2", "rank = 8");
    let started = Instant::now();
    let set = [
        "model.dtype=bf16".to_owned(),
        "run.batch_size=1".to_owned(),
        "data.sequence_length=4096".to_owned(),
    ];
    let plan = planned(&place, &set, &["--memory", "160GiB"]);
    println!("{:?}: {plan}", started.elapsed());
    // As published, and the pairs that PEFT counts on all linear layers at rank 8.
    assert_eq!(plan["parameters"], 70_553_706_496_u64 + 103_546_880);
    assert_eq!(plan["trained_parameters"], 103_546_880);
    assert_eq!(plan["weight_bytes"], 2 * 70_553_706_496_u64 + 4 * 103_546_880);
    assert_eq!(plan["gradient_bytes"], 4 * 103_546_880_u64);
    assert_eq!(plan["optimizer_bytes"], 8 * 103_546_880_u64);
}

#[test]
fn every_family_is_planned_and_bad_input_is_refused() {
    // Encoders have no loss over tokens, and are refused.
    for family in
        models::SUPPORTED_MODEL_TYPES.iter().filter(|family| fixture("hf").join(family).is_dir())
    {
        let place = Place::new();
        place.edit("hf/llama", &format!("hf/{family}"));
        let plan = planned(&place, &[], &["--memory", "1MB"]);
        let kept = plan["kept_bytes"].as_u64().unwrap();
        assert!(
            plan["peak_bytes"].as_u64().unwrap() > kept + plan["weight_bytes"].as_u64().unwrap(),
            "{family}: {plan}"
        );
        if plan["estimated"].as_array().unwrap().is_empty() {
            let [measured_kept, peak] = measured(&place, &[]);
            assert_eq!(measured_kept, kept, "{family}: {plan}");
            println!("{family}: peak {} planned, {} measured", plan["peak_bytes"], peak);
        }
    }
    let place = Place::new();
    let refused = |set: &str, more: &[&str], says: &str| {
        let ended =
            place.run(place.loract(&["plan"]).arg(place.config()).args(["--set", set]).args(more));
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
        assert!(
            ended.stderr.contains(says) && ended.stderr.lines().count() == 1,
            "{}",
            ended.stderr
        );
    };
    refused(
        "model.path=no/model",
        &[],
        "[model] path: there is no no/model; give a directory with a config.json",
    );
    refused(
        "lora.target_modules=[\"query\"]",
        &[],
        "[lora] target_modules: names \"query\", which this model has not",
    );
    refused("run.steps=3", &["--memory", "80"], "has no unit; write 80MB, 80MiB or 80GiB");
    refused(
        "run.steps=3",
        &["--memory", "80XB"],
        "give a size with a unit, such as 500MB, 5GB or 80GiB",
    );
}
