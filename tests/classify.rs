//! A run that learns the classes of texts: from JSON lines and from a table, with the head that the
//! model has or a new one, to an adapter that holds the head and the names, and a summary of how
//! validation rows were classified. What is wrong with a row is one line with its place.
#![allow(clippy::unwrap_used, missing_docs)]

mod classifier;

use classifier::{done, json, loract, refused};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

const WORDS: [&str; 12] = [
    "free", "money", "win", "prize", "now", "see", "you", "at", "lunch", "the", "report", "meeting",
];

/// A folder with a small BERT, whose tokenizer knows a few words, and rows of them.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let bert = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoders/bert");
        fs::create_dir(place.at("bert")).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(bert.join(file), place.at("bert").join(file)).unwrap();
        }
        let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
        let vocabulary: Value = special
            .iter()
            .chain(&WORDS)
            .enumerate()
            .map(|(id, word)| ((*word).to_owned(), json!(id)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let added: Vec<Value> = special
            .iter()
            .enumerate()
            .map(|(id, word)| {
                json!({"id": id, "content": word, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
            })
            .collect();
        let token = |word: &str| json!({"SpecialToken": {"id": word, "type_id": 0}});
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null, "decoder": null,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing", "pair": [],
                "single": [token("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, token("[SEP]")],
                "special_tokens": {
                    "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}
                }
            },
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
        });
        fs::write(place.at("bert/tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(
            place.at("bert/tokenizer_config.json"),
            json!({"pad_token": "[PAD]"}).to_string(),
        )
        .unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// 60 texts of 2 to 5 words, spam with words of one kind and ham with those of the other, every
    /// third being spam.
    fn rows() -> Vec<(String, &'static str)> {
        let row = |index: usize| {
            let (is_spam, count) = (index.is_multiple_of(3), 2 + index % 4);
            let word = |place: usize| {
                let drawn = (index * 7 + place * 5 + index * place) % 5;
                if is_spam { WORDS[drawn] } else { WORDS[5 + (drawn + index) % 7] }
            };
            (
                (0..count).map(word).collect::<Vec<_>>().join(" "),
                if is_spam { "spam" } else { "ham" },
            )
        };
        (0..60).map(row).collect()
    }

    fn write_lines(&self) -> PathBuf {
        let lines: Vec<String> = Self::rows()
            .iter()
            .map(|(text, label)| json!({"text": text, "label": label}).to_string())
            .collect();
        let path = self.at("rows.jsonl");
        fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    /// Runs `train` with `data` as the keys of `[data]`, and `more` after it.
    fn train(&self, data: &str, more: &str) -> Output {
        self.configure(data, more);
        self.loract(&["train", "--overwrite"], &[])
    }

    fn loract(&self, command: &[&str], set: &[&str]) -> Output {
        loract(&self.at("run.toml"), command, set)
    }

    fn configure(&self, data: &str, more: &str) {
        let config = format!(
            "[run]\nsteps = 100\nbatch_size = 8\nthreads = 1\ndir = {:?}\n[model]\npath = {:?}\ntask = \"sequence_classification\"\n\
             [lora]\nrank = 4\n[optimizer]\nlearning_rate = 5e-3\n[gradients]\nmethod = \"exact\"\n[data]\nsequence_length = 8\n{data}\n{more}\n",
            self.at("run"),
            self.at("bert"),
        );
        fs::write(self.at("run.toml"), config).unwrap();
    }

    /// Lets nothing be dropped, which differs from rank to rank.
    fn without_dropout(self) -> Self {
        let mut config = self.json("bert/config.json");
        for key in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
            config[key] = json!(0.0);
        }
        fs::write(self.at("bert/config.json"), config.to_string()).unwrap();
        self
    }

    fn json(&self, name: &str) -> Value {
        json(&self.at(name))
    }
}

#[test]
fn rows_are_learned_with_compressed_activations_and_without() {
    let place = Place::new();
    let lines = place.write_lines();
    // A table says the same, under other names; its classes are those of the rows, as the model is
    // bare.
    let table: Vec<String> =
        Place::rows().iter().map(|(text, label)| format!("{label},\"{text}\"")).collect();
    fs::write(place.at("rows.csv"), format!("class,message\n{}\n", table.join("\n"))).unwrap();
    let of_lines = format!(
        "train = {lines:?}\nlabels = [\"ham\", \"spam\"]\nclass_weights = \"balanced\"\neval_samples = 15"
    );
    let of_table = format!(
        "train = {:?}\ntext_key = \"message\"\nlabel_key = \"class\"\nlabels = [\"ham\", \"spam\"]\neval_samples = 15",
        place.at("rows.csv")
    );
    for (data, sites) in [
        (&of_lines, "sites = \"none\""),
        (
            &of_table,
            "sites = [\"norm\", \"attn_in\", \"attn_out\", \"mlp_in\", \"mlp_out\", \"act\"]\nmethod = \"coded\"\nbits = 4",
        ),
    ] {
        let output = place.train(data, &format!("[activations]\n{sites}"));
        done(&output);
        let summary = place.json("run/summary.json");
        let classes = &summary["classes"];
        let number = |key: &str| classes[key].as_f64().unwrap();
        assert!(number("accuracy") > 0.85 && number("macro_f1") > 0.8, "{sites}: {classes}");
        assert_eq!(classes["labels"], json!(["ham", "spam"]));
        let all: u64 = classes["confusion"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|n| n.as_u64().unwrap())
            .sum();
        assert_eq!(all, 15);
        assert!(
            summary["eval_loss_after"].as_f64().unwrap()
                < summary["eval_loss_before"].as_f64().unwrap()
        );
        // The adapter is PEFT's for this task, with the head and the names of the classes.
        let adapter = place.json("run/adapter/adapter_config.json");
        assert_eq!(
            (&adapter["task_type"], &adapter["modules_to_save"]),
            (&json!("SEQ_CLS"), &json!(["classifier", "score"]))
        );
        assert_eq!(place.json("run/adapter/labels.json")["label2id"], json!({"ham": 0, "spam": 1}));
        let weights =
            models::TensorFile::open(&place.at("run/adapter/adapter_model.safetensors")).unwrap();
        assert_eq!(weights.shape("base_model.model.classifier.weight"), Some(&[2, 32][..]));
        let metrics = fs::read_to_string(place.at("run/metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
        assert_eq!(last["eval_accuracy"], classes["accuracy"]);
        let (kept, exact) =
            (last["kept_bytes"].as_u64().unwrap(), last["exact_bytes"].as_u64().unwrap());
        assert!(
            if sites.contains("coded") { kept < exact } else { kept == exact },
            "{kept} of {exact}"
        );
    }
}

#[test]
fn ranks_share_the_rows_and_an_interrupted_run_goes_on() {
    let place = Place::new().without_dropout();
    let data = format!(
        "train = {:?}\nlabels = [\"ham\", \"spam\"]\nclass_weights = \"balanced\"\neval_samples = 15",
        place.write_lines()
    );
    place.configure(
        &data,
        "[checkpoint]\nevery = 6\n[activations]\nsites = \"layer\"\nmethod = \"coded\"\nbits = 4",
    );
    let keys = ["run.steps=20", "optimizer.method=sgd", "optimizer.learning_rate=0.05"];
    let weights = || fs::read(place.at("run/adapter/adapter_model.safetensors")).unwrap();
    done(&place.loract(&["train", "--overwrite"], &keys));
    let undisturbed = weights();
    // From the checkpoint of step 18.
    fs::remove_file(place.at("run/summary.json")).unwrap();
    fs::remove_file(place.at("run/adapter/adapter_model.safetensors")).unwrap();
    done(&place.loract(&["train"], &keys));
    assert!(weights() == undisturbed, "the same bits");

    // With exact activations, which are compressed together on one rank and apart on several.
    let exact: Vec<&str> = keys.into_iter().chain(["activations.sites=none"]).collect();
    done(&place.loract(&["train", "--overwrite"], &exact));
    let alone = place.json("run/summary.json");
    for ranks in ["2", "3"] {
        done(&place.loract(&["launch", "--overwrite", "-n", ranks], &exact));
        let shared = place.json("run/summary.json");
        assert_eq!(shared["classes"], alone["classes"], "{ranks} ranks");
        let loss = |summary: &Value| summary["eval_loss_after"].as_f64().unwrap();
        assert!(
            (loss(&shared) / loss(&alone) - 1.0).abs() < 1e-5,
            "{ranks} ranks: {} and {}",
            loss(&shared),
            loss(&alone)
        );
    }
    let page = fs::read_to_string(place.at("run/report.html")).unwrap();
    assert!(
        ["validation accuracy, macro F1", ">Accuracy<", "tells the classes"]
            .iter()
            .all(|part| page.contains(part))
    );
}

#[test]
fn a_model_trained_whole_is_a_classifier_and_is_judged_as_in_training() {
    let place = Place::new();
    let data = format!(
        "train = {:?}\nlabels = [\"ham\", \"spam\"]\neval_samples = 15",
        place.write_lines()
    );
    place.configure(&data, "");
    let whole = fs::read_to_string(place.at("run.toml")).unwrap().replace("[lora]\nrank = 4\n", "");
    let judged = |more: &[&str]| -> Value {
        let output = place.loract(&[&["eval", "--json"], more].concat(), &[]);
        done(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for (kind, config) in
        [("adapter", fs::read_to_string(place.at("run.toml")).unwrap()), ("trained model", whole)]
    {
        fs::write(place.at("run.toml"), config).unwrap();
        done(&place.loract(&["train", "--overwrite"], &[]));
        let summary = place.json("run/summary.json");
        let found = judged(&[]);
        assert_eq!(
            (&found["weights"], &found["classes"], &found["loss"]),
            (&json!(kind), &summary["classes"], &summary["eval_loss_after"])
        );
        assert_eq!(judged(&["--base"])["loss"], summary["eval_loss_before"]);
    }
    // What was written stands alone: its classes are its own, and its head is there to train
    // further.
    assert_eq!(place.json("run/model/config.json")["id2label"], json!({"0": "ham", "1": "spam"}));
    fs::rename(place.at("run/model"), place.at("model")).unwrap();
    let data = format!("train = {:?}\neval_samples = 15", place.at("rows.jsonl"));
    place.configure(&data, "");
    let output = place.loract(
        &["eval", "--json", "--base"],
        &[&format!("model.path={}", place.at("model").display())],
    );
    done(&output);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["classes"], place.json("run/summary.json")["classes"]);
}

#[test]
fn nothing_is_prepared_ahead_and_shard_says_so() {
    let place = Place::new();
    let lines = place.write_lines();
    place.configure(&format!("train = {lines:?}\nlabels = [\"ham\", \"spam\"]"), "");
    let ended = place.loract(&["shard", "--show", "2"], &[]);
    assert!(ended.status.success() && !place.at("run").exists());
    assert_eq!(
        String::from_utf8_lossy(&ended.stdout),
        "nothing is prepared for classification: each rank reads the rows when it trains\n"
    );
}

#[test]
fn what_is_wrong_is_one_line_and_exit_code_2() {
    let place = Place::new();
    let lines = place.write_lines();
    let data = |rest: &str| format!("train = {lines:?}\n{rest}");
    // The model knows three classes, of other names.
    refused(
        &place.train(&data(""), ""),
        &["the label \"spam\" is not one of \"LABEL_0\", \"LABEL_1\", \"LABEL_2\"", "rows.jsonl:1"],
    );
    refused(
        &place.train(&data("labels = [\"spam\", \"eggs\"]"), ""),
        &["\"ham\" is not one of \"spam\", \"eggs\"", "rows.jsonl:2"],
    );
    refused(&place.train(&data("labels = [\"ham\"]"), ""), &["[data] labels", "two or more names"]);
    refused(&place.train(&data("label_key = \"class\""), ""), &["no `class`", "rows.jsonl:1"]);
    refused(
        &place.train(&data("packing = true"), ""),
        &["[data] packing", "[model] task = \"causal_lm\""],
    );
    refused(
        &place.train(&data("overflow = \"drop\""), ""),
        &["[data] overflow", "[model] task = \"causal_lm\""],
    );
    refused(
        &place.train(&data("labels = [\"ham\", \"spam\"]\neval_samples = 60"), ""),
        &["[data] eval_samples", "60 rows"],
    );
    // Tasks that the models are not for.
    place.configure(&data(""), "");
    let edit = |old: &str, new: &str| {
        let config = fs::read_to_string(place.at("run.toml")).unwrap().replace(old, new);
        fs::write(place.at("run.toml"), config).unwrap();
        place.loract(&["train"], &[])
    };
    refused(
        &edit("sequence_classification", "causal_lm"),
        &["model_type \"bert\"", "cannot predict the next token"],
    );
    refused(
        &edit("task = \"causal_lm\"", "task = \"classify\""),
        &["[model] task", "\"causal_lm\" | \"sequence_classification\""],
    );
}
