//! Full fine-tuning: all weights, on any number of ranks, in buckets of any size, with the
//! optimiser whole or shared out.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::Place;
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

/// The tiny Llama, whose weights are all trained on batches of twelve sequences.
fn place(steps: usize, more: &str) -> Place {
    let place = Place::new();
    let ids: Vec<i64> = (0..4 * 12 * 16).map(id).collect();
    place.write_batches("batches.safetensors", [4, 12, 16], &ids);
    place.edit("steps = 8\nbatch_size = 2", &format!("steps = {steps}\nbatch_size = 12"));
    place.edit("[lora]\nrank = 2\n", more);
    place
}

/// A token of the batches.
fn id(index: i64) -> i64 {
    3 + (index * index * 17 + index * 31) % (program::VOCABULARY - 3)
}

fn run(place: &Place, world_size: usize, set: &[&str]) {
    let mut command: Command = if world_size == 1 {
        place.train()
    } else {
        place.loract(&["launch", "-n", &world_size.to_string()])
    };
    if world_size > 1 {
        command.arg(place.config());
    }
    for key in set {
        command.args(["--set", key]);
    }
    let ended = place.run(&mut command);
    assert!(ended.status.success(), "{world_size} ranks, {set:?}: {}", ended.stderr);
}

fn weights(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| {
        data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    file.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect()
}

fn trained(world_size: usize, steps: usize, set: &[&str]) -> BTreeMap<String, Vec<f32>> {
    let place =
        place(steps, "[optimizer]\nmethod = \"sgd\"\nmomentum = 0.9\nlearning_rate = 0.02\n");
    run(&place, world_size, set);
    weights(&place.run_dir().join("model"))
}

/// The largest difference of an element, relative to the largest element.
fn apart(one: &BTreeMap<String, Vec<f32>>, other: &BTreeMap<String, Vec<f32>>) -> f32 {
    assert!(one.keys().eq(other.keys()));
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        values.fold(0.0, |largest: f32, value| largest.max(value.abs()))
    };
    let of = |name: &String| {
        largest(&mut one[name].iter().zip(&other[name]).map(|(a, b)| a - b))
            / largest(&mut other[name].iter().copied())
    };
    largest(&mut one.keys().map(of))
}

#[test]
fn any_number_of_ranks_trains_as_one_process_with_the_joined_batch() {
    let alone = trained(1, 20, &[]);
    let before = weights(&program::fixture("hf/llama"));
    assert!(
        before.iter().all(|(name, values)| apart(
            &[(name.clone(), values.clone())].into(),
            &[(name.clone(), alone[name].clone())].into()
        ) > 1e-3),
        "all weights have moved"
    );
    for (world_size, set) in [
        (1, &["run.micro_batch_size=5"][..]),
        (2, &["gradients.bucket_bytes=1"]),
        (2, &["run.micro_batch_size=2", "gradients.overlap=false"]),
        (3, &["run.micro_batch_size=2", "gradients.bucket_bytes=5000"]),
        (4, &["optimizer.zero_stage=1"]),
    ] {
        let error = apart(&trained(world_size, 20, set), &alone);
        assert!(error < 1e-5, "{world_size} ranks, {set:?}: {error}");
    }
}

#[test]
fn a_shared_optimiser_trains_the_same_bits_and_resumes_on_any_number_of_ranks() {
    let adamw = |steps: usize, zero_stage: u32| {
        place(
            steps,
            &format!(
                "[optimizer]\nmethod = \"adamw8bit\"\nlearning_rate = 1e-3\nzero_stage = {zero_stage}\n[checkpoint]\nevery = 4\n[schedule]\nmethod = \"constant\"\n"
            ),
        )
    };
    let (whole, split) = (adamw(8, 0), adamw(8, 1));
    run(&whole, 2, &[]);
    run(&split, 2, &[]);
    let expected = fs::read(whole.run_dir().join("model/model.safetensors")).unwrap();
    assert!(fs::read(split.run_dir().join("model/model.safetensors")).unwrap() == expected);

    // From the checkpoint of step 4, on other numbers of ranks and the other way round.
    for world_size in [1, 3] {
        let again = adamw(8, 1);
        run(&again, 2, &["run.steps=8"]);
        fs::remove_file(again.run_dir().join("summary.json")).unwrap();
        run(&again, world_size, &[]);
        let log = fs::read_to_string(again.log_of_rank(0)).unwrap();
        assert!(log.contains(&format!("2 ranks wrote it, and {world_size} resume")), "{log}");
        let error = apart(
            &weights(&again.run_dir().join("model")),
            &weights(&whole.run_dir().join("model")),
        );
        assert!(error < 1e-4, "{world_size} ranks: {error}");
    }
}

#[test]
fn the_trained_model_is_a_model() {
    let place = place(3, "");
    let eval = format!("data.eval={}", place.at("batches.safetensors").display());
    run(&place, 2, &[&eval]);
    let summary: Value =
        serde_json::from_slice(&fs::read(place.run_dir().join("summary.json")).unwrap()).unwrap();
    let model = place.run_dir().join("model");
    assert_eq!(summary["model"], model.to_str().unwrap());
    assert_eq!(summary["trained_parameters"], summary["parameters"]);
    assert_eq!(
        fs::read(model.join("config.json")).unwrap(),
        fs::read(program::fixture("hf/llama/config.json")).unwrap()
    );
    // It begins where the run ended.
    let next = format!("model.path={}", model.display());
    let dir = format!("run.dir={}", place.at("next").display());
    run(&place, 1, &[&next, &dir, &eval, "run.steps=1"]);
    let next: Value =
        serde_json::from_slice(&fs::read(place.at("next/summary.json")).unwrap()).unwrap();
    let (after, before) =
        (summary["eval_loss_after"].as_f64().unwrap(), next["eval_loss_before"].as_f64().unwrap());
    assert!((after - before).abs() < 1e-6, "{after} and {before}");
}

#[test]
fn the_timeline_of_each_rank_has_all_of_a_step() {
    let place = place(2, "");
    let trace = format!("--trace={}", place.at("trace.json").display());
    let ended = place.run(place.loract(&["launch", "-n", "2"]).arg(place.config()).args([
        trace.as_str(),
        "--set",
        "gradients.bucket_bytes=20000",
    ]));
    assert!(ended.status.success(), "{}", ended.stderr);
    for file in ["trace.json", "trace-rank-0001.json"] {
        let events: Vec<Value> =
            serde_json::from_slice(&fs::read(place.at(file)).unwrap()).unwrap();
        let begun = |name: &str| {
            events.iter().filter(|event| event["ph"] == "B" && event["name"] == name).count()
        };
        for name in ["forward", "backward", "wait for gradients", "optimizer"] {
            assert_eq!(begun(name), 2, "{name} in {file}");
        }
        assert!(begun("reduce") >= 2 && begun("all_reduce") >= 2, "{file}");
        // Two threads take buckets by turns.
        let rows: BTreeSet<u64> = events
            .iter()
            .filter(|event| event["name"] == "reduce")
            .filter_map(|event| event["tid"].as_u64())
            .collect();
        assert_eq!(rows.len(), 2, "{file}");
    }
}

#[test]
fn of_a_large_embedding_the_rows_of_a_steps_tokens_travel() {
    const WORDS: u64 = 9000;
    let place = place(2, "");
    // The tiny model, with more words than any batch has.
    let (own, tiny) = (place.at("model"), program::fixture("hf/llama"));
    fs::create_dir(&own).unwrap();
    for entry in fs::read_dir(&tiny)
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_file())
    {
        fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
    }
    let mut config: Value =
        serde_json::from_slice(&fs::read(tiny.join("config.json")).unwrap()).unwrap();
    let hidden = config["hidden_size"].as_u64().unwrap();
    config["vocab_size"] = WORDS.into();
    fs::write(own.join("config.json"), config.to_string()).unwrap();
    let bytes = fs::read(tiny.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let wide: BTreeMap<String, Vec<u8>> = ["model.embed_tokens.weight", "lm_head.weight"]
        .map(|name| {
            (
                name.to_owned(),
                tensors
                    .tensor(name)
                    .unwrap()
                    .data()
                    .iter()
                    .copied()
                    .cycle()
                    .take((4 * WORDS * hidden) as usize)
                    .collect(),
            )
        })
        .into();
    let all = tensors.tensors().into_iter().map(|(name, tensor)| match wide.get(&name) {
        Some(data) => (
            name,
            TensorView::new(tensor.dtype(), vec![WORDS as usize, hidden as usize], data).unwrap(),
        ),
        None => (name, tensor),
    });
    fs::write(
        own.join("model.safetensors"),
        safetensors::serialize(all.collect::<Vec<_>>(), None).unwrap(),
    )
    .unwrap();

    run(&place, 2, &[&format!("model.path={}", own.display())]);
    let lines = fs::read_to_string(place.metrics()).unwrap();
    for (step, line) in lines.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        let saved =
            line["exact_reduced_bytes"].as_u64().unwrap() - line["reduced_bytes"].as_u64().unwrap();
        // The last token of a row predicts nothing.
        let sequences = (12 * step..12 * (step + 1))
            .flat_map(|row| (0..15).map(move |column| (16 * row + column) as i64));
        let seen: BTreeSet<i64> = sequences.map(id).collect();
        assert_eq!(
            saved,
            4 * hidden * (WORDS - seen.len() as u64) - 2 * WORDS,
            "step {step}, {} tokens",
            seen.len()
        );
    }
}

#[test]
fn a_model_in_one_file_is_refused() {
    let place = place(3, "");
    let model = format!("model.path={}", program::fixture("hf/llama/model.safetensors").display());
    let ended = place.run(place.train().args(["--set", &model]));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
}
