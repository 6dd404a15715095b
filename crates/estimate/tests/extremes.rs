//! Plans of absurd numbers: an error that names the key, or a plan, and no panic.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use config::Run;
use serde_json::Value as Json;

const EXTREMES: [&str; 12] = [
    "9223372036854775807",
    "-9223372036854775808",
    "16777216",
    "1000000",
    "65536",
    "-1",
    "0",
    "1e308",
    "1e-308",
    "inf",
    "nan",
    "[9223372036854775807]",
];

fn model() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/hf/llama").to_owned()
}

/// Plans the least configuration with these keys.
fn plan(folder: &Path, model: &str, set: &[String], memory: Option<u64>) -> Result<(), String> {
    let file = folder.join("config.toml");
    let text = format!("[model]\npath = {model:?}\n[lora]\n[data]\ntrain = 't'\n");
    std::fs::write(&file, text).unwrap();
    let run = Run::load(&file, set).map_err(|error| error.to_string())?;
    loract_estimate::plan(&run, run.threads, memory).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn no_value_of_any_key_panics() {
    let folder = tempfile::tempdir().unwrap();
    let schema = config::schema();
    for (table, spec) in schema["properties"].as_object().unwrap() {
        for key in spec["properties"].as_object().unwrap().keys() {
            for value in EXTREMES {
                let set = format!("{table}.{key}={value}");
                if let Err(message) = plan(folder.path(), &model(), &[set], Some(u64::MAX)) {
                    assert!(!message.contains('\n'), "{message}");
                }
            }
        }
    }
}

#[test]
fn the_largest_values_together_do_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    let sets = [
        "data.sequence_length=16777216",
        "run.batch_size=128",
        "lora.rank=65536",
        "run.threads=1024",
        "run.loss_chunk=1000000000",
        "activations.group=65536",
        "gradients.method=\"powersgd\"",
        "gradients.rank=65536",
        "cluster.ranks=1",
    ]
    .map(str::to_owned);
    let message = plan(folder.path(), &model(), &sets, None).err().unwrap_or_default();
    assert!(!message.contains('\n'), "{message}");
    for pair in sets.iter().flat_map(|a| sets.iter().map(move |b| [a.clone(), b.clone()])) {
        let _ = plan(folder.path(), &model(), &pair, Some(u64::MAX));
    }
}

/// A model's sizes come from a file, too.
#[test]
fn sizes_of_a_model_do_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = std::fs::read(Path::new(&model()).join("config.json")).unwrap();
    let recorded: Json = serde_json::from_slice(&recorded).unwrap();
    let sizes: Vec<&String> = recorded
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(key, value)| value.is_i64().then_some(key))
        .collect();
    let huge = [1_i64 << 12, 1 << 24, 1 << 31, i64::MAX];
    let mut models: Vec<Vec<(&String, i64)>> = Vec::new();
    for size in huge {
        models.extend(sizes.iter().map(|key| vec![(*key, size)]));
        models.push(sizes.iter().map(|key| (*key, size)).collect());
        for a in sizes.iter().filter(|_| size == 1 << 24) {
            models.extend(sizes.iter().map(|b| vec![(*a, size), (*b, size)]));
        }
    }
    for changed in models {
        let mut model = recorded.clone();
        changed.iter().for_each(|(key, size)| model[key.as_str()] = (*size).into());
        std::fs::write(folder.path().join("config.json"), model.to_string()).unwrap();
        let path = folder.path().display().to_string();
        if let Err(message) = plan(folder.path(), &path, &["data.sequence_length=16".into()], None)
        {
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
