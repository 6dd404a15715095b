//! The recorded run of transformers and PEFT (tests/fixtures/golden): the same adapter to start
//! from, the same batches, the same hyper-parameters give the same losses, gradient norms and
//! adapter, whatever is recomputed and on however many ranks.
#![allow(clippy::unwrap_used, missing_docs)]

use models::{Adapter, LoraWeights, read_adapter};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a run came to: (loss, gradient norm) of each step, and the adapter.
struct Run {
    steps: Vec<(f64, f64)>,
    adapter: Adapter,
}

/// Runs tests/configs/golden.toml with `arguments`.
fn run(name: &str, arguments: &[&str]) -> Run {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let dir: PathBuf = folder.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_loract"))
        .current_dir(top)
        .args(arguments)
        .arg("tests/configs/golden.toml")
        .args(["--set", &format!("run.dir={}", dir.display())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let metrics = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps = lines.map(|line| (number(&line, "loss"), number(&line, "grad_norm"))).collect();
    Run { steps, adapter: read_adapter(&dir.join("adapter")).unwrap() }
}

/// What was recorded.
fn recorded() -> Vec<(f64, f64)> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/golden.safetensors");
    let file = models::TensorFile::open(&path).unwrap();
    let read = |name: &str| Vec::<f64>::try_from(file.tensor(name).unwrap()).unwrap();
    read("losses").into_iter().zip(read("grad_norms")).collect()
}

/// The distance between two adapters of the same modules.
fn distance(one: &Adapter, other: &Adapter) -> f64 {
    assert_eq!(one.weights.modules.len(), other.weights.modules.len());
    let square = |a: &tch::Tensor, b: &tch::Tensor| {
        (a - b).square().sum(tch::Kind::Double).double_value(&[])
    };
    let of_pair = |(one, other): (&LoraWeights, &LoraWeights)| {
        assert_eq!(one.module, other.module);
        square(&one.a, &other.a) + square(&one.b, &other.b)
    };
    one.weights.modules.iter().zip(&other.weights.modules).map(of_pair).sum::<f64>().sqrt()
}

fn agree(name: &str, run: &Run, loss_tolerance: f64, norm_tolerance: f64) {
    let (recorded, ours) = (recorded(), &run.steps);
    assert_eq!(ours.len(), recorded.len(), "{name}");
    let worst = |pick: fn(&(f64, f64)) -> f64| {
        ours.iter()
            .zip(&recorded)
            .map(|(ours, theirs)| (pick(ours) / pick(theirs) - 1.0).abs())
            .fold(0.0, f64::max)
    };
    let (loss, norm) = (worst(|step| step.0), worst(|step| step.1));
    println!(
        "{name}: largest relative difference of a loss {loss:.1e}, of a gradient norm {norm:.1e}"
    );
    assert!(loss < loss_tolerance, "{name}: loss {loss:e}");
    assert!(norm < norm_tolerance, "{name}: gradient norm {norm:e}");
    // Adam's first steps have the length of the learning rate whatever the gradient's, so that
    // rounding shows where a gradient is nearly zero.
    let fixture = |which: &str| {
        read_adapter(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(which),
        )
        .unwrap()
    };
    let (first, last) = (fixture("adapter_init"), fixture("adapter_final"));
    let off = distance(&run.adapter, &last) / distance(&first, &last);
    println!("{name}: the adapter is off by {off:.1e} of the way that the recorded one went");
    assert!(off < 1e-2, "{name}: adapter {off:e}");
}

#[test]
fn every_step_is_that_of_transformers_and_peft() {
    // One after the other: each takes all cores.
    let expanded = run("none", &["train", "--set", "activations.sites=none"]);
    agree("none", &expanded, 2e-4, 1e-3);
    // On the blocks that the file has it is the same run, to the last bit: the same numbers go into
    // the same products.
    let few = [
        "train",
        "--set",
        "activations.sites=none",
        "--set",
        "model.quantization=gguf",
        "--set",
        "run.steps=3",
    ];
    assert_eq!(run("gguf", &few).steps, expanded.steps[..3]);
    // In NF4 they are others, and rounded twice: not far away.
    let few = [
        "train",
        "--set",
        "activations.sites=none",
        "--set",
        "model.quantization=nf4",
        "--set",
        "run.steps=1",
    ];
    let off = (run("nf4", &few).steps[0].0 / expanded.steps[0].0 - 1.0).abs();
    println!("nf4: the first loss is off by {off:.1e}");
    assert!(off > 0.0 && off < 0.1, "{off:e}");
    agree(
        "checkpoint",
        &run("checkpoint", &["train", "--set", "activations.sites=checkpoint"]),
        2e-4,
        1e-3,
    );
    agree("two ranks", &run("ranks", &["launch", "-n", "2"]), 1e-3, 1e-3);
    // Accumulated one sequence at a time, the gradient is the same.
    agree(
        "accumulated",
        &run(
            "accumulated",
            &["train", "--set", "run.micro_batch_size=1", "--set", "activations.sites=checkpoint"],
        ),
        2e-4,
        1e-3,
    );
}
