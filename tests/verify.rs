//! `loract verify`: the tiny Llama that transformers wrote agrees in logits, loss and every recorded gradient, with LoRA and without; a changed
//! recording is noticed.
#![allow(clippy::unwrap_used, missing_docs)]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn verify(expected: &Path, arguments: &[&str]) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf/llama");
    Command::new(env!("CARGO_BIN_EXE_loract")).arg("verify").arg(model).arg(expected).args(arguments).output().unwrap()
}

#[test]
fn the_recorded_llama_agrees() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf/llama/expected.safetensors");
    let output = verify(&recorded, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["holds"], true);
    let rows = answer["tensors"].as_array().unwrap();
    for name in ["logits", "loss", "grad.model.norm.weight", "grad.lm_head.weight", "lora.logits", "lora.loss"] {
        assert!(rows.iter().any(|row| row["name"] == name), "{name} was not compared");
    }
    let compared = |prefix: &str| rows.iter().filter(|row| row["name"].as_str().unwrap().starts_with(prefix)).count();
    assert_eq!((compared("grad."), compared("lora.grad.")), (5, 28), "every recorded gradient");
    assert!(rows.iter().all(|row| row["relative"].as_f64().unwrap() < 1e-5));
}

#[test]
fn a_changed_recording_is_noticed_by_table_and_exit_code() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf/llama/expected.safetensors");
    let mut tensors = models::tensor_file::read(&recorded).unwrap();
    for name in ["grad.model.norm.weight", "lora.loss"] {
        let tensor = &mut tensors.iter_mut().find(|(known, _)| known == name).unwrap().1;
        *tensor = &*tensor * 1.001;
    }
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.safetensors");
    models::tensor_file::write(&changed, &tensors, &[]).unwrap();
    let output = verify(&changed, &[]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let differing: Vec<&str> = table.lines().filter(|line| line.contains("differs")).collect();
    assert_eq!(differing.len(), 2, "{table}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("2 of ") && error.lines().count() == 1, "{error}");
}
