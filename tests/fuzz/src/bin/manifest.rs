//! The manifest of a checkpoint, under a checksum that is right.
#![no_main]

use safetensors::{Dtype, tensor::TensorView};
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;
use checkpoint::CheckpointChoice;
use config::Run;
use setup::RunData;
use trainer::{Weights, evaluate};

/// A run of the tiny Llama, which holds nothing out: what comes after the manifest is refused.
static RUN: LazyLock<(Run, RunData)> = LazyLock::new(|| {
    let ids: Vec<u8> = (0..2 * 2 * 16_i64).flat_map(|id| (3 + id % 90).to_le_bytes()).collect();
    let ids = TensorView::new(Dtype::I64, vec![2, 2, 16], &ids).expect("a tensor");
    let batches = safetensors::serialize([("batches", ids)], None).expect("a file");
    let batches = loract_fuzz::file("batches.safetensors", &batches);
    let text = format!(
        "[model]\npath = {:?}\n[lora]\n[data]\ntrain = {batches:?}\nformat = \"batches\"\neval_samples = 0\nsequence_length = 16\n",
        concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/hf/llama")
    );
    let run = Run::load(&loract_fuzz::file("run.toml", text.as_bytes()), &[]).expect("a configuration");
    let data = RunData::prepare(&run, 1, &|_, _| (), &|_| ()).expect("data");
    (run, data)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = loract_fuzz::file("step-00000007/manifest.json", bytes);
    let checksum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    loract_fuzz::file("step-00000007/manifest.sha256", format!("{checksum}  manifest.json\n").as_bytes());
    loract_fuzz::file("step-00000007/rank-0000.safetensors", b"some bytes");
    let Some(folder) = path.parent() else { return };
    let (run, data) = &*RUN;
    let weights = Weights::Checkpoint(CheckpointChoice::At(folder.to_owned()));
    assert!(evaluate(run, data, &weights, &mut |_, _| ()).is_err());
});
