//! `loract shard`: files, folders, tables and weighted lists become the same data, in bounded
//! memory, and an interrupted preparation loses nothing.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Place};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A place whose model sees 8,192 tokens, and comes with a byte-level tokenizer of the characters
/// that are used here.
fn place() -> Place {
    let place = Place::new();
    let characters = "Ġ".chars().chain('a'..='z').chain('0'..='9').map(String::from);
    let vocabulary: serde_json::Map<String, Value> = ["<|end|>".to_owned()]
        .into_iter()
        .chain(characters)
        .enumerate()
        .map(|(id, token)| (token, id.into()))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{ "id": 0, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                   "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": [] },
    });
    let (model, fixture) = (place.at("model"), program::fixture("hf/llama"));
    fs::create_dir(&model).unwrap();
    fs::copy(fixture.join("model.safetensors"), model.join("model.safetensors")).unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(fixture.join("config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = 8192.into();
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(model.join("tokenizer_config.json"), r#"{"eos_token": "<|end|>"}"#).unwrap();
    place.edit(fixture.to_str().unwrap(), model.to_str().unwrap());
    place.edit("format = \"batches\"\n", "");
    place.edit("sequence_length = 16", "sequence_length = 8192");
    place
}

fn shard(place: &Place, dir: &Path, train: &str) -> Ended {
    place.run(shard_command(place, dir, train).arg("--json"))
}

fn shard_command(place: &Place, dir: &Path, train: &str) -> Command {
    let mut command = place.loract(&["shard"]);
    command.arg(place.config()).args(set(dir, train));
    command
}

fn set(dir: &Path, train: &str) -> [String; 4] {
    [
        "--set".into(),
        format!("run.dir={}", dir.display()),
        "--set".into(),
        format!("data.train={train}"),
    ]
}

/// What was made, and its file.
fn made(place: &Place, name: &str, train: &str) -> (Value, PathBuf) {
    let dir = place.at(name);
    let ended = shard(place, &dir, train);
    assert!(ended.status.success(), "{}", ended.stderr);
    (serde_json::from_str(&ended.stdout).unwrap(), dir.join("data/train.safetensors"))
}

/// Everything after the header, without the checksum of header and all.
fn content(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
    bytes[header..bytes.len() - 32].to_vec()
}

#[test]
fn every_kind_of_source_gives_the_same_data() {
    let place = place();
    let texts = ["one", "two words", "three"];
    let lines: Vec<String> =
        texts.iter().map(|text| json!({ "text": text }).to_string() + "\n").collect();
    fs::create_dir_all(place.at("folder/inner")).unwrap();
    for (name, text) in [
        ("a.jsonl", lines.concat()),
        ("a.json", format!("[{}]", lines.join(","))),
        ("a.csv", format!("text\n{}\n", texts.join("\n"))),
        ("a.txt", texts.join("\n\n")),
        ("folder/b.csv", "id,text\n1,two words\n".into()),
        ("folder/a.jsonl", lines[0].clone()),
        ("folder/inner/c.txt", texts[2].into()),
        ("folder/README.md", "what this is".into()),
    ] {
        fs::write(place.at(name), text).unwrap();
    }
    let path = |name: &str| place.at(name).display().to_string();
    let (told, file) = made(&place, "lines", &path("a.jsonl"));
    assert_eq!(
        (&told["train"]["samples"], &told["train"]["tokens"], &told["was_there"]),
        (&json!(3), &json!(20), &json!(false))
    );
    let expected = content(&file);
    for name in ["a.json", "a.csv", "a.txt", "folder"] {
        assert!(content(&made(&place, "other", &path(name)).1) == expected, "{name}");
    }
    let list = format!("[{:?}, {:?}]", path("folder/a.jsonl"), path("a.csv"));
    assert_eq!(made(&place, "list", &list).0["train"]["samples"], 4);
    let weighted =
        format!("[{{ path = {:?}, weight = 2.0 }}, {:?}]", path("folder/a.jsonl"), path("a.csv"));
    assert_eq!(made(&place, "weighted", &weighted).0["train"]["samples"], 5);

    for (train, says) in [
        (
            format!("[{{ path = {:?}, weight = 0.0 }}]", path("a.csv")),
            "[[data.train]] weight: must be > 0",
        ),
        (format!("[{{ path = {:?}, wieght = 2.0 }}]", path("a.csv")), "did you mean `weight`?"),
        (format!("[{:?}, {:?}]", path("a.csv"), path("b.csv")), "[data] train: there is no "),
        ("[]".into(), "[data] train: must not be empty"),
    ] {
        let ended = shard(&place, &place.at("refused"), &train);
        assert!(ended.status.code() == Some(2) && ended.stderr.contains(says), "{}", ended.stderr);
    }
}

#[test]
fn bad_lines_are_refused_with_their_place_or_counted() {
    let place = place();
    let text = |index: usize| {
        if index % 3 == 1 {
            "{\"text\": 1}\n".into()
        } else {
            format!("{{\"text\": \"{index}\"}}\n")
        }
    };
    fs::write(place.at("a.jsonl"), (0..30).map(text).collect::<String>()).unwrap();
    let train = place.at("a.jsonl").display().to_string();
    let refused = shard(&place, &place.at("refused"), &train);
    assert!(
        refused.status.code() == Some(2) && refused.stderr.contains("a.jsonl:2; "),
        "{}",
        refused.stderr
    );
    assert!(!place.at("refused").exists());

    place.edit("eval_samples = 0", "eval_samples = 0\nbad_lines = \"skip\"");
    let ended = shard(&place, &place.at("skipped"), &train);
    assert!(
        ended.status.success()
            && ended.stderr.contains(&format!(
                "skipped 10 bad lines of {train}\n  {train}:2: `text` is a number"
            ))
    );
    assert!(ended.stderr.contains("and 5 more"), "{}", ended.stderr);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (&told["train"]["samples"], &told["report"]["bad"][0]["count"]),
        (&json!(20), &json!(10))
    );
    assert_eq!(told["report"]["bad"][0]["first"][1]["line"], 5);
}

/// 48 MB of long words, of which each letter is a token: with their marks, 240 MB of tokens.
fn large(place: &Place) -> String {
    let words: Vec<String> = ('a'..='z').map(|letter| letter.to_string().repeat(39)).collect();
    let line = |index: usize| {
        let text: Vec<&str> =
            (0..100).map(|word| words[(index * 7 + word * word) % words.len()].as_str()).collect();
        format!("{{\"text\": \"{} {index}\"}}\n", text.join(" "))
    };
    let path = place.at("large.jsonl");
    fs::write(&path, (0..12_000).map(line).collect::<String>()).unwrap();
    path.display().to_string()
}

/// The most memory that a preparation has taken, in MB.
fn peak(place: &Place, dir: &Path, train: &str) -> u64 {
    let mut command = shard_command(place, dir, train);
    let pause = place.pause_at(&mut command, "pause-after-prepare", 0, 0);
    let mut running = place.start(&mut command);
    let paused = pause.reached(&mut running);
    assert!(dir.join("data/train.safetensors").exists());
    let status = fs::read_to_string(format!("/proc/{}/status", running.process().pid)).unwrap();
    drop(paused);
    assert!(running.wait().status.success());
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn much_data_takes_little_memory_and_an_interruption_loses_nothing() {
    let place = place();
    let train = large(&place);
    fs::write(place.at("small.jsonl"), "{\"text\": \"a\"}\n{\"text\": \"b\"}\n").unwrap();
    let small = peak(&place, &place.at("small"), &place.at("small.jsonl").display().to_string());
    let undisturbed = place.at("undisturbed");
    let large = peak(&place, &undisturbed, &train);
    assert!(large < small + 160, "{large} MB, and {small} MB for next to nothing");

    let dir = place.at("interrupted");
    let parts = dir.join("data/train.parts");
    let modified = |part: u64| {
        fs::metadata(parts.join(format!("train-{part:05}.safetensors")))
            .and_then(|part| part.modified())
            .ok()
    };
    let interrupted = |part: u64, signal: Signal| {
        let mut command = shard_command(&place, &dir, &train);
        let pause = place.pause_at(&mut command, "pause-in-prepare", 0, part);
        let mut running = place.start(&mut command);
        let _paused = pause.reached(&mut running);
        assert!(modified(part).is_some() && modified(part + 1).is_none());
        running.process().signal(signal);
        assert!(!running.wait().status.success() && !dir.join("data/train.safetensors").exists());
    };
    interrupted(1, Signal::KILL);
    let first = modified(0);
    // Interrupted again while it resumes, which it does after those two.
    // Not INT, which a shell that starts the tests in the background has them ignore.
    interrupted(2, Signal::TERM);
    assert_eq!(modified(0), first);

    let ended = shard(&place, &dir, &train);
    assert!(ended.status.success() && !parts.exists(), "{}", ended.stderr);
    let file = |dir: &Path| fs::read(dir.join("data/train.safetensors")).unwrap();
    assert!(file(&dir) == file(&undisturbed), "the data differ");

    // What is there is compared with its checksum, which knows one changed bit.
    let told: Value = serde_json::from_str(&shard(&place, &dir, &train).stdout).unwrap();
    assert_eq!((&told["was_there"], &told["train"]["samples"]), (&json!(true), &json!(12_000)));
    let mut damaged = file(&dir);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 4;
    fs::write(dir.join("data/train.safetensors"), damaged).unwrap();
    let ended = shard(&place, &dir, &train);
    assert!(
        ended.status.code() == Some(2) && ended.stderr.contains("checksum"),
        "{}",
        ended.stderr
    );
}

/// A run whose rows have ten tokens, with a text of 24 letters, one of two and a completion.
fn long_documents() -> (Place, String) {
    let place = place();
    place.edit("sequence_length = 8192", "sequence_length = 10");
    let text = json!({ "text": "abcdefghijklmnopqrstuvwx" });
    let pair = json!({ "prompt": "question", "completion": " a long answer" });
    fs::write(place.at("a.jsonl"), format!("{text}\n{}\n{pair}\n", json!({ "text": "yz" })))
        .unwrap();
    let train = place.at("a.jsonl").display().to_string();
    (place, train)
}

/// `loract shard` with more arguments.
fn shard_with(place: &Place, dir: &str, train: &str, more: &[&str]) -> Ended {
    place.run(
        place
            .loract(&["shard"])
            .arg(place.config())
            .args(set(&place.at(dir), train))
            .args(more)
            .env_remove("CLICOLOR_FORCE"),
    )
}

#[test]
fn long_texts_are_split_and_each_way_is_counted() {
    let (place, train) = long_documents();
    let told = |dir: &str, more: &[&str]| -> Value {
        let ended = shard_with(&place, dir, &train, &[more, &["--json"]].concat());
        assert!(ended.status.success(), "{}", ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    };
    let numbers = |told: &Value| -> Vec<u64> {
        let report = &told["train"]["report"];
        let counts = ["records", "truncated", "split", "pieces", "too_long", "dropped"]
            .map(|key| report[key].as_u64().unwrap());
        [told["train"]["samples"].as_u64().unwrap()].into_iter().chain(counts).collect()
    };
    // samples, records, truncated, split into pieces, too long, without a trained token
    assert_eq!(numbers(&told("default", &[])), [5, 3, 1, 1, 3, 0, 0]);
    assert_eq!(numbers(&told("split", &["--set", "data.overflow=split"])), [7, 3, 0, 2, 6, 0, 0]);
    assert_eq!(
        numbers(&told("truncate", &["--set", "data.overflow=truncate"])),
        [3, 3, 2, 0, 0, 0, 0]
    );
    assert_eq!(numbers(&told("drop", &["--set", "data.overflow=drop"])), [1, 3, 0, 0, 0, 2, 0]);
    let packed = told("packed", &["--set", "data.packing=true"]);
    assert_eq!(numbers(&packed), [4, 3, 1, 1, 3, 0, 0]);
    assert_eq!(
        (&packed["train"]["documents"], &packed["train"]["tokens"]),
        (&json!(3), &json!(25 + 3 + 10))
    );
    assert_eq!(packed["train"]["lengths"][0], json!({ "from": 3, "to": 4, "documents": 1 }));
    // The second time from the file.
    let again = told("packed", &["--set", "data.packing=true"]);
    assert_eq!((&again["was_there"], &again["train"]), (&json!(true), &packed["train"]));

    let ended = shard_with(&place, "wrong", &train, &["--set", "data.overflow=wrap"]);
    assert!(
        ended.status.code() == Some(2) && ended.stderr.contains(r#""split" | "truncate" | "drop""#),
        "{}",
        ended.stderr
    );
    let ready =
        place.write_batches("ready.safetensors", [1, 1, 3], &[1, 2, 3]).display().to_string();
    let ended = shard_with(&place, "ready", &ready, &["--set", "data.overflow=split"]);
    assert!(
        ended.status.code() == Some(2)
            && ended.stderr.contains("[data] overflow: ready batches keep"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_run_trains_on_what_was_split() {
    let (place, train) = long_documents();
    // 31 tokens: the last row has one alone, and nothing to predict.
    fs::write(place.at("a.jsonl"), json!({ "text": "abcdefghijklmnopqrstuvwxyz0123" }).to_string())
        .unwrap();
    for packing in ["true", "false"] {
        let dir = place.at(packing);
        let batch = ["--set", "run.batch_size=1", "--set", "run.steps=5", "--set"];
        let ended = place.run(
            place
                .train()
                .args(set(&dir, &train))
                .args(batch)
                .arg(format!("data.packing={packing}")),
        );
        assert!(ended.status.success(), "{}", ended.stderr);
        let metrics = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
        assert!(
            metrics.lines().count() >= 5 && !metrics.contains("null") && !metrics.contains("NaN"),
            "{metrics}"
        );
    }
}

#[test]
fn what_will_be_trained_is_shown() {
    let (place, train) = long_documents();
    let ended = shard_with(&place, "shown", &train, &["--show", "9", "--set", "data.packing=true"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let shown = &ended.stdout;
    for says in [
        "┌ sample 0: 10 tokens, 9 trained\n│ a⟦bcdefghij⟧\n└\n",
        "├ segment 1 of 2: 5 tokens\n│ u⟦vwx<|end|>⟧\n├ segment 2 of 2: 3 tokens\n│ y⟦z<|end|>⟧\n└\n",
        "│ question⟦ a⟧\n",
        "── sequence_length 10\n",
    ] {
        assert!(shown.contains(says), "{says:?} in:\n{shown}");
    }
    for (name, value) in [
        ("samples", "4"),
        ("  trained", "26"),
        ("  truncated", "1"),
        ("split documents", "1, into 3"),
    ] {
        assert!(
            shown.lines().any(|line| line.contains(&format!("│ {name} "))
                && line.contains(&format!(" {value} │"))),
            "{name}:\n{shown}"
        );
    }
    // Scripts read the last line.
    assert_eq!(shown.lines().last().unwrap(), place.at("shown/data").display().to_string());

    let second = shard_with(
        &place,
        "shown",
        &train,
        &["--show", "1", "--from", "1", "--json", "--set", "data.packing=true"],
    );
    let told: Value = serde_json::from_str(&second.stdout).unwrap();
    let sample = told["samples"][0].as_array().unwrap();
    assert_eq!((told["samples"].as_array().unwrap().len(), sample.len()), (1, 10));
    assert_eq!(sample[1], json!({ "id": 13, "text": "l", "trained": true, "segment": 0 }));

    let coloured = |no_colour: &str| {
        let mut command = place.loract(&["shard", "--show", "1"]);
        place
            .run(
                command
                    .arg(place.config())
                    .args(set(&place.at("shown"), &train))
                    .env("CLICOLOR_FORCE", "1")
                    .env("NO_COLOR", no_colour),
            )
            .stdout
    };
    assert!(
        coloured("").contains("│ a\u{1b}[1m\u{1b}[32mbcdefghij\u{1b}[0m\n"),
        "{}",
        coloured("")
    );
    assert!(coloured("1").contains("│ a⟦bcdefghij⟧\n"));
}

#[test]
fn validation_data_have_a_column_and_lengths_of_their_own() {
    let (place, train) = long_documents();
    let ended = shard_with(&place, "held", &train, &["--set", "data.eval_samples=1"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    for says in ["validation", "tokens of training documents", "tokens of validation documents"] {
        assert!(ended.stdout.contains(says), "{}", ended.stdout);
    }
}
