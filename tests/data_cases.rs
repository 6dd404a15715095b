//! Inputs that failed once: chats, tools, templates, tokenizers and files as other tools write
//! them. Each folder of `tests/fixtures/cases` is one; what is trained is compared with what
//! transformers renders.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Place};
use serde_json::Value;
use std::{fs, path::Path};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let to = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            fs::copy(&entry, &to).unwrap();
        }
    }
}

/// What `loract shard` says of a configuration in the folder of a case, with the samples in its
/// output.
fn shard(place: &Place, case: &str, config: &str) -> Ended {
    let root = place.at("cases");
    let folder = root.join(case);
    copy(&program::fixture("cases/model"), &root.join("model"));
    copy(&program::fixture(&format!("cases/{case}")), &folder);
    let dir = format!("run.dir={}", place.at("run").display());
    // The tools of the first are longer than its sequence length, and the smallest model knows 256
    // positions.
    let length = format!("data.sequence_length={}", if case.starts_with("01") { 512 } else { 128 });
    place.run(place.loract(&["shard"]).current_dir(folder).args([
        &format!("{config}.toml"),
        "--json",
        "--show",
        "9",
        "--set",
        &dir,
        "--set",
        &length,
    ]))
}

/// The samples as text, trained tokens in ⟦⟧.
fn samples(case: &str, config: &str) -> Vec<String> {
    let place = Place::new();
    let ended = shard(&place, case, config);
    assert!(ended.status.success(), "{case} {config}: {}", ended.stderr);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    let marked = |sample: &Value| {
        let mut text = String::new();
        let mut inside = false;
        for token in sample.as_array().unwrap() {
            let trained = token["trained"].as_bool().unwrap();
            if trained != inside {
                text.push(if trained { '⟦' } else { '⟧' });
                inside = trained;
            }
            text += token["text"].as_str().unwrap();
        }
        if inside { text + "⟧" } else { text }
    };
    told["samples"].as_array().unwrap().iter().map(marked).collect()
}

fn refusal(case: &str, config: &str) -> String {
    let place = Place::new();
    let ended = shard(&place, case, config);
    assert_eq!(ended.status.code(), Some(2), "{case} {config}: {}", ended.stdout);
    ended.stderr
}

#[test]
fn tools_calls_and_thoughts_reach_the_template() {
    let tools = r#"<|system|>[{"type": "function", "function": {"name": "lake_depth", "parameters": {"type": "object", "properties": {"lake": {"type": "string"}}}}}]<|end|>"#;
    let asked = "<|im_start|>user\nHow deep is the lake?<|im_end|>\n<|im_start|>assistant\n";
    let called = "⟦[lake_depth {\"lake\": \"north\"}]<|im_end|>⟧\n<|im_start|>tool\n40<|im_end|>\n<|im_start|>assistant\n";
    let answered = "⟦<think>the tool said 40</think>It is 40 metres.<|im_end|>⟧\n";
    assert_eq!(
        samples("01-tool-calls-dropped", "run"),
        [format!("{tools}\n{asked}{called}{answered}")]
    );
}

#[test]
fn texts_end_with_the_token_that_some_file_of_the_model_names() {
    for (config, end) in [("run", "<|endoftext|>"), ("old", "<|im_end|>")] {
        let ended = samples("02-no-end-of-text", config);
        assert!(
            !ended.is_empty() && ended.iter().all(|text| text.ends_with(&format!("{end}⟧"))),
            "{ended:?}"
        );
    }
    assert_eq!(
        samples("02-no-end-of-text", "talk"),
        ["<s><|user|>Hello<|im_end|><|assistant|>⟦Hi<|im_end|>⟧"]
    );
}

#[test]
fn generation_blocks_are_transparent() {
    let talk = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n⟦Hi<|im_end|>⟧";
    assert_eq!(samples("04-generation-block", "run"), [talk]);
    assert_eq!(samples("04-generation-block", "text").len(), 1);
}

#[test]
fn none_is_not_iterable_and_what_is_undefined_has_no_length() {
    for config in ["run", "undefined"] {
        assert_eq!(
            samples("05-none-is-iterable", config),
            ["<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n⟦Hi<|im_end|>⟧\n"]
        );
    }
}

#[test]
fn earlier_turns_may_depend_on_later_ones() {
    let history = samples("06-not-a-prefix", "history");
    let (first, last) = ("Hi<|im_end|>", "<think>\n\n</think>\n\nGood<|im_end|>");
    assert!(
        history.len() == 2 && history[0].contains("⟦<think>\n\n</think>\n\nHi<|im_end|>⟧"),
        "{history:?}"
    );
    assert!(
        history[1].contains(&format!("⟦{first}⟧")) && history[1].contains(&format!("⟦{last}⟧")),
        "{history:?}"
    );
    let eos = samples("06-not-a-prefix", "eos");
    assert!(eos[1].contains("⟦Hi<|end|>⟧") && eos[1].contains("⟦Good<|end|>⟧"), "{eos:?}");
    let prompt = samples("06-not-a-prefix", "prompt");
    assert!(prompt.len() == 1 && prompt[0].contains("⟦Hi"), "{prompt:?}");
}

#[test]
fn a_system_prompt_beside_the_turns_is_the_first_turn() {
    let talks = samples("10-system-beside-turns", "run");
    assert!(
        talks.len() == 2
            && talks.iter().all(|text| text.starts_with("<|im_start|>system\n")
                && text.contains("⟦Arr!<|im_end|>⟧")),
        "{talks:?}"
    );
}

#[test]
fn columns_of_null_are_absent() {
    assert!(!samples("11-null-columns", "run").is_empty());
}

#[test]
fn every_codec_of_parquet_is_read() {
    assert_eq!(samples("14-parquet-codecs", "lz4"), samples("14-parquet-codecs", "brotli"));
}

#[test]
fn compressed_files_are_read_and_utf_16_is_named() {
    let talk = samples("15-encodings", "gz");
    assert_eq!(samples("15-encodings", "gz-as-told"), talk);
    assert_eq!(samples("15-encodings", "folder").len(), 1 + talk.len());
    let refused = refusal("15-encodings", "utf16");
    assert!(refused.contains("UTF-16") && refused.contains("UTF-8"), "{refused}");
}

#[test]
fn nan_in_a_field_that_nobody_reads_does_no_harm() {
    assert!(!samples("16-nan-literals", "run").is_empty());
}

#[test]
fn a_git_lfs_pointer_is_called_one() {
    let refused = refusal("17-lfs-pointer", "run");
    assert!(refused.contains("Git LFS") && refused.contains("git lfs pull"), "{refused}");
}

#[test]
fn add_bos_token_counts_for_the_classes_that_read_it() {
    assert!(samples("19-add-bos", "adds").iter().all(|text| text.starts_with("<s>")));
    assert!(samples("19-add-bos", "adds-not").iter().all(|text| !text.starts_with("<s>")));
}
