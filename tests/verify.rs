//! `loract verify`: every tiny model that transformers wrote agrees in logits, loss and every recorded gradient, with LoRA and without; a changed
//! recording is noticed.
#![allow(clippy::unwrap_used, missing_docs)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf")
}

fn verify(model: &Path, expected: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loract")).arg("verify").arg(model).arg(expected).args(arguments).output().unwrap()
}

#[test]
fn every_recorded_model_agrees() {
    let mut families: Vec<PathBuf> = std::fs::read_dir(recorded()).unwrap().map(|entry| entry.unwrap().path()).collect();
    families.sort();
    let names: Vec<String> = families.iter().map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names.len(), models::SUPPORTED_MODEL_TYPES.len());
    assert!(models::SUPPORTED_MODEL_TYPES.iter().all(|family| names.iter().any(|name| name == family)), "{names:?}");
    for (folder, family) in families.iter().zip(names) {
        let expected = folder.join("expected.safetensors");
        let output = verify(folder, &expected, &["--json"]);
        assert_eq!(output.status.code(), Some(0), "{family}: {}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["holds"], true);
        let rows = answer["tensors"].as_array().unwrap();
        // Everything recorded was compared: all but the inputs and the adapter's own weights.
        let inputs = ["input_ids", "attention_mask", "labels"];
        let file = models::TensorFile::open(&expected).unwrap();
        let recorded = file.names().into_iter().filter(|name| !inputs.contains(&name.as_str()) && !name.starts_with("lora.weight."));
        for name in recorded {
            let row = rows.iter().find(|row| row["name"] == name.as_str()).unwrap_or_else(|| panic!("{family}: {name} was not compared"));
            assert!(row["relative"].as_f64().unwrap() < 1e-5, "{family}: {row}");
        }
    }
}

#[test]
fn a_changed_recording_is_noticed_by_table_and_exit_code() {
    let llama = recorded().join("llama");
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
