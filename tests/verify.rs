//! `loract verify`: every tiny model that transformers wrote agrees in logits, loss and every
//! recorded gradient, with LoRA and without; a changed recording is noticed.
#![allow(clippy::unwrap_used, missing_docs)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn verify(model: &Path, expected: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loract"))
        .arg("verify")
        .arg(model)
        .arg(expected)
        .args(arguments)
        .output()
        .unwrap()
}

/// The folders of the recorded models of one kind.
fn folders(kind: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures().join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_recorded_model_agrees() {
    // What is recorded of sentence models are no classes.
    let recorded: Vec<PathBuf> = folders("hf")
        .into_iter()
        .chain(folders("encoders"))
        .filter(|folder| name(folder) != "sentences")
        .collect();
    for family in models::SUPPORTED_MODEL_TYPES {
        assert!(recorded.iter().any(|folder| name(folder) == *family), "no recorded {family}");
    }
    for folder in recorded {
        let (family, expected) = (name(&folder), folder.join("expected.safetensors"));
        let output = verify(&folder, &expected, &["--json"]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{family}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["holds"], true);
        let rows = answer["tensors"].as_array().unwrap();
        // Everything recorded was compared: all but the inputs and the adapter's own weights.
        let inputs = ["input_ids", "attention_mask", "token_type_ids", "pixel_values", "labels"];
        let file = models::TensorFile::open(&expected).unwrap();
        let compared = file
            .names()
            .into_iter()
            .filter(|name| !inputs.contains(&name.as_str()) && !name.starts_with("lora.weight."));
        for name in compared {
            let row = rows
                .iter()
                .find(|row| row["name"] == name.as_str())
                .unwrap_or_else(|| panic!("{family}: {name} was not compared"));
            // The softmax cancels a bias of keys: its gradient is rounding, which the program
            // itself judges.
            let is_rounding = name.ends_with(".key.bias") || name.ends_with(".k_proj.bias");
            assert!(is_rounding || row["relative"].as_f64().unwrap() < 1e-5, "{family}: {row}");
        }
    }
}

#[test]
fn a_changed_recording_is_noticed_by_table_and_exit_code() {
    let llama = fixtures().join("hf/llama");
    let mut tensors = models::tensor_file::read(&llama.join("expected.safetensors")).unwrap();
    for name in ["grad.model.norm.weight", "lora.loss"] {
        let tensor = &mut tensors.iter_mut().find(|(known, _)| known == name).unwrap().1;
        *tensor = &*tensor * 1.001;
    }
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.safetensors");
    models::tensor_file::write(&changed, &tensors, &[]).unwrap();
    let output = verify(&llama, &changed, &[]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let differing: Vec<&str> = table.lines().filter(|line| line.contains("differs")).collect();
    assert_eq!(differing.len(), 2, "{table}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("2 of ") && error.lines().count() == 1, "{error}");
}

#[test]
fn what_no_encoder_computes_is_refused_by_name() {
    let fixture = fixtures().join("encoders");
    let refused = |family: &str, change: &dyn Fn(&mut Value)| {
        let folder = tempfile::tempdir().unwrap();
        for file in ["model.safetensors", "expected.safetensors"] {
            std::fs::copy(fixture.join(family).join(file), folder.path().join(file)).unwrap();
        }
        let mut config: Value = serde_json::from_str(
            &std::fs::read_to_string(fixture.join(family).join("config.json")).unwrap(),
        )
        .unwrap();
        change(&mut config);
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let output = verify(folder.path(), &folder.path().join("expected.safetensors"), &[]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), error.lines().count()),
            (Some(2), 1),
            "{family}: {error}"
        );
        error
    };
    for (family, key, value) in [
        ("bert", "position_embedding_type", Value::from("rotary")),
        ("bert", "hidden_act", "gelu_10".into()),
        ("bert", "is_decoder", true.into()),
        ("roberta", "problem_type", "ranking".into()),
        ("roberta", "pad_token_id", Value::Null),
        ("vit", "num_attention_heads", 5.into()),
        ("vit", "patch_size", 33.into()),
        ("swin", "window_size", 9.into()),
        ("swin", "use_absolute_embeddings", true.into()),
        ("swin", "num_heads", 2.into()),
    ] {
        let error = refused(family, &|config| config[key] = value.clone());
        assert!(error.contains(key) && error.contains("config.json"), "{family}: {error}");
    }
    let error = refused("siglip_vision_model", &|config| {
        config["vision_config"]["image_size"] = vec![32, 32].into()
    });
    assert!(error.contains("image_size"), "{error}");
    // Images of another size than the recorded ones.
    let error = refused("vit_oblong", &|config| config["image_size"] = vec![15, 20].into());
    assert!(error.contains("expected [batch, 2, 15, 20], got [3, 2, 14, 20]"), "{error}");
}
