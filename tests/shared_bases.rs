//! Gradients as coefficients in bases that the ranks share: they train as exact sums do, send what
//! the formula says, and resume where they stopped.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Place, fixture};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::process::Command;

const SITES: &str = "sites = [\"attn_in\", \"attn_out\", \"mlp_in\", \"mlp_out\"]\nmethod = \"shared\"\nrank = 0.25\nfactors = \"f32\"\nbasis_steps = 4";

/// A model of the fixtures in batches of eight sequences, its inputs of linear layers kept in
/// shared bases.
fn place(family: &str, lora: &str, gradients: &str) -> Place {
    let place = Place::new();
    let ids: Vec<i64> =
        (0..4 * 8 * 16).map(|index: i64| 3 + (index * index * 17 + index * 31) % 90).collect();
    place.write_batches("batches.safetensors", [4, 8, 16], &ids);
    place.edit(
        fixture("hf/llama").to_str().unwrap(),
        fixture(&format!("hf/{family}")).to_str().unwrap(),
    );
    place.edit("steps = 8\nbatch_size = 2", "steps = 12\nbatch_size = 8");
    place.edit(
        "[lora]\nrank = 2\n",
        &format!("{lora}\n[optimizer]\nmethod = \"sgd\"\nmomentum = 0.9\nlearning_rate = 0.02\n"),
    );
    place.edit("sites = \"none\"", SITES);
    place.edit("method = \"exact\"", gradients);
    place
}

fn on(place: &Place, world_size: usize, more: &[&str]) -> Command {
    let mut command = place.loract(&["launch", "-n", &world_size.to_string()]);
    command.arg(place.config()).args(more.iter().flat_map(|set| ["--set", set]));
    command
}

fn run(place: &Place, world_size: usize, more: &[&str]) {
    let ended = place.run(&mut on(place, world_size, more));
    assert!(ended.status.success(), "{more:?}: {}", ended.stderr);
}

/// What was trained, as bytes.
fn trained(place: &Place) -> Vec<u8> {
    let folder = place.run_dir();
    fs::read(folder.join("model/model.safetensors"))
        .or_else(|_| fs::read(folder.join("adapter/adapter_model.safetensors")))
        .unwrap()
}

/// The largest difference of an element, relative to the largest element of its tensor.
fn apart(one: &[u8], other: &[u8]) -> f32 {
    let (one, other) =
        (SafeTensors::deserialize(one).unwrap(), SafeTensors::deserialize(other).unwrap());
    assert!(!one.is_empty());
    let floats = |data: &[u8]| {
        data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<f32>>()
    };
    let of = |name: &String| {
        let (one, other) =
            (floats(one.tensor(name).unwrap().data()), floats(other.tensor(name).unwrap().data()));
        let largest =
            other.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
        one.iter().zip(&other).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs() / largest))
    };
    one.names().iter().map(|name| of(&name.to_string())).fold(0.0, f32::max)
}

fn steps(place: &Place) -> Vec<Value> {
    fs::read_to_string(place.metrics())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Trains on two ranks with coefficients and with exact sums; returns the bytes of the last step,
/// and those of exact sums.
#[track_caller]
fn trains_the_same(family: &str, lora: &str, more: &[&str]) -> (u64, u64) {
    let [shared, exact] = ["method = \"shared_basis\"", "method = \"exact\""]
        .map(|gradients| place(family, lora, gradients));
    run(&shared, 2, more);
    run(&exact, 2, more);
    let error = apart(&trained(&shared), &trained(&exact));
    assert!(error < 2e-5, "{family} {lora:?} {more:?}: {error}");
    let last = steps(&shared).pop().unwrap();
    let bytes = |key: &str| last[key].as_u64().unwrap();
    assert_eq!(steps(&exact)[11]["reduced_bytes"], last["exact_reduced_bytes"]);
    (bytes("reduced_bytes"), bytes("exact_reduced_bytes"))
}

#[test]
fn coefficients_train_as_exact_sums_do() {
    let model: Value =
        serde_json::from_slice(&fs::read(fixture("hf/llama").join("config.json")).unwrap())
            .unwrap();
    let of = |key: &str| model[key].as_u64().unwrap();
    let (hidden, inner, layers) =
        (of("hidden_size"), of("intermediate_size"), of("num_hidden_layers"));
    let heads = of("num_attention_heads");
    let width = model["head_dim"].as_u64().unwrap_or(hidden / heads);
    let (queries, keys) = (heads * width, of("num_key_value_heads") * width);
    let quarter = |width: u64| (width as f64 * 0.25).round() as u64;

    // Per layer: q, k and v; o; gate and up; down.
    let per_layer = |columns: &dyn Fn(u64) -> u64| {
        (queries + 2 * keys + 2 * inner) * columns(hidden)
            + hidden * columns(queries)
            + hidden * columns(inner)
    };
    let saved = per_layer(&|width| width - quarter(width));
    for more in [
        &[][..],
        &[
            "activations.basis_layers=2",
            "run.micro_batch_size=2",
            "gradients.overlap=false",
            "gradients.bucket_bytes=1",
        ],
    ] {
        let (sent, exact) = trains_the_same("llama", "", more);
        assert_eq!(exact - sent, 4 * layers * saved, "{more:?}");
    }
    // The reducer's only buffers beyond the gradients.
    let place = place("llama", "", "method = \"shared_basis\"");
    let ended = place
        .run(place.loract(&["plan", "--json", "--set", "cluster.ranks=2"]).arg(place.config()));
    let plan: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        plan["communication_bytes"].as_u64(),
        Some(4 * layers * per_layer(&quarter)),
        "{plan}"
    );

    let (sent, exact) = trains_the_same("llama", "[lora]\nrank = 6\nuse_dora = true\n", &[]);
    let saved = 6
        * (5 * (hidden - quarter(hidden))
            + (queries - quarter(queries))
            + (inner - quarter(inner)));
    assert_eq!(exact - sent, 4 * layers * saved);
}

#[test]
fn every_way_to_read_an_input_is_known() {
    // Maps that are cut, halves side by side, weights stored transposed, latent attention, experts.
    for family in ["phi3", "gpt2", "deepseek_v3", "mixtral", "gemma2"] {
        let (sent, exact) = trains_the_same(family, "", &[]);
        assert!(sent < exact || family == "gpt2", "{family}: {sent} of {exact} bytes");
    }
    let (sent, exact) = trains_the_same("gpt2", "[lora]\nrank = 4\n", &[]);
    assert!(sent < exact, "{sent} of {exact} bytes");
    let (sent, exact) = trains_the_same("llama", "[lora]\nrank = 4\ndropout = 0.1\n", &[]);
    assert_eq!(sent, exact, "inputs with dropped elements lie in no basis");
}

#[test]
fn it_goes_on_where_it_stopped_and_on_other_ranks() {
    let every = ["checkpoint.every=3"];
    let (steady, stopped) = (
        place("llama", "", "method = \"shared_basis\""),
        place("llama", "", "method = \"shared_basis\""),
    );
    run(&steady, 2, &every);
    let ended = stopped.run(on(&stopped, 2, &every).env(setup::INJECT_FAULT_VARIABLE, "stop:1:7"));
    assert_eq!(ended.status.code(), Some(75), "{}", ended.stderr);
    run(&stopped, 2, &every);
    assert!(trained(&steady) == trained(&stopped), "the same bits");

    let other = place("llama", "", "method = \"shared_basis\"");
    let ended = other.run(on(&other, 2, &every).env(setup::INJECT_FAULT_VARIABLE, "stop:1:7"));
    assert_eq!(ended.status.code(), Some(75), "{}", ended.stderr);
    run(&other, 3, &every);
    let (own, theirs) = (steps(&other), steps(&steady));
    assert!(
        own.len() == 12 && own[8]["reduced_bytes"] == theirs[8]["reduced_bytes"],
        "the bases are there: {}",
        own[8]
    );
    assert!(apart(&trained(&other), &trained(&steady)) < 1e-3);
}

#[test]
fn what_lacks_a_basis_is_refused() {
    let place = place("llama", "", "method = \"shared_basis\"");
    for (set, says) in [
        (
            "activations.method=quantized",
            "[gradients] method: \"shared_basis\" needs inputs of linear layers in bases",
        ),
        ("activations.sites=layer", "[gradients] method: \"shared_basis\" needs inputs"),
        ("activations.rank=auto", "[activations] rank: cannot be \"auto\" for method = \"shared\""),
        ("activations.basis_steps=0", "[activations] basis_steps: must be > 0"),
    ] {
        let ended = place.run(&mut on(&place, 2, &[set]));
        assert_eq!(ended.status.code(), Some(2), "{set}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{set}: {}", ended.stderr);
    }
}
