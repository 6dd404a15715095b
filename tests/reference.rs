//! The pages of `docs/reference/` are those that the program prints, and what it prints about
//! configurations holds for those that there are. `LORACT_BLESS=1` rewrites the pages.
#![allow(clippy::unwrap_used, missing_docs)]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn loract(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loract")).current_dir(root()).args(arguments).output().unwrap()
}

/// What the program prints.
#[track_caller]
fn printed(arguments: &[&str]) -> String {
    let output = loract(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_generated_pages_are_up_to_date() {
    for page in ["config", "cli", "environment"] {
        let path = root().join(format!("docs/reference/{page}.md"));
        let text = printed(&["reference", page]);
        if std::env::var_os("LORACT_BLESS").is_some_and(|value| value == "1") {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        } else {
            let is_same = fs::read_to_string(&path).is_ok_and(|written| written == text);
            assert!(
                is_same,
                "{} is stale; run LORACT_BLESS=1 cargo test --release -p loract --test reference",
                path.display()
            );
        }
    }
}

/// The blocks of TOML in the pages of the manual, each with its place.
fn blocks() -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    for entry in fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()) {
        let Some(name) =
            entry.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".md"))
        else {
            continue;
        };
        let text = fs::read_to_string(&entry).unwrap();
        let fenced = text.split("```").skip(1).step_by(2);
        let toml = fenced
            .filter_map(|block| block.split_once('\n'))
            .filter(|(words, _)| words.split_whitespace().next() == Some("toml"));
        blocks.extend(toml.map(|(_, block)| (name.to_owned(), block.to_owned())));
    }
    blocks
}

/// A block shows a part of a configuration: this adds the tables that it lacks.
fn completed(block: &str) -> String {
    let has = |key: &str| {
        block.lines().any(|line| line.split_once('=').is_some_and(|(name, _)| name.trim() == key))
    };
    let classifies =
        ["label_key", "labels", "text_key", "class_weights"].iter().any(|key| has(key));
    let mut text = block.to_owned();
    for (table, keys) in [("[model]", "path = \"m\"\n"), ("[data]", "train = \"t\"\n")] {
        let keys = if table == "[model]" && classifies && !has("task") {
            "path = \"m\"\ntask = \"sequence_classification\"\n"
        } else {
            keys
        };
        let missing: String = keys
            .lines()
            .filter(|line| !has(line.split(" =").next().unwrap()) || !block.contains(table))
            .map(|line| format!("{line}\n"))
            .collect();
        match text.find(table) {
            Some(start) => text.insert_str(start + table.len() + 1, &missing),
            None => text += &format!("\n{table}\n{missing}"),
        }
    }
    text
}

#[test]
fn every_toml_block_of_the_manual_loads() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks();
    assert!(blocks.len() > 10, "only {} blocks", blocks.len());
    for (page, block) in blocks {
        let file = folder.path().join("block.toml");
        fs::write(&file, completed(&block)).unwrap();
        let output = loract(&["config", file.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        // A block may show alternatives, one below the other.
        assert!(
            output.status.success() || stderr.contains("duplicate key"),
            "{page}: {stderr}\n{block}"
        );
    }
}

/// The configurations of the repository.
fn configurations() -> Vec<PathBuf> {
    let folders = [root().join("configs"), root().join("tests/configs")];
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

/// What a schema refuses in a value, if anything.
fn refusal(schema: &Value, value: &toml::Value, place: &str) -> Option<String> {
    if let Some(options) = schema["anyOf"].as_array() {
        let refusals: Vec<String> =
            options.iter().filter_map(|option| refusal(option, value, place)).collect();
        return (refusals.len() == options.len()).then(|| refusals.join("; "));
    }
    if let Some(names) = schema["enum"].as_array() {
        let is_one = names.iter().any(|name| name.as_str() == value.as_str());
        return (!is_one).then(|| format!("{place}: {value} is none of {names:?}"));
    }
    if let Some(constant) = schema.get("const") {
        return (constant.as_str() != value.as_str())
            .then(|| format!("{place}: {value} is not {constant}"));
    }
    let has_type = match schema["type"].as_str() {
        Some("object") => value.is_table(),
        Some("array") => value.is_array(),
        Some("string") => value.is_str(),
        Some("boolean") => value.is_bool(),
        Some("integer") => value.is_integer(),
        Some("number") => value.is_float() || value.is_integer(),
        other => panic!("{place}: the schema has the type {other:?}"),
    };
    if !has_type {
        return Some(format!("{place}: {value} is not of type {}", schema["type"]));
    }
    if let Some(number) = value.as_float().or(value.as_integer().map(|whole| whole as f64)) {
        let bound = |name: &str| schema[name].as_f64();
        let is_inside = bound("minimum").is_none_or(|low| number >= low)
            && bound("exclusiveMinimum").is_none_or(|low| number > low)
            && bound("maximum").is_none_or(|high| number <= high)
            && bound("exclusiveMaximum").is_none_or(|high| number < high);
        return (!is_inside).then(|| format!("{place}: {value} is out of range"));
    }
    if let Some(items) = value.as_array() {
        return items.iter().find_map(|item| refusal(&schema["items"], item, place));
    }
    let table = value.as_table()?;
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let missing = required
        .into_iter()
        .find(|key| !table.contains_key(*key))
        .map(|key| format!("{place}: {key} is missing"));
    missing.or_else(|| {
        table.iter().find_map(|(key, value)| {
            match (&schema["properties"][key], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => Some(format!("{place}: {key} is unknown")),
                (Value::Null, Value::Null) => None,
                (Value::Null, others) => refusal(others, value, &format!("{place}.{key}")),
                (property, _) => refusal(property, value, &format!("{place}.{key}")),
            }
        })
    })
}

#[test]
fn the_schema_accepts_the_configurations_and_refuses_mistakes() {
    let schema: Value = serde_json::from_str(&printed(&["config", "--schema"])).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let check =
        |text: &str| refusal(&schema, &toml::Value::Table(text.parse().unwrap()), "configuration");
    let configurations = configurations();
    assert!(configurations.len() >= 4);
    for path in configurations {
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(check(&text), None, "{}", path.display());
        // In full as well, with a value for every key.
        assert_eq!(
            check(&printed(&["config", path.to_str().unwrap()])),
            None,
            "{} in full",
            path.display()
        );
    }
    let least = "[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n";
    assert_eq!(check(least), None);
    for (more, says) in [
        ("[optimizer]\nlerning_rate = 1e-3\n", "lerning_rate is unknown"),
        ("[optimiser]\n", "optimiser is unknown"),
        ("[optimizer]\nmethod = \"adam\"\n", "is none of"),
        ("[optimizer]\nlearning_rate = 0\n", "out of range"),
        ("[run]\nsteps = 1.5\n", "not of type"),
        ("[cluster]\nmemory = 24\n", "not of type"),
        ("[activations]\noverrides = [{ rnk = 1 }]\n", "rnk is unknown"),
    ] {
        let refused =
            check(&format!("{least}{more}")).unwrap_or_else(|| panic!("{more} is accepted"));
        assert!(refused.contains(says), "expected {says:?}: {refused}");
    }
    assert!(check("[data]\ntrain = \"t\"\n").is_some(), "a model is required");
}

#[test]
fn a_key_is_explained_and_a_misspelt_one_corrected() {
    let text = printed(&["config", "--explain", "activations.rank"]);
    for says in
        ["[activations] rank", "valid:", "default:  0.25", "read if:", "example:  rank = 0.25"]
    {
        assert!(text.contains(says), "{says:?} in {text}");
    }
    for (key, says) in [
        ("optimizer.lr", "did you mean `learning_rate`?"),
        ("lora_r", "did you mean [lora] rank?"),
        ("zebra", "give table.key"),
    ] {
        let output = loract(&["config", "--explain", key]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(says), "{key}: {stderr}");
    }
}

#[test]
fn a_configuration_to_start_from_fits_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    for (model, says) in [
        (
            Some("tests/fixtures/hf/llama"),
            vec!["task = \"causal_lm\"", "no chat template", "q_proj", "sequence_length = "],
        ),
        (
            Some("configs/vit"),
            vec!["task = \"image_classification\"", "weights = \"random\"", "trained from scratch"],
        ),
        (None, vec!["path = \"MODEL_DIR\"", "sequence_length = 512"]),
    ] {
        let text = printed(&["init"].into_iter().chain(model).collect::<Vec<_>>());
        for says in says {
            assert!(text.contains(says), "{says:?} in {text}");
        }
        fs::write(&file, &text).unwrap();
        let full = printed(&["config", file.to_str().unwrap()]);
        assert!(full.contains("[activations]"), "{full}");
    }
    let out = folder.path().join("new.toml");
    printed(&["init", "--out", out.to_str().unwrap()]);
    let again = loract(&["init", "--out", out.to_str().unwrap()]);
    assert!(
        again.status.code() == Some(2)
            && String::from_utf8_lossy(&again.stderr).contains("exists; give another file"),
        "{again:?}"
    );
    let none = loract(&["init", "no/such/model"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}
